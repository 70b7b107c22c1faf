"""Enhancement of files and folders: where the outputs go, and many files as one batch."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffkit.speech import audio
from diffkit.speech.enhance import Chunk, Enhancer, Job


@dataclass(frozen=True)
class Outcome:
    """A file that is done (``error`` None, ``target`` complete) or failed (no ``target``)."""

    source: Path
    target: Path
    error: str | None = None


def plan(
    source: str | Path, target: str | Path, *, overwrite: bool = False, resume: bool = False
) -> list[tuple[Path, Path]]:
    """The pairs (input, output) of a file or a folder; nothing is touched.

    A folder's outputs have the names of its inputs, subfolders too. ``resume`` leaves out the pairs whose
    output exists.

    Raises:
        ValueError: no such input, nothing to do in it, or an output that is its input or cannot be named so.
        FileExistsError: an output exists, without ``overwrite`` or ``resume``.
    """
    source, target = Path(source), Path(target)
    if overwrite and resume:
        raise ValueError("overwrite replaces outputs and resume keeps them; give one of the two.")
    if not source.exists():
        raise ValueError(f"{source} does not exist.")
    pairs = _folder(source, target) if source.is_dir() else [(source, _file(source, target))]
    for one, other in pairs:
        if other.exists() and other.samefile(one):
            raise ValueError(f"{one} is both input and output; name another output.")
    existing = [other for _, other in pairs if other.exists()]
    if existing and not (overwrite or resume):
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{existing[0]} exists{more}; --overwrite replaces outputs, --resume keeps them."
        )
    return [(one, other) for one, other in pairs if not (resume and other.exists())]


def _folder(source: Path, target: Path) -> list[tuple[Path, Path]]:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; the output of a folder is a folder.")
    inside = target.resolve()  # earlier outputs in a folder within the inputs are no inputs
    nested = inside.is_relative_to(source.resolve()) and inside != source.resolve()
    found = [path for path in audio.find(source) if not (nested and path.resolve().is_relative_to(inside))]
    if not found:
        raise ValueError(f"{source} holds no audio files ({', '.join(audio.SUFFIXES)}).")
    return [(path, target / path.relative_to(source)) for path in found]


def _file(source: Path, target: Path) -> Path:
    if target.is_dir() or not target.suffix:
        return target / source.name
    if target.suffix.lower() not in audio.SUFFIXES:
        raise ValueError(f"{target}: name the output with one of {', '.join(audio.SUFFIXES)}, or a folder.")
    return target


def enhance_files(
    enhancer: Enhancer,
    pairs: Iterable[tuple[Path, Path]],
    *,
    solver: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    advance: Callable[[Path, float], None] = lambda source, seconds: None,
) -> Iterator[Outcome]:
    """Enhance files (input, output), each of which is the same as it would be alone, and existing or not.

    ``batch_size`` files are open at a time, and those of their next chunks that are of one length are one
    batch; by default 16 on CUDA and 1 elsewhere. An output appears when it is complete. A file that is
    broken, or that the model fails on, is an outcome with an error; the others go on.

    Args:
        advance: called with an input and the seconds of it that were done just now.

    Raises:
        ValueError: an unknown solver, or steps below 1.
        OSError: the disk refuses; what was finished is kept.
    """
    enhancer.sampling(solver, steps)  # wrong options are refused before any work
    size = batch_size or (16 if enhancer.device.type == "cuda" else 1)
    waiting = iter(pairs)
    active: dict[Job, tuple[Outcome, Chunk]] = {}

    def go_on(job: Job, outcome: Outcome, result: Tensor | FloatingPointError | None) -> Outcome | None:
        """Take the job to its next chunk; returns its outcome when there is none."""
        active.pop(job, None)
        try:
            chunk = job.throw(result) if isinstance(result, Exception) else job.send(result)  # type: ignore[arg-type]
        except StopIteration:
            return outcome
        except (ValueError, FloatingPointError) as error:
            return Outcome(outcome.source, outcome.target, str(error))
        active[job] = outcome, chunk
        return None

    try:
        while True:
            while len(active) < size and (pair := next(waiting, None)) is not None:
                source, target = pair
                job = enhancer.job(source, target, seed)
                if (done := go_on(job, Outcome(source, target), None)) is not None:
                    yield done
            if not active:
                return
            lengths = Counter(chunk.wave.shape[1] for _, chunk in active.values())
            samples = lengths.most_common(1)[0][0]
            group = [(job, *state) for job, state in active.items() if state[1].wave.shape[1] == samples]
            results = _run(enhancer, [chunk for *_, chunk in group], solver, steps)
            for (job, outcome, chunk), result in zip(group, results, strict=True):
                advance(outcome.source, chunk.seconds)
                if (done := go_on(job, outcome, result)) is not None:
                    yield done
    finally:
        for job in active:
            job.close()


def _run(
    enhancer: Enhancer, chunks: Sequence[Chunk], solver: str | None, steps: int | None
) -> Sequence[Tensor | FloatingPointError]:
    """A result for each chunk; where the batch is not finite, each alone shows which it was."""
    try:
        return enhancer.run(chunks, solver, steps)
    except FloatingPointError as error:
        if len(chunks) == 1:
            return [error]
        return [result for chunk in chunks for result in _run(enhancer, [chunk], solver, steps)]


def seconds(path: Path) -> float:
    """The length of a recording in s; 0 for one that cannot be read, which its enhancement will say."""
    try:
        return audio.info(path).seconds
    except audio.AudioError:
        return 0.0
