"""From the chances of classes to labels."""

import itertools

import pytest
import torch

from diffkit.medical import decide


@pytest.mark.parametrize("seed", range(5))
def test_the_mask_has_the_largest_expected_dice_of_all_masks(seed: int) -> None:
    p = torch.rand(10, generator=torch.Generator().manual_seed(seed)) ** 2
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=10)))
    best = masks[(2 * (masks @ p) / (masks.sum(1) + p.sum())).argmax()]
    found = decide.dice(torch.stack([1 - p, p]).reshape(2, 10, 1, 1)).flatten()
    assert torch.equal(found, best.long())
    reached = 2 * (best @ p) / (best.sum() + p.sum())
    assert float(p[found == 1].min()) > reached / 2 > float(p[found == 0].max())


def test_certain_classes_stay_and_doubtful_ones_grow() -> None:
    one, two = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.4, 0.3, 0.02])
    p = torch.stack([1 - one - two, one, two])[..., None, None]
    assert decide.probable(p).flatten().tolist() == [1, 0, 0, 0]
    assert decide.dice(p).flatten().tolist() == [1, 2, 2, 0]


def test_a_class_that_is_nowhere() -> None:
    p = torch.stack([torch.ones(3), torch.zeros(3)])[..., None, None]
    assert decide.dice(p).sum() == 0
