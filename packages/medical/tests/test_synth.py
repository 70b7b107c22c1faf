"""Fields, flows, and heads drawn from maps: a toy of nested balls stands for the atlases."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffkit.medical import volume
from diffkit.medical.anatomy import _REGIONS, Atlas, hull
from diffkit.medical.cases import UNKNOWN, Draws
from diffkit.medical.fields import distance, field, flow, places, smooth, warp
from diffkit.medical.synth import TISSUES, Anatomy, draw, likeliest
from diffkit.medical.tissue import TissueData, colin27, icbm
from diffkit.medical.volume import Volume

N, MM = 32, 6.0  # the toy: 192 mm


def balls(centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Probabilities of grey, white, fluid, bone, soft, air: balls of 50 (white) to 86 mm."""
    axes = [(torch.arange(N) - (N - 1) / 2) * MM - c for c in centre]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    edges = torch.tensor([0.0, 50, 62, 70, 78, 86, 1e3])
    within = [(radius >= a) & (radius < b) for a, b in pairwise(edges)]
    white, grey, fluid, bone, soft, air = (part.float() for part in within)
    return torch.stack([grey, white, fluid, bone, soft, air])


def affine(shift: float = 0.0) -> Tensor:
    out = torch.diag(torch.tensor([MM, MM, MM, 1.0])).double()
    out[:3, 3] = shift - (N - 1) / 2 * MM
    return out


def regions(tissue: Tensor, numbers: dict[str, int]) -> Tensor:
    """The shell of grey, in parts, and cubes of 12 mm for the nuclei, left and right."""
    inside = tissue[0] > 0
    place = torch.stack(torch.meshgrid(*[torch.arange(N) - (N - 1) / 2] * 3, indexing="ij"))
    labels = torch.zeros(N, N, N, dtype=torch.int32)
    cortex = [name for name in _REGIONS if name not in NUCLEI]
    angle = (
        ((torch.atan2(place[1], place[2]) / torch.pi + 1) / 2 * len(cortex)).long().clamp(max=len(cortex) - 1)
    )
    for side, way in (("L", place[0] < 0), ("R", place[0] > 0)):
        for k, name in enumerate(cortex):
            labels[inside & way & (angle == k)] = numbers[f"{name},{side}"]
        for k, name in enumerate(NUCLEI):
            x = N // 2 + (3 + k % 2 * 2) * (1 if side == "R" else -1)
            y, z = N // 2 - 4 + 3 * (k % 3), N // 2 - 4 + 3 * (k // 3)
            labels[x : x + 2, y : y + 2, z : z + 2] = numbers[f"{name},{side}"]
    return labels


