"""Which class a voxel is given, once the chances p_k of each are known.

``probable``: the most probable, so that the most voxels are right.

``dice``: the class whose mask has the largest expected Dice, about

    D = max over masks M of 2 sum_M p / (abs(M) + sum p),

with both sums over the image, M that is every voxel of p > D/2 (Lipton et al. 2014, 1402.1892, theorem 1). A class that
is doubtful everywhere is drawn larger so. A voxel above the thresholds of several classes is of that which is farthest
above, by ratio, and one above none is background.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def probable(p: Tensor) -> Tensor:
    """The labels ``[x, y, z]`` of chances ``[classes, x, y, z]``, class 0 being the background."""
    return p.argmax(0)


def dice(p: Tensor) -> Tensor:
    """As :func:`probable`, for Dice."""
    lead, label = torch.stack([chance / threshold(chance) for chance in p[1:]]).max(0)
    return torch.where(lead >= 1, label + 1, 0)


def threshold(p: Tensor) -> float:
    """The least chance within the mask of the largest expected Dice; infinite where all chances are 0."""
    likely = p[p > 0].double().sort(descending=True).values
    if not len(likely):
        return float("inf")
    sums = likely.cumsum(0)
    best = (sums / (torch.arange(1, len(likely) + 1, device=p.device) + sums[-1])).argmax()
    return float(likely[best])


DECISIONS: dict[str, Callable[[Tensor], Tensor]] = {"probable": probable, "dice": dice}
"""By the name that commands take."""
