"""A first image from what a scan saw: in training the same least squares as in use."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffkit.core.checkpoint import CheckpointError
from diffkit.core.process import Cosine
from diffkit.medical import cli, predictor, sinogram, volume
from diffkit.medical.ct import Projector
from diffkit.medical.dose import to_attenuation
from diffkit.medical.model import UNet
from diffkit.medical.planes import Head
from diffkit.medical.predictor import Predictor, ScannedPlanes
from diffkit.medical.reconstruct import Reconstructor
from diffkit.medical.scan import Parallel
from diffkit.medical.sinogram import Sinogram
from diffkit.medical.slices import of_sinogram
from diffkit.medical.volume import Volume


def ball() -> Head:
    """Of water, 25 mm, in air, with a harder core."""
    axis = torch.arange(64.0) - 31.5
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    return Head((radius < 25).float() - 1 + 0.8 * (radius < 6), (1.0, 1.0, 1.0))


def planes(scans: int = 4, seed: int = 0) -> ScannedPlanes:
    return ScannedPlanes([ball()], scans=scans, seed=seed, size=64, tilt=0.0, shift=0.0)


def sinogram_of(plane: Tensor, made: ScannedPlanes, k: int) -> Sinogram:
    projector = made.projectors[k]
    return Sinogram(projector.A(to_attenuation(1000 * plane)), projector.scan, (64, 64))


def test_a_plane_and_its_scan_are_functions_of_their_number() -> None:
    one, two = planes(seed=3), planes(seed=3)
    for a, b in zip(one[5], two[5], strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert not torch.allclose(one[5][1], one[6][1])


def test_scans_miss_directions() -> None:
    scans = [projector.scan.angles for projector in planes(scans=9).projectors]
    assert all(60 * 0.9 < float(torch.rad2deg(angles.max() - angles.min())) < 150 for angles in scans)
    assert len({float(angles[0]) for angles in scans}) == 9


def test_what_is_shown_in_training_is_what_is_shown_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "scan_noise", lambda integrals, **_: (integrals, None))
    made = planes()
    plane, shown = made[0]
    found = []
    for k in range(len(made.projectors)):
        slices = of_sinogram(sinogram_of(plane[None], made, k), noise=0.0)
        found.append(slices.guess(slices.eased(torch.tensor([0])))[0])
    nearest = min(found, key=lambda image: float((image - shown).norm()))
    torch.testing.assert_close(nearest, shown, atol=1e-4, rtol=1e-4)


def test_what_knows_nothing_gives_the_image_back() -> None:
    """The last layer of a network begins at 0; also of sides that the network does not take."""
    image = torch.randn(2, 1, 30, 33)
    network = UNet(1, (8, 8), 2, 1, False)
    torch.testing.assert_close(Predictor(network)(image), image)
    torch.nn.init.normal_(next(reversed(list(network.parameters()))), std=0.2)
    assert float((Predictor(network)(image).detach() - image).abs().max()) > 1e-3


def test_a_run_begins_at_what_was_predicted() -> None:
    """Of each slice its own, by the first of the calls."""
    made = planes()
    both = torch.stack([made[k][0] for k in (0, 3)])
    measured = sinogram_of(both, made, 1)
    told: list[Tensor] = []
    states: list[Tensor] = []
    done: list[float] = []

    def first(image: Tensor) -> Tensor:
        told.append(image)
        return image + 1

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        states.append(x)
        return x

    prior: Any = SimpleNamespace(kind="ct", near_real=False, folder="here", process=Cosine(), denoise=denoise)
    prior.network = nn.Linear(1, 1)
    reconstructor = Reconstructor(prior, Predictor(nn.Identity()))
    reconstructor.predictor = first  # pyright: ignore[reportAttributeAccessIssue]
    found = reconstructor(measured, steps=3, method="dds", start=1e-3, batch_size=1, advance=done.append)
    slices = of_sinogram(measured, noise=None)
    for k, shown in enumerate(told):
        expected = slices.guess(slices.eased(torch.tensor([k])))
        torch.testing.assert_close(shown, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states[2 * k], expected + 1, atol=0.05, rtol=0.0)
    assert (len(told), len(states)) == (2, 4)
    assert sum(done) == pytest.approx(2)
    assert found.image.shape == (2, 64, 64)
    with pytest.raises(ValueError, match="give at least 2"):
        reconstructor(measured, steps=1)
    half = Parallel(torch.arange(30) * torch.pi / 30, 99, 1.0)
    whole = Sinogram(Projector(half, (64, 64)).A(to_attenuation(1000 * both)), half, (64, 64))
    reconstructor(whole, steps=1)
    assert len(told) == 2  # nothing is missing from one side
    reconstructor(measured, steps=1, method="dds")
    assert len(told) == 2  # a law is sampled from its beginning
    prior.kind = "mr"
    with pytest.raises(ValueError, match="predictor is one of CT"):
        Reconstructor(prior, Predictor(nn.Identity()))


def test_train_and_reconstruct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = ball()
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        image = Volume(1000 * head.values[None], torch.eye(4).double())
        volume.write(tmp_path / name / "ct.nii.gz", image)
    config = Path(__file__).parents[1] / "configs/predictor-ct.yaml"
    run = tmp_path / "run"
    options = {
        "data.folder": tmp_path,
        "data.train": '["train/*.nii.gz"]',
        "data.valid": '["valid/*.nii.gz"]',
        "data.size": 32,
        "data.scans": 2,
        "data.items": 8,
        "model.network.widths": "[8, 8]",
        "model.network.attention": "false",
        "trainer.max_time": "null",
        "trainer.max_steps": 2,
        "trainer.accelerator": "cpu",
        "trainer.logger": False,
        "trainer.callbacks": "[]",
        "trainer.enable_checkpointing": False,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.default_root_dir": run,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    assert cli.main(["train", "predictor", "--config", str(config), *words]) == 0
    with pytest.raises(CheckpointError, match="predictor"):
        Reconstructor.from_pretrained(run / "checkpoint")
    made = planes()
    sinogram.write(tmp_path / "scan.npz", sinogram_of(made[0][0][None], made, 1))
    out = tmp_path / "out.nii.gz"
    command = ["reconstruct", str(tmp_path / "scan.npz"), str(out), "--predictor", str(run / "checkpoint")]
    assert cli.main([*command, "--steps", "2", "--device", "cpu"]) == 0
    assert volume.read(out).shape == (64, 64, 1)
