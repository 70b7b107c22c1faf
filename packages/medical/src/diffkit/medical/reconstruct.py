"""Images from k-space or sinograms that were sampled in part, by a prior of slices.

The prior is unconditional and knows nothing of coils, masks or rays; measurements enter by an operator and a method of
:mod:`diffkit.core.inverse`. Several samples of the same data tell what the data leave open: their mean is the image,
their deviation a map of doubt. A run of CT over less than half a turn may begin at what a
:mod:`~diffkit.medical.predictor` makes of the least-squares image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffkit.core.checkpoint import pick_device
from diffkit.core.grid import Grid, power
from diffkit.core.sample import sample
from diffkit.core.types import Denoiser, lookup
from diffkit.medical import kspace, mrd, sinogram
from diffkit.medical import predictor as predictors
from diffkit.medical.arrays import names
from diffkit.medical.checkpoints import Prior, load
from diffkit.medical.kspace import KSpace
from diffkit.medical.methods import METHODS, MIRRORED, STACKS, STARTS, Given, Method
from diffkit.medical.predictor import Predictor
from diffkit.medical.sinogram import Sinogram
from diffkit.medical.slices import Slices, of_kspace, of_sinogram

PREDICTORS = {"ct": "ct-arc"}
"""Embedded predictors by the prior that goes on from what they make."""

CLOSE = 0.1
"""The time at which it goes on."""

SHORT = 160 / 180
"""Of half a turn: with less, directions are missing."""


def read(path: str | Path) -> KSpace | Sinogram:
    """A sinogram if the file has an array of that name, or k-space: of ISMRMRD's readouts, fastMRI or NumPy."""
    path = Path(path)
    if mrd.holds(path):
        return mrd.read(path)
    return (sinogram if "sinogram" in names(path) else kspace).read(path)


@dataclass(frozen=True)
class Reconstruction:
    """``image`` ``[slices, height, width]``, the mean of the samples: complex of MR, in HU of CT; ``doubt`` is the
    deviation of their magnitudes, or HU, None of a single one. ``maps`` are the coils' that were used. Rows that
    k-space encodes beyond its image are left out of all (:meth:`~diffkit.medical.kspace.KSpace.narrowed`).
    """

    image: Tensor
    doubt: Tensor | None
    maps: Tensor | None