NUCLEI = list(_REGIONS)[:7]  # what is not cortex
DONOR = {f"{name},{side}": 1 + i for i, (side, name) in enumerate((s, n) for s in "LR" for n in _REGIONS)}
DONOR["brainstem,B"] = 99


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data in small: an atlas, two donors 12 mm beside it, and the images to test on."""
    folder = tmp_path_factory.mktemp("demo")
    tissue = balls()
    names = {
        f"{side},{name}": f"{'Left' if side == 'L' else 'Right'} {_REGIONS[name]}"
        for side in "LR"
        for name in _REGIONS
    }
    theirs = {names[f"{key[-1]},{key[:-2]}"]: value for key, value in DONOR.items() if key != "brainstem,B"}
    theirs |= {"Brain Stem": 99, "Left Cerebellum Exterior": 98}
    labels = regions(tissue, DONOR)
    brain = tissue[:3].sum(0) > 0
    head = 0.2 * tissue[2] + 0.7 * tissue[0] + tissue[1] + 0.5 * tissue[4]
    files = {
        "train/spm152/tissue.nii.gz": (tissue, 0.0, {}),
        "train/spm152/t1.nii.gz": (head[None] * 400, 0.0, {}),
        "train/neuromorphometrics/labels.nii.gz": (labels[None], 0.0, {str(v): n for n, v in theirs.items()}),
        "train/donor-1/labels.nii.gz": (labels[None], 12.0, {str(v): n for n, v in DONOR.items()}),
        "valid/donor-2/labels.nii.gz": (labels[None], 12.0, {str(v): n for n, v in DONOR.items()}),
        "train/mni152-2009a/t1-brain.nii.gz": ((head * brain)[None] * 200, 0.0, {}),
        "train/mni152-2009a/grey.nii.gz": ((tissue[:1] * 255).byte(), 0.0, {}),
        "train/mni152-2009a/white.nii.gz": ((tissue[1:2] * 255).byte(), 0.0, {}),
        "test/colin27/t1.nii.gz": (head[None] * 200, 0.0, {}),
        "test/colin27/t1-brain.nii.gz": ((head * brain)[None] * 200, 0.0, {}),
        "test/colin27/aal.nii.gz": (
            (labels == 2).int()[None] * 71,
            0.0,
            {"71": "Caudate_L", "1": "Precentral_L"},
        ),
    }
    listed = []
    for path, (data, shift, called) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        volume.write(folder / path, Volume(data, affine(shift)))
        split, subject, name = path.split("/")
        listed.append(
            {
                "path": path,
                "kind": "mri",
                "split": split,
                "subject": subject,
                "shows": "labels" if name.startswith(("labels", "aal")) else "t1",
                "shape": [N] * 3,
                "spacing": [MM] * 3,
                "sha256": "",
                "source": "toy",
                "names": called,
            }
        )
    (folder / "manifest.json").write_text(json.dumps({"sources": {}, "files": listed}))
    return folder


def test_fields_have_variance_one_and_their_length() -> None:
    z = field((48, 48, 48), 2.0, np.random.default_rng(0), 2)
    assert z.shape == (2, 48, 48, 48)
    assert float(z.std()) == pytest.approx(1, rel=0.03)
    for d in (2, 4):  # exp(-d^2/(4 length^2))
        assert float((z[..., d:] * z[..., :-d]).mean()) == pytest.approx(np.exp(-(d**2) / 16), abs=0.05)
    assert float((z[0] * z[1]).mean()) == pytest.approx(0, abs=0.05)
    white = field((16, 16), 0.0, np.random.default_rng(0))
    torch.testing.assert_close(
        white[0], torch.from_numpy(np.random.default_rng(0).standard_normal((16, 16), np.float32))
    )
    for length in (2.0, 3.0, 6.0):
        assert 0.6 < float(smooth((48, 48, 48), length, np.random.default_rng(1), 4).var()) < 1.2


def test_flows_do_not_fold_and_undo_themselves() -> None:
    velocity = 1.5 * field((20, 20, 20), 4.0, np.random.default_rng(2), 3)
    forth, back = flow(velocity), flow(-velocity)
    axes = torch.stack(torch.meshgrid(*[torch.arange(20.0)] * 3, indexing="ij"), -1)
    slopes = torch.stack(torch.gradient(axes + forth.movedim(0, -1), dim=(0, 1, 2)), -1)
    assert float(torch.linalg.det(slopes).min()) > 0
    inner = (slice(None), *[slice(5, -5)] * 3)  # nothing leaves there
    there_and_back = forth + warp(back, forth)
    assert float(forth[inner].abs().max()) > 1
    # steps of 2^-5 of the flow, and linear interpolation
    assert float(there_and_back[inner].abs().max()) < 0.15


def test_places_are_a_crop_in_millimetres() -> None:
    found = places(torch.tensor([100.0, 90.0, 80.0]), np.random.default_rng(3), (16, 16, 16), 2.0)
    assert found.shape == (16, 16, 16, 3)
    step = found.diff(dim=0).norm(dim=-1)
    assert float(step.mean()) == pytest.approx(2, rel=0.15)  # stretched by 5 % or so
    assert bool((found > -10).all())
    assert bool((found < 110).all())


def test_distance() -> None:
    mask = np.zeros((5, 5), bool)
    assert np.isinf(distance(mask)).all()
    mask[2, 2] = True
    assert distance(mask)[2].tolist() == [2, 1, 0, 1, 2]


def test_likeliest_is_argmax() -> None:
    scores = torch.randn(5, 6, 7, 8)
    assert torch.equal(likeliest(scores), scores.argmax(0))


def test_hull_bridges_folds_and_holes() -> None:
    ball = balls()[:2].sum(0) > 0
    folded = ball.clone()
    folded[N // 2 - 1, :, N // 2 :] = False  # to the middle
    folded[N // 2 + 4 : N // 2 + 6, N // 2 : N // 2 + 2, N // 2 : N // 2 + 2] = False
    depth = hull(folded, 1.5)
    radius = 62 / MM * 1.5
    assert float(depth[N // 2, N // 2, N // 2]) == pytest.approx(radius, abs=4)  # the coarser grid has 3 mm
    assert float((depth > 0).sum()) == pytest.approx(float(ball.sum()), rel=0.15)
    assert float(depth[0, 0, 0]) < -20


def test_a_head_is_drawn_from_its_seed() -> None:
    grey, white, fluid, bone, soft, air = balls()
    chance = torch.stack([air, fluid, grey, white, torch.zeros_like(air), bone, soft])
    anatomy = Anatomy(chance, hull(chance[2:5].sum(0) > 0.5, MM), MM)
    options: dict[str, Any] = {"size": (32, 32, 32), "spacing": 5.0}
    image, tissue = draw(anatomy, np.random.default_rng((0, 5)), **options)
    again, _ = draw(anatomy, np.random.default_rng((0, 5)), **options)
    other, _ = draw(anatomy, np.random.default_rng((0, 6)), **options)
    assert torch.equal(image, again)
    assert not torch.equal(image, other)
    assert image.shape == (1, 32, 32, 32)
    assert tissue.shape == (32, 32, 32)
    assert set(tissue.unique().tolist()) <= set(range(len(TISSUES)))
    assert bool(torch.isfinite(image).all())


def test_contrast_is_that_of_t1_and_heads_are_stripped() -> None:
    grey, white, fluid, bone, soft, air = balls()
    chance = torch.stack([air, fluid, grey, white, torch.zeros_like(air), bone, soft])
    anatomy = Anatomy(chance, hull(chance[2:5].sum(0) > 0.5, MM), MM)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image, tissue = draw(anatomy, rng, size=(32, 32, 32), spacing=5.0, contrast=0.0, stripped=0.0)
        mean = [float(image[0][tissue == k].median()) for k in range(4)]
        assert mean[0] < mean[1] < mean[2] < mean[3]  # air, fluid, grey, white
        assert bool((tissue == 6).any())
        rng = np.random.default_rng(seed)
        _, tissue = draw(anatomy, rng, size=(32, 32, 32), spacing=5.0, contrast=1.0, stripped=1.0)
        assert not bool((tissue >= 5).float().mean() > 0.01)  # the edge of a hull of 12 mm voxels
        assert bool((tissue == 3).any())


def test_soft_tissue_is_muscle_and_fat() -> None:
    """Some of it as bright as grey matter and some brighter than white: brightness alone tells no brain."""
    grey, white, fluid, bone, soft, air = balls()
    chance = torch.stack([air, fluid, grey, white, torch.zeros_like(air), bone, soft])
    anatomy = Anatomy(chance, hull(chance[2:5].sum(0) > 0.5, MM), MM)
    dark, fat = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image, tissue = draw(anatomy, rng, size=(32, 32, 32), spacing=5.0, contrast=0.0, stripped=0.0)
        found = image[0][tissue == 6]
        dark.append(float((found < image[0][tissue == 3].median()).float().mean()))
        fat.append(float((found > image[0][tissue == 3].quantile(0.9)).float().mean()))
    assert 0.2 < np.mean(dark) < 0.8
    assert max(fat) > 0.4


def test_units_are_those_of_the_whole_head() -> None:
    """A crop of nothing but white matter is not brought to mean 0, as it would be by its own intensities."""
    grey, white, fluid, bone, soft, air = balls()
    chance = torch.stack([air, fluid, grey, white, torch.zeros_like(air), bone, soft])
    anatomy = Anatomy(chance, hull(chance[2:5].sum(0) > 0.5, MM), MM)
    means = []
    for seed in range(120):
        options: dict[str, Any] = {"size": (8, 8, 8), "spacing": 2.0, "contrast": 0.0, "stripped": 1.0}
        image, tissue = draw(anatomy, np.random.default_rng(seed), **options)
        if bool((tissue == 3).all()):
            means.append(float(image.mean()))
    assert len(means) > 5
    assert np.mean(means) > 0.4  # white matter is 1 above the mean of grey and white, before bias and jitter


def test_atlas_and_donor_agree_where_they_are_one(folder: Path) -> None:
    """A donor who is the template 12 mm beside it gets the template's tissues, moved."""
    atlas = Atlas(folder)
    template, scanned = atlas.template()
    (donor,) = atlas.donors("train")
    assert scanned.image is not None
    assert float(scanned.image[template.chance[3] > 0.9].median()) == pytest.approx(1)
    assert float(template.chance[4].sum()) == 4 * 2 * 8  # four nuclei to a side, cubes of two voxels
    torch.testing.assert_close(donor.chance.sum(0), torch.ones(N, N, N))
    same = donor.chance.argmax(0) == template.chance.argmax(0)
    inside = template.chance[:5].sum(0) - template.chance[0] > 0.5
    assert (
        float(same[inside].float().mean()) > 0.93
    )  # the fluid has a voxel, and other nuclei count as cortex
    assert float(same[template.chance[3] > 0.5].float().mean()) > 0.9


