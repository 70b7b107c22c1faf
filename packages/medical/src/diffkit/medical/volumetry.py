r"""The volume of the ventricles in a T1-weighted image, by intensity within a region.

Two means (Otsu 1979) of the region's values are the levels of fluid and of tissue. A voxel is fluid by the share

    1/2 + 2 (middle - value)/(tissue - fluid),      cut to [0, 1],

so that the boundary moves by parts of a voxel, while grey matter, between white and the middle, counts nothing.
All fluid in the region counts: keep it clear of the sulci and of the third ventricle.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffkit.medical.resample import resample
from diffkit.medical.volume import Volume

VENTRICLES = (51, 52)
"""The lateral ventricles among the labels of Neuromorphometrics."""


class Levels(NamedTuple):
    """The intensities of fluid and of tissue, in the image's unit."""

    fluid: float
    tissue: float


def levels(values: Tensor) -> Levels:
    """Of the values of a region, ``[n]``: the two means that leave the least variance.

    ValueError if all values are the same.
    """
    ordered = values.flatten().double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.float64)
    above = len(ordered) - below
    left = ordered.cumsum(0)[:-1]
    low, high = left / below, (ordered.sum() - left) / above
    if not len(below) or float(ordered[-1]) == float(ordered[0]):
        raise ValueError(
            "the mask covers voxels of one value alone, so that fluid and tissue are not told apart."
        )
    best = int((below * above * (high - low).square()).argmax())
    return Levels(float(low[best]), float(high[best]))


def fluid(values: Tensor, at: Levels) -> Tensor:
    """The share of fluid in each voxel, in [0, 1]."""
    middle = (at.fluid + at.tissue) / 2
    return (0.5 + 2 * (middle - values) / (at.tissue - at.fluid)).clamp(0, 1)


def curve(frames: Volume, mask: Volume, at: Levels | None = None) -> list[float]:
    """The ventricles' volume in ml in each channel of ``frames``, within ``mask`` on the same grid.

    ``at`` are the levels for all frames, by default those of the first.
    """
    inside = mask.data[0] > 0
    values = frames.data.float()[:, inside]
    shares = fluid(values, at or levels(values[0]))
    ml = float(frames.affine[:3, :3].det().abs()) / 1000
    return (shares.sum(1, dtype=torch.float64) * ml).tolist()


def around(mask: Volume, reach: float) -> Volume:
    """The voxels within ``reach`` mm of a mask, as one."""
    from scipy.ndimage import distance_transform_edt

    distance: Any = distance_transform_edt(mask.data[0].numpy() == 0, mask.spacing)
    return mask.holding(torch.from_numpy(distance <= reach)[None])


def ventricles(image: Volume, atlas: Volume, reach: float = 6.0) -> Volume:
    """The lateral ventricles of an ``image`` in the space of an ``atlas`` of labels, as MNI's, as a mask.

    They are what is mostly fluid within ``reach`` mm of the atlas's and hangs together with what both share: the image
    says how large they are, and the atlas what belongs to them.
    """
    from scipy.ndimage import label

    lateral = atlas.holding(torch.isin(atlas.data, torch.tensor(VENTRICLES)).float())
    core = image.holding(resample(lateral, image.shape, image.affine).data > 0.5)
    near, values = around(core, reach).data, image.data[:1].float()
    dark = near & (fluid(values, levels(values[near])) > 0.5)
    parts: Any = label(dark[0].numpy())
    found = torch.from_numpy(parts[0])[None]
    return image.holding(torch.isin(found, found[core.data & dark].unique()) & dark)
