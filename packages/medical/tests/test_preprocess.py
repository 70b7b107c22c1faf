"""Images on a segmenter's grid and results back on their own."""

import math

import pytest
import torch
from torch import Tensor

from diffkit.medical.preprocess import Foreground, normalise, prepare, restore
from diffkit.medical.resample import blur, isotropic, resample
from diffkit.medical.volume import Volume

SPEC = {"channels": ["T1"], "kinds": ["mr"], "classes": ["a", "b"], "spacing": 2.0, "size": [16, 16, 16]}
# To the left, the top and the front, in voxels of 1 x 3 x 1.5 mm, and turned by 0.1 about the first axis.
TURN = torch.tensor([[1, 0, 0], [0, math.cos(0.1), -math.sin(0.1)], [0, math.sin(0.1), math.cos(0.1)]])
AFFINE = torch.eye(4, dtype=torch.float64)
AFFINE[:3, :3] = TURN.double() @ torch.tensor([[-1.0, 0, 0], [0, 0, 1.5], [0, 3, 0]], dtype=torch.float64)
AFFINE[:3, 3] = torch.tensor([30.0, -20.0, 5.0])


def places(volume: Volume) -> Tensor:
    """mm of every voxel, as three channels."""
    axes = torch.meshgrid(*(torch.arange(n).double() for n in volume.shape), indexing="ij")
    return (volume.affine[:3, :3] @ torch.stack(axes).flatten(1) + volume.affine[:3, 3:]).reshape(
        3, *volume.shape
    )


def ramp(shape: tuple[int, int, int] = (40, 12, 24)) -> Volume:
    """Three channels that say where they are."""
    volume = Volume(torch.zeros(3, *shape), AFFINE)
    return volume.holding(places(volume).float())


def test_values_stay_in_their_place() -> None:
    """Interpolation is linear, so that a volume of its own coordinates has them on any grid."""
    volume = ramp()
    shape, affine = isotropic(volume, 1.7)
    moved = resample(volume, shape, affine)
    assert moved.spacing == pytest.approx((1.7, 1.7, 1.7))
    assert moved.orientation == "RAS"
    inner = (slice(None), slice(4, -4), slice(4, -4), slice(4, -4))  # at the edge the image is continued
    torch.testing.assert_close(moved.data[inner], places(moved).float()[inner], atol=2e-4, rtol=1e-5)


def test_the_grid_covers_the_volume_about_its_centre() -> None:
    volume = ramp()
    shape, affine = isotropic(volume, 2.0, (16, 32, 16))
    assert shape == (20, 32, 18)  # 40 x 1, 24 x 1.5, 12 x 3 mm
    centre = [(torch.tensor(s, dtype=torch.float64) - 1) / 2 for s in (shape, volume.shape)]
    torch.testing.assert_close(
        affine[:3, :3] @ centre[0] + affine[:3, 3], AFFINE[:3, :3] @ centre[1] + AFFINE[:3, 3]
    )


def test_its_own_grid_changes_no_bit() -> None:
    volume = Volume(torch.randn(2, 9, 10, 11), AFFINE)
    assert torch.equal(resample(volume, volume.shape, AFFINE.clone()).data, volume.data)


def test_coarser_voxels_are_means_of_finer_ones() -> None:
    """White noise in voxels four times as wide: of the 64 it averages an eighth is left, and 0.3 without the blur."""
    volume = Volume(torch.randn(1, 64, 64, 64, generator=torch.Generator().manual_seed(0)))
    left = float(resample(volume, *isotropic(volume, 4.0)).data.std())
    assert 0.05 < left < 0.16


def test_labels_keep_their_values_and_what_is_outside_its_own() -> None:
    labels = Volume(
        torch.tensor([0, 7, 250], dtype=torch.int16)
        .repeat_interleave(4)[None, :, None, None]
        .expand(1, 12, 9, 9)
    )
    moved = resample(labels, *isotropic(labels, 0.7), labels=True)
    assert moved.data.dtype == torch.int16
    assert moved.data.unique().tolist() == [0, 7, 250]
    away = torch.eye(4, dtype=torch.float64)
    away[0, 3] = 100
    outside = resample(Volume(torch.ones(1, 9, 9, 9)), (4, 4, 4), away, outside=-5.0)
    assert outside.data.unique().tolist() == [-5.0]


