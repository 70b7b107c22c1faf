"""Readouts as ISMRMRD's own library writes them, sorted into k-space."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
import torch

from diffkit.medical import mrd
from diffkit.medical.classical import cg_sense
from diffkit.medical.kspace import KSpace
from diffkit.medical.mri import fft
from diffkit.medical.reconstruct import read
from diffkit.medical.slices import of_kspace

HEIGHT, WIDTH, COILS = 16, 12, 3
TURN = torch.linalg.matrix_exp(torch.tensor([[0, -0.3, 0.2], [0.3, 0, -0.1], [-0.2, 0.1, 0]]))
"""Columns: where readout, phase and slice run, in the patient's coordinates of DICOM."""


def header(depth: int = 1, recon: int = 1, trajectory: str = "cartesian", mode: str = "embedded") -> str:
    """2 x 1.5 mm, the readout with twice as many samples as the image, phases counted from 0 with 5 at the centre."""
    return f"""<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{HEIGHT}</x><y>{WIDTH}</y><z>{depth}</z></matrixSize>
<fieldOfView_mm><x>32</x><y>18</y><z>{3 * depth}</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{HEIGHT // 2}</x><y>{WIDTH}</y><z>{recon}</z></matrixSize>
<fieldOfView_mm><x>16</x><y>18</y><z>{3 * recon}</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>10</maximum><center>5</center>
</kspace_encoding_step_1></encodingLimits>
<trajectory>{trajectory}</trajectory>
<parallelImaging><calibrationMode>{mode}</calibrationMode></parallelImaging></encoding></ismrmrdHeader>"""


