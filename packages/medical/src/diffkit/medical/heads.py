"""The head CT of the demo data, in blocks of slices, to put lesions into.

There is one head, so that its blocks are what can be kept apart: none is both trained and tested on, but all are of one
person. A block is low, of 12 to 54 mm, and goes on as its mirror image until it is as high as a crop.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffkit.medical.data import images
from diffkit.medical.fields import distance
from diffkit.medical.resample import isotropic, resample
from diffkit.medical.sources import Split
from diffkit.medical.volume import Volume, read

_AIR = -1000.0


class HeadCT(NamedTuple):
    """Maps ``[x, y, z]`` of cubes of ``spacing`` mm, in the order of RAS.

    ``hu``, the share of ``brain``, and the ``depth`` below the skin in mm.
    """

    hu: Tensor
    brain: Tensor
    depth: Tensor
    spacing: float


def heads(folder: str | Path, split: Split, *, height: float, spacing: float = 1.5) -> list[HeadCT]:
    """The blocks of a split, at least ``height`` mm high; ValueError without any."""
    listed = [image for image in images(folder, "ct", split, "hu") if image.shape[2] >= 8]
    if not listed:
        raise ValueError(f"{folder} holds no CT for {split}: build it with `diffkit-medical data`.")
    return [head(read(Path(folder) / image.path), height=height, spacing=spacing) for image in listed]


def head(volume: Volume, *, height: float, spacing: float = 1.5) -> HeadCT:
    """A block of axial slices of a head: its table taken away, its brain found, and mirrored up to ``height`` mm."""
    hu = resample(volume, *isotropic(volume, spacing)).data[0]
    body = _body(hu.numpy() > -300)
    brain = _enclosed(np.where(body, hu.numpy(), _AIR), spacing)
    depth = distance(~body) * spacing
    maps = np.stack([np.where(body, hu.numpy(), _AIR), brain, depth])
    maps = torch.from_numpy(maps[..., body.any((0, 1))]).float()  # above the head there is nothing
    both = [maps, maps.flip(-1)]
    count = max(1, math.ceil(height / spacing / maps.shape[-1]))
    hu, brain, depth = torch.cat([both[k % 2] for k in range(count)], -1)
    return HeadCT(hu, brain, depth, spacing)


def _body(dense: np.ndarray) -> np.ndarray:
    """The largest connected part, with what each slice of it encloses."""
    from scipy import ndimage

    parts, _ = ndimage.label(dense)  # pyright: ignore[reportGeneralTypeIssues]
    body = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return np.stack([np.asarray(ndimage.binary_fill_holes(part)) for part in np.moveaxis(body, -1, 0)], -1)


def _enclosed(hu: np.ndarray, spacing: float) -> np.ndarray:
    """The brain: what bone encloses in a slice, but for an operation's gaps of 28 mm, where it is wider than 40 mm."""
    from scipy import ndimage

    out = []
    for part in np.moveaxis(hu, -1, 0):
        wide = distance(np.pad(part > 200, 16)) * spacing <= 14
        closed = (distance(~np.asarray(ndimage.binary_fill_holes(wide))) * spacing > 14)[16:-16, 16:-16]
        mean = np.asarray(ndimage.gaussian_filter(part, 2 / spacing))  # of sinuses it is low
        inside = closed & (part < 200) & (mean > -30)
        deep = distance(~inside) * spacing > 20
        out.append((distance(deep) * spacing <= 20) & inside)
    return np.stack(out, -1)
