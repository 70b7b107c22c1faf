"""How far a segmentation is from the truth, and whether its probabilities are to be believed.

Masks and labels are ``[i, j, k]`` on the grid of the truth, with ``spacing`` its mm. Voxels whose truth is
:data:`~diffkit.medical.cases.UNKNOWN` count nothing: they are background in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffkit.medical.cases import UNKNOWN

BINS = 15


@dataclass(frozen=True)
class Overlap:
    """Of one class: ``dice`` and ``surface`` (surface Dice) up to 1, ``hd95`` in mm.

    Not a number where neither mask has a voxel; where only one has, 0, 0 and infinite.
    """

    dice: float
    hd95: float
    surface: float


def overlap(found: Tensor, truth: Tensor, spacing: Sequence[float], *, tolerance: float = 1.0) -> Overlap:
    """Two masks compared; surface Dice is at ``tolerance`` mm.

    A surface is the middles of the voxels that have a face on the outside. HD95 is the larger of the 95th
    percentiles of the distances from one surface to the other and back (MONAI's convention; medpy's takes that of
    both together, and is never larger). Surface Dice is the share of both surfaces within the tolerance of the other
    (Nikolov et al. 2018, 1809.04430, who weigh by area). ValueError for masks of different shapes, or a tolerance
    below 0.
    """
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    if found.shape != truth.shape or found.ndim != 3:
        raise ValueError(
            f"masks of {tuple(found.shape)} and {tuple(truth.shape)} are not of one [i, j, k] grid."
        )
    if tolerance < 0:
        raise ValueError(f"the tolerance of surface Dice is in mm, and 0 or more, not {tolerance}.")
    found, truth = found.bool().cpu(), truth.bool().cpu()
    sizes = int(found.sum()), int(truth.sum())
    if not all(sizes):
        return Overlap(0.0, torch.inf, 0.0) if any(sizes) else Overlap(torch.nan, torch.nan, torch.nan)
    one, other = get_mask_edges(found, truth)
    ways = ((one, other), (other, one))
    there, back = (
        torch.as_tensor(get_surface_distance(*way, spacing=list(spacing))).double() for way in ways
    )
    near = int((there <= tolerance).sum()) + int((back <= tolerance).sum())
    return Overlap(
        2 * int((found & truth).sum()) / sum(sizes),
        max(float(d.quantile(0.95)) for d in (there, back)),
        near / (len(there) + len(back)),
    )


def calibration(probability: Tensor, truth: Tensor, region: Tensor) -> float:
    """The expected calibration error of ``probability`` ``[K, i, j, k]`` over the voxels of ``region`` (a mask).

    The share of voxels whose most probable class is the true one, against its mean probability, in 15 bins of that
    probability of equal width, weighted by their voxels: Guo et al. 2017 (1706.04599, eq. 3). ValueError for a region
    without voxels of known truth.
    """
    inside = region.bool() & (truth != UNKNOWN)
    if not bool(inside.any()):
        raise ValueError("calibration is measured over a region, and this one has no voxel.")
    confidence, label = probability[:, inside].double().max(0)
    right = (label == truth[inside]).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (0, 1/15], (1/15, 2/15], ...
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, right - confidence)
    return float(gap.abs().sum() / len(right))


def around(truth: Tensor, spacing: Sequence[float], margin: float = 10.0) -> Tensor:
    """The voxels within ``margin`` mm of any class but the background: where calibration is not trivial."""
    from scipy.ndimage import distance_transform_edt

    inside = (truth != 0) & (truth != UNKNOWN)
    if not bool(inside.any()):
        return inside
    distance = np.asarray(distance_transform_edt(~inside.numpy(), sampling=list(spacing)))
    return torch.from_numpy(distance <= margin)
