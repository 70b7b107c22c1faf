"""Files of sinograms, what can be wrong with them, and reconstruction of CT by an exact prior."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffkit.core.process import Cosine
from diffkit.core.types import expand_as, float64
from diffkit.medical import checkpoints, cli, sinogram
from diffkit.medical.ct import Projector
from diffkit.medical.dose import WATER, scan_noise
from diffkit.medical.kspace import KSpace
from diffkit.medical.model import UNet
from diffkit.medical.prior import PriorTask
from diffkit.medical.reconstruct import Reconstructor
from diffkit.medical.scan import Fan, Parallel
from diffkit.medical.sinogram import Sinogram
from diffkit.medical.slices import of_sinogram, root_ramp

SIZE, PROCESS = (10, 8), Cosine()
ANGLES = np.arange(9) * (math.pi / 9)


def arrays(**change: Any) -> dict[str, Any]:
    """Of a file; None takes an array out."""
    found = {"sinogram": np.ones((2, 9, 16), np.float32), "angles": ANGLES, "spacing": 1.5, **change}
    return {name: value for name, value in found.items() if value is not None}


class TestFile:
    def test_what_is_not_said_is_guessed(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **arrays())
        found = sinogram.read(tmp_path / "a.npz")
        assert found.data.shape == (2, 1, 9, 16)
        assert isinstance(found.scan, Parallel)
        assert found.shape == (24, 24)  # the disc of 16 bins of 1.5 mm, at 1 mm
        assert found.deviation() is None

    def test_degrees_of_one_slice_in_hdf5(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, value in arrays(
                sinogram=np.ones((9, 16)),
                angles=None,
                angles_degrees=np.degrees(ANGLES),
                size=SIZE,
                pixel=2.0,
            ).items():
                file[name] = value
        found = sinogram.read(tmp_path / "a.h5")
        assert found.data.shape == (1, 1, 9, 16)
        torch.testing.assert_close(found.scan.angles, torch.as_tensor(ANGLES))
        assert found.shape == SIZE
        assert found.pixel == 2

    def test_round_trip(self, tmp_path: Path) -> None:
        scan = Fan(torch.as_tensor(2 * ANGLES), 16, 2.0, source=300.0, detector=200.0)
        affine = torch.diag(torch.tensor([1.2, 1.2, 3.0, 1.0], dtype=torch.float64))
        before = Sinogram(torch.rand(2, 1, 9, 16), scan, SIZE, 1.2, 1e5, 5.0, affine)
        sinogram.write(tmp_path / "a.npz", before)
        after = sinogram.read(tmp_path / "a.npz")
        torch.testing.assert_close(after.data, before.data)
        torch.testing.assert_close(after.affine, affine)
        assert isinstance(after.scan, Fan)
        assert (after.scan.source, after.scan.detector, after.scan.spacing) == (300, 200, 2)
        assert (after.shape, after.pixel, after.photons, after.electronic) == (SIZE, 1.2, 1e5, 5)
        assert after.volume(torch.zeros(2, *SIZE)).spacing == pytest.approx((1.2, 1.2, 3.0))

    def test_deviation_is_that_of_the_detector(self) -> None:
        clean = torch.full((500, 1, 9, 16), 3.0)
        noisy, _ = scan_noise(clean, photons=1e5, seeds=range(500))
        found = Sinogram(clean, Parallel(torch.as_tensor(ANGLES), 16, 1.0), SIZE, photons=1e5).deviation()
        assert found is not None
        assert float(found.mean()) == pytest.approx(float(noisy.std()), rel=0.02)  # 72,000 draws

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sinogram": None}, "no `sinogram`"),
            ({"spacing": None}, "no `spacing`"),
            ({"angles": None}, "one of them"),
            ({"angles_degrees": ANGLES}, "one of them"),
            ({"angles": ANGLES[:7]}, "9 views of 16 bins and the scan 7 angles"),
            ({"angles": np.degrees(ANGLES)}, "name them `angles_degrees`"),
            ({"angles": ANGLES * math.nan}, "must be finite"),
            ({"sinogram": np.full((9, 16), np.inf)}, "144 values that are not finite"),
            ({"sinogram": np.ones((9, 16), complex)}, "a sinogram is real"),
            ({"source": 300.0}, "both `source` and `detector`"),
            ({"spacing": [1.0, 2.0]}, "`spacing` must be one finite number"),
            ({"photons": -1.0}, "photons must be above 0"),
            ({"affine": np.eye(3)}, "4 x 4"),
        ],
    )
    def test_bad_arrays(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **arrays(**change))
        with pytest.raises(ValueError, match=message) as caught:
            sinogram.read(tmp_path / "a.npz")
        assert "a.npz" in str(caught.value)


MEAN = 4.0


def normal(x: Tensor, t: Tensor) -> Tensor:
    """The denoiser of independent pixels N(MEAN, 1), none of which is air."""
    a, s = (expand_as(c(float64(t)), x) for c in (PROCESS.a, PROCESS.s))
    return MEAN + a / (a**2 + s**2) * (x - a * MEAN)


@pytest.fixture(scope="module")
def reconstructor() -> Reconstructor:
    prior: Any = SimpleNamespace(
        kind="ct",
        folder="here",
        process=PROCESS,
        denoise=normal,
        network=nn.Linear(1, 1),
    )
    return Reconstructor(prior)


@pytest.fixture(scope="module")
def measured() -> Sinogram:
    """Two images of the prior's law by 9 views, with the noise of photons."""
    scan = Parallel(torch.as_tensor(ANGLES), 16, 1.5)
    x = MEAN + torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    y, _ = scan_noise(Projector(scan, SIZE).A(WATER * (1 + x)), photons=3e4, seeds=[0, 1])
    return Sinogram(y, scan, SIZE, photons=3e4)


