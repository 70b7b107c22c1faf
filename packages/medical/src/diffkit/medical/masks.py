"""Which frequencies a Cartesian scan measures, with a fully sampled centre (ACS) to calibrate coils on.

Masks are boolean with frequency 0 at half the size, and have exactly round(size/acceleration) true values, the centre
among them: an acceleration that counts only the lines outside the centre is not what the scan takes. Lines are
measured along the height, so that their masks are ``[1, width]``.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def random_lines(width: int, acceleration: float, acs: int, *, seed: int = 0) -> Tensor:
    """``acs`` central lines, and others drawn uniformly: ``[1, width]``; fastMRI's (1811.08839) with an exact count.

    ValueError for an acceleration below 1, or too high to leave room for the centre.
    """
    mask, outside, left = _lines(width, acceleration, acs)
    order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))
    mask[0, outside[order[:left]]] = True
    return mask


def equispaced_lines(width: int, acceleration: float, acs: int, *, offset: float = 0.5) -> Tensor:
    """``acs`` central lines, and others at equal distances, rounded to whole lines: ``[1, width]``.

    ``offset`` in [0, 1) shifts the first. ValueError as for :func:`random_lines`.
    """
    if not 0 <= offset < 1:
        raise ValueError(f"the offset is a share of the lines' distance, in [0, 1), not {offset}.")
    mask, outside, left = _lines(width, acceleration, acs)
    chosen = (torch.arange(left, dtype=torch.float64) + offset) * (len(outside) / max(left, 1))
    mask[0, outside[chosen.long()]] = True
    return mask


def poisson_disc(
    shape: tuple[int, int], acceleration: float, acs: tuple[int, int], *, seed: int = 0
) -> Tensor:
    """Points of k-space that keep a distance, which grows from the centre: ``[height, width]``, for 3D scans.

    Darts are thrown at all points in a random order, and stick where no earlier one has them within its radius
    1 + slope r, r the distance from the centre in half sizes (Lustig and Pauly 2010). Radii vary by a quarter, as the
    lattice would else leave rings. The slope is searched for, and what is above the exact count dropped at random.

    ValueError as for :func:`random_lines`.
    """
    size = shape[0] * shape[1]
    centre = torch.zeros(shape, dtype=torch.bool)
    centre[central(shape[0], acs[0]), central(shape[1], acs[1])] = True
    wanted = _count(size, acceleration, int(centre.sum()))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=generator).numpy()
    spread = 0.75 + 0.5 * torch.rand(shape, generator=generator).numpy()
    order = order[~centre.flatten().numpy()[order]]
    axes = (torch.arange(n) / (n / 2) - 1 for n in shape)
    distance = torch.cartesian_prod(*axes).norm(dim=1).reshape(shape).numpy()
    low, high, best = 0.0, math.inf, order
    for _ in range(30):
        if best.size <= wanted * 1.01:
            break
        slope = (low + high) / 2 if high < math.inf else max(1.0, 2 * low)
        hits = np.fromiter(_throw(order, spread * (1 + slope * distance)), dtype=np.int64)
        if hits.size >= wanted:
            low, best = slope, hits
        else:
            high = slope
    mask = centre.flatten()
    mask[torch.from_numpy(best[:wanted])] = True
    return mask.reshape(shape)


def _throw(order: NDArray[np.int64], radius: NDArray[np.floating]) -> Iterator[int]:
    """The points of ``order`` that lie within the radius of none before."""
    reach = math.ceil(radius.max())
    height, width = radius.shape
    blocked = np.zeros((height + 2 * reach, width + 2 * reach), dtype=bool)
    offsets = np.arange(-reach, reach + 1) ** 2
    square = offsets[:, None] + offsets
    discs: dict[int, tuple[int, NDArray[np.bool_]]] = {}
    squares = np.ceil(radius**2).astype(int)
    for index in order.tolist():
        i, j = divmod(index, width)
        if blocked[i + reach, j + reach]:
            continue
        key = int(squares[i, j])
        if key not in discs:
            r = math.isqrt(key)
            inner = slice(reach - r, reach + r + 1)
            discs[key] = r, square[inner, inner] < key
        r, disc = discs[key]
        blocked[i + reach - r : i + reach + r + 1, j + reach - r : j + reach + r + 1] |= disc
        yield index


def _lines(width: int, acceleration: float, acs: int) -> tuple[Tensor, Tensor, int]:
    """A mask of the centre, the lines outside, and how many of those are still to be chosen."""
    mask = torch.zeros(1, width, dtype=torch.bool)
    mask[0, central(width, acs)] = True
    return mask, (~mask[0]).nonzero()[:, 0], _count(width, acceleration, acs)


def central(size: int, acs: int) -> slice:
    """``acs`` places around frequency 0 of an axis."""
    if not 0 <= acs <= size:
        raise ValueError(f"{acs} central lines do not fit {size}: take fewer.")
    return slice(size // 2 - acs // 2, size // 2 - acs // 2 + acs)


def _count(size: int, acceleration: float, centre: int) -> int:
    """How many values are measured outside the centre."""
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise ValueError(f"an acceleration is at least 1, not {acceleration}.")
    count = round(size / acceleration) - centre
    if count < 0:
        raise ValueError(
            f"at acceleration {acceleration:g} only {count + centre} of {size} are measured, less than the centre's "
            f"{centre}: lower one of them."
        )
    return count
