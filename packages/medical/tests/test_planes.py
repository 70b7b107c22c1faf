"""Planes cut at random from a head."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffkit.medical import volume
from diffkit.medical.metrics import rmse
from diffkit.medical.planes import Head, PlaneData, Planes, bright, denoised, in_units
from diffkit.medical.volume import Volume


def ball() -> Head:
    """A ball of 40 mm, brighter to the right, in voxels of 1 x 1 x 2 mm."""
    x, y, z = torch.meshgrid(*(torch.linspace(-50, 50, n) for n in (100, 100, 50)), indexing="ij")
    inside = (x.square() + y.square() + z.square()).sqrt() < 40
    return Head(inside * (1 + x / 100), (1.0, 1.0, 2.0))


def magnitude(plane: Tensor) -> Tensor:
    return plane.square().sum(0).sqrt()


def test_a_plane_is_a_function_of_its_number() -> None:
    one, two = (Planes([ball()], "mr", size=64, spacing=1.6, seed=3) for _ in range(2))
    torch.testing.assert_close(one[7], two[7], atol=0, rtol=0)
    assert not torch.allclose(one[7], one[8])


def test_size_in_millimetres() -> None:
    """A section near the middle of a ball of 40 mm is nearly as large as its largest."""
    planes = Planes([ball()], "mr", size=64, spacing=1.6, depth=(0.5, 0.5), shift=0.0, tilt=0.0)
    for i in range(6):
        radius = ((magnitude(planes[i]) > 0.2).sum() * 1.6**2 / torch.pi).sqrt()
        assert float(radius) == pytest.approx(40, rel=0.13)  # sizes vary by 12 %


def test_phase_is_smooth_and_mostly_small() -> None:
    """Sizes spread evenly in their logarithm, over 1.7 decades: half of the planes have an eighth of the largest."""
    planes = Planes([ball()], "mr", size=64, spacing=1.6, depth=(0.5, 0.5))
    angles: list[float] = []
    for i in range(24):
        x = torch.complex(*planes[i])
        inside = x.abs() > 0.3
        both = inside[:, 1:] & inside[:, :-1]
        assert float((x[:, 1:] * x[:, :-1].conj()).angle()[both].abs().max()) < 0.5
        angles.append(float(x[inside].mean().angle().abs()))
    assert sorted(angles)[12] < 0.3
    assert max(angles) > 0.6


def test_ct_is_left_as_it_is() -> None:
    head = Head(torch.full((40, 40, 20), 0.5), (1.0, 1.0, 1.0))
    plane = Planes([head], "ct", size=16, spacing=1.0, shift=0.0, tilt=0.0, depth=(0.5, 0.5))[0]
    torch.testing.assert_close(plane, torch.full((1, 16, 16), 0.5))
    wide = Planes([head], "ct", size=64, spacing=1.0, shift=0.0, tilt=0.0, depth=(0.5, 0.5))[0]
    assert float(wide[0, 0, 0]) == -1.0  # air around it


def test_units() -> None:
    values = torch.rand(50, 50, 50) * 700
    assert float(bright(values)) == pytest.approx(0.995 * 700, rel=0.01)
    assert float(in_units(values, "mr").max()) == pytest.approx(1.0, rel=0.02)
    torch.testing.assert_close(
        in_units(torch.tensor([-1024.0, 0.0, 400.0, 3000.0]), "ct"), torch.tensor([-1, 0, 0.4, 2.0])
    )


def test_noise_is_taken_away_and_edges_stay() -> None:
    """A ball in air, with noise: a fifth of it is left inside, none in the air, and the edge is sharp."""
    axis = torch.arange(32.0) - 16
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    clean = 0.8 * (radius < 10).float()
    real, imaginary = 0.05 * torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    found = denoised(torch.hypot(clean + real, imaginary), 0.05)
    inside, outside, edge = radius < 8, radius > 13, (radius > 9) & (radius < 11)
    assert rmse(found[inside], clean[inside]) < 0.2 * 0.05
    assert float((found[outside] == 0).float().mean()) > 0.9
    assert rmse(found[edge], clean[edge]) < 0.05


def test_data_of_a_folder(tmp_path: Path) -> None:
    head = ball()
    affine = torch.diag(torch.tensor([-1.0, 1.0, 2.0, 1.0])).double()  # to the left: turned when it is read
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        volume.write(tmp_path / name / "t1.nii.gz", Volume(head.values.flip(0)[None], affine))
    data = PlaneData(
        str(tmp_path), ["train/*.nii.gz"], ["valid/t1.nii.gz"], size=32, batch_size=4, items=8, num_workers=0
    )
    data.setup()
    torch.testing.assert_close(
        data.train_set.heads[0].values, head.values / bright(head.values), atol=1e-5, rtol=1e-5
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.shape == (4, 2, 32, 32)
    with pytest.raises(ValueError, match="build it with"):
        PlaneData(str(tmp_path), ["other/*"], ["valid/*"]).setup()
    noisy = PlaneData(str(tmp_path), ["train/*"], ["valid/*"], noise={"train/t2.nii.gz": 0.1})
    with pytest.raises(ValueError, match=r"noise is given of train/t2.nii.gz"):
        noisy.setup()