@pytest.mark.parametrize("scalar", [True, False], ids=["a scalar", "photons"])
def test_the_posterior_of_normal_pixels(
    scalar: bool, reconstructor: Reconstructor, measured: Sinogram
) -> None:
    """Mean and deviation are those of the normal equations, in HU, where PiGDM is exact.

    200 samples leave 0.07 deviations of error in the mean; 20 steps a little more, and spreads 12 % low.
    """
    matrix = torch.stack(
        [measured.projector.A(x[None, None]).flatten() for x in torch.eye(80).unflatten(1, SIZE)], 1
    )
    noise = 0.005
    deviation = torch.full((2, 144), noise)
    if not scalar:
        own = measured.deviation()
        assert own is not None
        deviation = own.flatten(1).clamp(min=float(own.median()))
    found = reconstructor(
        measured, method="pigdm", steps=20, samples=200, noise=noise if scalar else None, batch_size=200
    )
    assert found.doubt is not None
    for k in range(2):
        rows = (WATER * matrix / deviation[k, :, None]).double()
        rest = (measured.data[k].flatten() - WATER * (1 + MEAN) * matrix.sum(1)) / deviation[k]
        covariance = torch.linalg.inv(rows.mT @ rows + torch.eye(80))
        mean, spread = MEAN + covariance @ rows.mT @ rest.double(), covariance.diagonal().sqrt()
        error = (found.image[k].flatten() / 1000 - mean) / spread
        assert float(error.square().mean().sqrt()) < 0.12
        assert float((found.doubt[k].flatten() / 1000 / spread).mean()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("method", ["plug", "dds", "diffpir", "dps", "flowchef"])
def test_samples_explain_the_data(method: str, reconstructor: Reconstructor, measured: Sinogram) -> None:
    """Better than the prior alone, whose misfit is 1."""
    found = reconstructor(measured, method=method, noise=0.005).image[:, None] / 1000
    rest = measured.data / WATER - measured.projector.A(1 + found)
    alone = measured.data / WATER - measured.projector.A(torch.ones_like(found))
    assert float(rest.norm() / alone.norm()) < 0.5


@pytest.mark.parametrize("bins", [16, 17])
def test_the_root_of_the_ramp(bins: int) -> None:
    """It is its own adjoint, and two of it make projecting there and back nearly a projection: all values 0 or 1."""
    x, y = torch.randn(2, 3, bins, dtype=torch.float64)
    torch.testing.assert_close((root_ramp(x) * y).sum(), (x * root_ramp(y)).sum())
    noise = torch.randn(4000, bins, generator=torch.Generator().manual_seed(0))
    assert float(root_ramp(noise).std()) == pytest.approx(0.5**0.5, rel=0.02)


def test_eased_rows_see_all_frequencies_alike() -> None:
    """So that conjugate gradients are fast: rows as they are weigh a wave by its length."""
    scan = Parallel(torch.arange(80) * (math.pi / 80), 70, 1.0)
    slices = of_sinogram(Sinogram(torch.zeros(1, 1, 80, 70), scan, (48, 48)), noise=None)
    place = torch.arange(48) - 23.5
    inside = torch.exp(-(place.square() + place[:, None].square()) / 200)
    waves = torch.stack([inside * (2 * math.pi * place / length).cos() for length in (16, 4)])[:, None]
    ratios: list[float] = []
    for select in (slices.rows, slices.eased):
        seen = select(torch.tensor([0])).operator.A(waves).flatten(1).norm(dim=1) / waves.flatten(1).norm(
            dim=1
        )
        ratios.append(float((seen[0] / seen[1]).square()))
    assert ratios[0] > 3  # 4 without the envelope
    assert ratios[1] < 1.5


def test_coupled_stacks_and_progress(reconstructor: Reconstructor, measured: Sinogram) -> None:
    """Samples of slices of the same data differ less by total variation between them; every slice is counted once."""
    same = Sinogram(measured.data[:1].expand(3, -1, -1, -1), measured.scan, SIZE)
    gaps: list[float] = []
    for tv in (0.0, 0.01):
        done: list[float] = []
        found = reconstructor(same, tv=tv, samples=2, steps=8, batch_size=2, advance=done.append)
        assert sum(done) == pytest.approx(6)
        gaps.append(float(found.image.diff(dim=0).abs().mean()))
    assert gaps[1] < 0.5 * gaps[0]


def test_a_prior_of_another_kind(reconstructor: Reconstructor, measured: Sinogram) -> None:
    with pytest.raises(ValueError, match="k-space needs one of mr"):
        reconstructor(KSpace(torch.ones(1, 1, 8, 8, dtype=torch.complex64)))
    with pytest.raises(ValueError, match="a sinogram has none"):
        reconstructor(measured, maps=torch.ones(1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = PriorTask(UNet(1, (16, 16), block=2, attention=False), PROCESS)
    return checkpoints.save(tmp_path_factory.mktemp("models") / "prior", task, "ct", "# untrained\n", {})


class TestCommand:
    def run(self, folder: Path, checkpoint: Path, *more: str) -> int:
        source, out = str(folder / "scan.npz"), str(folder / "out.nii.gz")
        return cli.main(["reconstruct", source, out, "--model", str(checkpoint), "--steps", "2", *more])

    def test_a_sinogram_is_known_by_its_name(
        self, checkpoint: Path, measured: Sinogram, tmp_path: Path
    ) -> None:
        sinogram.write(tmp_path / "scan.npz", measured)
        assert self.run(tmp_path, checkpoint, "--tv", "0.1") == 0
        image: Any = nibabel.load(tmp_path / "out.nii.gz")
        assert image.shape == (*SIZE, 2)
        assert image.get_fdata().min() >= -1000
        assert (tmp_path / "out.png").exists()

    @pytest.mark.parametrize(
        ("make", "more", "message"),
        [
            (lambda data: data[: len(data) // 2], (), "damaged"),
            (lambda data: data, ("--mask", "scan.npz"), "has no mask"),
        ],
        ids=["truncated", "mask"],
    )
    def test_one_sentence(
        self,
        make: Callable[[bytes], bytes],
        more: tuple[str, ...],
        message: str,
        checkpoint: Path,
        measured: Sinogram,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        sinogram.write(tmp_path / "scan.npz", measured)
        (tmp_path / "scan.npz").write_bytes(make((tmp_path / "scan.npz").read_bytes()))
        assert self.run(tmp_path, checkpoint, *more) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert message in said
        assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]
