"""Cases of the HECKTOR challenges, 2022 and 2025: head and neck tumours in PET and CT.

A case is `NAME__CT.nii.gz` in HU, `NAME__PT.nii.gz` in SUV, which the challenges give and not Bq/ml, and, but where
they are to be predicted, labels `NAME.nii.gz` on the grid of the CT: 1 is the primary tumour, GTVp, and 2 the nodes,
GTVn. All stand in one folder, or in one for each case, or in `imagesTr` and `labelsTr`; `NAME__RTDOSE` and
`NAME__CTPlanning` are left alone. A segmentation is on the grid of the CT.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffkit.medical.cases import Case, SegmentData
from diffkit.medical.lesions import CHANNELS, CLASSES, KINDS
from diffkit.medical.preprocess import prepare
from diffkit.medical.resample import isotropic, resample
from diffkit.medical.volume import Volume, check_grids, read, write

_LARGEST = 500.0  # SUV; a hot bladder or a syringe stays below, and images in Bq/ml are far above


def names(folder: str | Path) -> list[str]:
    """The cases in a folder and below, sorted; ValueError if there is none."""
    found = sorted({path.name.removesuffix("__CT.nii.gz") for path in Path(folder).rglob("*__CT.nii.gz")})
    if not found:
        raise ValueError(f"{folder} holds no NAME__CT.nii.gz: give the folder of HECKTOR's cases.")
    return found


def load(folder: str | Path, name: str, *, labelled: bool = True, boxed: bool = False) -> Case:
    """A case on the grid of its CT, PET resampled to it and 0 where it does not reach.

    Args:
        folder: where its files are, in it or below.
        name: of the case.
        labelled: whether there is a truth; without, it is all background, and no file of it is looked for.
        boxed: whether to keep only the voxels of the CT that PET reaches.

    ValueError for a file that is missing, stands twice or is no image of its kind, PET and CT that are of different
    places, a label on another grid than the CT (it says how far) or with other values than 0, 1, 2.
    """
    folder = Path(folder)
    ct, pet = (read(_find(folder, f"{name}__{kind}.nii.gz"), slices=8) for kind in CHANNELS)
    for kind, volume in zip(CHANNELS, (ct, pet), strict=True):
        if len(volume.data) != 1:
            raise ValueError(f"{name}__{kind}.nii.gz has {len(volume.data)} channels, and must have one.")
    if float(ct.data.min()) > -500:
        raise ValueError(f"{name}__CT.nii.gz has no air, below -500 HU: give Hounsfield units.")
    if float(pet.data.max()) > _LARGEST:
        raise ValueError(
            f"{name}__PT.nii.gz has values up to {float(pet.data.max()):.3g}, and is no SUV: convert Bq/ml by "
            "diffkit.medical.pet.to_suv."
        )
    truth = ct.holding(torch.zeros_like(ct.data, dtype=torch.uint8))
    if labelled:
        path = _find(folder, f"{name}.nii.gz")
        label = read(path)
        check_grids({f"{name}__CT.nii.gz": ct, path.name: label})
        if not bool(torch.isin(label.data, torch.tensor([0, 1, 2], dtype=label.data.dtype)).all()):
            raise ValueError(f"{path} has other labels than 0, 1 (GTVp) and 2 (GTVn).")
        truth = ct.holding(label.data.to(torch.uint8))
    box = common_box(name, ct, pet)
    if boxed:
        ct, truth = cut(ct, *box), cut(truth, *box)
    return Case(name, {"CT": ct, "PT": resample(pet, ct.shape, ct.affine, outside=0.0)}, truth)


def common_box(name: str, ct: Volume, pet: Volume) -> tuple[Tensor, Tensor]:
    """The voxels of the CT that PET reaches: the first, and that after the last, ``[3]`` each.

    Of an oblique PET it is the box around. ValueError if there are none.
    """
    ends = [torch.tensor([-0.5, n - 0.5], dtype=torch.float64) for n in pet.shape]
    step = torch.linalg.solve(ct.affine, pet.affine)
    corners = torch.cartesian_prod(*ends) @ step[:3, :3].T + step[:3, 3] + 0.5
    low = corners.amin(0).round().long().clamp(min=0)
    high = corners.amax(0).round().long().minimum(torch.tensor(ct.shape))
    if bool((high <= low).any()):
        gap = float(((low - high).clamp(min=0) * torch.tensor(ct.spacing)).max())
        raise ValueError(f"{name}: CT and PET have no place in common, and are {gap:.0f} mm apart.")
    return low, high


def cut(volume: Volume, low: Tensor, high: Tensor) -> Volume:
    """The voxels from ``low`` to before ``high``, where they were."""
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ low.double()
    i, j, k = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    return replace(volume, data=volume.data[:, i, j, k], affine=affine)


def save(folder: str | Path, name: str, *, ct: Volume, pet: Volume, label: Volume) -> None:
    """Write a case in the challenge's layout, each image on its own grid, into a folder that exists."""
    folder = Path(folder)
    for suffix, volume in (("__CT", ct), ("__PT", pet), ("", label)):
        write(folder / f"{name}{suffix}.nii.gz", volume)


