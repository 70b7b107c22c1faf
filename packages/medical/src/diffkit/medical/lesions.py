r"""PET and CT of heads with lesions whose masks are known: for there is no such data in any package.

The CT is real (:mod:`~diffkit.medical.heads`); an uptake of FDG is made up for its tissues, lesions are put into it,
and a scanner (:mod:`~diffkit.medical.pet`) makes an image of it. The mask is what was put in, before any blur.

* A primary tumour (class 1, in nine of ten): an ellipsoid of 10 to 40 mm whose surface a smooth field bends, more than
  25 mm below the skin; SUV 4 to 15 above its surroundings, with a texture. Beyond 20 mm a third have a necrotic core.
* Up to three nodes (class 2): 6 to 20 mm, rounder, less than 25 mm below the skin; SUV 2 to 9 above their surroundings.
* Tissue in them has 35 to 75 HU instead of what was there, a core 20 less, and the noise of the CT stays.
* Up to three physiological spots, as glands and tonsils have: SUV 2 to 5, with nothing in the CT, and no lesion.
* Elsewhere: soft tissue about 1, fat 0.3, bone 0.6, the brain 4 to 8, air none.

These ranges are choices, near what is seen in heads and necks, and none is fitted to patients. Where a block of the
head holds little but brain, lesions are in the brain. They do not push tissue aside.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffkit.medical.cases import Case, SegmentData
from diffkit.medical.fields import at, places, smooth
from diffkit.medical.heads import HeadCT, heads
from diffkit.medical.pet import Scanner
from diffkit.medical.preprocess import normalise
from diffkit.medical.resample import blur, resample
from diffkit.medical.sources import Split
from diffkit.medical.volume import Volume

CHANNELS, KINDS = ("CT", "PT"), ("ct", "suv")
CLASSES = ("background", "GTVp", "GTVn")


class PetCT(NamedTuple):
    """CT in HU and the mask on one grid, PET in SUV on its own of 4 mm."""

    ct: Volume
    pet: Volume
    mask: Volume

    def images(self) -> dict[str, Volume]:
        """Both on the grid of the CT, as a segmenter takes them."""
        return {"CT": self.ct, "PT": resample(self.pet, self.ct.shape, self.ct.affine)}


def scan(head: HeadCT, rng: np.random.Generator, *, size: tuple[int, int, int], spacing: float) -> PetCT:
    """A crop of ``head``, deformed, with lesions: a function of the generator's state alone.

    Args:
        head: whose CT it is.
        rng: of everything that is drawn.
        size, spacing: of the CT, in voxels and mm.
    """
    extent = torch.tensor(head.hu.shape) * head.spacing
    where = places(extent, rng, size, spacing) / head.spacing - 0.5
    hu, brain, depth = at(torch.stack([head.hu, head.brain, head.depth]), where)
    solid = (hu > -150) & (hu < 250)
    inner = blur(solid[None].float(), [3.0 / spacing] * 3)[0] > 0.9
    likely = inner * (1 - 0.9 * brain)  # mostly beside the brain, where there is room
    uptake = _background(hu, brain, rng, spacing)
    for _ in range(int(rng.integers(4))):
        spot = _blob(likely, rng, rng.uniform(6, 15), spacing, rough=0.1)
        uptake = torch.where(spot & solid, uptake.clamp(min=rng.uniform(2, 5)), uptake)
    around, mask = uptake, torch.zeros(size, dtype=torch.uint8)
    for kind in [2] * int(rng.integers(4)) + [1] * (rng.random() < 0.9):  # a primary takes what a node had
        diameter = rng.uniform(10, 40) if kind == 1 else rng.uniform(6, 20)
        there = likely * ((depth > 25) if kind == 1 else (depth < 25))
        lesion = _whole(_blob(there, rng, diameter, spacing, rough=0.3 if kind == 1 else 0.1) & solid)
        mask[lesion] = kind
        necrotic = kind == 1 and diameter > 20 and rng.random() < 1 / 3
        core = lesion & (blur(lesion[None].float(), [diameter / 8 / spacing] * 3)[0] > 0.9) & necrotic
        texture = (0.2 * smooth(size, 3 / spacing, rng)[0]).exp()
        hot = around + (rng.uniform(4, 15) if kind == 1 else rng.uniform(2, 9)) * texture
        uptake = torch.where(lesion, hot, uptake)
        uptake = torch.where(core, hot * rng.uniform(0.2, 0.4), uptake)
        hu = _replace(hu, lesion, core, rng.uniform(35, 75), spacing)
    affine = torch.diag(torch.tensor([spacing] * 3 + [1.0], dtype=torch.float64))
    grid = Volume(hu[None], affine)
    return PetCT(grid, Scanner.random(rng).image(grid.holding(uptake[None]), rng), grid.holding(mask[None]))


def _background(hu: Tensor, brain: Tensor, rng: np.random.Generator, spacing: float) -> Tensor:
    """SUV of tissue without lesions."""
    soft = rng.uniform(0.7, 1.3)
    out = torch.full_like(hu, soft)
    for below, level in ((-30, 0.3), (-250, 0.02)):  # fat, air
        out[hu < below] = level
    out[hu > 200] = 0.6
    mind = rng.uniform(4, 8) * (1 + 0.25 * smooth(tuple(hu.shape), 3 / spacing, rng)[0]).clamp(min=0.4)
    out = torch.lerp(out, mind, brain)
    return out * (0.15 * smooth(tuple(hu.shape), 6 / spacing, rng)[0]).exp()


def _blob(
    likely: Tensor, rng: np.random.Generator, diameter: float, spacing: float, *, rough: float
) -> Tensor:
    """A bent ellipsoid about a voxel drawn by weights ``likely``: a mask; empty where there is none to draw."""
    total = likely.flatten().cumsum(0)
    if not float(total[-1]) > 0:
        return torch.zeros_like(likely, dtype=torch.bool)
    index = int(torch.searchsorted(total, float(total[-1]) * rng.random()))
    centre = torch.tensor(np.unravel_index(index, likely.shape))
    axes = [(torch.arange(n) - int(c)) * spacing for n, c in zip(likely.shape, centre, strict=True)]
    random = torch.from_numpy(rng.standard_normal((3, 3))).float()
    turn = torch.linalg.matrix_exp(random - random.mT)
    stretch = torch.from_numpy(np.exp(rng.uniform(-0.3, 0.3, 3))).float()
    radii = diameter / 2 * stretch / stretch.prod() ** (1 / 3)
    away = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ turn / radii
    return away.norm(dim=-1) + rough * smooth(tuple(likely.shape), diameter / 6 / spacing, rng)[0] < 1


def _whole(mask: Tensor) -> Tensor:
    """The largest connected part of a mask."""
    from scipy import ndimage

    parts, count = ndimage.label(mask.numpy())  # pyright: ignore[reportGeneralTypeIssues]
    if count < 2:
        return mask
    return torch.from_numpy(parts == 1 + np.bincount(parts.ravel())[1:].argmax())


def _replace(hu: Tensor, lesion: Tensor, core: Tensor, level: float, spacing: float) -> Tensor:
    """``hu`` with a lesion of ``level``, its edge as sharp as the CT, and the noise of what was there."""
    noise = (hu - blur(hu[None], [2.0 / spacing] * 3)[0]).clamp(-40, 40)
    share = blur(lesion[None].float(), [0.7] * 3)[0]
    inside = level - 20 * blur(core[None].float(), [0.7] * 3)[0] + noise
    return torch.lerp(hu, inside, share)


class LesionData(SegmentData):
    """Crops with lesions, of the blocks of the training split; each is made anew.

    The test is of the blocks for validation, at the height of the eyes, and for the test, at that of the ventricles:
    nothing is chosen by the former. Validation is of other lesions in the blocks of the training.

    Args:
        folder: of the demo data.
        cases: test images of each block.
        options: of :class:`~diffkit.medical.cases.SegmentData`.
    """

    channels, kinds, classes = CHANNELS, KINDS, CLASSES
    mirrored = True

    def __init__(self, folder: str, *, cases: int = 6, **options: Any) -> None:
        super().__init__(folder, **options)
        self.cases = cases

    def setup(self, stage: str | None = None) -> None:
        blocks = heads(self.folder, "train", height=self.size[2] * self.spacing + 16)
        crop = partial(_crop, blocks, size=self.size, spacing=self.spacing)
        self.draw(crop, crop)

    def test_cases(self) -> Iterator[Case]:
        seeds: dict[Split, int] = {"valid": 27, "test": 28}
        for split, seed in seeds.items():
            for block in heads(self.folder, split, height=64):
                for k in range(self.cases):
                    made = scan(block, np.random.default_rng((seed, k)), size=(128, 144, 32), spacing=1.5)
                    yield Case(f"cranium-{split}-{k}", made.images(), made.mask)


def _crop(
    blocks: list[HeadCT], rng: np.random.Generator, *, size: tuple[int, int, int], spacing: float
) -> tuple[Tensor, Tensor]:
    made = scan(blocks[int(rng.integers(len(blocks)))], rng, size=size, spacing=spacing)
    data = torch.cat([volume.data for volume in made.images().values()])
    return normalise(data, KINDS), made.mask.data[0].long()
