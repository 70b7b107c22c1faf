"""Measured sinograms: line integrals of attenuation, and the rays that they were measured along.

A file is NumPy's .npz or an HDF5 (.h5, .hdf5) of these arrays; all lengths are in mm::

    sinogram         line integrals -log(counts/air), [views, bins] or [slices, views, bins]
    angles           of the views in radians, counter-clockwise; or angles_degrees in their place
    spacing          of the bins on the detector
    source, detector from the axis of rotation to both: of a fan beam, whose detector is flat; else beams are parallel
    pixel            of the image, 1 by default
    size             height and width of the image, by default of the square around the disc that the scan sees
    thickness        from slice to slice, 1 by default
    photons          that reach a bin through air; without them all line integrals are equally sure
    electronic       the deviation of the readout's noise in photons, 10 by default
    affine           [4, 4], from indices (row, column, slice) of the image to mm
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffkit.core.files import whole
from diffkit.medical.arrays import load, load_hdf5, tensor
from diffkit.medical.ct import Projector
from diffkit.medical.scan import Fan, Parallel, Scan
from diffkit.medical.volume import Volume

_NAMES = [
    "sinogram",
    "angles",
    "angles_degrees",
    "spacing",
    "source",
    "detector",
    "pixel",
    "size",
    "thickness",
    "photons",
    "electronic",
    "affine",
]


@dataclass(frozen=True, eq=False)
class Sinogram:
    """Line integrals ``data`` real ``[slices, 1, views, bins]`` along the rays of ``scan``.

    The image has ``shape`` (height, width) of square pixels of ``pixel`` mm, around the axis of rotation; nothing may
    be outside of it. ``photons`` reach a bin through air, ``electronic`` is the deviation of the readout's noise in
    photons; None where noise is not known. ``affine`` is float64 ``[4, 4]``, from indices (row, column, slice) to mm.

    ValueError if the data are not of that shape, not finite, or not those of the scan.
    """

    data: Tensor
    scan: Scan
    shape: tuple[int, int]
    pixel: float = 1.0
    photons: float | None = None
    electronic: float = 10.0
    affine: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))

    def __post_init__(self) -> None:
        size = tuple(self.data.shape)
        if self.data.ndim != 4 or size[1] != 1 or self.data.is_complex():
            raise ValueError(
                f"a sinogram is real [slices, 1, views, bins], and this is {self.data.dtype} {list(size)}."
            )
        views = len(self.scan.angles)
        if size[2:] != (views, self.scan.bins):
            raise ValueError(
                f"the sinogram has {size[2]} views of {size[3]} bins and the scan {views} angles and {self.scan.bins} "
                "bins: give an angle for each view."
            )
        if self.affine.shape != (4, 4):
            raise ValueError(f"an affine is 4 x 4, not {list(self.affine.shape)}.")
        bad = self.data.numel() - int(torch.isfinite(self.data).sum())
        if bad:
            raise ValueError(
                f"the sinogram has {bad} values that are not finite: bins that saw nothing need a mend."
            )
        if self.photons is not None and not (self.photons > 0 and self.electronic >= 0):
            raise ValueError(
                f"photons must be above 0 and electronic noise not below, not {self.photons}, {self.electronic}."
            )

    @property
    def projector(self) -> Projector:
        """From images of attenuation in 1/mm to such sinograms."""
        return Projector(self.scan, self.shape, self.pixel)

    def deviation(self) -> Tensor | None:
        """That of each line integral, as :func:`~diffkit.medical.dose.scan_noise` has it; None if not known."""
        if self.photons is None:
            return None
        counts = (self.photons * (-self.data).exp()).clamp(min=1)
        return (counts + self.electronic**2).sqrt() / counts

    def volume(self, image: Tensor) -> Volume:
        """``image`` ``[slices, height, width]`` in space."""
        return Volume(image.permute(1, 2, 0)[None], self.affine)


def read(path: str | Path) -> Sinogram:
    """A file as the module describes it.

    ValueError if it is missing, damaged, lacks an array, holds values that are not finite, as many angles as there
    are no views, or angles of more than a turn, which are degrees under the name of radians.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    arrays = load_hdf5(path, _NAMES) if path.suffix in (".h5", ".hdf5") else load(path)
    missing = [name for name in ("sinogram", "spacing") if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} has no `{missing[0]}`, which a sinogram needs; it holds {', '.join(arrays)}."
        )
    try:
        return _sinogram(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: str | Path, sinogram: Sinogram) -> None:
    """Write a .npz that is whole or not there."""
    scan = sinogram.scan
    arrays: dict[str, Any] = {
        "sinogram": sinogram.data[:, 0].cpu().numpy(),
        "angles": scan.angles.cpu().numpy(),
        "spacing": scan.spacing,
        "pixel": sinogram.pixel,
        "size": sinogram.shape,
        "affine": sinogram.affine.numpy(),
    }
    if isinstance(scan, Fan):
        arrays |= {"source": scan.source, "detector": scan.detector}
    if sinogram.photons is not None:
        arrays |= {"photons": sinogram.photons, "electronic": sinogram.electronic}
    with whole(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _sinogram(arrays: Mapping[str, Any]) -> Sinogram:
    data = tensor(np.asarray(arrays["sinogram"]))
    data = (data[None] if data.ndim == 2 else data)[:, None]
    scan = _scan(arrays, data.shape[-1])
    pixel = _number(arrays, "pixel", 1.0)
    side = math.ceil(2 * scan.radius / pixel)
    height, width = (int(n) for n in np.broadcast_to(arrays.get("size", side), 2))
    spacing = np.diag([pixel, pixel, _number(arrays, "thickness", 1.0), 1.0])
    return Sinogram(
        data if data.is_complex() else data.float(),
        scan,
        (height, width),
        pixel,
        _number(arrays, "photons", 0.0) if "photons" in arrays else None,
        _number(arrays, "electronic", 10.0),
        torch.as_tensor(arrays.get("affine", spacing), dtype=torch.float64),
    )


def _scan(arrays: Mapping[str, Any], bins: int) -> Scan:
    named = [name for name in ("angles", "angles_degrees") if name in arrays]
    if len(named) != 1:
        raise ValueError("give the views' `angles` in radians or `angles_degrees`, one of them.")
    angles = torch.as_tensor(np.asarray(arrays[named[0]], dtype=np.float64))
    if named == ["angles_degrees"]:
        angles = torch.deg2rad(angles)
    if angles.numel() > 1 and float(angles.max() - angles.min()) > 2 * math.pi * (1 + 1e-6):
        raise ValueError(
            f"`{named[0]}` span {float(angles.max() - angles.min()) / (2 * math.pi):.3g} turns, and a slice is seen in "
            "one at most: name them `angles_degrees` if they are degrees."
        )
    if ("source" in arrays) != ("detector" in arrays):
        raise ValueError("a fan beam needs both `source` and `detector`, in mm from the axis of rotation.")
    spacing = _number(arrays, "spacing")
    if "source" not in arrays:
        return Parallel(angles, bins, spacing)
    return Fan(angles, bins, spacing, _number(arrays, "source"), _number(arrays, "detector"))


def _number(arrays: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    value = np.asarray(arrays.get(name, default))
    if value.size != 1 or not np.isfinite(value).all():
        raise ValueError(f"`{name}` must be one finite number.")
    return float(value.reshape(()))
