"""Enhancement of recordings of any length, rate, channel count and level, which the output keeps.

A recording is cut into chunks of 8 s that overlap by 1 s. A chunk is resampled to the model's rate, brought
to the level that the model was trained at, enhanced, and brought back; where two chunks overlap the output
fades from one to the other, leaving out the quarter second next to each chunk's end, where a network lacks
context. So memory is constant, from file to file. Above the model's band (8 kHz for a model of 16 kHz) the
output is empty: that band is not restored.

The level is a property of the whole recording and not of a chunk, so it is measured first. Each channel is
enhanced for itself, with the same noise: equal channels stay equal. Digital silence stays digital silence.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from diffkit.core import predict, saved
from diffkit.core.checkpoint import CheckpointError, pick_device
from diffkit.core.grid import uniform
from diffkit.core.noise import key
from diffkit.core.plan import Plan
from diffkit.core.sample import sample
from diffkit.speech import audio, checkpoints
from diffkit.speech.task import LEVEL, denoiser

CHUNK, OVERLAP, EDGE = 8, 1, 0.25
"""Length of a chunk, of the overlap of two, and of what is left out at each end of an overlap, in s."""

_ROUND = 0.5  # s: chunks are mirrored on to a multiple of it, so that files of similar length batch
_GATE_BLOCK, _GATE = 0.4, 0.1  # s, and a ratio of energies
_SILENT = 1e-12  # rms; a level below it is digital silence
_PC_START = 0.98  # the reverse SDE of a bridge that ends without noise starts just below its end


class Chunk(NamedTuple):
    """What the network gets of a recording."""

    wave: Tensor
    """``[channels, samples]`` at the model's rate and level."""
    seed: int
    """Of the noise."""
    seconds: float
    """How much of the recording it adds to the chunk before."""


Job: TypeAlias = Generator[Chunk, Tensor, None]
"""The enhancement of one recording: yields a chunk, is sent the enhanced chunk, and so on to the end."""


