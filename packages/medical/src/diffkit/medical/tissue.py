"""Tissue of the brain in T1-weighted images: fluid, grey and white matter, and all else background.

Trained on heads drawn from SPM's maps and from donors (:mod:`~diffkit.medical.anatomy`), and on SPM's average T1 with
the likeliest tissue of its maps; validated on heads of another donor. Tested on real T1 that nothing was trained on:
ICBM 152 2009a, with its maps of grey and white matter, the rest of the brain being fluid; and Colin27, of whom AAL says
where nuclei are grey, and a mask of his brain what is far outside of it. ICBM's 152 people are also in SPM's average
T1, which is linear and blurred: so near a test comes to the training. Both are means of many heads; Colin27 is one.

Nuclei within the white matter (thalamus, caudate, putamen, accumbens) count as grey, and the pallidum as white: so it
is in ICBM's maps.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffkit.medical.anatomy import Atlas
from diffkit.medical.cases import UNKNOWN, Case, SegmentData, listed
from diffkit.medical.fields import distance
from diffkit.medical.synth import Anatomy, draw
from diffkit.medical.volume import read

CLASSES = ("background", "fluid", "grey", "white")

_CLASS = torch.tensor([0, 1, 2, 3, 2, 0, 0])  # of synth.TISSUES
_NUCLEI = ("Caudate", "Putamen", "Thalamus", "Hippocampus", "Amygdala")
_FAR = 8.0  # mm from a brain mask: beyond the fluid around it, and in the skull


class TissueData(SegmentData):
    """Crops of drawn heads and of one real scan.

    Args:
        folder: of the demo data.
        real: the share of crops from the real scan.
        template: the share from SPM's maps; the others are from donors.
        contrast, stripped: see :func:`~diffkit.medical.synth.draw`.
        spacing, size, options: of :class:`~diffkit.medical.cases.SegmentData`.
    """

    channels, kinds, classes = ("T1",), ("mr",), CLASSES
    mirrored = True

    def __init__(
        self,
        folder: str,
        *,
        spacing: float = 1.5,
        size: tuple[int, int, int] = (64, 64, 64),
        real: float = 0.15,
        template: float = 0.25,
        contrast: float = 0.1,
        stripped: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(folder, spacing=spacing, size=size, **options)
        self.shares = (template, real)
        self.options = {"contrast": contrast, "stripped": stripped}

    def setup(self, stage: str | None = None) -> None:
        if stage not in (None, "fit", "validate"):
            return
        atlas = Atlas(self.folder)
        donors, others = list(atlas.donors("train")), list(atlas.donors("valid"))
        shares = [*self.shares, *[(1 - sum(self.shares)) / len(donors)] * len(donors)]
        crop = partial(_crop, size=self.size, spacing=self.spacing, **self.options)
        self.draw(
            partial(crop, [*atlas.template(), *donors], shares),
            partial(crop, others, [1 / len(others)] * len(others)),
        )

    def test_cases(self) -> Iterator[Case]:
        yield icbm(self.folder)
        yield colin27(self.folder)


def _crop(
    heads: list[Anatomy],
    shares: list[float],
    rng: np.random.Generator,
    **options: float | tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    image, tissue = draw(heads[rng.choice(len(heads), p=shares)], rng, **options)  # pyright: ignore[reportArgumentType]
    return image, _CLASS[tissue]


def icbm(folder: str | Path) -> Case:
    """ICBM 152 2009a without its skull, and the likeliest tissue of each voxel of its brain."""
    where = Path(folder) / "train/mni152-2009a"
    t1, grey, white = (read(where / f"{name}.nii.gz") for name in ("t1-brain", "grey", "white"))
    two = torch.cat([grey.data, white.data]).float() / 255
    best = torch.cat([1 - two.sum(0, keepdim=True), two]).argmax(0, keepdim=True) + 1
    return Case("mni152-2009a", {"T1": t1}, t1.holding((best * (t1.data > 0)).to(torch.uint8)))


def colin27(folder: str | Path) -> Case:
    """Colin27 with his skull: grey in AAL's nuclei, background 8 mm or more from his brain, and else unknown."""
    folder = Path(folder)
    aal = listed(folder, "test", "colin27/aal.nii.gz")
    head, brain = (read(folder / f"test/colin27/{name}.nii.gz") for name in ("t1", "t1-brain"))
    regions = read(folder / aal.path)
    nuclei = [int(value) for value, name in aal.names.items() if name.startswith(_NUCLEI)]
    truth = torch.full_like(head.data, UNKNOWN, dtype=torch.uint8)
    away = torch.from_numpy(distance(brain.data[0].numpy() > 0)) * min(head.spacing)
    truth[0, away >= _FAR] = 0
    truth[torch.isin(regions.data, torch.tensor(nuclei))] = CLASSES.index("grey")
    return Case("colin27", {"T1": head}, head.holding(truth))
