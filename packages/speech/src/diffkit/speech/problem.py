"""Speech checkpoints as problems of :mod:`diffkit.core.quality`: what a search and a comparison work on."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from diffkit.core import predict
from diffkit.core.checkpoint import pick_device
from diffkit.core.collect import MANIFEST
from diffkit.core.quality import Problem
from diffkit.speech import audio, checkpoints, metrics
from diffkit.speech.data import PairedFolder
from diffkit.speech.enhance import mirror
from diffkit.speech.mixing import Mixer
from diffkit.speech.spectrum import Spectrum
from diffkit.speech.task import denoiser, gain_to_level

SECONDS = 2.0
"""Of each input that is used: the middle of a recording."""

_APART = 1 << 20  # between the seeds of one problem and the other


def problems(checkpoint: str | Path, inputs: Path, count: int = 16, device: str = "auto") -> list[Problem]:
    """Two problems, each of half of the inputs: one to choose on and one to judge by.

    Args:
        checkpoint: a name or a folder.
        inputs: a corpus of ``diffkit-speech data``, whose validation part is mixed; a folder with ``clean``
            and ``noisy`` (or ``anechoic`` and ``reverb``); or recordings of which no clean version is known.
        count: inputs in all, at least 2, of :data:`SECONDS` each; fewer where there are no more.
        device: see :meth:`~diffkit.speech.enhance.Enhancer.from_pretrained`.

    Raises:
        ValueError: fewer than two inputs, or a checkpoint or inputs that cannot be used.
    """
    where = pick_device(device)
    model = checkpoints.load(checkpoint, device=where)
    noisy, clean = _read(inputs, model, count)
    if len(noisy) < 2:
        raise ValueError(
            f"{inputs} gives {len(noisy)} inputs, and two are needed: to choose on, to judge by."
        )
    gain = gain_to_level(noisy)
    references = None if clean is None else clean * gain
    return [_problem(model, (noisy * gain)[k::2].to(where), references, k) for k in range(2)]


def _problem(model: checkpoints.Model, waves: Tensor, references: Tensor | None, part: int) -> Problem:
    noisy = model.spectrum(waves)
    return Problem(
        denoiser(model.network, model.process, noisy, predict.TARGETS[model.target]),
        model.process,
        noisy,
        range(part * _APART, part * _APART + len(noisy)),
        y=noisy,
        grid=model.grid,
        score=None if references is None else partial(_score, model.spectrum, references[part::2]),
        checkpoint=model.folder,
        share=(3,),  # frames
    )


def _score(spectrum: Spectrum, references: Tensor, x0: Tensor) -> Mapping[str, float]:
    """The metrics that are installed, averaged over those inputs that have them."""
    estimates = spectrum.inverse(x0.float(), references.shape[1]).cpu()
    found: dict[str, list[float]] = {}
    for estimate, reference in zip(estimates, references, strict=True):
        for name in metrics.DEFAULT:
            try:
                values = metrics.score(estimate, reference, spectrum.rate, [name])
            except (metrics.MetricError, metrics.MissingExtraError):
                continue
            for key, value in values.items():
                found.setdefault(key, []).append(value)
    return {name: fmean(values) for name, values in found.items()}


def _read(inputs: Path, model: checkpoints.Model, count: int) -> tuple[Tensor, Tensor | None]:
    """Noisy and, where it is known, clean speech ``[count, samples]`` at the model's rate."""
    rate = model.spectrum.rate
    if (inputs / MANIFEST).is_file():
        pairs = list(Mixer(inputs, "valid", model.config["task"], rate, SECONDS, count, clean_prob=0.0))
    elif any((inputs / side).is_dir() for side in ("clean", "anechoic")):
        folder = PairedFolder(inputs, rate, SECONDS)
        pairs = [folder[k] for k in range(min(count, len(folder)))]
    else:
        found = audio.find(inputs) if inputs.is_dir() else [inputs]
        return torch.stack([_middle(path, rate) for path in found[:count]]), None
    clean, noisy = zip(*pairs, strict=True)
    return torch.stack(noisy), torch.stack(clean)


def _middle(path: Path, rate: int) -> Tensor:
    """The first channel's middle ``[samples]``, mirrored on where it is shorter."""
    about = audio.info(path)
    samples = min(round(SECONDS * about.rate), about.samples)
    wave = audio.read(path, rate, (about.samples - samples) // 2, samples)[0][:1]
    return mirror(wave, round(SECONDS * rate))[0, : round(SECONDS * rate)]
