"""The command `diffkit-speech`: parse, call, print."""

import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from diffkit.core.cli import Raw, progress, run
from diffkit.core.commands import commands, models


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffkit-speech` and return its exit status."""
    return run(
        {
            "enhance": _cleaner("enhance", "tiny", "Remove noise from the speech in a file or a folder."),
            "dereverb": _cleaner("dereverb", "dereverb", "Remove reverberation from a file or a folder."),
            "evaluate": evaluate,
            "data": data,
            "train": Raw(train, "Train a model; `train --help` shows everything that a config can say."),
            "models": models("diffkit.speech.checkpoints"),
            **commands(problems),
        },
        prog="diffkit-speech",
        version=metadata.version("diffkit-speech"),
        about="Clean noisy and reverberant speech with diffusion.",
        argv=argv,
    )


def _cleaner(task: str, checkpoint: str, summary: str) -> Callable[..., int]:
    """The command of a task with the checkpoint that it takes by default."""

    def command(
        input: Path,
        output: Path,
        model: str = checkpoint,
        solver: str | None = None,
        steps: int | None = None,
        plan: Path | None = None,
        seed: int = 0,
        device: str = "auto",
        batch_size: int | None = None,
        overwrite: bool = False,
        resume: bool = False,
        picture: bool = True,
        compile: bool = False,
        bf16: bool = False,
    ) -> int:
        from diffkit.speech import files

        pairs = files.plan(input, output, overwrite=overwrite, resume=resume)
        if not pairs:
            print(f"All outputs in {output} exist already.")
            return 0
        from diffkit.speech.enhance import Enhancer

        enhancer = Enhancer.from_pretrained(model, device, task=task, compile=compile, bf16=bf16, plan=plan)
        options = {"solver": solver, "steps": steps, "seed": seed, "batch_size": batch_size}
        return _clean(enhancer, pairs, output, picture, options)

    command.__doc__ = summary + _CLEANER_HELP
    return command


_CLEANER_HELP = """

    Rate, channels, length and level stay as they are. A spectrogram picture stands beside each output.

    Args:
        input: A recording, or a folder of them.
        output: Where to: a file, or a folder.
        model: A checkpoint: a name that `diffkit-speech models` lists, or a folder.
        solver: How to sample; by default as the checkpoint says.
        steps: Steps of the solver; by default as the checkpoint says.
        plan: Instead of both: a file that `diffkit-speech search` wrote for this checkpoint.
        seed: Of the noise.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        batch_size: Files worked on at a time; by default 16 on CUDA and 1 elsewhere.
        overwrite: Replace outputs that exist.
        resume: Keep outputs that exist and do the rest.
        picture: Write NAME.png with the spectrograms before and after.
        compile: Compile the network first: a minute that pays off on CUDA and many files.
        bf16: Run the network in bfloat16, for recent GPUs.
"""


def _clean(
    enhancer: Any, pairs: list[tuple[Path, Path]], output: Path, picture: bool, options: dict[str, Any]
) -> int:
    """Enhance the pairs with a bar; the exit status is 2 if any failed."""
    import time

    from diffkit.speech.files import enhance_files, seconds
    from diffkit.speech.picture import spectrogram_pair

    lengths = {source: seconds(source) for source, _ in pairs}
    failed, done, began = 0, 0.0, time.perf_counter()
    with progress(sum(lengths.values())) as step:
        files = enhance_files(enhancer, pairs, advance=lambda path, s: step(path.name, s), **options)
        for outcome in files:
            if outcome.error is not None:
                failed += 1
                print(f"diffkit-speech: {outcome.error}", file=sys.stderr)
                continue
            done += lengths[outcome.source]
            if picture:
                target = outcome.target
                spectrogram_pair(outcome.source, target, target.with_name(f"{target.name}.png"))
    spent = time.perf_counter() - began
    good = len(pairs) - failed
    if good:
        print(f"{good} of {len(pairs)} files, {done:.0f} s of sound in {spent:.1f} s: see {output}.")
    if failed and len(pairs) > 1:
        print(f"diffkit-speech: {failed} of {len(pairs)} files were not done.", file=sys.stderr)
    return 2 if failed else 0


def evaluate(
    clean: Path,
    estimate: Path,
    out: Path | None = None,
    metrics: list[str] | None = None,
    groups: Path | None = None,
    num_workers: int = 0,
    overwrite: bool = False,
) -> int:
    """Score recordings against clean references: PESQ, ESTOI, SI-SDR, by SNR.

    Args:
        clean: A clean recording, or a folder of them.
        estimate: The noisy or enhanced recording, or a folder with the same names.
        out: A JSON file for the report, with every file's scores.
        metrics: Names, such as [pesq_wb, estoi, si_sdr, dnsmos]; by default the first three.
        groups: A CSV with the columns name and group, where the names do not say the SNR.
        num_workers: Processes to share the files; 0 is this one alone.
        overwrite: Replace a report that exists.
    """
    from rich.console import Console

    from diffkit.speech import evaluate as scoring
    from diffkit.speech.metrics import DEFAULT

    report = scoring.evaluate(
        clean,
        estimate,
        metrics or DEFAULT,
        groups=groups,
        out=out,
        overwrite=overwrite,
        num_workers=num_workers,
    )
    if report.files:
        Console().print(report.table())
    for reason in report.failed.values():
        print(f"diffkit-speech: {reason}", file=sys.stderr)
    return 2 if report.failed else 0


def data(directory: Path, sources: list[str] | None = None, reserved: bool = False) -> int:
    """Build the demo corpus of speech, noise and room responses from public packages.

    A build that was interrupted goes on; manifest.json says where each file came from and its licence.

    Args:
        directory: Where the corpus is, or is to be.
        sources: Names of sources, such as [festvox-ru]; by default all that are not reserved.
        reserved: Also the sources that are kept for a last judgement and never trained on.
    """
    from diffkit.core.collect import tell
    from diffkit.speech.corpus import build

    return tell(build(directory, sources, reserved=reserved), directory, "diffkit-speech")


def train(args: Sequence[str]) -> None:
    """Train a model, as `diffkit.core.train.run.train` says."""
    from diffkit.core.train.run import train
    from diffkit.speech.checkpoints import write_run
    from diffkit.speech.data import AudioData
    from diffkit.speech.task import SpeechTask

    train(SpeechTask, AudioData, args, write=write_run)


def problems(checkpoint: str, inputs: Path, count: int, device: str) -> Any:
    """What `search` and `calls` work on; see `diffkit.core.commands`."""
    from diffkit.speech.problem import problems

    return problems(checkpoint, inputs, count, device)


if __name__ == "__main__":
    sys.exit(main())
