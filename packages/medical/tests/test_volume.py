"""Images keep their voxels and their place through every format, and what cannot be read is said in a sentence."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from pydicom.pixels.processing import apply_rescale

from diffkit.core.cli import run
from diffkit.medical.volume import Volume, check_grids, read, stack, write


def oblique(*spacing: float, shear: float = 0.0) -> torch.Tensor:
    """An affine turned about two axes; ``shear`` tilts the third column, as a gantry does."""
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 2] += shear * affine[:3, 1]
    affine[:3, 3] = [-70.25, 31.5, 12.125]
    return torch.from_numpy(affine)


def image(channels: int = 1, dtype: torch.dtype = torch.int16, **options: float) -> Volume:
    values = torch.randint(-900, 1500, (channels, 5, 7, 6), generator=torch.Generator().manual_seed(0))
    return Volume(values.to(dtype), oblique(0.8, 1.1, 2.5, **options))


def place(volume: Volume) -> torch.Tensor:
    """Where the brightest voxel stands, in mm."""
    index = torch.stack(torch.unravel_index(volume.data[0].argmax(), volume.shape)).double()
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3]


class TestNifti:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize(
        "dtype", [torch.uint8, torch.int16, torch.int32, torch.float32, torch.complex64], ids=str
    )
    def test_voxels_and_affine_come_back(
        self, dtype: torch.dtype, channels: int, suffix: str, tmp_path: Path
    ) -> None:
        volume, path = image(channels, dtype), tmp_path / f"a{suffix}"
        write(path, volume)
        once = read(path)
        assert once.data.dtype == dtype
        assert torch.equal(once.data, volume.data)
        assert torch.equal(once.affine, volume.affine.float().double())  # as the header stores it
        assert nibabel.Nifti1Image.from_filename(path).shape == (5, 7, 6) + ((3,) if channels > 1 else ())
        first = path.read_bytes()
        write(path, once)
        assert path.read_bytes() == first
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("dtype", "stored"),
        [(torch.bool, torch.uint8), (torch.int64, torch.int32), (torch.bfloat16, torch.float32)],
    )
    def test_other_dtypes_become_what_programs_read(
        self, dtype: torch.dtype, stored: torch.dtype, tmp_path: Path
    ) -> None:
        volume = image(dtype=dtype)
        write(tmp_path / "a.nii", volume)
        found = read(tmp_path / "a.nii").data
        assert found.dtype == stored
        assert torch.equal(found, volume.data.to(stored))

    def test_scaled_and_swapped_files_are_read(self, tmp_path: Path) -> None:
        values = np.arange(24).reshape(2, 3, 4)
        swapped = nibabel.Nifti1Image(values.astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
        scaled = nibabel.Nifti1Image(values.astype(np.int16), np.eye(4))
        scaled.header.set_slope_inter(0.5, -3)
        for name, made in (("swapped", swapped), ("scaled", scaled)):
            made.to_filename(tmp_path / f"{name}.nii")
        assert torch.equal(read(tmp_path / "swapped.nii").data, torch.from_numpy(values)[None].short())
        assert torch.equal(read(tmp_path / "scaled.nii").data, torch.from_numpy(values)[None] / 2 - 3)

    def test_both_transforms_of_a_header_are_kept(self, tmp_path: Path) -> None:
        made = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), None)
        made.set_sform(oblique(1, 2, 3).numpy(), 4)
        made.set_qform(oblique(1.5, 2, 2).numpy(), 1)  # of another program, say, and not the same
        made.to_filename(tmp_path / "a.nii")
        volume = read(tmp_path / "a.nii")
        write(tmp_path / "b.nii", volume.holding(torch.ones(1, 4, 5, 6)))
        before, after = (
            nibabel.Nifti1Image.from_filename(tmp_path / name).header for name in ("a.nii", "b.nii")
        )
        for form in ("get_sform", "get_qform"):
            there, here = getattr(before, form)(coded=True), getattr(after, form)(coded=True)
            assert np.array_equal(there[0], here[0])
            assert there[1] == here[1]
        turned = volume.oriented("LPS")
        write(tmp_path / "c.nii", turned)
        # But not those of another grid.
        assert torch.equal(read(tmp_path / "c.nii").affine, turned.affine.float().double())


class TestDicom:
    @pytest.mark.parametrize("shear", [0.0, 0.4], ids=["straight", "tilted gantry"])
    def test_a_series_comes_back_from_files_in_any_order(self, shear: float, tmp_path: Path) -> None:
        volume = image(shear=shear)
        write(tmp_path / "series", volume)
        names = [f"{k:04d}.dcm" for k in range(1, 7)]
        assert sorted(path.name for path in (tmp_path / "series").iterdir()) == names
        for name, other in zip(names, "dafcbe", strict=True):
            (tmp_path / "series" / name).rename(tmp_path / "series" / other)
        (tmp_path / "series" / "notes.txt").write_text("not DICOM")
        found = read(tmp_path / "series")
        assert torch.equal(found.data, volume.data)
        # 16 characters of a decimal string hold ten digits or more, of numbers up to 100 mm
        assert float((found.affine - volume.affine).abs().max()) < 1e-8

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8], ids=str)
    def test_half_precision_and_labels(self, dtype: torch.dtype, tmp_path: Path) -> None:
        volume = image(dtype=dtype)
        write(tmp_path / "series", volume)
        assert torch.equal(read(tmp_path / "series").data, volume.data.short())

    def test_a_left_handed_grid_is_turned_and_not_mirrored(self, tmp_path: Path) -> None:
        volume = image().oriented("LAS")
        write(tmp_path / "series", volume)
        found = read(tmp_path / "series").oriented("LAS")
        assert torch.equal(found.data, volume.data)
        assert float((found.affine - volume.affine).abs().max()) < 1e-8

    def test_real_values_are_rounded_to_16_bit(self, tmp_path: Path) -> None:
        volume = image(dtype=torch.float32)
        volume = volume.holding(volume.data.sin() * 1e-3)
        write(tmp_path / "series", volume)
        step = float(volume.data.max() - volume.data.min()) / 65534
        off = float((read(tmp_path / "series").data - volume.data).abs().max())
        assert 0 < off < 0.51 * step  # half a step, and float32's own rounding

    def test_a_real_slice_stands_where_its_header_says(self) -> None:
        path = str(get_testdata_file("CT_small.dcm"))
        volume, part = read(path), pydicom.dcmread(path)
        hounsfield = apply_rescale(part.pixel_array, part)
        assert volume.data.dtype == torch.int16
        assert np.array_equal(volume.data[0, :, :, 0].numpy(), hounsfield.T)
        assert hounsfield.min() < 0 < part.pixel_array.min()  # else this tests no rescaling
        # Axial, 0.661468 mm and 5 mm, its first pixel at (-158.1, -179.0, -75.7) in LPS
        expected = np.diag([-0.661468, -0.661468, 5, 1])
        expected[:3, 3] = [158.135803, 179.035797, -75.699997]
        assert np.allclose(volume.affine, expected, rtol=0, atol=1e-12)
        assert volume.orientation == "LPS"

    def test_patient_and_study_stay_and_the_series_is_new(self, tmp_path: Path) -> None:
        path = str(get_testdata_file("CT_small.dcm"))
        write(tmp_path / "series", read(path))
        before, after = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "series" / "0001.dcm")
        for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality"):
            assert before[name].value == after[name].value
        assert before.SeriesInstanceUID != after.SeriesInstanceUID
        assert torch.equal(read(tmp_path / "series").data, read(path).data)

    def test_a_folder_of_other_things_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(FileExistsError, match="name another folder"):
            write(tmp_path, image())
        assert (tmp_path / "thesis.txt").exists()

    @pytest.mark.parametrize(
        ("volume", "says"),
        [
            (image(2), "one real channel"),
            (image(dtype=torch.complex64), "magnitude"),
            (
                Volume(torch.zeros(1, 3, 3, 3), torch.eye(4).double().index_fill(1, torch.tensor([1]), 1)),
                "shears",
            ),
        ],
    )
    def test_what_it_cannot_hold_is_said(self, volume: Volume, says: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=says):
            write(tmp_path / "series", volume)
        assert not list(tmp_path.iterdir())


class TestNumpy:
    def test_an_archive_keeps_the_affine(self, tmp_path: Path) -> None:
        volume = image(2, torch.float32)
        write(tmp_path / "a.npz", volume)
        found = read(tmp_path / "a.npz")
        assert torch.equal(found.data, volume.data)
        assert torch.equal(found.affine, volume.affine)

    @pytest.mark.parametrize(
        ("shape", "found"),
        [((4, 5), (1, 4, 5, 1)), ((4, 5, 6), (1, 4, 5, 6)), ((2, 4, 5, 6), (2, 4, 5, 6))],
    )
    def test_arrays_of_two_to_four_axes(
        self, shape: tuple[int, ...], found: tuple[int, ...], tmp_path: Path
    ) -> None:
        np.save(tmp_path / "a.npy", np.ones(shape, np.float64))
        assert read(tmp_path / "a.npy").data.shape == found
        assert read(tmp_path / "a.npy").data.dtype == torch.float32


class TestGeometry:
    @pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "ASR"])
    def test_turning_moves_no_voxel_in_the_patient_and_comes_back(self, axes: str) -> None:
        volume = image()
        turned = volume.oriented(axes)
        assert turned.orientation == axes
        assert torch.allclose(place(turned), place(volume), rtol=0, atol=1e-12)
        assert sorted(turned.spacing) == pytest.approx([0.8, 1.1, 2.5])
        back = turned.oriented(volume.orientation)
        assert torch.equal(back.data, volume.data)
        assert torch.allclose(back.affine, volume.affine, rtol=0, atol=1e-12)

    def test_one_grid_is_stacked_and_others_are_told_apart(self) -> None:
        ct, pet = image(), image(2, torch.float32)
        assert stack({"ct": ct, "pet": pet}).data.shape == (3, 5, 7, 6)
        moved = pet.affine.clone()
        moved[0, 3] += 0.005 * 0.8  # within the rounding of headers
        check_grids({"ct": ct, "pet": Volume(pet.data, moved)})
        moved[0, 3] += 3
        with pytest.raises(ValueError, match=r"ct and pet place the same voxel up to 3 mm apart: resample"):
            check_grids({"ct": ct, "pet": Volume(pet.data, moved)})
        with pytest.raises(ValueError, match=r"ct and pet have 5 x 7 x 6 and 5 x 7 x 4 voxels: resample"):
            stack({"ct": ct, "mri": image(), "pet": Volume(pet.data[..., :4], pet.affine)})
        # A turn that leaves the first voxel in its place is found at the far corner.
        turned = ct.affine.clone()
        turned[:3, 0] *= 1.1
        with pytest.raises(ValueError, match=r"up to 0\.32 mm apart"):
            check_grids({"a": ct, "b": Volume(ct.data, turned)})

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            (lambda: Volume(torch.zeros(3, 3, 3)), r"\[channels, i, j, k\]"),
            (lambda: Volume(torch.zeros(1, 3, 3, 3), torch.zeros(4, 4).double()), "invertible"),
            (
                lambda: Volume(torch.zeros(1, 3, 3, 3), torch.full((4, 4), float("nan")).double()),
                "invertible",
            ),
            (lambda: image().oriented("RAR"), "'RAR' is no orientation"),
            (lambda: image().oriented("XYZ"), "'XYZ' is no orientation"),
            (lambda: image().oriented("RA"), "'RA' is no orientation"),
            (lambda: image().holding(torch.zeros(1, 2, 2, 2)), r"\[2, 2, 2\] voxels are not on a grid"),
        ],
    )
    def test_wrong_arguments_are_said(self, wrong: Callable[[], object], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            wrong()


def _text(folder: Path) -> Path:
    (folder / "a.txt").write_text("a letter")
    return folder / "a.txt"


def _named(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _cut(name: str, keep: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / name, Volume(torch.rand(1, 20, 20, 20)))
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])
        return folder / name

    return make


def _holes(folder: Path) -> Path:
    data = np.ones((4, 5, 6), np.float32)
    data[0, 1, 2] = data[3, 3, 3] = np.nan
    nibabel.Nifti1Image(data, np.eye(4)).to_filename(folder / "a.nii")
    return folder / "a.nii"


def _array(array: np.ndarray) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.save(folder / "a.npy", array)
        return folder / "a.npy"

    return make


def _series(change: Callable[[pydicom.Dataset], None]) -> Callable[[Path], Path]:
    """A series with one slice that is changed."""

    def make(folder: Path) -> Path:
        write(folder / "series", image())
        part = pydicom.dcmread(folder / "series" / "0003.dcm")
        change(part)
        part.save_as(folder / "series" / "0003.dcm")
        return folder / "series"

    return make


def _missing(folder: Path) -> Path:
    write(folder / "series", image())
    (folder / "series" / "0003.dcm").unlink()
    return folder / "series"


def _smaller(part: pydicom.Dataset) -> None:
    part.Rows, part.PixelData = 3, part.PixelData[: 2 * 3 * part.Columns]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "nowhere.nii", "does not exist"),
        (_text, r"a\.txt is no image: give NIfTI"),
        (_named("a.nii", b"no header" * 100), r"a\.nii is no NIfTI image"),
        (_named("a.nii.gz", b"no gzip"), r"a\.nii\.gz is"),
        (_cut("a.nii.gz", 0.6), r"a\.nii\.gz is damaged or not complete"),
        (_cut("a.nii", 0.6), r"a\.nii is damaged or not complete"),
        (_holes, r"a\.nii has 2 voxels that are not finite"),
        (_array(np.ones((4, 5))), r"4 x 5 x 1 voxels, and at least 2 are needed"),
        (_array(np.ones(4)), "has 1 axes"),
        (_array(np.array(["a"])), "not numbers"),
        (_array(np.array([None])), "is no NumPy file"),
        (_array(np.ones((4, 0, 5))), "has no voxels"),
        (_named("a.npy", b"no array"), "is no NumPy file"),
        (_named("a.npz", b"PK no zip"), "is no NumPy file"),
        (_named("a.dcm", bytes(128) + b"DICM"), r"a\.dcm is DICOM without an image|damaged"),
        (lambda folder: folder, "holds no DICOM images"),
        (_missing, r"5 mm between slices 2 and 3, and 2\.5 mm elsewhere: slices are missing"),
        (_series(_smaller), "slices of 7 x 5 and 3 x 5 pixels"),
        (_series(lambda part: setattr(part, "PixelSpacing", [1, 1])), "spaced in different ways"),
        (_series(lambda part: setattr(part, "SeriesInstanceUID", "1.2.3")), "holds 2 series"),
        (_series(lambda part: delattr(part, "ImagePositionPatient")), "ImagePositionPatient is missing"),
        (_series(lambda part: delattr(part, "PixelData")), "without an image"),
        (_series(lambda part: setattr(part, "NumberOfFrames", 2)), "several frames"),
        (_series(lambda part: setattr(part, "PixelData", part.PixelData[:10])), "cannot be decoded"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    make: Callable[[Path], Path], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    with pytest.raises(ValueError, match=says):
        read(path, slices=2)

    def look(path: Path) -> None:
        """Look."""
        read(path, slices=2)

    assert run({"look": look}, prog="test", version="1", about="", argv=["look", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.npz", "series"])
def test_values_that_are_not_finite_are_not_written(name: str, tmp_path: Path) -> None:
    volume = image(dtype=torch.float32)
    volume.data[0, 1, 2, 3] = float("inf")
    with pytest.raises(FloatingPointError, match="not finite"):
        write(tmp_path / name, volume)
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_and_integers_too_large_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.png: name the output \.nii\.gz"):
        write(tmp_path / "a.png", image())
    large = image(dtype=torch.int64)
    with pytest.raises(ValueError, match="integers above 32 bit"):
        write(tmp_path / "a.nii", large.holding(large.data << 40))
    assert not list(tmp_path.iterdir())
