r"""Volumes on other grids: linear interpolation where the affines say, after the blur of coarser voxels.

A voxel is the mean over its box. Where the new voxels are r > 1 old ones wide, an image is first blurred along that
axis by a Gaussian of the variance that the box gains, (r^2 - 1)/12, so that nothing finer aliases into it.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffkit.medical.volume import Volume

_POINTS = 1 << 22  # interpolated at a time, so that the coordinates take 50 MB and not 12 bytes a voxel


def resample(
    volume: Volume,
    shape: tuple[int, int, int],
    affine: Tensor,
    *,
    labels: bool = False,
    outside: float | None = None,
) -> Volume:
    """``volume`` on the grid of ``shape`` and ``affine``, as float32.

    Beyond its own grid it is ``outside``, or continued as at its edge. ``labels`` takes the nearest voxel and keeps the
    dtype. On its own grid a volume stays as it is, to the bit.
    """
    affine = affine.to("cpu", torch.float64)
    step = torch.linalg.solve(volume.affine, affine)  # new indices to old ones
    here = torch.tensor(volume.shape, dtype=torch.float64)
    if volume.shape == shape and float((step - torch.eye(4)).abs().max()) * max(shape) < 1e-3:
        return replace(volume, data=volume.data if labels else volume.data.float(), affine=affine)
    data = volume.data.float()
    if not labels:
        data = blur(data, [((max(r, 1) ** 2 - 1) / 12) ** 0.5 for r in step[:3, :3].norm(dim=1).tolist()])
    step = (torch.diag(2 / (here - 1).clamp(min=1)) @ step[:3]).flip(0)  # to [-1, 1], the last axis first
    step[:, 3] -= 1
    edge = (1 + (1 + 1e-4) / (here - 1).clamp(min=1)).flip(0)  # half a voxel beyond the last centre
    j, k = (torch.arange(n, dtype=torch.float64) for n in shape[1:])
    plane = step[:, 1, None, None] * j[:, None] + step[:, 2, None, None] * k + step[:, 3, None, None]
    out: list[Tensor] = []
    for i in torch.arange(shape[0], dtype=torch.float64).split(max(1, _POINTS // (shape[1] * shape[2]))):
        unit = (step[:, 0, None, None, None] * i[:, None, None] + plane[:, None]).movedim(0, -1)
        mode = "nearest" if labels else "bilinear"
        slab = F.grid_sample(
            data[None], unit.to(data)[None], mode=mode, padding_mode="border", align_corners=True
        )[0]
        if outside is not None:
            slab = slab.masked_fill((unit.abs() > edge).any(-1), outside)
        out.append(slab)
    data = torch.cat(out, 1)
    return replace(volume, data=data.to(volume.data.dtype) if labels else data, affine=affine)


def isotropic(
    volume: Volume, spacing: float, at_least: tuple[int, int, int] = (1, 1, 1)
) -> tuple[tuple[int, int, int], Tensor]:
    """The grid of cubes of ``spacing`` mm over ``volume``: its centre, and its axes in the order of RAS.

    It covers the volume, with ``at_least`` so many voxels. Returns its shape and its affine.
    """
    volume = volume.oriented("RAS")
    mm = torch.tensor(volume.spacing, dtype=torch.float64)
    old = torch.tensor(volume.shape, dtype=torch.float64)
    new = (old * mm / spacing - 1e-3).ceil().maximum(torch.tensor(at_least, dtype=torch.float64))
    step = torch.eye(4, dtype=torch.float64)
    step[:3, :3] = torch.diag(spacing / mm)
    step[:3, 3] = (old - 1) / 2 - spacing / mm * (new - 1) / 2
    x, y, z = new.long().tolist()
    return (x, y, z), volume.affine @ step


def blur(data: Tensor, sigma: list[float]) -> Tensor:
    """``data`` ``[channels, i, j, k]`` through a Gaussian of ``sigma`` voxels along each axis, its edges continued.

    The discrete one of Lindeberg 1990, e^-v I_n(v) at n voxels with I_n Bessel's, whose variance is v = sigma^2 for
    narrow ones too. Axes of less than a tenth of a voxel stay as they are.
    """
    from scipy.special import ive

    for axis, width in enumerate(sigma):
        if width < 0.1:
            continue
        reach = math.ceil(3 * width) + 1
        taps = ive(np.arange(-reach, reach + 1), width**2)
        size, sides = data.shape[axis + 1], [-1] * data.ndim
        sides[axis + 1] = reach
        ends = [data.narrow(axis + 1, k, 1).expand(sides) for k in (0, size - 1)]
        padded = torch.cat([ends[0], data, ends[1]], axis + 1)
        data = torch.zeros_like(data)
        for k, tap in enumerate((taps / taps.sum()).tolist()):  # a convolution takes ten times longer
            data.add_(padded.narrow(axis + 1, k, size), alpha=tap)
    return data