def test_blur_keeps_the_sum_and_has_its_width() -> None:
    point = torch.zeros(1, 41, 1, 1)
    point[0, 20] = 1
    out = blur(point, [2.5, 0.0, 0.0])[0, :, 0, 0]
    assert float(out.sum()) == pytest.approx(1, abs=1e-6)
    x = torch.arange(41) - 20.0
    assert float((out * x.square()).sum().sqrt()) == pytest.approx(
        2.5, rel=0.01
    )  # cut beyond three deviations
    narrow = blur(point, [0.4, 0.0, 0.0])[0, :, 0, 0]
    assert float((narrow * x.square()).sum().sqrt()) == pytest.approx(0.4, rel=1e-3)
    torch.testing.assert_close(blur(torch.ones(1, 5, 6, 7), [3.0] * 3), torch.ones(1, 5, 6, 7))


def test_units() -> None:
    ct = torch.tensor([-1000.0, -200.0, 25.0, 250.0, 2000.0]).reshape(1, 5, 1, 1)
    assert normalise(ct, ["ct"]).flatten().tolist() == pytest.approx([-1, -1, 0, 1, 1])
    assert normalise(torch.tensor([0.0, 2.5, 80.0]).reshape(1, 3, 1, 1), ["suv"]).flatten().tolist() == [
        0,
        0.5,
        5,
    ]
    head = torch.cat(
        [torch.zeros(8000), 500 + 50 * torch.randn(8000, generator=torch.Generator().manual_seed(1))]
    )
    head[-1] = 1e5  # a bright voxel is nothing to measure by
    out = normalise(head.reshape(1, 20, 40, 20), ["mr"]).flatten()
    assert float(out[8000:].mean()) == pytest.approx(0, abs=0.02)
    assert float(out[8000:].std()) == pytest.approx(1, abs=0.05)
    scaled = normalise(7 * head.reshape(1, 20, 40, 20), ["mr"]).flatten()
    torch.testing.assert_close(scaled, out, atol=1e-3, rtol=1e-3)
    assert float(Foreground.of(head).top) < 700


def test_a_result_comes_back_to_the_grid_of_its_image() -> None:
    """A smooth probability, made on the segmenter's grid, is itself at the same places of the image's."""
    volume = Volume(torch.rand(1, 40, 12, 24), AFFINE)
    shape = isotropic(volume, 2.0, (16, 16, 16))
    seen = prepare({"t1.nii": volume}, SPEC)
    assert seen.shape == (1, *shape[0])
    grid = Volume(torch.zeros(1, *shape[0]), shape[1])
    wave = torch.sigmoid(places(grid).float().sum(0, keepdim=True) / 20)
    found = restore(torch.cat([wave, 1 - wave]), volume, SPEC)
    assert torch.equal(found.affine, volume.affine)
    assert found.shape == volume.shape
    torch.testing.assert_close(found.data.sum(0), torch.ones(volume.shape))
    inner = (slice(2, -2), slice(1, -1), slice(2, -2))
    truth = torch.sigmoid(places(volume).float().sum(0) / 20)
    torch.testing.assert_close(found.data[0][inner], truth[inner], atol=2e-3, rtol=0)


def test_bad_input_is_told() -> None:
    good = Volume(torch.rand(1, 12, 12, 12))
    far = Volume(torch.rand(1, 12, 12, 12), torch.diag(torch.tensor([1.0, 1.0, 1.5, 1.0])))
    two = SPEC | {"channels": ["CT", "PT"], "kinds": ["ct", "suv"]}
    with pytest.raises(ValueError, match=r"a.nii and b.nii place the same voxel up to 5.5 mm apart"):
        prepare({"a.nii": good, "b.nii": far}, two)
    with pytest.raises(ValueError, match=r"a.nii give 1 channels, and 2 are needed: CT, PT"):
        prepare({"a.nii": good}, two)
    with pytest.raises(ValueError, match="12 x 12 x 1 voxels are no volume"):
        prepare({"a.nii": Volume(torch.rand(1, 12, 12, 1))}, SPEC)
    with pytest.raises(ValueError, match="T1 has voxels that are not finite"):
        prepare({"a.nii": Volume(torch.full((1, 12, 12, 12), torch.nan))}, SPEC)
    with pytest.raises(ValueError, match="T1 is 3 everywhere"):
        prepare({"a.nii": Volume(torch.full((1, 12, 12, 12), 3.0))}, SPEC)
    with pytest.raises(ValueError, match="must be real"):
        prepare({"a.nii": Volume(torch.rand(1, 12, 12, 12) + 0j)}, SPEC)
    with pytest.raises(ValueError, match="does not fit"):
        restore(torch.zeros(2, 5, 5, 5), good, SPEC)
