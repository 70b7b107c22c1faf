"""Heads to draw from: maps of tissue, built from the atlases and the label volumes of the demo data.

Two kinds. *Template*: the tissue probabilities of SPM, whose deep nuclei are told apart by the regions of
Neuromorphometrics on the same grid; its scan is the average T1 of the same space. *Donors*: the cortex and the nuclei
of one person, who has no other label and no image. The template, moved onto the donor by the centroids of regions that
both have, says the rest: its skull, scalp, ventricles, cerebellum. Between the folds there is fluid where the way to
the outside is shorter than that to the core of the white matter, and else white matter.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffkit.medical.cases import listed
from diffkit.medical.data import images
from diffkit.medical.fields import distance
from diffkit.medical.resample import isotropic, resample
from diffkit.medical.sources import Split
from diffkit.medical.synth import Anatomy
from diffkit.medical.volume import Volume, read

_NUCLEI = {
    "thalamusproper": "Thalamus Proper",
    "caudate": "Caudate",
    "putamen": "Putamen",
    "accumbensarea": "Accumbens Area",
}
_REGIONS = _NUCLEI | {
    "pallidum": "Pallidum",
    "hippocampus": "Hippocampus",
    "amygdala": "Amygdala",
    "precentral": "PrG precentral gyrus",
    "postcentral": "PoG postcentral gyrus",
    "cuneus": "Cun cuneus",
    "lingual": "LiG lingual gyrus",
    "superiorparietal": "SPL superior parietal lobule",
    "supramarginal": "SMG supramarginal gyrus",
    "frontalpole": "FRP frontal pole",
}
"""Names of the same region with the donors and in Neuromorphometrics."""


class Atlas:
    """SPM's tissue and its regions: probabilities of grey, white, fluid, bone, soft, air, ``[6, x, y, z]``."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        labels = listed(folder, "train", "neuromorphometrics/labels.nii.gz")
        self.names = labels.names
        self.tissue = read(folder / "train/spm152/tissue.nii.gz").oriented("RAS")
        self.regions = read(folder / labels.path).oriented("RAS")
        self.spacing = self.tissue.spacing[0]

    def region(self, *ends: str) -> Tensor:
        """Where the regions are whose names end so, ``[x, y, z]``."""
        values = [int(value) for value, name in self.names.items() if name.endswith(ends)]
        return torch.isin(self.regions.data[0], torch.tensor(values))

    @cached_property
    def landmarks(self) -> list[Tensor]:
        """The centroids of the regions that donors have too, mm."""
        return [_centroid(self.tissue, self.region(f"{side} {name}")) for side, _, name in _pairs()]

    def template(self) -> Iterator[Anatomy]:
        """SPM's maps to draw from, and then its average T1 with the likeliest tissue."""
        grey, white, fluid, bone, soft, air = self.tissue.data
        deep = (grey + white) * self.region(*_NUCLEI.values())
        rest = deep == 0
        chance = torch.stack([air, fluid, grey * rest, white * rest, deep, bone, soft])
        depth = hull(chance[2:5].sum(0) > 0.5, self.spacing)
        yield Anatomy(chance, depth, self.spacing)
        scan = read(self.folder / "train/spm152/t1.nii.gz")
        image = resample(scan, self.tissue.shape, self.tissue.affine).data[0]
        yield Anatomy(chance, depth, self.spacing, image / image[white > 0.9].median())

    def donors(self, split: Split) -> Iterator[Anatomy]:
        """The donors of a split."""
        for image in images(self.folder, "mri", split, "labels"):
            if image.subject.startswith("donor-"):
                yield self.donor(read(self.folder / image.path), image.names)

    def donor(self, labels: Volume, names: Mapping[str, str]) -> Anatomy:
        """One donor: ``labels`` ``[1, i, j, k]`` of Desikan and Killiany's regions, and what they are called."""
        labels = labels.oriented("RAS")
        value = {name: int(number) for number, name in names.items()}
        place = _fit(
            [_centroid(labels, labels.data[0] == value[f"{name},{side[0]}"]) for side, name, _ in _pairs()],
            self.landmarks,
        )
        nuclei = torch.tensor([value[f"{name},{side}"] for name in _NUCLEI for side in "LR"])
        solid = torch.tensor([value[f"pallidum,{side}"] for side in "LR"] + [value["brainstem,B"]])
        found = labels.data[0]
        parts = [torch.isin(found, nuclei), torch.isin(found, solid)]
        parts = [(found > 0) & ~parts[0] & ~parts[1], *parts]
        shape, affine = isotropic(labels, self.spacing)
        grey, deep, white = resample(labels.holding(torch.stack(parts).float()), shape, affine).data
        grey = (1.4 * grey).clamp(max=1 - deep - white)  # a cortex of 2 mm covers few voxels of 1.5 mm wholly
        back = self.region(
            "Cerebellum Exterior", "Cerebellum White Matter", "Lobules I-V", "VI-VII", "VIII-X"
        )
        around = torch.cat([self.tissue.data, (back | self.region("Brain Stem")).float()[None]])
        around = resample(self.tissue.holding(around), shape, place @ affine).data
        chance = _complete(grey, deep, white, around, self.spacing)
        return Anatomy(chance, hull(chance[2:5].sum(0) > 0.5, self.spacing), self.spacing)


