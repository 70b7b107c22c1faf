"""Raw data in ISMRMRD's HDF5 (MRD; Inati et al. 2017, 10.1002/mrm.26089): readouts one by one, as scanners give them.

Converters write it for all vendors. Cartesian readouts are sorted into k-space of slices: averages are averaged, lines
that were read backwards turned, and a fully sampled second phase is transformed to slices. Lines of navigators and
phase correction are left out; a noise scan tells the covariance of the coils.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from diffkit.medical.arrays import opened
from diffkit.medical.header import Header
from diffkit.medical.kspace import KSpace
from diffkit.medical.mri import ifft, noise_covariance

# ISMRMRD's flags, counted from 1.
_NOISE, _CALIBRATION, _BOTH, _REVERSE = 19, 20, 21, 22
_OTHER = (23, 24, 26, 27, 28, 29, 30, 31)  # navigators, phase correction, feedback, dummies, references

_ALONE = ("contrast", "phase", "repetition", "set")
"""What an image has one of."""

_RAS = np.diag([-1.0, -1.0, 1.0])  # from the patient's coordinates of DICOM


def holds(path: Path) -> bool:
    """Whether a file has readouts, by its name or what is in it; not if damaged, as whoever reads it will say."""
    if path.suffix not in (".h5", ".hdf5"):
        return path.suffix == ".mrd"
    try:
        with opened(path) as file:
            return bool(_scans(file))
    except ValueError:
        return False


def read(path: str | Path) -> KSpace:
    """k-space of the slices of one scan, where its lines belong, zero where there are none.

    ValueError if it is missing or damaged, not Cartesian, of several contrasts, phases, repetitions or sets, or slices
    differ in what was measured of them.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    with opened(path) as file:
        scans = _scans(file)
        if len(scans) != 1:
            raise ValueError(f"{path} holds {len(scans)} scans in ISMRMRD's format, and one is read.")
        xml, readouts = scans[0]["xml"][0], scans[0]["data"][()]
    try:
        return _sorted(Header.of(xml if isinstance(xml, bytes) else xml.encode()), readouts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _scans(file: Any) -> list[Any]:
    """The groups of a file that hold a header and readouts, and not only images."""
    items: list[Any] = list(file.values())
    groups: list[Any] = [
        item for item in items if isinstance(item, h5py.Group) and {"xml", "data"} <= set(item)
    ]
    return [one for one in groups if {"head", "data"} <= set(one["data"].dtype.names or ())]


def _sorted(header: Header, readouts: np.ndarray) -> KSpace:
    if header.trajectory.lower() != "cartesian":
        raise ValueError(f"its trajectory is {header.trajectory}, and Cartesian scans are read.")
    head: np.ndarray = readouts["head"]
    noise = _flagged(head, _NOISE)
    apart = header.calibration.lower() in ("separate", "external", "other")
    skipped = noise | _flagged(head, *_OTHER) | (head["encoding_space_ref"] > 0)
    if apart:
        skipped |= _flagged(head, _CALIBRATION) & ~_flagged(head, _BOTH)
    chosen = (~skipped).nonzero()[0]
    if not len(chosen):
        raise ValueError("it has no readouts of an image.")
    head = head[chosen]
    for what in _ALONE:
        if (count := len(np.unique(head["idx"][what]))) > 1:
            raise ValueError(
                f"it has {count} {what}s, and an image has one: write each to a file of its own."
            )
    if len(coils := np.unique(head["active_channels"])) > 1:
        raise ValueError(f"its readouts have from {coils[0]} to {coils[-1]} coils.")

    slices, which, first = _slices(head)
    total, count = _gathered(header, head, readouts["data"][chosen], which, len(slices))
    data = torch.from_numpy(total / np.maximum(count, 1)[:, :, None])
    mask = _mask(count > 0)
    stack = data.shape[1]
    if stack > 1:
        if len(data) > 1:
            raise ValueError(f"it has {len(data)} slabs of a second phase: write each to a file of its own.")
        data = ifft(data, (1,))
        depth = min(header.recon.matrix[2], stack)
        data = data[:, stack // 2 - depth // 2 :][:, :depth]
    height, width = data.shape[-2:]
    crop = min(header.recon.matrix[0], height), min(header.recon.matrix[1], width)
    return KSpace(
        data.flatten(0, 1),
        mask,
        crop=crop,
        affine=_affine(header, head[first[slices]], crop, data.shape[1] if stack > 1 else 0),
        noise=_covariance(readouts[noise]) if noise.any() else None,
    )


def _flagged(head: np.ndarray, *flags: int) -> np.ndarray:
    return head["flags"] & np.uint64(sum(1 << (flag - 1) for flag in flags)) != 0


def _slices(head: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of the slices in space; of each readout its place in it; of each slice its first readout."""
    _, first, inverse = np.unique(head["idx"]["slice"], return_index=True, return_inverse=True)
    along = (head["position"][first] * head["slice_dir"][first]).sum(1)
    order = np.argsort(along, kind="stable")
    return order, np.argsort(order)[inverse], first


def _gathered(
    header: Header, head: np.ndarray, lines: np.ndarray, which: np.ndarray, slices: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums ``[slices, second, coils, height, width]`` of readouts, and how many ``[slices, second, height, width]``."""
    height, width, depth = header.encoded.matrix
    coils = int(head["active_channels"][0])
    steps = [
        head["idx"][f"kspace_encode_step_{k + 1}"].astype(int)
        - (n // 2 if centre is None else centre)
        + n // 2
        for k, (n, centre) in enumerate(zip((width, depth), header.centres, strict=True))
    ]
    for at, n in zip(steps, (width, depth), strict=True):
        if at.min() < 0 or at.max() >= n:
            raise ValueError(f"its steps of phase run from {at.min()} to {at.max()} in a matrix of {n}.")
    backwards = _flagged(head, _REVERSE)
    total = np.zeros((slices, depth, coils, height, width), np.complex64)
    count = np.zeros((slices, depth, height, width), np.float32)
    for k, (line, one) in enumerate(zip(lines, head, strict=True)):
        samples, middle = int(one["number_of_samples"]), int(one["center_sample"])
        values = np.ascontiguousarray(line, np.float32).view(np.complex64)
        if values.size != coils * samples:
            raise ValueError(f"readout {k} has {values.size} numbers for {coils} coils of {samples} samples.")
        start, end = int(one["discard_pre"]), samples - int(one["discard_post"])
        values = values.reshape(coils, samples)[:, start:end]
        begin = start - (middle or samples // 2) + height // 2  # some writers leave the middle at 0
        if backwards[k]:
            values = values[:, ::-1]
            begin = height - begin - (end - start)
        if begin < 0 or begin + end - start > height:
            raise ValueError(f"readout {k} of {end - start} samples reaches beyond the matrix of {height}.")
        span = slice(begin, begin + end - start)
        total[which[k], steps[1][k], :, span, steps[0][k]] += values
        count[which[k], steps[1][k], span, steps[0][k]] += 1
    return total, count


def _mask(measured: np.ndarray) -> Tensor:
    """``[slices, second, height, width]`` as the mask of all, ``[width]`` where it has whole readouts."""
    one = measured[0, 0]
    if not (measured == one).all():
        raise ValueError("its slices, or its second phases, differ in the lines that were measured.")
    lines = one.any(0)
    return torch.from_numpy(lines if (one == lines).all() else one)


def _affine(header: Header, slices: np.ndarray, crop: tuple[int, int], depth: int) -> Tensor:
    """From (height, width, slice) of the image to mm, by the first readout of each slice.

    ``depth`` is that of a slab, whose middle is where it stands; 0 of slices that were excited one by one.
    """
    spacing = [mm / n for mm, n in zip(header.encoded.field, header.encoded.matrix, strict=True)]
    axes = np.stack([slices[0][name] for name in ("read_dir", "phase_dir", "slice_dir")], 1).astype(float)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-2):
        axes = _RAS  # nothing is said of where it stands
    if not depth:
        spacing[2] = header.recon.field[2] / header.recon.matrix[2]
        along = slices["position"].astype(float) @ axes[:, 2]
        if len(along) > 1 and along[-1] > along[0]:
            spacing[2] = (along[-1] - along[0]) / (len(along) - 1)
    scaled = _RAS @ axes * spacing
    affine = np.eye(4)
    affine[:3, :3] = scaled
    middle = np.array([crop[0] // 2, crop[1] // 2, depth // 2])
    affine[:3, 3] = _RAS @ slices["position"][0].astype(float) - scaled @ middle
    return torch.from_numpy(affine)


def _covariance(readouts: np.ndarray) -> Tensor:
    lines: list[Any] = [
        np.ascontiguousarray(line, np.float32).view(np.complex64).reshape(coils, -1)
        for line, coils in zip(readouts["data"], readouts["head"]["active_channels"], strict=True)
    ]
    if len({len(line) for line in lines}) > 1:
        raise ValueError("its noise scan has other coils from readout to readout.")
    return noise_covariance(torch.from_numpy(np.concatenate(lines, 1)))
