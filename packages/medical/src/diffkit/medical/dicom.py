"""DICOM: single files, and series of slices in a folder, with their place in the patient.

A slice says where its first pixel stands (ImagePositionPatient, mm, LPS+), where its rows and columns point to
(ImageOrientationPatient) and how far its pixels are apart. Slices are sorted along their common normal; the way
from the first to the last, which a tilted gantry shears, is the third column of the affine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from diffkit.core.files import whole_folder
from diffkit.medical.arrays import tensor
from diffkit.medical.volume import Volume

_RAS = np.array([-1.0, -1.0, 1.0])  # times LPS
# Shares of a step that slices may be unevenly spaced by, and of one that they may be turned by.
_EVEN, _TURNED = 0.02, 1e-4
# What a series keeps of the patient and the study of another.
_KEPT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientPosition"),
    *("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "FrameOfReferenceUID", "BodyPartExamined", "Modality"),
)


@dataclass(frozen=True, eq=False)
class _Slice:
    """A data set; its values ``[rows, columns]``, rescaled; and what its header says of its place, in LPS+."""

    header: Dataset
    values: np.ndarray
    place: np.ndarray
    turn: np.ndarray
    spacing: np.ndarray


def is_dicom(path: Path) -> bool:
    """Whether the file has the prefix of DICOM."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_file(path: Path) -> Volume:
    """A single slice; see :func:`diffkit.medical.volume.read`."""
    return _assemble(path, [_load(path)])