class Enhancer:
    """A speech model that is ready to use; :meth:`from_pretrained` makes one.

    Args:
        model: a loaded checkpoint, on ``device``.
        device: where it runs.
        compile: pass the network through ``torch.compile``; pays off on CUDA and many files.
        bf16: run the network in bfloat16 where autocast allows it; twice as fast on recent GPUs.
        plan: how to sample, instead of a solver and steps.
    """

    def __init__(
        self,
        model: checkpoints.Model,
        device: torch.device,
        *,
        compile: bool = False,
        bf16: bool = False,
        plan: Plan | None = None,
    ) -> None:
        self.model, self.device, self.bf16, self.plan = model, device, bf16, plan
        self.network: nn.Module = torch.compile(model.network, dynamic=True) if compile else model.network  # type: ignore[assignment]
        self.rate = model.spectrum.rate

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "tiny",
        device: str = "auto",
        *,
        task: str | None = None,
        compile: bool = False,
        bf16: bool = False,
        plan: str | Path | None = None,
    ) -> "Enhancer":
        """An enhancer by the name of an embedded checkpoint or by the folder of one.

        Args:
            name: see ``diffkit-speech models``.
            device: a torch device, or "auto": CUDA, else MPS, else the CPU.
            task: "enhance" or "dereverb"; a checkpoint for another task is refused.
            compile, bf16: see :class:`Enhancer`.
            plan: a file that ``diffkit-speech search`` wrote for this checkpoint.

        Raises:
            CheckpointError: unknown, broken, or for another task.
            ValueError: the device does not exist here, or the plan is for another checkpoint.
        """
        where = pick_device(device)
        model = checkpoints.load(name, device=where)
        if task is not None and model.config["task"] != task:
            other = model.config["task"]
            raise CheckpointError(
                f"checkpoint {model.name!r} is for {other!r}, not for {task!r}; "
                f"use `diffkit-speech {other}`, or name another --model."
            )
        found = None if plan is None else saved.load(plan, model.process, checkpoint=model.folder)
        if not isinstance(found, Plan | None):
            raise ValueError(f"{plan} holds no plan: search one with `diffkit-speech search`.")
        return cls(model, where, compile=compile, bf16=bf16, plan=found)

    def enhance(
        self,
        waveform: Tensor,
        sample_rate: int,
        *,
        solver: str | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Enhanced speech, of the shape, type and device of ``waveform``.

        Args:
            waveform: ``[channels, samples]`` or ``[samples]``, floating point, full scale being 1.
            sample_rate: in Hz.
            solver: a name of :data:`diffkit.core.solvers.SOLVERS`; by default the checkpoint's own.
            steps: network calls for a solver that has one each step; by default the checkpoint's own.
            seed: of the noise, where the process or the solver has any.

        Raises:
            ValueError: a waveform, rate, solver or number of steps that cannot be used.
            FloatingPointError: the model gave values that are not finite.
        """
        _check(waveform, sample_rate)
        wave = torch.atleast_2d(waveform.detach()).to("cpu", torch.float32)
        length, overlap = CHUNK * sample_rate, OVERLAP * sample_rate
        gain = self._gain(_cut(wave, length, 0), sample_rate)
        parts: list[Tensor] = []
        job = self._enhance(_cut(wave, length, overlap), sample_rate, gain, seed, parts.append)
        self._drive(job, solver, steps)
        return torch.cat(parts, 1).reshape(waveform.shape).to(waveform)

    def enhance_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        solver: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        overwrite: bool = False,
    ) -> None:
        """Enhance ``source`` into ``target``, in constant memory; ``target`` appears whole or not at all.

        Its suffix gives the format, which keeps the encoding of ``source`` where both have the same suffix.
        For many files see :func:`diffkit.speech.files.enhance_files`.

        Raises:
            ValueError: as :meth:`enhance`, and :class:`~diffkit.speech.audio.AudioError` for a file that
                cannot be used.
            OSError: ``target`` cannot be written, or exists without ``overwrite``.
        """
        if Path(target).exists() and not overwrite:
            raise FileExistsError(f"{target} exists; overwrite it explicitly or name another file.")
        self._drive(self.job(source, target, seed), solver, steps)

    def job(self, source: str | Path, target: str | Path, seed: int = 0) -> Job:
        """The enhancement of one file as a :data:`Job`; closing it early leaves no trace of ``target``."""
        source, target = Path(source), Path(target)
        if target.exists() and source.exists() and target.samefile(source):
            raise ValueError(f"{source} is both input and output; name another output.")
        about = audio.info(source)
        subtype = about.subtype if source.suffix.lower() == target.suffix.lower() else None
        gain = self._gain(audio.blocks(source, CHUNK * about.rate), about.rate)
        _make_folder(target.parent)
        with audio.writer(target, about.rate, about.channels, subtype) as append:
            blocks = audio.blocks(source, CHUNK * about.rate, OVERLAP * about.rate)
            try:
                yield from self._enhance(blocks, about.rate, gain, seed, append)
            except FloatingPointError as error:
                raise FloatingPointError(f"{source}: {error}") from error

    @torch.inference_mode()
    def run(
        self, chunks: Sequence[Chunk], solver: str | None = None, steps: int | None = None
    ) -> list[Tensor]:
        """Enhance chunks of one length as a batch; what a chunk becomes does not depend on the others."""
        method = self.sampling(solver, steps)
        waves = torch.cat([chunk.wave for chunk in chunks])
        seeds = [chunk.seed for chunk in chunks for _ in chunk.wave]
        noisy = self.model.spectrum(waves)
        process, target = self.model.process, predict.TARGETS[self.model.target]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            clean = sample(
                denoiser(self.network, process, noisy, target),
                process,
                noisy,
                y=noisy,
                seeds=seeds,
                **method,
            )
        out = self.model.spectrum.inverse(clean.float(), waves.shape[1])
        out = torch.where(waves.any(1, keepdim=True), out, 0.0)
        return list(out.split([len(chunk.wave) for chunk in chunks]))

    def sampling(self, solver: str | None = None, steps: int | None = None) -> dict[str, Any]:
        """The plan, or the solver and the grid of these options, for :func:`diffkit.core.sample.sample`.

        None is the checkpoint's own. Raises `ValueError`.
        """
        if self.plan is not None:
            if solver is not None or steps is not None:
                raise ValueError("a plan says how to sample: leave out solver and steps, or the plan.")
            return {"plan": self.plan}
        own = self.model.config["sampling"]
        name = own["solver"] if solver is None else solver
        calls = own["steps"] if steps is None else steps
        method = saved.named(name, self.model.folder)
        if calls < 1:
            raise ValueError(f"steps must be at least 1, not {calls}.")
        if name != "pc":
            return {"solver": method, "grid": self.model.grid(calls)}
        start, end = own.get("start", 1.0), own.get("end", 0.0)
        start = start if self.model.process.terminal_mismatch().noise else min(start, _PC_START)
        return {"solver": method, "grid": uniform(calls, start, end)}  # as published: equal steps

    def _drive(self, job: Job, solver: str | None, steps: int | None) -> None:
        self.sampling(solver, steps)  # wrong options are refused before any work
        try:
            chunk = next(job)
            while True:
                chunk = job.send(self.run([chunk], solver, steps)[0])
        except StopIteration:
            pass
        finally:
            job.close()

    def _gain(self, blocks: Iterable[Tensor], rate: int) -> Tensor:
        """``[channels, 1]``: brings each channel to :data:`LEVEL`, measured as the model will hear it."""
        rms = gated_rms((audio.resample(block, rate, self.rate) for block in blocks), self.rate)
        return torch.where(rms > _SILENT, LEVEL / rms, 0.0).float()

    def _enhance(
        self, blocks: Iterable[Tensor], rate: int, gain: Tensor, seed: int, append: Callable[[Tensor], None]
    ) -> Job:
        """The job of consecutive overlapping blocks ``[channels, samples]`` at ``rate``."""
        fade = crossfade(rate)
        gain = gain.to(self.device)
        held: Tensor | None = None  # the end of the last chunk, that the next fades into
        for index, block in enumerate(blocks):
            noisy = audio.resample(block.to(self.device), rate, self.rate)
            samples = noisy.shape[1]
            fresh = block.shape[1] - (len(fade) if index else 0)
            padded = mirror(noisy * gain, round(_ROUND * self.rate))
            wave = yield Chunk(padded, key(seed, index), fresh / rate)
            wave = wave[:, :samples] / gain.clamp(min=torch.finfo(gain.dtype).tiny)
            wave = audio.resample(wave, self.rate, rate)[:, : block.shape[1]].cpu()
            if held is not None:
                wave = torch.cat([held.lerp(wave[:, : len(fade)], fade), wave[:, len(fade) :]], 1)
            cut = max(wave.shape[1] - len(fade), 0)
            append(wave[:, :cut])
            held = wave[:, cut:]
        if held is not None:
            append(held)


def gated_rms(blocks: Iterable[Tensor], rate: int) -> Tensor:
    """Root mean square ``[channels, 1]``, float64, of the active parts of ``[channels, samples]`` blocks.

    The relative gate of ITU-R BS.1770-5: the mean over those 400 ms that are at most 10 dB below the mean.
    It scales with the signal, and pauses do not count.
    """
    size = round(_GATE_BLOCK * rate)
    parts = [part.double().square().mean(1) for block in blocks for part in block.split(size, dim=1)]
    energy = torch.stack(parts, 1)
    active = energy >= _GATE * energy.mean(1, keepdim=True)
    return ((energy * active).sum(1, keepdim=True) / active.sum(1, keepdim=True)).sqrt()


def crossfade(rate: int) -> Tensor:
    """Weights ``[samples]`` of the later of two chunks over their overlap: 0, a ramp, and 1.

    They sum to one with the earlier's, since two estimates of the same speech add in amplitude.
    """
    time = (torch.arange(OVERLAP * rate, dtype=torch.float64) + 0.5) / rate
    ramp = ((time - EDGE) / (OVERLAP - 2 * EDGE)).clamp(0, 1)
    return torch.sin(math.pi / 2 * ramp).square().float()


def mirror(wave: Tensor, multiple: int) -> Tensor:
    """``wave [channels, samples]`` mirrored at its end, as often as it takes, to a multiple of samples."""
    samples = wave.shape[1]
    index = torch.arange(-(-samples // multiple) * multiple, device=wave.device) % (2 * samples)
    return wave[:, torch.minimum(index, 2 * samples - 1 - index)]


def _cut(wave: Tensor, samples: int, overlap: int) -> Iterator[Tensor]:
    """As :func:`diffkit.speech.audio.blocks`, of a tensor."""
    for start in range(0, max(wave.shape[1] - overlap, 1), samples - overlap):
        yield wave[:, start : start + samples]


def _check(waveform: Tensor, rate: int) -> None:
    if waveform.ndim not in (1, 2) or waveform.numel() == 0 or not waveform.is_floating_point():
        raise ValueError(
            "waveform must be floating point, [samples] or [channels, samples] with at least one of each, "
            f"not {waveform.dtype} of shape {tuple(waveform.shape)}."
        )
    if not bool(torch.isfinite(waveform).all()):
        raise ValueError("waveform holds NaN or infinite samples.")
    if rate < 1:
        raise ValueError(f"sample_rate must be positive, not {rate}.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"the output folder {folder} cannot be made: {error.strerror}.") from error
