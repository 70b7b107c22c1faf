"""PET, lesions in a head of CT, and HECKTOR's layout: a toy of balls stands for the head."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffkit.medical import hecktor, volume
from diffkit.medical.heads import HeadCT, head, heads
from diffkit.medical.hecktor import HecktorData
from diffkit.medical.lesions import LesionData, PetCT, scan
from diffkit.medical.pet import FLUORINE, Scanner, to_suv
from diffkit.medical.volume import Volume


def block(slices: int = 14) -> Volume:
    """A skull of 70 mm with a gap of 20 mm, a scalp of 12 mm, and a table under it; to the left, 2 x 2 x 3 mm."""
    x, y = torch.meshgrid(*[(torch.arange(100) - 49.5) * 2] * 2, indexing="ij")
    radius = torch.hypot(x, y)
    hu = torch.full((100, 100), -1000.0)
    hu[radius < 88] = 50
    hu[(radius < 76) & (radius > 70)] = 900
    hu[(radius < 76) & (radius > 70) & (y > 0) & (x.abs() < 10)] = 40
    hu[(y < -92) & (y > -98)] = 300
    affine = torch.diag(torch.tensor([-2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    return Volume(hu[None, ..., None].repeat(1, 1, 1, slices).round().short(), affine)


@pytest.fixture(scope="module")
def ct() -> HeadCT:
    return head(block(), height=60.0, spacing=2.5)


def made(ct: HeadCT, seed: int, size: tuple[int, int, int] = (48, 48, 24)) -> PetCT:
    return scan(ct, np.random.default_rng((0, seed)), size=size, spacing=2.5)


def test_suv() -> None:
    """A dose that has spread evenly through a body of 1 g/ml has SUV 1, also after a half-life."""
    even = torch.tensor(350e6 / 70e3)
    assert float(to_suv(even, weight=70, dose=350e6, delay=0)) == pytest.approx(1)
    assert float(to_suv(even / 2, weight=70, dose=350e6, delay=FLUORINE)) == pytest.approx(1)
    for wrong in ({"weight": 0.0}, {"dose": -1.0}, {"delay": -1.0}, {"weight": float("nan")}):
        with pytest.raises(ValueError, match="must be above 0"):
            to_suv(even, **({"weight": 70.0, "dose": 350e6, "delay": 0.0} | wrong))


def test_a_scanner_has_its_width_and_its_noise() -> None:
    grid = Volume(torch.zeros(1, 41, 41, 41), torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    point = grid.data.clone()
    point[0, 20, 20, 20] = 1e6
    image = Scanner(8.0, 6.0, 1e4).image(grid.holding(point), np.random.default_rng(0))
    assert image.spacing == pytest.approx((4, 4, 4))
    profile = image.data[0].sum((1, 2))
    x = (torch.arange(len(profile)) - (len(profile) - 1) / 2) * 4
    spread = float((profile * x.square()).sum() / profile.sum()) ** 0.5
    blur = ((8**2 + 6**2) / (8 * np.log(2)) + (4**2 - 2**2) / 12) ** 0.5  # widths, and a larger voxel
    assert spread == pytest.approx(blur, rel=0.02)
    assert float(image.data.sum()) * 64 == pytest.approx(1e6 * 8, rel=0.05)
    level = grid.holding(torch.full((1, 41, 41, 41), 2.0))
    # 20 counts for SUV 1: a deviation of sqrt(2/20) before a filter too narrow to matter
    noisy = Scanner(4.0, 0.1, 20.0).image(level, np.random.default_rng(1)).data
    assert float(noisy.mean()) == pytest.approx(2, rel=0.01)
    assert float(noisy.std()) == pytest.approx((2 / 20) ** 0.5, rel=0.05)


def test_a_head_without_its_table_and_with_its_brain(ct: HeadCT) -> None:
    assert ct.hu.shape[2] * 2.5 >= 60
    assert torch.equal(ct.hu[..., :18], ct.hu[..., 18:36].flip(-1)[..., :18]) == (ct.hu.shape[2] >= 36)
    x, y = torch.meshgrid(*[(torch.arange(n) - (n - 1) / 2) * 2.5 for n in ct.hu.shape[:2]], indexing="ij")
    radius = torch.hypot(x, y)
    assert bool((ct.hu[radius > 92] == -1000).all())  # no table
    assert float(ct.brain[radius < 60].mean()) > 0.99
    assert float(ct.brain[radius > 76].mean()) < 0.02
    assert float(ct.depth[ct.hu.shape[0] // 2, ct.hu.shape[1] // 2, 5]) == pytest.approx(88, abs=5)


def test_a_scan_is_a_function_of_its_seed(ct: HeadCT) -> None:
    one, two, other = made(ct, 1), made(ct, 1), made(ct, 2)
    assert torch.equal(one.pet.data, two.pet.data)
    assert torch.equal(one.ct.data, two.ct.data)
    assert not torch.equal(one.ct.data, other.ct.data)
    assert one.pet.spacing == pytest.approx((4, 4, 4))
    assert one.images()["PT"].shape == one.mask.shape == (48, 48, 24)


def test_lesions_are_hot_dense_and_where_they_may_be(ct: HeadCT) -> None:
    primary, nodes = 0, 0
    for seed in range(8):
        found = made(ct, seed)
        pet, mask = found.images()["PT"].data[0], found.mask.data[0]
        hu = found.ct.data[0]
        assert mask.dtype == torch.uint8
        body = hu > -150
        for kind in (1, 2):
            inside = mask == kind
            if int(inside.sum()) < 40:
                continue
            primary, nodes = primary + (kind == 1), nodes + (kind == 2)
            assert float(hu[inside].mean()) == pytest.approx(55, abs=25)
        assert bool(body[mask > 0].all())
        if bool((mask == 1).sum() > 100):
            assert float(pet[mask == 1].mean()) > 2 * float(pet[body & (mask == 0)].mean().clamp(max=2))
    assert primary >= 3
    assert nodes >= 2


def test_lesion_data(tmp_path: Path) -> None:
    listed = []
    for split, slices in (("train", 14), ("valid", 9), ("test", 10)):
        path = f"{split}/cranium/slices.nii.gz"
        (tmp_path / path).parent.mkdir(parents=True)
        volume.write(tmp_path / path, block(slices))
        facts = {
            "kind": "ct",
            "subject": "cranium",
            "shows": "hu",
            "spacing": [2, 2, 3],
            "sha256": "",
            "source": "toy",
        }
        listed.append({"path": path, "split": split, "shape": [100, 100, slices]} | facts)
    (tmp_path / "manifest.json").write_text(json.dumps({"sources": {}, "files": listed}))
    data = LesionData(str(tmp_path), spacing=4.0, size=(32, 32, 16), items=4, num_workers=0, cases=1)
    data.setup("fit")
    image, label = next(iter(data.train_dataloader()))
    assert (image.shape, image.dtype) == ((2, 2, 32, 32, 16), torch.float32)
    assert (label.shape, label.dtype) == ((2, 32, 32, 16), torch.int64)
    assert float(image[:, 0].abs().max()) <= 1
    assert 0 <= float(image[:, 1].min()) <= float(image[:, 1].max()) <= 5
    case = next(data.test_cases())
    assert case.name == "cranium-valid-0"
    assert list(case.volumes) == list(data.channels)
    assert case.volumes["PT"].shape == case.truth.shape
    with pytest.raises(ValueError, match="holds no CT for reserved"):
        heads(tmp_path, "reserved", height=10)


@pytest.fixture
def folder(ct: HeadCT, tmp_path: Path) -> Path:
    """Three cases as the challenge has them, the PET of each ending 20 mm before the CT."""
    for k in range(3):
        found = made(ct, k, (40, 40, 24))
        case = tmp_path / f"CHUM-00{k}"
        case.mkdir()
        hecktor.save(case, case.name, ct=found.ct, pet=short(found.pet), label=found.mask)
        (case / f"{case.name}__RTDOSE.nii.gz").write_bytes(b"not looked at")
    return tmp_path


def short(pet: Volume) -> Volume:
    return hecktor.cut(
        pet, torch.zeros(3, dtype=torch.long), torch.tensor(pet.shape) - torch.tensor([5, 0, 0])
    )


def test_a_case_is_on_the_grid_of_its_ct(folder: Path, ct: HeadCT) -> None:
    assert hecktor.names(folder) == ["CHUM-000", "CHUM-001", "CHUM-002"]
    truth = made(ct, 1, (40, 40, 24))
    case = hecktor.load(folder, "CHUM-001")
    assert torch.equal(case.volumes["CT"].data, truth.ct.data)
    assert torch.equal(case.truth.data, truth.mask.data)
    torch.testing.assert_close(case.truth.affine, truth.ct.affine)
    pet, whole = case.volumes["PT"].data, truth.images()["PT"].data
    torch.testing.assert_close(pet[:, :30, 2:-2, 2:-2], whole[:, :30, 2:-2, 2:-2], atol=1e-4, rtol=1e-4)
    assert float(pet[:, 34:].abs().max()) == 0  # 20 mm are 8 voxels of 2.5 mm
    boxed = hecktor.load(folder, "CHUM-001", boxed=True)
    assert boxed.truth.shape == boxed.volumes["PT"].shape == (32, 40, 24)
    assert torch.equal(boxed.truth.data, truth.mask.data[:, :32])
    (folder / "CHUM-001" / "CHUM-001.nii.gz").unlink()
    assert not bool(hecktor.load(folder, "CHUM-001", labelled=False).truth.data.any())


def test_labels_apart_from_images(folder: Path) -> None:
    """The layout of 2022: imagesTr and labelsTr."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for path in list(folder.glob("CHUM-*/*")):
        path.rename(folder / ("imagesTr" if "__" in path.name else "labelsTr") / path.name)
    assert bool(hecktor.load(folder, "CHUM-000").truth.data.any())


def test_crops_of_cases(folder: Path) -> None:
    data = HecktorData(
        str(folder), spacing=5.0, size=(16, 16, 16), items=4, num_workers=0, valid=1, test=1, batch_size=2
    )
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [image.shape for image, _ in batches] == [(2, 2, 16, 16, 16)] * 2
    assert batches[0][1].dtype == torch.int64
    again = data.train_set[3]
    assert torch.equal(again[0], data.train_set[3][0])
    assert any(bool((label == k).any()) for _, label in batches for k in (1, 2))
    assert [case.name for case in data.test_cases()] == ["CHUM-002"]
    with pytest.raises(ValueError, match="holds 3 cases, too few to train with 20 to validate"):
        HecktorData(str(folder)).setup("fit")


def test_a_label_and_its_image_are_cropped_alike(folder: Path, ct: HeadCT) -> None:
    """With the mask as PET, every crop and mirror image shows the mask in it."""
    found = made(ct, 0, (40, 40, 24))
    hot = found.mask.holding((found.mask.data > 0).float() * 20)
    volume.write(folder / "CHUM-000" / "CHUM-000__PT.nii.gz", hot)
    data = HecktorData(str(folder), spacing=2.5, size=(16, 16, 16), items=8, num_workers=0, valid=1, test=1)
    data.setup("fit")
    for k in range(8):
        image, label = data.train_set[k]
        torch.testing.assert_close(image[1] > 2, label > 0)  # half of 20, of which a fifth is seen


def moved(volume: Volume, axis: int, mm: float) -> Volume:
    affine = volume.affine.clone()
    affine[axis, 3] += mm
    return Volume(volume.data, affine)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pet", r"holds 0 files named CHUM-000__PT.nii.gz"),
        ("label", r"holds 0 files named CHUM-000.nii.gz"),
        ("twice", r"holds 2 files named CHUM-000__CT.nii.gz \(.*other"),
        ("moved label", r"CHUM-000__CT.nii.gz and CHUM-000.nii.gz place the same voxel up to 7 mm apart"),
        ("values", r"has other labels than 0, 1 \(GTVp\) and 2"),
        ("bq", r"values up to .*e\+04, and is no SUV: convert"),
        ("grey", r"CHUM-000__CT.nii.gz has no air"),
        ("apart", r"CT and PET have no place in common, and are 300 mm apart"),
        ("channels", r"CHUM-000__PT.nii.gz has 2 channels"),
    ],
)
def test_what_is_wrong_with_a_case(folder: Path, ct: HeadCT, change: str, words: str) -> None:
    found, where, name = made(ct, 0, (40, 40, 24)), folder / "CHUM-000", "CHUM-000"
    paths = {kind: where / f"{name}{kind}.nii.gz" for kind in ("__CT", "__PT", "")}
    if change in ("pet", "label"):
        paths["__PT" if change == "pet" else ""].unlink()
    elif change == "twice":
        (folder / "other").mkdir()
        volume.write(folder / "other" / paths["__CT"].name, found.ct)
    else:
        kind, new = {
            "moved label": ("", moved(found.mask, 0, 7)),
            "values": ("", found.mask.holding(found.mask.data + 3)),
            "bq": ("__PT", found.pet.holding(found.pet.data / found.pet.data.max() * 3e4)),
            "grey": ("__CT", found.ct.holding(found.ct.data.clamp(min=0))),
            "apart": ("__PT", moved(found.pet, 2, found.ct.shape[2] * 2.5 + 300)),
            "channels": ("__PT", Volume(found.pet.data.repeat(2, 1, 1, 1), found.pet.affine)),
        }[change]
        volume.write(paths[kind], new)
    with pytest.raises(ValueError, match=words):
        hecktor.load(folder, name)


def test_a_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no NAME__CT.nii.gz"):
        hecktor.names(tmp_path)
