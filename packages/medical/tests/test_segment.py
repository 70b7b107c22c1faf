"""Segmentation by diffusion: by a network that is exact for independent voxels, whose answer is then known."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from diffkit.core.categorical import Absorbing, Categorical, Uniform
from diffkit.core.checkpoint import CheckpointError
from diffkit.core.process import RectifiedFlow
from diffkit.medical import checkpoints, cli, volume
from diffkit.medical.cases import Case, Draws, SegmentData
from diffkit.medical.checkpoints import SegmentModel
from diffkit.medical.metrics import rmse
from diffkit.medical.picture import axial
from diffkit.medical.segment import Segmenter
from diffkit.medical.segment_metrics import calibration
from diffkit.medical.segment_report import judge
from diffkit.medical.segment_task import SegmentTask, log_probability, state
from diffkit.medical.volume import Volume
from diffkit.medical.volumetric import Volumetric

SPEC: dict[str, Any] = {
    "channels": ["map"],
    "kinds": ["ct"],
    "classes": ["background", "one", "two"],
    "spacing": 2.0,
    "size": [16, 16, 16],
}
NOISES = {"gaussian": RectifiedFlow(), "uniform": Uniform(3), "absorbing": Absorbing(4)}


def chances(image: Tensor) -> Tensor:
    """The law of a voxel's class given its value in [-1, 1], ``[batch, x, y, z, 3]``."""
    return torch.stack([-2 * image, image, 2 * image], -1).softmax(-1)


class Exact(nn.Module):
    """What the image says of each class of ``noise``, the first three of which exist: voxels are independent."""

    def __init__(self, noise: Any) -> None:
        super().__init__()
        self.size = noise.size if isinstance(noise, Categorical) else 3
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, seen: Tensor) -> Tensor:
        return F.pad(chances(seen[:, 0]).log(), (0, self.size - 3), value=-30.0).movedim(-1, 1)


def segmenter(noise: Any, shift: float = 1.0, **spec: Any) -> Segmenter:
    return Segmenter(SegmentModel(Path("exact"), Exact(noise), noise, shift, SPEC | spec, "none"))


def ramp(*shape: int) -> Tensor:
    """An image in the network's units, ``[1, x, y, z]``."""
    return torch.linspace(-1, 1, shape[0])[None, :, None, None].expand(1, *shape)


@pytest.mark.parametrize("noise", NOISES.values(), ids=list(NOISES))
def test_masks_have_the_law_of_the_truth(noise: Any) -> None:
    """With a network that is exact the mean of the samples is the law of the classes, however it was reached.

    With n samples of v voxels of a plane the mean is off by at most 1/2/sqrt(n v) times a few: here 0.01 times 4.
    """
    image = ramp(16, 16, 20)
    found = segmenter(noise).probability(image, samples=8, steps=12)
    wanted = chances(image[0]).movedim(-1, 0)
    assert float((found - wanted).mean((2, 3)).abs().max()) < 0.04
    truth = (wanted.cumsum(0) < torch.rand(16, 16, 20, generator=torch.Generator().manual_seed(1))).sum(0)
    assert calibration(wanted, truth, torch.ones_like(truth)) < 0.03


