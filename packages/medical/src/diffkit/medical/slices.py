"""Measured slices as a method sees them: in the units of the prior, with an operator of unit norm.

Of MR the unit is the magnitude of bright tissue. Of CT the prior's x is HU/1000, so that attenuation is WATER (1 + x),
and line integrals p = WATER P (1 + x) are affine in it: p/WATER - P 1 = P x. The image holds all that is scanned, so
that P 1, the lengths of the rays in it, is exact.

P^T P weighs frequency f by 1/f, and conjugate gradients crawl. With the square root R of the ramp of filtered
backprojection (R P)^T (R P) is nearly a projection, as it is in MR: six iterations then do what 25 do without.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffkit.core.inverse.operator import Operator
from diffkit.medical.classical import cg_sense, largest
from diffkit.medical.coils import espirit, slow_phase
from diffkit.medical.dose import WATER
from diffkit.medical.kspace import KSpace
from diffkit.medical.methods import System
from diffkit.medical.mri import Cartesian, Sense, whiten
from diffkit.medical.planes import bright
from diffkit.medical.sinogram import Sinogram

Select = Callable[[Tensor], System]


@dataclass(frozen=True, eq=False)
class Slices:
    """``count`` slices, measured.

    Args:
        rows: the measurements of an index ``[batch]`` of slices, with independent noise.
        eased: the same, mixed for fast iterations.
        guess: a first image, for a warm start, from what is eased.
        image: ``(x, index)`` to the images in units of the modality, ``[batch, 1, height, width]``.
        maps: of coils.
        seen: 1 where they see anything, ``[count, 1, height, width]``, and else 0, as the image then is.
    """

    count: int
    rows: Select
    eased: Select
    guess: Callable[[System], Tensor]
    image: Callable[[Tensor, Tensor], Tensor]
    maps: Tensor | None = None
    seen: Tensor | None = None


def of_kspace(measured: KSpace, maps: Tensor | None, *, near_real: bool, noise: float | None) -> Slices:
    """Slices of MR, with maps ``[coils, height, width]`` or one of them for each slice; estimated if None.

    Where the prior is ``near_real`` the slow phase, which the centre of k-space tells, goes into the maps, and the
    images get it back. Coils whose covariance is known are whitened first. ``noise`` None is estimated. ValueError for
    maps that do not fit, or k-space too small to estimate them.
    """
    kspace = measured.data
    mask = (kspace != 0).any(0).any(0) if measured.mask is None else measured.mask.to(kspace.device)
    if maps is None:
        maps = torch.cat([espirit(one[None]) for one in kspace])
    maps = maps.to(kspace).expand(len(kspace), *maps.shape[-3:])
    if measured.noise is not None:  # the maps too, and after: the image is then as bright as without
        kspace, maps, norm = _whitened(kspace, maps, measured.noise.to(kspace))
        noise = None if noise is None else noise / norm
    phase = slow_phase(kspace, maps) if near_real else torch.ones_like(maps[:, :1])
    folded = maps * phase
    seen = (maps != 0).any(1, keepdim=True).float()

    noise = noise_level(kspace) if noise is None else noise

    def rows(index: Tensor, level: float = 1.0) -> System:
        return System(Sense(Cartesian(mask), folded[index]), kspace[index] / level, noise / level)

    def least_squares(at: System, iterations: int = 10) -> Tensor:
        return cg_sense(at.operator, at.y, iterations=iterations)

    each = torch.arange(len(kspace), device=kspace.device).split(1)
    level = float(bright(torch.cat([least_squares(rows(k), 5) for k in each]).abs()))
    select = partial(rows, level=level)
    return Slices(
        len(kspace),
        rows=select,
        eased=select,
        guess=least_squares,
        image=lambda x, index: x * phase[index] * seen[index] * level,
        maps=maps,
        seen=seen,
    )


def _whitened(kspace: Tensor, maps: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, float]:
    """Both of coils of independent noise, which is ``norm`` times smaller than it was on average, and that norm.

    It makes the largest map of the new coils one of unit norm, whatever the unit of the covariance.
    """
    even = covariance * (2 / covariance.diagonal().real.mean())
    kspace, maps = whiten(kspace, even), whiten(maps, even)
    norm = float(torch.linalg.vector_norm(maps, dim=1).max())
    return kspace / norm, maps / norm, norm


def noise_level(kspace: Tensor, *, beyond: float = 0.9) -> float:
    """The deviation of a part of ``[..., height, width]``, from what is measured ``beyond`` a share of the frequencies.

    A tenth of the magnitudes there are below sqrt(-2 log 0.9) deviations, and of those few have signal.
    """
    rows, columns = (
        (torch.arange(n, device=kspace.device) - n // 2).abs() > beyond * n / 2 for n in kspace.shape[-2:]
    )
    outer = kspace[..., rows[:, None] | columns].abs()
    outer = outer[outer > 0]
    if not len(outer):
        return 0.0
    return float(outer.kthvalue(1 + len(outer) // 10).values) / math.sqrt(-2 * math.log(0.9))


@dataclass(frozen=True, eq=False)
class Mixed:
    """``operator``, whose measurements are then mixed by ``mix``, a linear map that is its own adjoint."""

    operator: Operator
    mix: Callable[[Tensor], Tensor]

    def A(self, x: Tensor) -> Tensor:
        return self.mix(self.operator.A(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.operator.A_adjoint(self.mix(y))


def root_ramp(y: Tensor) -> Tensor:
    """The last axis filtered by sqrt(2 f), f in cycles a bin; frequency 0 as the lowest else, lest means be lost."""
    length = 2 * y.shape[-1]
    f = torch.fft.rfftfreq(length, device=y.device, dtype=y.dtype).clamp(min=1 / length)
    return torch.fft.irfft(torch.fft.rfft(y, length) * (2 * f).sqrt(), length)[..., : y.shape[-1]]


_WHITE = 0.5**0.5
"""What :func:`root_ramp` makes of the deviation of white noise: the root of the mean of 2 f."""


def of_sinogram(measured: Sinogram, *, noise: float | None) -> Slices:
    """Slices of CT, in HU.

    Line integrals are all of deviation ``noise``; or, where the photons are known, rows are weighted by theirs, those
    surer than the median as the median is: else air, through which most pass, would have all the weight.
    """
    data, projector = measured.data, measured.projector
    water = data.new_ones(1, 1, *measured.shape)
    p = data / WATER - projector.A(water)
    deviation = measured.deviation() if noise is None else None
    weight = torch.ones_like(data)
    if deviation is not None:
        noise = float(deviation.median())
        weight = (noise / deviation).clamp(max=1)
    level = (noise or 0.0) / WATER

    def scaled(mix: Callable[[Tensor], Tensor], y: Tensor, noise: float, norm: float) -> System:
        return System(Mixed(projector, lambda y: mix(y) / norm), mix(y) / norm, noise / norm)

    norms = [float(largest(operator, water)) for operator in (projector, Mixed(projector, root_ramp))]

    return Slices(
        len(data),
        rows=lambda index: scaled(lambda y: weight[index] * y, p[index], level, norms[0]),
        eased=lambda index: scaled(root_ramp, p[index], _WHITE * level, norms[1]),
        guess=from_air,
        image=lambda x, index: 1000 * x.clamp(min=-1),
    )


def from_air(at: System) -> Tensor:
    """What six iterations of conjugate gradients make of air towards the least squares of CT ``at`` its rays."""
    air = torch.full_like(at.operator.A_adjoint(at.y), -1)
    return air + cg_sense(at.operator, at.y - at.operator.A(air), iterations=6)
