"""Smooth random fields, the deformations that they drive, and distances."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def field(shape: tuple[int, ...], length: float, rng: np.random.Generator, count: int = 1) -> Tensor:
    """``[count, *shape]`` normal values: white noise through a Gaussian of ``length`` voxels, of variance 1.

    The covariance at distance d is exp(-d^2/(4 length^2)); what leaves at one side comes back at the other.
    """
    noise = torch.from_numpy(rng.standard_normal((count, *shape), np.float32))
    axes = [torch.fft.fftfreq(n) for n in shape[:-1]] + [torch.fft.rfftfreq(shape[-1])]
    powers = [torch.exp(-2 * (torch.pi * length * f).square()) for f in axes]
    full = [torch.exp(-4 * (torch.pi * length * torch.fft.fftfreq(n)).square()).mean() for n in shape]
    scale = torch.stack(full).prod().rsqrt()  # the mean of the squared filter is the variance
    spectrum = torch.fft.rfftn(noise, dim=list(range(1, noise.ndim)))
    for axis, power in enumerate(powers):
        spectrum = spectrum * power.reshape([-1] + [1] * (len(shape) - 1 - axis))
    return scale * torch.fft.irfftn(spectrum, shape, dim=list(range(1, noise.ndim)))


def smooth(shape: tuple[int, ...], length: float, rng: np.random.Generator, count: int = 1) -> Tensor:
    """:func:`field` of nearly variance 1, ten times faster: found at every second to fourth voxel, and interpolated."""
    step = 4 if length >= 6 else 2
    coarse = field(tuple(max(2, -(-n // step)) for n in shape), length / step, rng, count)
    return F.interpolate(coarse[None], shape, mode="trilinear", align_corners=True)[0]


def flow(velocity: Tensor, steps: int = 5) -> Tensor:
    """The displacement ``[3, x, y, z]`` after unit time along a stationary velocity field, both in voxels.

    By scaling and squaring (Arsigny et al. 2006): the map x + flow(x) is one to one, as that of 2^-steps of it is.
    """
    out = velocity / 2**steps
    for _ in range(steps):
        out = out + warp(out, out)
    return out


def warp(data: Tensor, displacement: Tensor) -> Tensor:
    """``data`` ``[channels, x, y, z]`` at x + displacement(x), in voxels; continued beyond its edges."""
    size = torch.tensor(displacement.shape[1:])
    here = torch.stack(torch.meshgrid(*(torch.arange(n) for n in size.tolist()), indexing="ij"), -1)
    return at(data, here + displacement.movedim(0, -1))


def places(extent: Tensor, rng: np.random.Generator, size: tuple[int, int, int], spacing: float) -> Tensor:
    """Where the voxels of a random crop are in a box of ``extent`` mm, in mm from its corner: ``[*size, 3]``.

    The crop is anywhere in the box and up to 8 mm beyond, mirrored left to right at times, turned and stretched (by a
    deviation of 6 degrees and 5 %), and bent by a flow of up to 3 mm that varies over 12 mm.
    """
    room = (extent - torch.tensor(size) * spacing).clamp(min=0) / 2 + 8.0
    centre = extent / 2 + room * torch.from_numpy(rng.uniform(-1, 1, 3)).float()
    random = torch.from_numpy(rng.standard_normal((3, 3))).float()
    turn, stretch = (random - random.mT) / 2, (random + random.mT) / 2
    affine = torch.linalg.matrix_exp(0.15 * turn + 0.05 * stretch)
    if rng.random() < 0.5:
        affine[0] = -affine[0]
    step = 4 * spacing
    velocity = field(tuple(max(2, n // 4) for n in size), 12 / step, rng, 3) * rng.uniform(0, 3) / step
    bent = F.interpolate(flow(velocity)[None], size, mode="trilinear", align_corners=True)[0] * step
    axes = ((torch.arange(n) - (n - 1) / 2) * spacing for n in size)
    here = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) + bent.movedim(0, -1)
    return here @ affine.mT + centre


def at(data: Tensor, places: Tensor) -> Tensor:
    """``data`` ``[channels, i, j, k]`` at voxel indices ``places`` ``[x, y, z, 3]``: ``[channels, x, y, z]``."""
    last = torch.tensor(data.shape[1:], dtype=places.dtype) - 1
    unit = (2 * places / last - 1).flip(-1)
    return F.grid_sample(data[None], unit[None].to(data), padding_mode="border", align_corners=True)[0]


def distance(mask: np.ndarray) -> np.ndarray:
    """Voxels to the nearest one of ``mask``; infinite if it has none."""
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~mask)) if mask.any() else np.full(mask.shape, np.inf)