def noise(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


class Scanner:
    """A file that is being written; a step of 5 is the centre of the phases."""

    def __init__(self, path: Path, xml: str | None = None) -> None:
        self.path = path
        self.file = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
        self.file.write_xml_header((xml or header()).encode())

    def readout(
        self,
        line: np.ndarray,
        step: int = 0,
        flags: tuple[int, ...] = (),
        centre: int = HEIGHT // 2,
        position: Any = (0, 0, 0),
        **idx: int,
    ) -> None:
        one: Any = ismrmrd.Acquisition()
        one.resize(line.shape[1], len(line))
        one.center_sample = centre
        one.idx.kspace_encode_step_1 = step
        for name, value in idx.items():
            setattr(one.idx, name, value)
        for flag in flags:
            one.set_flag(flag)
        one.position[:] = position
        for name, axis in zip(("read_dir", "phase_dir", "slice_dir"), TURN.T, strict=True):
            getattr(one, name)[:] = axis.tolist()
        one.data[:] = line
        self.file.append_acquisition(one)

    def done(self) -> Path:
        self.file.close()
        return self.path


def scan(path: Path, data: np.ndarray, steps: range = range(11), **options: Any) -> Path:
    """All lines of ``data`` ``[slices, coils, 16, 12]``."""
    made = Scanner(path, options.pop("xml", None))
    for k, one in enumerate(data):
        for step in steps:
            made.readout(
                one[:, :, step + 1], step, slice=k, position=(TURN[:, 2] * 4 * k).tolist(), **options
            )
    return made.done()


def test_lines_go_where_they_belong(tmp_path: Path) -> None:
    data = noise(3, COILS, HEIGHT, WIDTH)
    found = read(scan(tmp_path / "a.mrd", data, range(0, 11, 2)))
    assert isinstance(found, KSpace)
    assert found.mask is not None
    assert found.mask.tolist() == [k % 2 == 1 for k in range(WIDTH)]
    np.testing.assert_array_equal(found.data, data * found.mask.numpy())
    assert found.crop == (HEIGHT // 2, WIDTH)
    assert found.noise is None


def test_voxels_stand_where_the_scanner_says(tmp_path: Path) -> None:
    """Slices that were numbered from the top, an oblique table, and DICOM's axes to RAS."""
    made = Scanner(tmp_path / "a.h5")
    at = [torch.tensor([10.0, -20.0, 30.0]) + 4.0 * k * TURN[:, 2] for k in (2, 0, 1)]
    for k, position in enumerate(at):
        for step in range(11):
            made.readout(
                np.full((COILS, HEIGHT), k + 1, np.complex64), step, slice=k, position=position.tolist()
            )
    found = read(made.done())
    assert isinstance(found, KSpace)
    assert found.data[:, 0, 0, 5].real.tolist() == [2, 3, 1]
    image = found.volume(torch.zeros(3, HEIGHT, WIDTH))
    assert image.shape == (8, 12, 3)
    assert image.spacing == pytest.approx((2, 1.5, 4), rel=1e-5)
    to_ras = torch.tensor([-1.0, -1.0, 1.0])
    middle = image.affine @ torch.tensor([4.0, 6, 1, 1], dtype=torch.float64)
    assert middle[:3].tolist() == pytest.approx((at[2] * to_ras).tolist(), abs=1e-4)
    along = image.affine[:3, 0] / 2
    assert along.tolist() == pytest.approx((TURN[:, 0] * to_ras).tolist(), abs=1e-5)


def test_averages_backward_lines_and_what_is_no_image(tmp_path: Path) -> None:
    line = noise(COILS, HEIGHT)
    made = Scanner(tmp_path / "a.h5")
    made.readout(noise(COILS, 4), flags=(ismrmrd.ACQ_IS_NAVIGATION_DATA,), centre=2)
    made.readout(noise(COILS, HEIGHT), flags=(ismrmrd.ACQ_IS_PHASECORR_DATA,))
    made.readout(line, 4)
    made.readout(3 * line, 4, average=1)
    made.readout(line[:, ::-1], 5, flags=(ismrmrd.ACQ_IS_REVERSE,))
    made.readout(line, 6, flags=(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,))
    data = mrd.read(made.done()).data
    assert data.any(0).any(0).any(0).nonzero()[:, 0].tolist() == [5, 6, 7]
    for column, factor in ((5, 2), (6, 1), (7, 1)):
        np.testing.assert_allclose(data[0, :, :, column], factor * line, rtol=1e-6)


@pytest.mark.parametrize(("mode", "lines"), [("separate", [6]), ("embedded", [5, 6, 7])])
def test_calibration_that_was_measured_apart_is_left_out(tmp_path: Path, mode: str, lines: list[int]) -> None:
    made = Scanner(tmp_path / "a.h5", header(mode=mode))
    for step, flag in ((4, 20), (5, 21), (6, 20)):
        made.readout(noise(COILS, HEIGHT), step, flags=(flag,))
    mask = mrd.read(made.done()).mask
    assert mask is not None
    assert mask.nonzero()[:, 0].tolist() == lines


def test_a_partial_echo(tmp_path: Path) -> None:
    """Ten samples with the echo at the second: from the line before the centre to the end."""
    found = mrd.read(scan(tmp_path / "a.h5", noise(1, COILS, 10, WIDTH), centre=2))
    assert found.mask is not None
    assert found.mask.shape == (HEIGHT, WIDTH)
    assert found.mask.any(1).nonzero()[:, 0].tolist() == list(range(6, 16))
    np.testing.assert_array_equal(found.data[0, :, 6:, 1:], noise(1, COILS, 10, WIDTH)[0, :, :, 1:])


def test_a_second_phase_is_transformed_to_slices(tmp_path: Path) -> None:
    slices = torch.from_numpy(noise(6, COILS, HEIGHT, WIDTH))
    slices[..., 0] = 0
    shifted = torch.fft.ifftshift(slices, 0)
    lines = torch.fft.fftshift(torch.fft.fft(shifted, dim=0, norm="ortho"), 0).numpy()
    made = Scanner(tmp_path / "a.h5", header(depth=6, recon=4))
    for second in range(6):
        for step in range(11):
            made.readout(lines[second][:, :, step + 1], step, kspace_encode_step_2=second)
    found = mrd.read(made.done())
    torch.testing.assert_close(found.data, slices[1:5], atol=1e-5, rtol=1e-5)
    image = found.volume(torch.zeros(4, HEIGHT, WIDTH))
    assert image.spacing[2] == pytest.approx(3)
    middle = image.affine @ torch.tensor([4.0, 6, 2, 1], dtype=torch.float64)
    assert middle[:3].norm() < 1e-5


def test_coils_are_whitened_by_the_noise_scan(tmp_path: Path) -> None:
    """One coil is ten times as noisy: whitened, it counts for less, and the image is nearer to the truth.

    It is as bright, and a level of noise that is given means the same.
    """
    y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
    truth = ((x**2 + y**2) < 0.5).to(torch.complex64)
    maps = torch.stack([1 + 0.3 * x, 1 - 0.3 * y, 1 + 0.2 * x * y]).to(torch.complex64)
    mixing = torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [2, 3, 10]]).to(torch.complex64) * 0.05
    noisy = (mixing @ torch.from_numpy(noise(COILS, HEIGHT * WIDTH))).unflatten(1, (HEIGHT, WIDTH))
    made = Scanner(tmp_path / "a.h5")
    for part in np.split((mixing @ torch.from_numpy(noise(COILS, 4000))).numpy(), 20, 1):
        made.readout(part, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), centre=0)
    for step in range(11):
        made.readout((fft(maps * truth) + noisy)[:, :, step + 1].numpy(), step)
    found = mrd.read(made.done())
    assert found.noise is not None
    torch.testing.assert_close(found.noise, 2 * mixing @ mixing.mH, atol=0.06, rtol=0.1)

    errors, levels = [], []
    for covariance in (found.noise, 7 * found.noise, None):
        at = of_kspace(replace(found, noise=covariance), maps, near_real=False, noise=0.5)
        system, index = at.rows(torch.tensor([0])), torch.tensor([0])
        image = at.image(cg_sense(system.operator, system.y, iterations=20), index)
        errors.append(float((image[0, 0] - truth).abs().square().mean()))
        levels.append(system.noise / float(system.y.abs().square().mean().sqrt()))
    assert errors[0] < 0.5 * errors[2]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)  # its unit does not matter
    assert levels[1] == pytest.approx(levels[0], rel=1e-3)


