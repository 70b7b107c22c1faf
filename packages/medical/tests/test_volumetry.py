"""Volumes by intensity."""

import math

import pytest
import torch
from torch import Tensor

from diffkit.medical.volume import Volume
from diffkit.medical.volumetry import VENTRICLES, Levels, around, curve, fluid, levels, ventricles


def radius(shape: tuple[int, int, int], mm: tuple[float, float, float]) -> Tensor:
    axes = [(torch.arange(n) + 0.5 - n / 2) * step for n, step in zip(shape, mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).norm(dim=-1)


def head(ball: float, mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """Tissue of 100 with a ball of fluid of 20, its border a ramp of one millimetre."""
    size = 20 + 80 * (radius((40, 40, 40), mm) - ball + 0.5).clamp(0, 1)
    return Volume(size[None], torch.diag(torch.tensor([*mm, 1.0])).double())


def test_levels_are_the_means_of_two_classes() -> None:
    values = torch.cat([torch.full((30,), 2.0), torch.full((70,), 9.0), torch.tensor([1.0, 3.0, 8.0, 10.0])])
    found = levels(values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))])
    assert found == pytest.approx((2.0, 9.0))


def test_half_of_a_voxel_in_the_middle() -> None:
    shares = fluid(torch.tensor([0.0, 0.24, 0.5, 0.76, 1.0]), Levels(0.0, 1.0))
    torch.testing.assert_close(shares, torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0]))


@pytest.mark.parametrize("mm", [(1.0, 1.0, 1.0), (0.8, 1.2, 1.0)])
def test_the_volume_of_balls(mm: tuple[float, float, float]) -> None:
    frames = [head(r, mm) for r in (8.0, 8.2, 10.0)]
    series = frames[0].holding(torch.cat([frame.data for frame in frames]))
    mask = frames[0].holding((radius((40, 40, 40), mm) < 14)[None])
    true = [4 / 3 * math.pi * r**3 / 1000 for r in (8.0, 8.2, 10.0)]
    assert curve(series, mask) == pytest.approx(
        true, rel=0.02
    )  # levels are means with the border's; a shell of 0.2 mm is 7 %


def test_one_value_has_no_levels() -> None:
    with pytest.raises(ValueError, match="voxels of one value alone"):
        levels(torch.full((9,), 3.0))


def test_around_in_millimetres() -> None:
    mask = torch.zeros(1, 9, 9, 9)
    mask[0, 4, 4, 4] = 1
    near = around(Volume(mask, torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])).double()), 3.0).data[0]
    assert near.nonzero().amin(0).tolist() == [1, 3, 3]
    assert near.nonzero().amax(0).tolist() == [7, 5, 5]


def test_ventricles_are_as_large_as_the_image_shows() -> None:
    """An atlas of smaller ones on another grid says which fluid is meant; other fluid nearby is left out."""
    image = head(9.0)
    image.data[0, 8:10, 18:22, 18:22] = 20.0  # a sulcus, at 10 to 12 mm from the middle
    labels = VENTRICLES[0] * (radius((20, 20, 20), (2.0, 2.0, 2.0)) < 6).short()
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])).double()
    affine[:3, 3] = 0.5
    found = ventricles(image, Volume(labels[None], affine)).data[0]
    assert not bool(found[8:10].any())
    assert float(found.sum()) == pytest.approx(4 / 3 * math.pi * 9**3, rel=0.03)