def read_series(folder: Path) -> Volume:
    """The series in ``folder``; see :func:`diffkit.medical.volume.read`.

    ValueError if there is none, more than one, or its slices differ or are not evenly spaced.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and is_dicom(path))
    slices = [_load(path) for path in paths if path.name != "DICOMDIR"]
    if not slices:
        raise ValueError(f"{folder} holds no DICOM images.")
    series = {s.header.get("SeriesInstanceUID"): str(s.header.get("SeriesDescription")) for s in slices}
    if len(series) > 1:
        names = ", ".join(series.values())
        raise ValueError(f"{folder} holds {len(series)} series ({names}): give a folder of one.")
    return _assemble(folder, slices)


def write_series(folder: Path, volume: Volume) -> None:
    """A file for each k, numbered from 1; see :func:`diffkit.medical.volume.write`.

    Patient, study and frame of reference are those of ``volume.meta["dicom"]``, if it has them; without, it is MR.
    ValueError for several channels, complex values, or rows and columns that are not at right angles.
    """
    if len(volume.data) > 1 or volume.data.is_complex():
        raise ValueError(f"{folder}: a DICOM series has one real channel: choose one, or take the magnitude.")
    if folder.exists() and (folder.is_file() or any(p.suffix != ".dcm" for p in folder.iterdir())):
        raise FileExistsError(f"{folder} holds more than DICOM, and is not replaced: name another folder.")
    columns = volume.affine.numpy()[:3] * _RAS[:, None]
    spacing = np.linalg.norm(columns[:, :3], axis=0)
    turn = (columns[:, :2] / spacing[:2]).T
    if abs(float(turn[0] @ turn[1])) > _TURNED:
        raise ValueError(f"{folder}: the affine shears the slices, which DICOM cannot say: resample first.")
    apart = abs(float(np.cross(*turn) @ columns[:, 2]))
    stored, slope, intercept = _quantised(volume.data[0].numpy())
    kept, series = _kept(volume.meta.get("dicom")), generate_uid()
    with whole_folder(folder) as beside:
        for k in range(volume.shape[2]):
            part = Dataset()
            part.update(kept)
            part.SOPClassUID = CTImageStorage if kept.Modality == "CT" else MRImageStorage
            part.SOPInstanceUID, part.SeriesInstanceUID = generate_uid(), series
            part.SeriesDescription, part.SeriesNumber, part.InstanceNumber = "diffkit", 1, k + 1
            part.ImageType = ["DERIVED", "SECONDARY"]
            part.ImagePositionPatient = _decimals(columns @ [0, 0, k, 1])
            part.ImageOrientationPatient = _decimals(turn.ravel())
            part.PixelSpacing = _decimals(spacing[[1, 0]])
            part.SliceThickness = part.SpacingBetweenSlices = _decimals([apart])[0]
            part.SamplesPerPixel, part.PhotometricInterpretation = 1, "MONOCHROME2"
            part.Columns, part.Rows = volume.shape[:2]
            part.BitsAllocated = part.BitsStored = 16
            part.HighBit, part.PixelRepresentation = 15, 1
            part.RescaleSlope, part.RescaleIntercept = _decimals([slope, intercept])
            part.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
            part.file_meta = FileMetaDataset()
            part.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            part.save_as(beside / f"{k + 1:04d}.dcm", enforce_file_format=True)


def _load(path: Path) -> _Slice:
    try:
        header = pydicom.dcmread(path)
    except (InvalidDicomError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no DICOM file.") from error
    if "PixelData" not in header:
        raise ValueError(f"{path} is DICOM without an image ({header.get('Modality', 'no modality')}).")
    if header.get("SamplesPerPixel", 1) != 1 or int(header.get("NumberOfFrames") or 1) != 1:
        raise ValueError(f"{path} has colours or several frames: convert it to grey single frames first.")
    try:
        pixels = header.pixel_array
    except Exception as error:  # a decoder may raise anything
        raise ValueError(f"{path}: its pixels cannot be decoded ({str(error).splitlines()[0]}).") from error
    place = {}
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if header.get(name) is None:
            raise ValueError(f"{path} does not say where it stands in the patient ({name} is missing).")
        place[name] = np.array(header[name].value, dtype=np.float64)
    slope, intercept = (
        float(header.get(f"Rescale{name}") or default) for name, default in (("Slope", 1), ("Intercept", 0))
    )
    values = pixels * slope + intercept
    whole = slope.is_integer() and intercept.is_integer()
    del header.PixelData
    return _Slice(header, values.astype(np.int32) if whole else values, *place.values())


def _assemble(path: Path, slices: Sequence[_Slice]) -> Volume:
    first = slices[0]
    for other in slices[1:]:
        if other.values.shape != first.values.shape:
            sizes = " and ".join(" x ".join(map(str, s.values.shape)) for s in (first, other))
            raise ValueError(f"{path} has slices of {sizes} pixels: give one series.")
        if (
            np.abs(other.turn - first.turn).max() > _TURNED
            or np.abs(other.spacing / first.spacing - 1).max() > _EVEN
        ):
            raise ValueError(
                f"{path} has slices that are turned or spaced in different ways: give one series."
            )
    normal = np.cross(first.turn[:3], first.turn[3:])
    slices = sorted(slices, key=lambda s: float(normal @ s.place))
    first, last = slices[0], slices[-1]
    if len(slices) == 1:
        through = normal * float(first.header.get("SliceThickness") or 1)
    else:
        through = (last.place - first.place) / (len(slices) - 1)
        steps = np.diff([normal @ s.place for s in slices])
        usual = float(np.median(steps))
        worst = int(np.abs(steps - usual).argmax())
        if usual <= 0 or abs(steps[worst] - usual) > _EVEN * usual:
            raise ValueError(
                f"{path} has {steps[worst]:.3g} mm between slices {worst + 1} and {worst + 2}, and {usual:.3g} mm "
                "elsewhere: slices are missing, or there twice."
            )
    rows, columns = first.spacing
    affine = np.eye(4)
    affine[:3] = np.stack([first.turn[:3] * columns, first.turn[3:] * rows, through, first.place], 1)
    affine[:3] *= _RAS[:, None]
    values = np.stack([s.values for s in slices]).T  # i, j, k
    if values.dtype == np.int32 and np.abs(values).max() < 2**15:
        values = values.astype(np.int16)
    return Volume(tensor(values)[None], torch.as_tensor(affine), {"dicom": first.header})


def _quantised(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """``values`` as int16, and the slope and intercept that bring them back."""
    low, high = float(values.min()), float(values.max())
    if low >= -(2**15) and high < 2**15 and np.array_equal(values, np.round(values)):
        return values.astype("<i2"), 1.0, 0.0
    # The decimals of the header are rounded, so what is stored is computed from what they say.
    slope, intercept = map(float, _decimals([(high - low) / (2**16 - 2) or 1.0, (high + low) / 2]))
    return (
        np.clip(np.round((values - intercept) / slope), -(2**15), 2**15 - 1).astype("<i2"),
        slope,
        intercept,
    )


def _kept(header: Dataset | None) -> Dataset:
    """Patient, study and modality of a data set, or new ones."""
    kept = Dataset()
    kept.PatientName, kept.PatientID, kept.Modality = "", "", "MR"
    kept.StudyInstanceUID, kept.FrameOfReferenceUID = generate_uid(), generate_uid()
    for name in _KEPT:
        if header is not None and name in header:
            kept[name] = header[name]
    return kept


def _decimals(numbers: Sequence[float] | np.ndarray) -> list[str]:
    """Decimal strings of at most 16 characters, as the standard wants them."""
    return [format_number_as_ds(float(number)) for number in numbers]