class HecktorData(SegmentData):
    """Random crops of the box that CT and PET have in common, two of three about a tumour, mirrored at times.

    A case is read when it is first seen, and kept by each worker: 5 bytes a voxel, 30 MB for 200 x 200 x 150.

    Args:
        folder: of the cases, all of them labelled.
        valid, test: how many of the last cases by name to validate and to test on; those before train.
        size, num_workers, options: of :class:`~diffkit.medical.cases.SegmentData`.
    """

    channels, kinds, classes = CHANNELS, KINDS, CLASSES
    mirrored = True

    def __init__(
        self,
        folder: str,
        *,
        size: tuple[int, int, int] = (96, 96, 64),
        num_workers: int = 4,
        valid: int = 20,
        test: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(folder, size=size, num_workers=num_workers, **options)
        self.held_out = (valid, test)

    def setup(self, stage: str | None = None) -> None:
        train, valid, _ = self._split()
        self.draw(*(_Crops(self.folder, cases, self.spec()) for cases in (train, valid)))

    def test_cases(self) -> Iterator[Case]:
        return (load(self.folder, name) for name in self._split()[2])

    def _split(self) -> tuple[list[str], list[str], list[str]]:
        found = names(self.folder)
        valid, test = self.held_out
        train = len(found) - valid - test
        if min(train, valid) < 1:
            raise ValueError(
                f"{self.folder} holds {len(found)} cases, too few to train with {valid} to validate and {test} to test."
            )
        return found[:train], found[train : train + valid], found[train + valid :]


class _Crops:
    """Draws a crop of one of the cases."""

    def __init__(self, folder: Path, cases: list[str], spec: dict[str, Any]) -> None:
        self.folder, self.cases, self.spec = folder, cases, spec
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        name = self.cases[int(rng.integers(len(self.cases)))]
        if name not in self.kept:
            self.kept[name] = _seen(load(self.folder, name, boxed=True), self.spec)
        image, label = self.kept[name]
        size = torch.tensor(self.spec["size"])
        room = torch.tensor(label.shape) - size
        corner = torch.from_numpy(rng.integers(room.numpy() + 1))
        tumour = label.nonzero()
        if len(tumour) and rng.random() < 2 / 3:
            voxel = tumour[int(rng.integers(len(tumour)))]
            corner = (voxel - torch.from_numpy(rng.integers(size.numpy()))).clamp(min=0).minimum(room)
        x, y, z = (slice(a, a + n) for a, n in zip(corner.tolist(), size.tolist(), strict=True))
        image, label = image[:, x, y, z].float(), label[x, y, z].long()
        return (image.flip(1), label.flip(0)) if rng.random() < 0.5 else (image, label)


def _seen(case: Case, spec: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """A case on a segmenter's grid: its image in half precision, and the class that most of each voxel has."""
    grid = isotropic(case.truth, spec["spacing"], tuple(spec["size"]))
    shares = [case.truth.data == k for k in range(len(CLASSES))]
    label = resample(case.truth.holding(torch.cat(shares).float()), *grid).data.argmax(0)
    return prepare(case.volumes, spec).half(), label.to(torch.uint8)


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        places = f" ({', '.join(map(str, found))})" if found else ""
        raise ValueError(f"{folder} holds {len(found)} files named {name}{places}, and one is needed.")
    return found[0]
