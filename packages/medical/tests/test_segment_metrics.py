"""Scores of segmentations, on cases small enough to know."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffkit.medical import cli, volume
from diffkit.medical.cases import UNKNOWN
from diffkit.medical.segment_metrics import around, calibration, overlap
from diffkit.medical.segment_report import score
from diffkit.medical.volume import Volume

SPACING = (1.0, 2.0, 3.0)


def box(low: tuple[int, int, int], high: tuple[int, int, int], size: int = 12) -> Tensor:
    mask = torch.zeros(size, size, size, dtype=torch.bool)
    mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
    return mask


def test_of_itself() -> None:
    found = overlap(box((2, 2, 2), (6, 6, 6)), box((2, 2, 2), (6, 6, 6)), SPACING, tolerance=0.0)
    assert (found.dice, found.hd95, found.surface) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(("axis", "mm"), list(enumerate(SPACING)))
def test_two_sheets_are_apart_by_the_spacing(axis: int, mm: float) -> None:
    """All voxels of a sheet one thick are its surface, and all of them are 3 voxels from the other."""
    low, high = [0, 0, 0], [12, 12, 12]
    low[axis], high[axis] = 4, 5
    sheet = box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    found = overlap(sheet, sheet.roll(3, axis), SPACING, tolerance=3 * mm)
    assert (found.dice, found.hd95, found.surface) == (0.0, 3 * mm, 1.0)
    assert overlap(sheet, sheet.roll(3, axis), SPACING, tolerance=3 * mm - 0.01).surface == 0.0


def test_half_of_a_box() -> None:
    """A box of 4 x 4 x 4 and its lower half: Dice 2 x 32/(64 + 32)."""
    found = overlap(box((2, 2, 2), (6, 6, 4)), box((2, 2, 2), (6, 6, 6)), (1.0, 1.0, 1.0), tolerance=0.5)
    assert found.dice == pytest.approx(2 / 3)
    # Of the half all 32 voxels are surface. Of the box 56 are: 16 and 12 are those of the half, the others are not.
    assert found.surface == pytest.approx((28 + 28) / (32 + 56))
    assert found.hd95 == 2.0


def test_a_speck_is_not_among_95_percent() -> None:
    truth = box((0, 0, 0), (12, 12, 1))
    found = truth.clone()
    found[0, 0, 11] = True
    assert overlap(found, truth, (1.0, 1.0, 1.0)).hd95 == 0.0


def test_empty_masks() -> None:
    empty, full = box((0, 0, 0), (0, 0, 0)), box((2, 2, 2), (6, 6, 6))
    for one, other in ((empty, full), (full, empty)):
        found = overlap(one, other, SPACING)
        assert (found.dice, found.hd95, found.surface) == (0.0, math.inf, 0.0)
    assert math.isnan(overlap(empty, empty, SPACING).dice)


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="not of one"):
        overlap(box((0, 0, 0), (1, 1, 1)), box((0, 0, 0), (1, 1, 1), 13), SPACING)
    with pytest.raises(ValueError, match="tolerance"):
        overlap(box((0, 0, 0), (1, 1, 1)), box((0, 0, 0), (1, 1, 1)), SPACING, tolerance=-1.0)


def test_calibration_of_two_bins() -> None:
    """Of 90 % sure voxels half are right, and of 60 % sure ones all: 0.5 x 0.4 + 0.5 x 0.4."""
    confidence = torch.tensor([0.9, 0.9, 0.6, 0.6])[:, None, None]
    probability = torch.stack([confidence, 1 - confidence])
    truth = torch.tensor([0, 1, 0, 0])[:, None, None]
    everywhere = torch.ones_like(truth)
    assert calibration(probability, truth, everywhere) == pytest.approx(0.4)
    assert calibration(probability, truth, confidence == 0.6) == pytest.approx(0.4)
    truth[1] = UNKNOWN  # the right one of the first bin is left: 1/3 x 0.1 + 2/3 x 0.4
    assert calibration(probability, truth, everywhere) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="has no voxel"):
        calibration(probability, truth, torch.zeros_like(truth))


def test_certain_and_right_is_calibrated() -> None:
    truth = torch.randint(0, 3, (4, 4, 4), generator=torch.Generator().manual_seed(0))
    probability = torch.nn.functional.one_hot(truth, 3).movedim(-1, 0).float()
    assert calibration(probability, truth, torch.ones_like(truth)) == 0.0


def test_around_is_in_millimetres() -> None:
    truth = torch.zeros(21, 21, 21, dtype=torch.long)
    truth[10, 10, 10] = 2
    truth[0, 0, 0] = UNKNOWN
    near = around(truth, SPACING, 6.0).nonzero() - 10
    assert near.abs().max(0).values.tolist() == [6, 3, 2]
    assert not around(torch.zeros_like(truth), SPACING).any()


def labels(mask: Tensor, value: int = 1, affine: Tensor | None = None) -> Volume:
    data = (mask * value).to(torch.uint8)[None]
    return Volume(data) if affine is None else Volume(data, affine)


def test_unknown_voxels_count_nothing() -> None:
    truth, found = labels(box((2, 2, 2), (6, 6, 6))), labels(box((2, 2, 2), (6, 6, 9)))
    assert score("it", found, truth, ["background", "one"]).classes["one"].dice < 1
    truth.data[0, 2:6, 2:6, 6:9] = UNKNOWN
    assert score("it", found, truth, ["background", "one"]).classes["one"].dice == 1
    assert list(score("it", found, truth, ["background", "one", "two"]).classes) == ["one"]


def test_a_truth_of_some_voxels_says_nothing_of_calibration() -> None:
    """Those that it knows it selected by their class: of a chance of 0.6 there, all may be right."""
    truth = labels(box((2, 2, 2), (6, 6, 6)))
    one = torch.full(truth.data.shape, 0.6)
    probability = torch.cat([1 - one, one])
    whole = score("it", labels(one[0] > 0.5), truth, ["background", "one"], probability)
    assert 0 <= whole.ece <= 1
    truth.data[truth.data == 0] = UNKNOWN
    assert math.isnan(score("it", labels(one[0] > 0.5), truth, ["background", "one"], probability).ece)


def test_evaluate_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, high in (("truth", 6), ("found", 4)):
        (tmp_path / name).mkdir()
        volume.write(tmp_path / name / "a.nii.gz", labels(box((2, 2, 2), (6, 6, high))))
    out = tmp_path / "scores.json"
    command = ["evaluate", str(tmp_path / "truth"), "--found", str(tmp_path / "found"), "--json", str(out)]
    assert cli.main([*command, "--classes", "air,thing"]) == 0
    assert "0.667" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["rows"][0]["dice"] == pytest.approx(2 / 3)
    assert record["rows"][0]["ece"] is None
    assert record["scores"][0]["classes"]["thing"]["hd95"] == 2.0


def test_evaluate_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(truth: Path, *options: str) -> str:
        assert cli.main(["evaluate", str(truth), *options]) == 2
        return capsys.readouterr().err

    truth, found, empty, moved = (
        tmp_path / f"{name}.nii.gz" for name in ("truth", "found", "empty", "moved")
    )
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, 3] = 4.0
    volume.write(truth, labels(box((2, 2, 2), (6, 6, 6))))
    volume.write(found, labels(box((2, 2, 2), (6, 6, 6)), 3))
    volume.write(empty, labels(box((0, 0, 0), (0, 0, 0))))
    volume.write(moved, labels(box((2, 2, 2), (6, 6, 6)), 1, affine))
    assert "the truth is an empty mask" in told(empty, "--found", str(truth))
    assert "up to 4 mm apart" in told(truth, "--found", str(moved))
    assert "labels from 0 to 3, and the classes are 0 to 1" in told(truth, "--found", str(found))
    assert "two files, or two folders" in told(tmp_path, "--found", str(found))
    assert "either --found" in told(truth)
    assert "no checkpoint 'none'" in told(tmp_path, "--models", "none")
    (tmp_path / "other").mkdir()
    assert "has no empty.nii.gz, found.nii.gz" in told(tmp_path, "--found", str(tmp_path / "other"))
    assert "has no labels" in told(tmp_path / "other", "--found", str(tmp_path))
