"""A prior that is told the ventricles' size, and the planes that teach it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffkit.core.process import Cosine
from diffkit.medical import checkpoints, volume
from diffkit.medical.covariate import (
    UNKNOWN,
    CovariateTask,
    CovariateUNet,
    GrowingPlanes,
    GrowthData,
    covariate,
)
from diffkit.medical.deform import FACTORS, Growth
from diffkit.medical.model import UNet
from diffkit.medical.planes import Head
from diffkit.medical.volume import Volume
from diffkit.medical.volumetry import VENTRICLES

MM = (2.0, 2.0, 2.0)


def radius() -> Tensor:
    axes = [(torch.arange(n) + 0.5 - n / 2) * 2 for n in (44, 52, 40)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).norm(dim=-1)


def head() -> Head:
    """A ball of 36 mm with a dark one of 9 mm in the middle."""
    values = ((36.5 - radius()) / 2).clamp(0, 1) * (0.2 + 0.8 * ((radius() - 9) / 2 + 0.5).clamp(0, 1))
    return Head(values, MM)


def planes(**options: Any) -> GrowingPlanes:
    growth = Growth.of(radius() < 9, MM)
    settings: dict[str, Any] = {"size": 48, "spacing": 1.8, "depth": (0.5, 0.5), "tilt": 0.0, "shift": 0.0}
    return GrowingPlanes([head()], [growth], **settings | options)


def test_covariate_is_a_ratio() -> None:
    assert covariate(28.2) == pytest.approx(math.log(2))  # 2 % of 1410 ml
    assert covariate(56.4) - covariate(28.2) == pytest.approx(math.log(2))


def test_planes_show_their_covariate() -> None:
    """In the middle of a ball the dark area goes with the volume's power 2/3; scales differ by up to 12 %."""
    found = planes()
    baseline = covariate(found.growths[0].volume)  # pyright: ignore[reportOptionalMemberAccess]
    rows = [found[k] for k in range(24)]
    told = np.array([float(c) for _, c in rows]) - baseline
    dark = np.array([float((x[0, 12:36, 12:36] < 0.55 * x.max()).sum()) for x, _ in rows])
    assert told.min() > math.log(FACTORS[0])
    assert told.max() < math.log(FACTORS[1])
    slope, _ = np.polyfit(told, np.log(dark), 1)
    assert slope == pytest.approx(2 / 3, abs=0.15)
    assert np.corrcoef(told, np.log(dark))[0, 1] > 0.9


def test_a_plane_is_a_function_of_its_number() -> None:
    one, two = planes(seed=3), planes(seed=3)
    torch.testing.assert_close(one[5], two[5], atol=0, rtol=0)
    assert not torch.allclose(one[5][0], one[6][0])


def test_heads_without_growth_are_unknown() -> None:
    plane, c = GrowingPlanes([head()], [None], size=32)[0]
    assert plane.shape == (1, 32, 32)
    assert math.isnan(float(c))


def test_a_prior_is_adopted() -> None:
    """It begins as the prior of a complex slice that is real and whose imaginary part is not noisy, whatever c."""
    torch.manual_seed(0)
    prior, found = UNet(2, (8, 16), attention=False), CovariateUNet(widths=(8, 16))
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.2)
    found.adopt(prior)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        wanted = prior(torch.cat([x, torch.zeros_like(x)], 1), t)[:, :1]
        for c in (torch.tensor([0.5, -1.0]), torch.tensor([UNKNOWN, 2.0])):
            torch.testing.assert_close(found(x, t, c), wanted)
    with pytest.raises(ValueError, match="other widths"):
        CovariateUNet(widths=(16, 16)).adopt(prior)


def network() -> CovariateUNet:
    torch.manual_seed(0)
    found = CovariateUNet(widths=(8, 8))
    for parameter in found.parameters():  # MONAI's last layer begins at zero
        nn.init.normal_(parameter, std=0.3)
    return found


def test_the_network_is_told() -> None:
    x, t = torch.randn(3, 1, 16, 16), torch.full((3,), 0.5)
    found = network()(x.expand(3, 1, 16, 16), t, torch.tensor([0.0, 1.0, UNKNOWN]))
    same = network()(x, t, torch.tensor([0.0, 0.5, UNKNOWN]))
    assert found.shape == x.shape
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found[[0, 2]], same[[0, 2]])
    assert not torch.allclose(found[1], same[1])
    unknown = network()(x[:1], t[:1], torch.tensor([UNKNOWN]))
    assert not torch.allclose(unknown, found[:1])  # is not c = 0


class Told(nn.Module):
    """Remembers the covariates that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        self.seen.append(c)
        return self.weight * x


def test_a_share_of_covariates_is_dropped() -> None:
    told = Told()
    task = CovariateTask(told, process=Cosine(), dropout=0.25)
    torch.manual_seed(0)
    loss = task.loss((torch.randn(4000, 1, 2, 2), torch.full((4000,), 1.5)))["loss"]
    dropped = float(told.seen[0].isnan().float().mean())
    assert dropped == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 4000) ** 0.5)  # five standard errors
    assert bool((told.seen[0][~told.seen[0].isnan()] == 1.5).all())
    assert loss.requires_grad


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    affine = torch.diag(torch.tensor([*MM, 1.0])).double()
    volume.write(tmp_path / "t1.nii.gz", Volume(head().values[None] * 700, affine))
    labels = VENTRICLES[1] * (radius() < 7).short()
    volume.write(tmp_path / "labels.nii.gz", Volume(labels[None], affine))
    return tmp_path


def data(folder: Path, train: str = "t1.nii.gz") -> GrowthData:
    return GrowthData(
        str(folder), "labels.nii.gz", [train], ["t1.nii.gz"], ["t1.nii.gz"], size=32, spacing=2.5, batch_size=4,
        items=8, num_workers=0,
    )  # fmt: skip


def test_data_of_a_folder(folder: Path) -> None:
    found = data(folder)
    found.setup()
    assert [growth is None for growth in found.train_set.growths] == [False, True]
    size = found.train_set.growths[0].volume
    # of the image, in voxels of 2 mm; its labels have half of it
    assert size == pytest.approx(4 / 3 * math.pi * 0.9**3, rel=0.1)
    low, high = found.options["covariate"]
    assert high - low == pytest.approx(math.log(FACTORS[1] / FACTORS[0]))
    assert low == pytest.approx(covariate(size * FACTORS[0]))
    x, c = next(iter(found.train_dataloader()))
    assert (x.shape, c.shape) == ((4, 1, 32, 32), (4,))


def test_data_that_are_missing(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds nothing like t2.nii.gz: build it with `diffkit-medical data`"
    ):
        data(folder, "t2.nii.gz").setup()


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    task = CovariateTask(network(), process=Cosine(), sigma_data=0.4)
    options = {"spacing": 1.25, "covariate": (0.0, 2.0)}
    checkpoints.save(tmp_path / "prior", task, "progress", "# card\n", options)
    prior = checkpoints.load(tmp_path / "prior")
    assert (prior.kind, prior.config["sigma_data"], prior.config["data"]) == (
        "progress",
        0.4,
        {"spacing": 1.25, "covariate": [0.0, 2.0]},
    )
    x, t, c = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 0.6]), torch.tensor([1.0, UNKNOWN])
    torch.testing.assert_close(
        prior.network(x, t, c), task.network(x, t, c), atol=0.02, rtol=0.02
    )  # of float16