@pytest.mark.parametrize("noise", NOISES.values(), ids=list(NOISES))
def test_one_step_is_the_plain_answer(noise: Any) -> None:
    """At t = 1 the noisy mask says nothing, and every sample predicts the law of the classes itself."""
    image = ramp(16, 16, 20)
    plain = segmenter(None).probability(image, samples=3)
    torch.testing.assert_close(plain, chances(image[0]).movedim(-1, 0), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        segmenter(noise).probability(image, samples=2, steps=1), plain, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_samples_share_the_first_call(mirrored: bool) -> None:
    """Which is no less than is counted, and a mirrored image has one of its own."""
    done: list[int] = []
    judge = segmenter(RectifiedFlow(), mirrored=mirrored)
    for samples, steps in ((1, 1), (3, 1), (1, 3), (4, 2)):
        done.clear()
        judge.probability(ramp(16, 16, 16), samples=samples, steps=steps, advance=done.append)
        assert sum(done) == judge.calls(samples, steps)
    assert judge.calls(4, 2) == 5 + mirrored


def test_a_mirrored_image_is_asked_about_too() -> None:
    """A network that errs towards one side errs towards neither on the mean, and the image keeps its sides."""

    class Leaning(Exact):
        def forward(self, seen: Tensor) -> Tensor:
            lean = torch.linspace(-3, 3, seen.shape[2])[:, None, None, None] * torch.tensor([1.0, 0.0, 0.0])
            return (chances(seen[:, 0]).log() + lean).movedim(-1, 1)

    image = ramp(16, 16, 16)
    both = segmenter(RectifiedFlow(), mirrored=True)
    both.model.network.__class__ = Leaning
    found = both.probability(image, samples=2, steps=1)
    torch.testing.assert_close(found, chances(image[0]).movedim(-1, 0), atol=1e-5, rtol=0)
    assert float((both.probability(image, samples=1) - found).abs().max()) > 0.1


def test_a_sample_is_a_function_of_its_seed() -> None:
    image = ramp(16, 16, 16)
    first, second, both = (
        segmenter(RectifiedFlow(), 4.0).probability(image, samples=n, steps=4, seed=seed)
        for n, seed in ((1, 3), (1, 4), (2, 3))
    )
    torch.testing.assert_close((first + second) / 2, both)
    assert float((first - second).abs().max()) > 0.1


@pytest.mark.parametrize("batch_size", [1, 5])
def test_windows_agree(batch_size: int) -> None:
    """A network that looks at voxels alone gives the same in windows as in one: there is one field of noise."""
    image = ramp(40, 20, 16)
    whole = segmenter(Uniform(3))
    whole.model.spec["size"][:] = [40, 20, 16]
    wanted = whole.probability(image, samples=1, steps=4)
    whole.model.spec["size"][:] = [16, 16, 16]
    found = whole.probability(image, samples=1, steps=4, batch_size=batch_size)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def head(shape: tuple[int, int, int] = (40, 30, 20)) -> Volume:
    """In HU from fat to bone, in voxels of 1 x 2 x 3 mm whose axes go left, back and up."""
    affine = torch.diag(torch.tensor([-1.0, -2.0, 3.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([7.0, -11.0, 13.0])
    values = torch.linspace(-200, 250, shape[0])[:, None, None].expand(shape)
    return Volume(values[None].clone(), affine)


def test_the_grid_is_that_of_the_image() -> None:
    image = head()
    found = segmenter(RectifiedFlow())({"ct": image}, samples=2, steps=3)
    for part in (found.labels, found.probability, found.entropy):
        assert part.shape == image.shape
        assert torch.equal(part.affine, image.affine)
    p = found.probability.data
    torch.testing.assert_close(p.sum(0), torch.ones(image.shape))
    assert torch.equal(found.labels.data[0], p.argmax(0).to(torch.uint8))
    nats = -(p * p.clamp(min=1e-12).log()).sum(0) / math.log(3)
    torch.testing.assert_close(found.entropy.data[0], nats, atol=1e-5, rtol=0)
    plain = segmenter(None)({"ct": image})
    wanted = chances((image.data[0] + 200) * 2 / 450 - 1).movedim(-1, 0)
    # Between voxels of 2 mm, whose values are 0.1 apart, the law bends by less than 0.01.
    assert rmse(plain.probability.data, wanted) < 0.01
    assert segmenter(None).calls(5, 10) == 1
    assert segmenter(RectifiedFlow()).calls(5, 10) == 46


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ({}, "no image to segment: give map"),
        ({"ct": head(), "pt": head()}, "give 2 channels, and 1 are needed: map"),
        ({"ct": head((40, 30, 1))}, "40 x 30 x 1 voxels are no volume"),
        ({"ct": head().holding(head().data.clamp(max=200).log())}, "not finite"),
    ],
)
def test_an_image_that_will_not_do(volumes: dict[str, Volume], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter(None)(volumes)


def test_too_few_samples_and_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        segmenter(None)({"ct": head()}, samples=0)
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)  # pages of 1000 bytes, a thousand
    with pytest.raises(ValueError, match=r"40 x 30 x 20 voxels needs 0.00\d+ GB .* there are 0.001"):
        segmenter(None)({"ct": head()})


class Balls(SegmentData):
    """A bright ball in noise, in one of two sizes of class 1 and 2."""

    channels, kinds, classes = ("map",), ("ct",), ("background", "one", "two")

    def __init__(self, folder: str = "", items: int = 8, batch_size: int = 2) -> None:
        super().__init__(folder, size=(16, 16, 16), batch_size=batch_size, items=items, num_workers=0)

    def setup(self, stage: str | None = None) -> None:
        self.train_set = self.valid_set = Draws(self.ball, items=self.items, seed=0)

    def ball(self, rng: Any) -> tuple[Tensor, Tensor]:
        x, y, z = (torch.arange(16)[(None,) * k + (slice(None),) + (None,) * (2 - k)] for k in range(3))
        i, j, k = rng.integers(5, 11, 3).tolist()
        label = (rng.random() > 0.5) + 1
        inside = (x - i) ** 2 + (y - j) ** 2 + (z - k) ** 2 < (3 + 2 * (label == 2)) ** 2
        noise = torch.as_tensor(rng.standard_normal((16, 16, 16)), dtype=torch.float32)
        return (inside + 0.3 * noise)[None], inside.long() * int(label)

    def test_cases(self) -> Any:
        image, label = self.ball(np.random.default_rng(5))
        affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
        hu = Volume((image + 1) * 225 - 200, affine)
        yield Case("ball", {"map": hu}, hu.holding(label[None].to(torch.uint8)))


@pytest.mark.parametrize("noise", [None, *NOISES.values()], ids=["none", *NOISES])
def test_trains_and_comes_back(noise: Any, tmp_path: Path) -> None:
    """A run of some steps lowers the loss; its checkpoint gives what its network gave; the report takes it."""
    torch.manual_seed(0)
    size = noise.size if isinstance(noise, Categorical) else 3
    network = Volumetric(1 + (noise is not None) * size, size, width=4)
    task = SegmentTask(network, noise, dice=0.5, shift=3.0, learning_rate=0.01, warmup=1)
    data = Balls(items=16)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    before = float(task.loss(batch)["loss"].detach())
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, datamodule=data)
    assert float(task.loss(batch)["loss"].detach()) < 0.8 * before
    checkpoints.write_run(task, tmp_path / "model", trainer, 1.0)
    model = checkpoints.load_segmenter(tmp_path / "model")
    assert (model.process, model.shift, model.spec) == (noise, 3.0, data.spec())
    image, t = batch[0], torch.full((2,), 0.5)
    x = None if noise is None else state(noise, F.one_hot(batch[1], size).float())
    with torch.no_grad():
        kept = log_probability(model.network, noise, image, x, t).exp()
        torch.testing.assert_close(
            kept, log_probability(task.network.eval(), noise, image, x, t).exp(), atol=0.01, rtol=0
        )  # half precision
    row, (score,) = judge(Segmenter(model), data.test_cases(), samples=2, steps=2)
    assert (row.name, row.calls) == ("model", 1 if noise is None else 3)
    assert 0 <= row.dice <= 1
    assert 0 <= row.ece <= 1
    assert row.seconds > 0
    assert score.name == "ball"


def test_the_loss_of_the_exact_network_is_the_entropy_that_is_left() -> None:
    """At t = 1 the cross-entropy of a true posterior is that of the law; there, no weights can do better."""
    image = ramp(16, 40, 40)[None]
    law = chances(image[:, 0])
    label = (law.cumsum(-1) < torch.rand(1, 16, 40, 40, 1, generator=torch.Generator().manual_seed(0))).sum(
        -1
    )
    entropy = -(law * law.log()).sum(-1).mean()
    for shift, plain in ((1e6, 0.0), (1.0, 0.999)):
        task = SegmentTask(Stub(Exact(RectifiedFlow()), 4, 3), RectifiedFlow(), shift=shift, plain=plain)
        assert float(task.loss((image, label))["loss"].detach()) == pytest.approx(float(entropy), abs=0.02)
    easier = SegmentTask(Stub(Exact(RectifiedFlow()), 4, 3), RectifiedFlow(), shift=1e-3)
    assert float(easier.loss((image, label))["loss"].detach()) < 0.8 * float(entropy)
    with pytest.raises(ValueError, match="below 1, not 1"):
        SegmentTask(Volumetric(4, 3, width=2), RectifiedFlow(), plain=1.0)


class Stub(Volumetric):
    def __init__(self, exact: Callable[[Tensor], Tensor], inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, width=2)
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        return self.exact(x)


def test_a_network_of_other_classes() -> None:
    task = SegmentTask(Volumetric(4, 4, width=2), RectifiedFlow())
    with pytest.raises(
        ValueError, match=r"1 channels and 3 classes need 4 inputs and 3 outputs .* not 4 and 4"
    ):
        task.check(SPEC)
    with pytest.raises(ValueError, match="multiples of 8"):
        SegmentTask(Volumetric(4, 3, width=2), RectifiedFlow()).check({**SPEC, "size": [16, 16, 20]})
    SegmentTask(Volumetric(5, 4, width=2), Absorbing(4)).check(SPEC)
    SegmentTask(Volumetric(1, 3, width=2)).check(SPEC)


def test_a_checkpoint_that_is_no_segmenter(tmp_path: Path) -> None:
    task = SimpleNamespace(network=Volumetric(1, 3, width=2), process=None, shift=1.0)
    folder = checkpoints.save_segmenter(tmp_path / "model", task, "card", Balls())
    with pytest.raises(CheckpointError, match="not a prior"):
        checkpoints.load(folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"shift"', '"other"'))
    with pytest.raises(CheckpointError, match="lacks 'shift'"):
        checkpoints.load_segmenter(folder)


@pytest.mark.parametrize("kind", ["unet", "segresnet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_networks(kind: Any, dims: int) -> None:
    torch.manual_seed(0)
    network = Volumetric(2, 3, kind, width=8, dims=dims).eval()
    x = torch.randn(2, 2, 16, 16, 16)
    with torch.no_grad():
        out = network(x)
        assert out.shape == (2, 3, 16, 16, 16)
        torch.testing.assert_close(network(x[1:]), out[1:], atol=1e-5, rtol=1e-4)
        x[..., 3] += 1
        changed = (network(x) - out).abs().amax((0, 1, 2, 3)) > 1e-6
    assert changed[3]
    assert changed.sum() == 1 if dims == 2 else changed[2]
    rebuilt = Volumetric(**network.arguments)
    assert rebuilt.state_dict().keys() == network.state_dict().keys()


def test_training_starts_as_a_plain_segmenter(tmp_path: Path) -> None:
    """Which takes no notice of the noisy mask until it has learnt to."""
    torch.manual_seed(0)
    plain = Volumetric(1, 3, width=4)
    task = SimpleNamespace(network=plain, process=None, shift=1.0)
    folder = str(checkpoints.save_segmenter(tmp_path / "model", task, "card", Balls()))
    network = SegmentTask(Volumetric(4, 3, width=4), RectifiedFlow(), init=folder).network
    image, said = torch.randn(1, 1, 16, 16, 16), torch.randn(1, 3, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(torch.cat([image, said], 1)), plain(image), atol=1e-2, rtol=1e-2)
    with pytest.raises(ValueError, match="cannot start as"):
        SegmentTask(Volumetric(4, 3, width=8), RectifiedFlow(), init=folder)


def test_networks_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        Volumetric(1, 2, dims=4)
    with pytest.raises(ValueError, match="no network 'vnet'"):
        Volumetric(1, 2, "vnet")  # pyright: ignore[reportArgumentType]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    task = SimpleNamespace(network=Volumetric(4, 3, width=2), process=RectifiedFlow(), shift=3.0)
    model = str(checkpoints.save_segmenter(tmp_path / "model", task, "card", Balls()))
    image, out = tmp_path / "ct.nii.gz", tmp_path / "found.nii.gz"
    volume.write(image, head())
    command = ["segment", str(image), str(out), "--model", model, "--samples", "2", "--steps", "2"]
    assert cli.main(command) == 0
    assert " ml in " in capsys.readouterr().out
    labels, entropy = volume.read(out), volume.read(tmp_path / "found_uncertainty.nii.gz")
    assert (labels.shape, labels.data.dtype) == (head().shape, torch.uint8)
    assert 0 <= float(entropy.data.min()) <= float(entropy.data.max()) <= 1
    assert (tmp_path / "found.png").stat().st_size > 1000
    before = sorted(tmp_path.iterdir())

    def told(*argv: str) -> str:
        assert cli.main(list(argv)) == 2
        assert sorted(tmp_path.iterdir()) == before
        return capsys.readouterr().err

    assert "exists already" in told(*command)
    again = str(tmp_path / "again.nii.gz")
    assert "written as .nii.gz" in told("segment", str(image), str(tmp_path / "folder"), "--model", model)
    assert "is given twice" in told("segment", str(image), str(image), again, "--model", model)
    assert "give 2 channels" in told("segment", str(image), str(out), again, "--model", model)
    assert "no checkpoint 'none'" in told("segment", str(image), again, "--model", "none")
    assert "does not exist" in told("segment", "none.nii.gz", again, "--model", model)
    assert "nothing to train" in told("train", "bones")


def test_a_picture_shows_the_front_above_and_the_right_on_the_left() -> None:
    image = head()  # its first voxel is the right-most, the front-most and the lowest
    image.data[0, 0, 0, 0] = 1e4
    shown = axial(image)
    assert shown.shape == (30, 40, 20)
    assert float(shown[0, 0, 0]) == 1e4
