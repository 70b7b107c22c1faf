"""k-space in the layout of fastMRI, of the brain and of a single coil, and what is wrong with files of others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from diffkit.core.cli import run
from diffkit.medical import kspace, volume
from diffkit.medical.kspace import KSpace, cropped
from diffkit.medical.mri import ifft

# As fastMRI's brain files have it: twice as much encoded along the readout, x, as is to be reconstructed.
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>16</x><y>12</y><z>1</z></matrixSize>
<fieldOfView_mm><x>32.0</x><y>18.0</y><z>7.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>10</y><z>1</z></matrixSize>
<fieldOfView_mm><x>16.0</x><y>15.0</y><z>5.0</z></fieldOfView_mm></reconSpace>
</encoding></ismrmrdHeader>"""


def data(*shape: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(np.complex64)


def save(path: Path, **arrays: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return path


def test_a_fastmri_file(tmp_path: Path) -> None:
    stored, mask = data(3, 4, 16, 12), np.arange(12) % 4 == 0
    found = kspace.read(save(tmp_path / "a.h5", kspace=stored, mask=mask, ismrmrd_header=HEADER))
    assert torch.equal(found.data, torch.from_numpy(stored))
    assert found.mask is not None
    assert found.mask.tolist() == mask.tolist()
    assert found.crop == (8, 10)
    assert found.affine.diagonal().tolist() == [2.0, 1.5, 5.0, 1.0]
    image = torch.arange(3 * 16 * 12).reshape(3, 16, 12)
    made = found.volume(image)
    assert made.shape == (8, 10, 3)
    assert made.spacing == (2.0, 1.5, 5.0)
    assert made.data[0, 4, 5, 2] == image[2, 8, 6]  # the middle stays the middle
    volume.write(tmp_path / "a.nii.gz", made)
    assert torch.equal(volume.read(tmp_path / "a.nii.gz").affine, made.affine)


def test_a_single_coil_without_mask_and_header(tmp_path: Path) -> None:
    found = kspace.read(save(tmp_path / "a.hdf5", kspace=data(3, 16, 12)))
    assert found.data.shape == (3, 1, 16, 12)
    assert found.mask is None
    assert found.crop is None
    assert found.volume(torch.zeros(3, 16, 12)).shape == (16, 12, 3)


def test_fewer_phases_than_the_image_are_all_kept(tmp_path: Path) -> None:
    found = kspace.read(save(tmp_path / "a.h5", kspace=data(1, 2, 16, 6), ismrmrd_header=HEADER))
    assert found.crop == (8, 6)
    assert found.affine.diagonal().tolist() == [2.0, 3.0, 5.0, 1.0]  # the field of view is the same


def test_numpy(tmp_path: Path) -> None:
    stored = data(2, 3, 8, 6).astype(np.complex128)
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "b.npz", kspace=stored, mask=np.ones((8, 6)), affine=np.diag([1.0, 2, 3, 1]))
    for name in ("a.npy", "b.npz"):
        assert torch.equal(kspace.read(tmp_path / name).data, torch.from_numpy(stored).to(torch.complex64))
    found = kspace.read(tmp_path / "b.npz")
    assert found.mask is not None
    assert found.mask.shape == (8, 6)
    assert found.affine.diagonal().tolist() == [1.0, 2.0, 3.0, 1.0]


@pytest.mark.parametrize("complete", [True, False])
def test_what_is_written_comes_back(complete: bool, tmp_path: Path) -> None:
    values = torch.from_numpy(data(2, 3, 8, 6))
    more: dict[str, Any] = {
        "mask": torch.arange(6) % 2 == 0,
        "crop": (4, 6),
        "affine": torch.rand(4, 4, dtype=torch.float64),
    }
    made = KSpace(values, **(more if complete else {}))
    kspace.write(tmp_path / "a.h5", made)
    found = kspace.read(tmp_path / "a.h5")
    assert torch.equal(found.data, made.data)
    assert torch.equal(found.affine, made.affine)
    assert found.crop == made.crop
    assert (found.mask is None) == (made.mask is None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize("m", [3, 4])
def test_a_crop_keeps_the_origin_of_the_transform(n: int, m: int) -> None:
    image = torch.zeros(1, n, n)
    image[0, n // 2, n // 2] = 1
    assert cropped(image, (m, m)).nonzero().tolist() == [[0, m // 2, m // 2]]


def test_oversampled_readouts_are_narrowed() -> None:
    """The rows that the image keeps are the same, and lines that were not measured stay exactly 0."""
    mask = torch.arange(6) % 2 == 0
    made = KSpace(torch.from_numpy(data(2, 3, 16, 6)) * mask, crop=(8, 6))
    found = made.narrowed()
    assert found.data.shape == (2, 3, 8, 6)
    assert found.mask is not None
    assert found.mask.tolist() == mask.tolist()
    assert not found.data[..., ~mask].any()
    torch.testing.assert_close(ifft(found.data), cropped(ifft(made.data), (8, 6)))
    assert found.volume(torch.zeros(2, 8, 6)).shape == (8, 6, 2)


def test_partial_echoes_are_not_narrowed() -> None:
    mask = (torch.arange(16) > 4)[:, None].expand(16, 6)
    made = KSpace(torch.from_numpy(data(2, 3, 16, 6)) * mask, mask, crop=(8, 6))
    assert made.narrowed() is made


def _cut(folder: Path) -> Path:
    path = save(folder / "a.h5", kspace=data(3, 4, 16, 12))
    path.write_bytes(path.read_bytes()[:4000])
    return path


def _named(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _array(array: np.ndarray) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.save(folder / "a.npy", array)
        return folder / "a.npy"

    return make


def _file(**arrays: object) -> Callable[[Path], Path]:
    return lambda folder: save(folder / "a.h5", **arrays)


def _with_nan() -> np.ndarray:
    values = data(2, 3, 8, 6)
    values[0, 0, 0, 0] = np.nan
    return values


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "a.h5", "does not exist"),
        (_cut, r"a\.h5 is truncated"),
        (_named("a.h5", b"a letter"), "no HDF5 file"),
        (_named("a.mat", b"else"), r"a\.mat is no k-space: give fastMRI's HDF5"),
        (_file(reconstruction_rss=np.ones(3)), "no `kspace`; it holds reconstruction_rss"),
        (_file(), "no `kspace`; it holds nothing"),
        (_file(kspace=np.ones((3, 4, 8, 6), np.float32)), "complex .* and this is torch.float32"),
        (_file(kspace=data(8, 6)), r"this is torch\.complex64 \[8, 6\]"),
        (
            _file(kspace=data(2, 3, 8, 6), mask=np.ones(5)),
            r"a mask of \[5\] does not fit k-space of \[8, 6\]",
        ),
        (_file(kspace=data(2, 3, 8, 6), ismrmrd_header="<a/>"), "header of ISMRMRD does not say"),
        (_file(kspace=data(2, 3, 8, 6), ismrmrd_header="<a"), "header of ISMRMRD does not say"),
        (_array(_with_nan()), "1 values that are not finite"),
        (_array(np.zeros((1, 1, 4, 4), np.complex64)), "nothing in it"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    make: Callable[[Path], Path], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    with pytest.raises(ValueError, match=says):
        kspace.read(path)

    def look(path: Path) -> None:
        """Look."""
        kspace.read(path)

    assert run({"look": look}, prog="test", version="1", about="", argv=["look", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_crop_larger_than_what_was_encoded_is_said() -> None:
    with pytest.raises(ValueError, match=r"an image of \[9, 6\] cannot be cut"):
        KSpace(torch.from_numpy(data(2, 3, 8, 6)), crop=(9, 6))