def test_tissue_data(folder: Path) -> None:
    data = TissueData(str(folder), spacing=5.0, size=(16, 32, 16), items=4, num_workers=0)
    data.setup("fit")
    image, label = next(iter(data.train_dataloader()))
    assert (image.shape, image.dtype) == ((2, 1, 16, 32, 16), torch.float32)
    assert (label.shape, label.dtype) == ((2, 16, 32, 16), torch.int64)
    assert int(label.max()) < len(data.classes)
    assert len(list(data.val_dataloader())) == 16
    assert json.loads(json.dumps(data.spec())) == data.spec()
    assert data.spec()["kinds"] == ["mr"]
    epochs = data.train_set
    assert torch.equal(epochs[3][0], Draws(epochs.draw, items=4, seed=0)[3][0])


def test_cases_to_test_on(folder: Path) -> None:
    tissue = balls()
    case = icbm(folder)
    assert torch.equal(case.truth.data[0], (tissue[2] + 2 * tissue[0] + 3 * tissue[1]).byte())
    case = colin27(folder)
    truth = case.truth.data[0]
    assert case.volumes["T1"].shape == case.truth.shape
    assert bool((truth[tissue[5] > 0] == 0).all())  # air
    assert bool((truth[tissue[1] > 0] != 0).all())
    assert int((truth == 2).sum()) == 8
    assert bool((truth == UNKNOWN).any())
    assert len(list(TissueData(str(folder)).test_cases())) == 2


def test_missing_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no demo data"):
        TissueData(str(tmp_path)).setup("fit")
    (tmp_path / "manifest.json").write_text(json.dumps({"sources": {}, "files": []}))
    with pytest.raises(ValueError, match=r"lacks train/neuromorphometrics/labels.nii.gz: build it"):
        TissueData(str(tmp_path)).setup("fit")
