r"""Ventricles that grow by a known factor: diffeomorphisms of a real head, as atrophy moves it.

With phi the distance to the ventricles in mm, negative inside, a velocity that leads away from them,

    v = G * (cos^2(pi phi/(2 R)) grad phi)   where -R < phi < R, and 0 elsewhere,

G a Gaussian, is smooth, also where distances meet in the middle, and 0 beyond R. It does not change along its flow
psi_s, d psi_s/ds = v(psi_s), so that psi_s is a diffeomorphism, whose inverse is psi_-s. The head at s shows
I(psi_-s(x)); its ventricles have the volume

    V(s) = integral over the ventricles of det(d psi_s/dx) dx,      d log det/ds = div v(psi_s)

(Liouville), which rises with s. V is tabulated once, and s is read from the table for the factor that is asked for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffkit.medical.volume import Volume

FACTORS = (0.5, 3.5)
"""Of the ventricles' volume: the range that growth is tabulated over."""

_REACH = 20.0  # mm: R, beyond which nothing moves; the skull is farther from the ventricles
_SMOOTH = 3.0  # mm: the deviation of G, no more than half the width of a lateral ventricle
_STEP = 0.5  # of s, in mm: the longest step of the flow


@dataclass(frozen=True, eq=False)
class Growth:
    """The flow of a head's ventricles; points are in mm from the middle of the head's grid, along its own axes.

    ``velocity`` ``[3, x, y, z]`` is that of a box, ``box`` ``[2, 3]`` its middle and half its sides in mm.
    ``volume`` is that of the ventricles at s = 0 in ml; ``table`` ``[2, n]`` has s and log(V(s)/V(0)), both rising.
    """

    velocity: Tensor
    box: Tensor
    volume: float
    table: np.ndarray

    @classmethod
    def of(cls, ventricles: Tensor, spacing: tuple[float, float, float]) -> "Growth":
        """Of a mask ``[x, y, z]`` of voxels of ``spacing`` mm; ValueError if it is empty."""
        if not bool(ventricles.any()):
            raise ValueError("the mask of the ventricles is empty, so that there is nothing to grow.")
        mm, shape = torch.tensor(spacing), torch.tensor(ventricles.shape)
        margin = (_REACH / mm).ceil().long()
        found = ventricles.nonzero()
        low = (found.amin(0) - margin).clamp(min=0)
        high = (found.amax(0) + 1 + margin).minimum(shape)
        inside = ventricles[tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))]
        box = torch.stack([((low + high) / 2 - shape / 2) * mm, (high - low) / 2 * mm])
        velocity = _velocity(inside.numpy(), spacing)
        volume = float(inside.sum() * mm.prod()) / 1000
        return cls(velocity, box, volume, _table(velocity, box, inside, spacing))

    def flow(self, points: Tensor, s: float) -> Tensor:
        """psi_s of ``points`` ``[..., 3]``, by the midpoint rule."""
        steps = max(1, int(np.ceil(abs(s) / _STEP)))
        for _ in range(steps):
            points = _step(self.velocity, self.box, points, s / steps)
        return points

    def time(self, factor: float) -> float:
        """The s at which the ventricles have ``factor`` times their volume; ValueError beyond :data:`FACTORS`."""
        if not FACTORS[0] <= factor <= FACTORS[1]:
            raise ValueError(
                f"ventricles grow by factors from {FACTORS[0]} to {FACTORS[1]} here, not {factor:g}."
            )
        return float(np.interp(np.log(factor), self.table[1], self.table[0]))


def grown(volume: Volume, growth: Growth, factor: float) -> Volume:
    """``volume``, on the grid that ``growth`` is of, its ventricles ``factor`` times as large; float32."""
    mm, shape = torch.tensor(volume.spacing), torch.tensor(volume.shape)
    low, high = (
        ((growth.box[0] + side * growth.box[1]) / mm + shape / 2).round().long().tolist() for side in (-1, 1)
    )
    inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    points = growth.flow(_centres(volume.shape, volume.spacing)[inside], -growth.time(factor))
    unit = (points / (shape * mm / 2)).flip(-1)  # grid_sample has the last axis first
    data = volume.data.float().clone()
    moved = F.grid_sample(data[None], unit[None].float(), align_corners=False, padding_mode="border")
    data[:, *inside] = moved[0]
    return volume.holding(data)


def _velocity(inside: np.ndarray, spacing: tuple[float, float, float]) -> Tensor:
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    distance: Any = distance_transform_edt
    outward = distance(~inside, spacing) - distance(inside, spacing)
    share = np.cos(np.pi / 2 * np.clip(outward / _REACH, -1, 1)) ** 2
    width = [_SMOOTH / mm for mm in spacing]
    parts = [gaussian_filter(share * slope, width) for slope in np.gradient(outward, *spacing)]
    return torch.from_numpy(np.stack(parts)).float()


def _table(
    velocity: Tensor, box: Tensor, ventricles: Tensor, spacing: tuple[float, float, float]
) -> np.ndarray:
    """Steps of s to both sides, until the logarithm of V leaves that of :data:`FACTORS`; midpoints throughout."""
    parts = [torch.gradient(part, spacing=spacing[k], dim=k)[0] for k, part in enumerate(velocity)]
    divergence = torch.stack(parts).sum(0, keepdim=True)
    start = _centres(ventricles.shape, spacing)[ventricles] + box[0]
    rows = {0.0: 0.0}
    for sign, end in zip((-1, 1), np.log(FACTORS), strict=True):
        points, det, s = start, torch.zeros(len(start)), 0.0
        while sign * rows[s] < sign * end:
            middle = _step(velocity, box, points, sign * _STEP / 2)
            det = det + sign * _STEP * _at(divergence, box, middle)[:, 0]
            points, s = _step(velocity, box, points, sign * _STEP), s + sign * _STEP
            rows[s] = float(det.exp().mean().log())
    return np.array(sorted(rows.items())).T


def _step(velocity: Tensor, box: Tensor, points: Tensor, s: float) -> Tensor:
    middle = points + s / 2 * _at(velocity, box, points)
    return points + s * _at(velocity, box, middle)


def _at(velocity: Tensor, box: Tensor, points: Tensor) -> Tensor:
    unit = ((points - box[0]) / box[1]).flip(-1).reshape(1, -1, 1, 1, 3).to(velocity)
    return F.grid_sample(velocity[None], unit, align_corners=False)[0, :, :, 0, 0].mT.reshape(
        *points.shape[:-1], -1
    )


def _centres(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> Tensor:
    """The voxels' centres in mm from the middle of their grid, ``[x, y, z, 3]``."""
    axes = [(torch.arange(n) + 0.5 - n / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
