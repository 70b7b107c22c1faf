"""Ventricles that grow by a known factor."""

import pytest
import torch
from torch import Tensor

from diffkit.medical.deform import FACTORS, Growth, grown
from diffkit.medical.volume import Volume

MM = (1.5, 1.5, 2.0)
SHAPE = (44, 52, 34)


def centres() -> Tensor:
    axes = [(torch.arange(n) + 0.5 - n / 2) * mm for n, mm in zip(SHAPE, MM, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def horns() -> Tensor:
    """Two ellipsoids side by side, of 8 x 24 x 12 mm."""
    x, y, z = centres().unbind(-1)
    return ((x.abs() - 7) / 4).square() + (y / 12).square() + (z / 6).square() < 1


@pytest.fixture(scope="module")
def growth() -> Growth:
    return Growth.of(horns(), MM)


def test_volume_is_that_of_the_mask(growth: Growth) -> None:
    assert growth.volume == pytest.approx(float(horns().sum()) * 1.5 * 1.5 * 2 / 1000)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5, 2.0, 3.4])
def test_the_ventricles_grow_by_the_factor(growth: Growth, factor: float) -> None:
    """By what the deformed image holds, which knows nothing of the integral that the factor was solved from."""
    affine = torch.diag(torch.tensor([*MM, 1.0])).double()
    mask = Volume(horns()[None].float(), affine)
    found = float(grown(mask, growth, factor).data.sum() / mask.data.sum())
    assert found == pytest.approx(factor, rel=0.02)  # of linear interpolation in voxels of 1.5 to 2 mm


@pytest.mark.parametrize("factor", FACTORS)
def test_no_folds(growth: Growth, factor: float) -> None:
    moved = growth.flow(centres(), growth.time(factor))
    slopes = torch.gradient(moved, spacing=list(MM), dim=(0, 1, 2))
    assert float(torch.linalg.det(torch.stack(slopes, -1)).min()) > 0.1


def test_the_flow_turns_back(growth: Growth) -> None:
    start = centres()
    moved = growth.flow(start, 4.0)
    assert float((moved - start).norm(dim=-1).max()) > 2.0
    torch.testing.assert_close(growth.flow(moved, -4.0), start, atol=0.02, rtol=0)  # mm: of midpoint steps


def test_far_away_nothing_moves(growth: Growth) -> None:
    """Beyond 20 mm, and three deviations of the smoothing: to the bit outside of the box."""
    x, y, z = centres().unbind(-1)
    image = Volume((x + 2 * y + 3 * z)[None], torch.diag(torch.tensor([*MM, 1.0])).double())
    change = grown(image, growth, 2.0).data - image.data
    far = (x.abs() > 11 + 29)[None] | (y.abs() > 12 + 26)[None]
    assert bool(far.any())
    assert float(change[far].abs().max()) < 1e-3
    assert float(change.abs().max()) > 2.0


def test_what_cannot_be(growth: Growth) -> None:
    with pytest.raises(ValueError, match=r"from 0.5 to 3.5 here, not 4"):
        growth.time(4.0)
    with pytest.raises(ValueError, match="the mask of the ventricles is empty"):
        Growth.of(torch.zeros(8, 8, 8, dtype=torch.bool), MM)