def _pairs() -> list[tuple[str, str, str]]:
    return [(side, ours, theirs) for side in ("Left", "Right") for ours, theirs in _REGIONS.items()]


def _complete(grey: Tensor, deep: Tensor, white: Tensor, around: Tensor, spacing: float) -> Tensor:
    """A donor's tissues from the labelled ones and the template ``around``: its six, and where it has cerebellum."""
    pale, core, fluid, bone, soft, air = around[:6]
    labelled = grey + deep + white
    open_ = labelled < 0.4
    solid = (labelled > 0.5) | (core > 0.5) | (around[6] > 0.3)
    beyond = open_ & (hull(solid, spacing) < -1)
    folds = _nearer(beyond, open_ & ~beyond & (core > 0.8), open_)
    zero = torch.zeros_like(fluid)
    outside = bone + soft + air
    sulci = torch.stack([air, 1 - outside, zero, zero, zero, bone, soft])
    inner = torch.stack([zero, fluid, zero, 1 - fluid, zero, zero, zero])
    below = torch.stack([air, fluid, pale, core, zero, bone, soft])
    rest = torch.where(around[6] > 0.3, below, torch.where(folds, sulci, inner))
    out = rest * (1 - labelled).clamp(min=0)
    out[2] += grey
    out[3] += white
    out[4] += deep
    return out / out.sum(0).clamp(min=1e-6)


def _nearer(one: Tensor, two: Tensor, inside: Tensor) -> Tensor:
    """Where a way within ``inside`` to ``one`` is shorter than to ``two``, or there is none to either; masks."""
    from scipy.ndimage import binary_dilation

    first, second, free = one.numpy(), two.numpy(), (inside & ~one & ~two).numpy()
    while True:
        grown, other = (binary_dilation(side) & free for side in (first, second))
        if not (grown.any() or other.any()):
            return torch.from_numpy(~second)
        first, second = first | grown & ~other, second | other
        free &= ~(grown | other)


def hull(brain: Tensor, spacing: float) -> Tensor:
    """Millimetres to the surface of a mask ``[x, y, z]``, positive inside, with its folds and holes closed.

    Found on a grid of half the resolution, as a hull is smooth.
    """
    from scipy.ndimage import binary_fill_holes

    mm = 2 * spacing
    solid = (F.avg_pool3d(brain.float()[None, None], 2, ceil_mode=True)[0, 0] > 0.5).numpy()
    wide = distance(solid) * mm <= _CLOSE
    closed = np.asarray(binary_fill_holes(solid | (distance(~wide) * mm > _CLOSE)))
    signed = torch.from_numpy(distance(~closed) - distance(closed)) * mm
    return F.interpolate(signed.float()[None, None], brain.shape, mode="trilinear")[0, 0]


_CLOSE = 9.0  # mm: half of the widest fold that a brain mask bridges


def _centroid(volume: Volume, mask: Tensor) -> Tensor:
    """In mm, ``[3]``."""
    middle = mask.nonzero().double().mean(0)
    return volume.affine[:3, :3] @ middle + volume.affine[:3, 3]


def _fit(source: list[Tensor], target: list[Tensor]) -> Tensor:
    """The affine map of least squares between points: ``[4, 4]``."""
    points = torch.stack(source)
    points = torch.cat([points, torch.ones(len(points), 1, dtype=points.dtype)], 1)
    out = torch.eye(4, dtype=torch.float64)
    out[:3] = torch.linalg.lstsq(points, torch.stack(target)).solution.mT
    return out
