"""A prior that is shown what a scan saw: in training the same image as in use."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffkit.core.process import Cosine
from diffkit.medical import checkpoints, cli, informed, sinogram, volume
from diffkit.medical.dose import to_attenuation
from diffkit.medical.informed import ScannedPlanes
from diffkit.medical.model import UNet
from diffkit.medical.planes import Head
from diffkit.medical.prior import denoiser
from diffkit.medical.reconstruct import Reconstructor
from diffkit.medical.sinogram import Sinogram
from diffkit.medical.slices import of_sinogram
from diffkit.medical.volume import Volume


def ball() -> Head:
    """Of water, 25 mm, in air, with a harder core."""
    axis = torch.arange(64.0) - 31.5
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    return Head((radius < 25).float() - 1 + 0.8 * (radius < 6), (1.0, 1.0, 1.0))


def planes(**options: Any) -> ScannedPlanes:
    return ScannedPlanes([ball()], **{"size": 64, "scans": 4, "tilt": 0.0, "shift": 0.0, **options})


def sinogram_of(plane: Tensor, made: ScannedPlanes, k: int) -> Sinogram:
    projector = made.projectors[k]
    return Sinogram(projector.A(to_attenuation(1000 * plane)), projector.scan, (64, 64))


def test_a_plane_and_its_scan_are_functions_of_their_number() -> None:
    one, two = planes(seed=3), planes(seed=3)
    for a, b in zip(one[5], two[5], strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert not torch.allclose(one[5][1], one[6][1])


def test_half_of_the_scans_miss_directions() -> None:
    arcs = [float(p.scan.angles.max() - p.scan.angles.min()) for p in planes(scans=8).projectors]
    assert all(arc < 0.84 * torch.pi for arc in arcs[1::2])  # 150 degrees
    assert all(arc > 0.9 * torch.pi for arc in arcs[::2])


def test_what_is_shown_in_training_is_what_is_shown_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informed, "scan_noise", lambda integrals, **_: (integrals, None))
    made = planes()
    plane, shown = made[0]
    found = []
    for k in range(len(made.projectors)):
        slices = of_sinogram(sinogram_of(plane[None], made, k), noise=0.0)
        found.append(slices.guess(slices.eased(torch.tensor([0])))[0])
    nearest = min(found, key=lambda image: float((image - shown).norm()))
    torch.testing.assert_close(nearest, shown, atol=1e-4, rtol=1e-4)


def test_the_network_is_shown_the_image() -> None:
    """Also of a size that it must continue, and the image with it."""
    network = UNet(1, (8, 8), 2, 1, False, informed=1)
    for p in network.parameters():  # the last layer begins at 0
        nn.init.normal_(p, std=0.2)
    denoise = denoiser(network, Cosine(), 0.5, complex=False)
    x, t = torch.randn(2, 1, 30, 33), torch.tensor(0.5)
    one, two = (denoise(x, t, image).detach() for image in torch.randn(2, 2, 1, 30, 33))
    assert one.shape == x.shape
    assert float((one - two).abs().max()) > 1e-3


def test_a_reconstruction_shows_each_slice_its_own_image() -> None:
    made = planes()
    both = torch.stack([made[k][0] for k in (0, 3)])
    measured = sinogram_of(both, made, 1)
    told: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor, shown: Tensor) -> Tensor:
        told.append(shown)
        return shown

    prior: Any = SimpleNamespace(
        kind="ct", near_real=False, informed=True, folder="here", process=Cosine(), denoise=denoise
    )
    prior.network = nn.Linear(1, 1)
    found = Reconstructor(prior)(measured, steps=2, method="dds", batch_size=1)
    slices = of_sinogram(measured, noise=None)
    for k, shown in enumerate(told[:4:2]):
        expected = slices.guess(slices.eased(torch.tensor([k])))
        torch.testing.assert_close(shown, expected, atol=1e-4, rtol=1e-4)
    assert found.image.shape == (2, 64, 64)


def test_train_and_reconstruct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = ball()
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        image = Volume(1000 * head.values[None], torch.eye(4).double())
        volume.write(tmp_path / name / "ct.nii.gz", image)
    config = Path(__file__).parents[1] / "configs/informed-ct.yaml"
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
    assert cli.main(["train", "informed", "--config", str(config), *words]) == 0
    assert checkpoints.load(run / "checkpoint").informed
    made = planes()
    sinogram.write(tmp_path / "scan.npz", sinogram_of(made[0][0][None], made, 1))
    out = tmp_path / "out.nii.gz"
    command = ["reconstruct", str(tmp_path / "scan.npz"), str(out), "--model", str(run / "checkpoint")]
    assert cli.main([*command, "--steps", "2", "--device", "cpu"]) == 0
    assert volume.read(out).shape == (64, 64, 1)
