"""Images from k-space that was sampled in part, by a prior of slices.

The prior is unconditional and knows nothing of coils or masks; measurements enter by an operator and a method of
:mod:`diffkit.core.inverse`. Several samples of the same data tell what the data leave open: their mean is the image,
their deviation a map of doubt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffkit.core.checkpoint import pick_device
from diffkit.core.grid import Grid, power
from diffkit.core.inverse import dds, diffpir, dps, flowchef, pigdm, renoise, renoised
from diffkit.core.inverse.operator import Operator
from diffkit.core.process import Gaussian
from diffkit.core.sample import sample
from diffkit.core.solvers import Sampler, Solver, ddim
from diffkit.core.types import Denoiser, lookup
from diffkit.medical.checkpoints import Prior, load
from diffkit.medical.classical import cg_sense
from diffkit.medical.coils import espirit, slow_phase
from diffkit.medical.mri import Cartesian, Sense
from diffkit.medical.planes import bright


@dataclass(frozen=True)
class Given:
    """What a method is given: measurements ``y`` of a batch, in the prior's units, with ``noise`` of each part."""

    operator: Operator
    y: Tensor
    process: Gaussian
    noise: float


Method = Callable[[Denoiser, Given], tuple[Denoiser, Solver | Sampler]]


def _dds(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return denoise, renoised(dds(given.operator, given.y), 0.85)


def _diffpir(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return diffpir(given.operator, given.y, given.process, noise=given.noise)(denoise), renoise(0.55)


def _pigdm(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return pigdm(given.operator, given.y, given.process, noise=given.noise, spread=1.0)(denoise), ddim(1.0)


def _dps(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return dps(given.operator, given.y, given.process, scale=300.0)(denoise), ddim(1.0)


def _flowchef(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return flowchef(given.operator, given.y, scale=2.0 * given.y[0].numel())(denoise), ddim()


METHODS: dict[str, Method] = {
    "dds": _dds,
    "diffpir": _diffpir,
    "pigdm": _pigdm,
    "dps": _dps,
    "flowchef": _flowchef,
}
"""The methods by name; all but ``dps`` and ``pigdm`` leave the network undifferentiated."""


@dataclass(frozen=True)
class Reconstruction:
    """``image`` complex ``[slices, height, width]``, the mean of the samples; ``doubt`` is the deviation of their
    magnitudes, None of a single one. ``maps`` are the coils' that were used.
    """

    image: Tensor
    doubt: Tensor | None
    maps: Tensor


class Reconstructor:
    """Reconstructs MR slices from multi-coil k-space.

    A prior of nearly real slices sees each without its slow phase, which the centre of k-space tells: it goes into the
    maps, and the image gets it back. What phase is left, the prior allows for.

    >>> found = Reconstructor.from_pretrained("mr")(kspace.data)
    """

    def __init__(self, prior: Prior) -> None:
        if prior.kind != "mr":
            raise ValueError(
                f"{prior.folder} is a prior of {prior.kind} slices, and k-space needs one of mr."
            )
        self.prior = prior
        self.device = next(prior.network.parameters()).device

    @classmethod
    def from_pretrained(cls, name: str | Path = "mr", device: str = "auto") -> "Reconstructor":
        """With an embedded prior, or one in a folder; CheckpointError if there is none."""
        return cls(load(name, device=pick_device(device)))

    def __call__(
        self,
        kspace: Tensor,
        *,
        mask: Tensor | None = None,
        maps: Tensor | None = None,
        method: str = "dds",
        steps: int = 20,
        samples: int = 1,
        noise: float = 0.0,
        start: float = 1.0,
        seed: int = 0,
        batch_size: int = 4,
        advance: Callable[[int], None] = lambda done: None,
    ) -> Reconstruction:
        """Reconstruct every slice.

        Args:
            kspace: complex ``[slices, coils, height, width]``, zero where it was not measured.
            mask: true where it was, ``[width]`` or ``[height, width]``; by default where any value is not zero.
            maps: of the coils' sensitivities, as ``kspace`` or without slices; estimated (ESPIRiT) by default.
            method: a name of :data:`METHODS`.
            steps: network calls of a sample.
            samples: of each slice.
            noise: the standard deviation of a part of k-space, for ``diffpir`` and ``pigdm``.
            start: the time to begin at, from the noisy least-squares image where it is below 1.
            seed: of the first sample of the first slice; others count on.
            batch_size: samples at a time.
            advance: told how many samples are done.

        ValueError for data that do not fit together, an unknown method, or k-space too small to estimate maps.
        """
        build = lookup(method, METHODS, "method")
        if kspace.ndim != 4 or not kspace.is_complex():
            raise ValueError(f"k-space is complex [slices, coils, height, width], not {tuple(kspace.shape)}.")
        if min(steps, samples, batch_size) < 1 or not 0 < start <= 1:
            raise ValueError("steps, samples and batch_size are at least 1, and start lies in (0, 1].")
        kspace = kspace.to(self.device, torch.complex64)
        mask = (kspace != 0).any(0).any(0) if mask is None else mask.to(self.device)
        if maps is None:
            maps = torch.cat([espirit(one[None]) for one in kspace])
        maps = maps.to(self.device, torch.complex64).expand(len(kspace), *maps.shape[-3:])
        phase = slow_phase(kspace, maps) if self.prior.near_real else torch.ones_like(maps[:, :1])
        folded = maps * phase
        level = self._level(kspace, mask, maps)
        jobs = [(k, s) for k in range(len(kspace)) for s in range(samples)]
        drawn: list[Tensor] = []
        for first in range(0, len(jobs), batch_size):
            part = jobs[first : first + batch_size]
            index = torch.tensor([k for k, _ in part], device=self.device)
            operator = Sense(Cartesian(mask), folded[index])
            given = Given(operator, kspace[index] / level, self.prior.process, noise / level)
            seeds = [seed + k * samples + s for k, s in part]
            drawn.append(self._draw(build, given, power(steps, 2.0, start), seeds) * phase[index] * level)
            advance(len(part))
        found = torch.cat(drawn).unflatten(0, (len(kspace), samples))[:, :, 0]
        doubt = found.abs().std(1) if samples > 1 else None
        return Reconstruction(found.mean(1), doubt, maps)

    @torch.no_grad()
    def _draw(self, build: Method, given: Given, grid: Grid, seeds: Sequence[int]) -> Tensor:
        denoise, solver = build(self.prior.denoise, given)
        warm: dict[str, Any] = {}
        like = given.operator.A_adjoint(given.y)
        if float(grid[0]) < 1:
            warm = {"y": cg_sense(given.operator, given.y, iterations=10)}
        return sample(denoise, given.process, like, solver=solver, grid=grid, seeds=seeds, **warm)

    def _level(self, kspace: Tensor, mask: Tensor, maps: Tensor) -> float:
        """Of bright tissue, over all slices, from least squares stopped early."""
        images = [
            cg_sense(Sense(Cartesian(mask), maps[k : k + 1]), kspace[k : k + 1], iterations=5)
            for k in range(len(kspace))
        ]
        return float(bright(torch.cat(images).abs()))