def _readout(**options: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        made = Scanner(path, options.get("xml"))
        for more in options["lines"]:
            made.readout(
                more.get("line", noise(COILS, HEIGHT)), **{k: v for k, v in more.items() if k != "line"}
            )
        return made.done()

    return make


def _cut(path: Path) -> Path:
    scan(path, noise(1, COILS, HEIGHT, WIDTH))
    path.write_bytes(path.read_bytes()[:4000])
    return path.rename(path.with_suffix(".mrd"))


def _two_scans(path: Path) -> Path:
    scan(path, noise(1, COILS, HEIGHT, WIDTH))
    other = ismrmrd.Dataset(str(path), "other", create_if_needed=True)
    other.write_xml_header(header().encode())
    other.append_acquisition(ismrmrd.Acquisition())
    other.close()
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_readout(lines=[{}], xml=header(trajectory="spiral")), "its trajectory is spiral, and Cartesian"),
        (_readout(lines=[{}], xml="<a/>"), "header of ISMRMRD does not say"),
        (_readout(lines=[{"flags": (19,)}]), "no readouts of an image"),
        (_readout(lines=[{}, {"repetition": 1}]), "2 repetitions, and an image has one"),
        (_readout(lines=[{}, {"line": noise(2, HEIGHT)}]), "from 2 to 3 coils"),
        (_readout(lines=[{"step": 12}]), "steps of phase run from 13 to 13 in a matrix of 12"),
        (_readout(lines=[{"line": noise(COILS, 20)}]), "20 samples reaches beyond the matrix of 16"),
        (_readout(lines=[{}, {"slice": 1, "step": 3}]), "differ in the lines that were measured"),
        (_readout(lines=[{}, {"slice": 1}], xml=header(depth=2)), "differ in the lines"),
        (_readout(lines=[{"line": noise(COILS, HEIGHT) * np.nan}]), "48 values that are not finite"),
        (_cut, r"a\.mrd is truncated"),
        (lambda path: path.with_suffix(".mrd"), "does not exist"),
        (_two_scans, "2 scans in ISMRMRD's format, and one is read"),
    ],
)
def test_what_cannot_be_read_is_said(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        read(make(tmp_path / "a.h5"))