class Reconstructor:
    """Reconstructs slices from what :func:`read` gives: k-space by a prior of kind "mr", sinograms by one of "ct".

    A prior of nearly real slices sees each without its slow phase, which the centre of k-space tells: it goes into the
    maps, and the image gets it back. What phase is left, the prior allows for.

    >>> found = Reconstructor.from_pretrained("mr")(read("scan.h5"))

    Args:
        prior: of slices.
        predictor: of what such slices are in least-squares images; used where a scan has less than :data:`SHORT` of
            half a turn.
        bf16: run the network in bfloat16: several times faster on recent GPUs, and on CPUs with AMX.

    ValueError for a predictor beside a prior that is not of CT.
    """

    def __init__(self, prior: Prior, predictor: Predictor | None = None, *, bf16: bool = False) -> None:
        if predictor is not None and prior.kind != "ct":
            raise ValueError(f"the predictor is one of CT, and {prior.folder} a prior of {prior.kind}.")
        self.prior, self.predictor, self.bf16 = prior, predictor, bf16
        self.device = next(prior.network.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "mr",
        device: str = "auto",
        *,
        predictor: str | Path | None = None,
        bf16: bool = False,
    ) -> "Reconstructor":
        """With embedded checkpoints, or those of folders; CheckpointError if there is none.

        ``predictor`` None is the one that goes with an embedded prior (:data:`PREDICTORS`), if there is one, and
        "none" is none.
        """
        where = pick_device(device)
        chosen = PREDICTORS.get(str(name), "none") if predictor is None else predictor
        first = None if chosen == "none" else predictors.load(chosen, device=where)
        return cls(load(name, device=where), first, bf16=bf16)

    def __call__(
        self,
        measured: KSpace | Sinogram,
        *,
        maps: Tensor | None = None,
        method: str | None = None,
        steps: int = 20,
        samples: int = 1,
        tv: float = 0.0,
        noise: float | None = None,
        start: float | None = None,
        seed: int = 0,
        batch_size: int = 4,
        advance: Callable[[float], None] = lambda done: None,
    ) -> Reconstruction:
        """Reconstruct every slice.

        Args:
            measured: k-space, zero where it was not measured; or a sinogram.
            maps: of the coils' sensitivities, as k-space or without slices; estimated (ESPIRiT) by default.
            method: a name of :data:`~diffkit.medical.methods.METHODS`: by default ``plug``, and where a law is to be
                sampled, as several ``samples`` ask, ``dds``.
            steps: network calls of a sample; the first is that of the predictor, where it is used.
            samples: of each slice.
            tv: weight of the total variation from slice to slice, by which ``plug`` and ``dds`` find them together.
            noise: the standard deviation of a part of k-space, or of a line integral; by default what high frequencies
                of k-space show, or what a sinogram says of its photons.
            start: the time to begin at, where it is below 1 from the least-squares image, or what the predictor makes
                of it; by default the method's, and of ``plug`` :data:`CLOSE` with a predictor.
            seed: of the first sample of the first slice; others count on.
            batch_size: slices that the network sees at a time.
            advance: told how many samples are done, in parts of them.

        ValueError for data that do not fit together or are not the prior's, an unknown method, or k-space too small to
        estimate maps.
        """
        name = method or ("dds" if samples > 1 else "plug")
        build = lookup(name, METHODS, "method")
        predictor = self.predictor if isinstance(measured, Sinogram) and _short(measured) else None
        usual = STARTS.get(name, 1.0)
        if predictor is not None and usual < 1:  # who samples a law from t = 1 has its whole doubt
            usual = CLOSE
        start = usual if start is None else start
        if min(steps, samples, batch_size) < 1 or not 0 < start <= 1:
            raise ValueError("steps, samples and batch_size are at least 1, and start lies in (0, 1].")
        predictor = predictor if start < 1 else None
        own = steps - (predictor is not None)
        if own < 1:
            raise ValueError("a predictor takes the first step: give at least 2.")
        if tv:
            if name not in STACKS:
                raise ValueError(
                    f"tv couples slices in {' and '.join(STACKS)}, not in {name}: leave one out."
                )
            build = partial(STACKS[name], weight=tv)
        slices = self._slices(measured, maps, noise)
        jobs = torch.arange(
            slices.count * samples, device=self.device
        )  # the samples of a slice follow each other
        parts = jobs.reshape(slices.count, samples).mT.unbind() if tv else jobs.split(batch_size)

        def called(network: Callable[..., Tensor], x: Tensor, *t: Tensor) -> Tensor:
            out: list[Tensor] = []
            for part in x.split(batch_size):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    out.append(network(part, *t))
                advance(len(part) / steps)
            return torch.cat(out)

        denoise = partial(called, self.prior.denoise)
        first = None if predictor is None else partial(called, predictor)

        drawn = [
            self._draw(
                _mirrored(denoise) if name in MIRRORED else denoise,
                first,
                build,
                slices,
                part // samples,
                power(own, 2.0, start),
                (seed + part).tolist(),
            )
            for part in parts
        ]
        found = torch.cat(drawn)[torch.cat(parts).argsort()].unflatten(0, (slices.count, samples))[:, :, 0]
        shown = found.abs() if found.is_complex() else found
        return Reconstruction(found.mean(1), shown.std(1) if samples > 1 else None, slices.maps)

    @torch.no_grad()
    def _draw(
        self,
        denoise: Denoiser,
        first: Callable[[Tensor], Tensor] | None,
        build: Method,
        slices: Slices,
        index: Tensor,
        grid: Grid,
        seeds: list[int],
    ) -> Tensor:
        given = Given(slices.rows(index), slices.eased(index), self.prior.process)
        seen = 1.0 if slices.seen is None else slices.seen[index]
        guided, solver = build(lambda x, t: seen * denoise(x, t), given)
        warm: dict[str, Any] = {}
        if float(grid[0]) < 1:
            guess = slices.guess(given.eased)
            warm = {"y": guess if first is None else first(guess)}
        like = given.rows.operator.A_adjoint(given.rows.y)
        x = sample(guided, given.process, like, solver=solver, grid=grid, seeds=seeds, **warm)
        return slices.image(x, index)

    def _slices(self, measured: KSpace | Sinogram, maps: Tensor | None, noise: float | None) -> Slices:
        kind, what = ("mr", "k-space") if isinstance(measured, KSpace) else ("ct", "a sinogram")
        if self.prior.kind != kind:
            raise ValueError(
                f"{self.prior.folder} is a prior of {self.prior.kind} slices, and {what} needs one of {kind}."
            )
        if isinstance(measured, KSpace):
            data = measured.data.to(self.device, torch.complex64)
            narrow = replace(measured, data=data).narrowed()
            if maps is not None and maps.shape[-2:] == data.shape[-2:]:
                maps = kspace.cropped(maps, (narrow.data.shape[-2], narrow.data.shape[-1]))
            return of_kspace(narrow, maps, near_real=self.prior.near_real, noise=noise)
        if maps is not None:
            raise ValueError("maps are those of coils, and a sinogram has none: leave them out.")
        return of_sinogram(replace(measured, data=measured.data.to(self.device)), noise=noise)


def _mirrored(denoise: Denoiser) -> Denoiser:
    """``denoise``, of the mirror image at every other call."""
    calls = count()

    def look(x: Tensor, t: Tensor) -> Tensor:
        mirror = (-1,) if next(calls) % 2 else ()
        return denoise(x.flip(mirror), t).flip(mirror)

    return look


def _short(measured: Sinogram) -> bool:
    """Whether views are missing from one side."""
    angles = measured.scan.angles
    arc = float(angles.max() - angles.min()) * len(angles) / max(len(angles) - 1, 1)
    return arc < SHORT * math.pi
