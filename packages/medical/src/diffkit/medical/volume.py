"""Images in space: a tensor and where its voxels stand, read from files and written to them.

Voxel (i, j, k) of a volume stands at ``affine @ (i, j, k, 1)``, in mm, x to the patient's right, y to the front, z
to the top (RAS+, as NIfTI has it; DICOM counts x and y the other way, LPS+). Nothing here resamples: an axis may
be permuted or flipped, and then the affine says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Grids are one where they place every voxel within this share of a voxel: headers round to float32.
_SAME = 0.01


@dataclass(frozen=True, eq=False)
class Volume:
    """An image: ``data`` ``[channels, i, j, k]`` and ``affine`` float64 ``[4, 4]``, from voxel indices to mm in RAS+.

    A slice is a volume of one k. ``data`` has the dtype of the file where torch has it (labels stay integers);
    what a file scales is float32, and it may be complex. ``meta`` keeps what else the file said: "nifti", its header,
    or "dicom", the data set of its first slice.

    ValueError if ``data`` has not four axes, or ``affine`` is singular or not finite.
    """

    data: Tensor
    affine: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data.ndim != 4:
            raise ValueError(f"a volume is [channels, i, j, k], and this is {list(self.data.shape)}.")
        object.__setattr__(self, "affine", self.affine.to("cpu", torch.float64))
        if self.affine.shape != (4, 4) or not float(torch.linalg.det(self.affine).abs()) > 0:
            raise ValueError("an affine must be an invertible 4 x 4 matrix of finite numbers.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        i, j, k = self.data.shape[1:]
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm from a voxel to the next along i, j, k."""
        i, j, k = self.affine[:3, :3].norm(dim=0).tolist()
        return i, j, k

    @property
    def orientation(self) -> str:
        """Where i, j, k point to, by the nearest axis: three letters of R or L, A or P, S or I."""
        from nibabel.orientations import aff2axcodes

        return "".join(aff2axcodes(self.affine.numpy()))

    def holding(self, data: Tensor) -> "Volume":
        """Another image on this grid: ``[channels, i, j, k]``; ValueError for another shape."""
        if data.shape[1:] != self.data.shape[1:]:
            raise ValueError(f"{list(data.shape[1:])} voxels are not on a grid of {list(self.shape)}.")
        return replace(self, data=data)

    def oriented(self, axes: str = "RAS") -> "Volume":
        """The same image with i, j, k along ``axes``, by permuting and flipping; it comes back by its own axes.

        ValueError for letters that are not three axes.
        """
        from nibabel import orientations

        try:
            wanted = orientations.axcodes2ornt(axes)
        except (KeyError, ValueError, TypeError):
            wanted = None
        if wanted is None or sorted(wanted[:, 0].tolist()) != [0, 1, 2]:
            raise ValueError(f"{axes!r} is no orientation: give one letter each of RL, AP and SI, as RAS.")
        change = orientations.ornt_transform(orientations.io_orientation(self.affine.numpy()), wanted)
        undo = torch.as_tensor(orientations.inv_ornt_aff(change, self.shape), dtype=torch.float64)
        flipped = self.data.flip([1 + axis for axis, sign in enumerate(change[:, 1]) if sign < 0])
        order = [0, *(1 + int(axis) for axis in torch.as_tensor(change[:, 0]).argsort())]
        return replace(self, data=flipped.permute(order), affine=self.affine @ undo)


def check_grids(volumes: Mapping[str, Volume]) -> None:
    """ValueError unless the volumes have one grid; it says which have not, and how far they are apart."""
    (first, reference), *others = volumes.items()
    for name, other in others:
        if other.shape != reference.shape:
            shapes = " and ".join(" x ".join(map(str, v.shape)) for v in (reference, other))
            raise ValueError(f"{first} and {name} have {shapes} voxels: resample one onto the other's grid.")
        apart = float((_corners(reference) - _corners(other)).norm(dim=-1).max())
        if apart > _SAME * min(reference.spacing):
            raise ValueError(
                f"{first} and {name} place the same voxel up to {apart:.3g} mm apart: resample one onto the other's "
                "grid."
            )


def stack(volumes: Mapping[str, Volume]) -> Volume:
    """The volumes as channels of one, on the grid of all of them; ValueError as :func:`check_grids`."""
    check_grids(volumes)
    first = next(iter(volumes.values()))
    return replace(first, data=torch.cat([volume.data for volume in volumes.values()]))


def read(path: str | Path, *, slices: int = 1) -> Volume:
    """An image from NIfTI (.nii, .nii.gz), a DICOM file or the folder of a series, or NumPy (.npy, .npz).

    NIfTI's fourth axis becomes channels. An array is ``[i, j]``, ``[i, j, k]`` or ``[channels, i, j, k]``; a .npz has
    one alone, or "data" and "affine". CT is in HU, as the file's rescaling says.

    Args:
        path: the file or folder.
        slices: the fewest voxels that each of i, j, k must have, for what works on volumes.

    ValueError if it is missing, no image, damaged, too thin, empty, or has voxels that are not finite.
    """
    path = Path(path)
    name = path.name.lower()
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    if path.is_dir():
        from diffkit.medical import dicom

        volume = dicom.read_series(path)
    elif name.endswith((".nii", ".nii.gz")):
        from diffkit.medical import nifti

        volume = nifti.read(path)
    elif name.endswith((".npy", ".npz")):
        volume = _read_numpy(path)
    else:
        from diffkit.medical import dicom

        if not dicom.is_dicom(path):
            raise ValueError(
                f"{path} is no image: give NIfTI (.nii, .nii.gz), DICOM (a file or a folder) or NumPy (.npy, .npz)."
            )
        volume = dicom.read_file(path)
    if not volume.data.numel():
        raise ValueError(f"{path} has no voxels.")
    bad = volume.data.numel() - int(torch.isfinite(volume.data).sum())
    if bad:
        raise ValueError(f"{path} has {bad} voxels that are not finite: mend or mask them first.")
    if min(volume.shape) < slices:
        size = " x ".join(map(str, volume.shape))
        raise ValueError(f"{path} is {size} voxels, and at least {slices} are needed along each axis.")
    return volume


def write(path: str | Path, volume: Volume) -> None:
    """Write ``volume``, whole or not at all: NIfTI or .npz by its suffix, or a DICOM series into a folder (no suffix).

    The affine stays as it is, and the header or the patient of the file that the volume was read from are kept.
    Half precision is written as float32. A DICOM series is 16 bit: exact for integers of that range, and
    otherwise rounded to 65535 levels of its range.

    FloatingPointError for values that are not finite; ValueError for another suffix, or what the format cannot hold;
    FileExistsError for a folder that holds anything but DICOM.
    """
    path = Path(path)
    if not bool(torch.isfinite(volume.data).all()):
        raise FloatingPointError(f"{path} would have voxels that are not finite, and is not written.")
    data = volume.data.detach().cpu()
    volume = volume.holding(data.float() if data.dtype in (torch.float16, torch.bfloat16) else data)
    if path.name.endswith((".nii", ".nii.gz")):
        from diffkit.medical import nifti

        nifti.write(path, volume)
    elif path.suffix == ".npz":
        from diffkit.core.files import whole

        with whole(path) as beside:
            np.savez_compressed(beside, data=volume.data.numpy(), affine=volume.affine.numpy())
    elif not path.suffix:
        from diffkit.medical import dicom

        dicom.write_series(path, volume)
    else:
        raise ValueError(f"{path}: name the output .nii.gz, .nii or .npz, or a folder for DICOM.")


def stem(path: Path) -> str:
    """The name of a file without .nii.gz, or whatever suffix it has."""
    return path.name.removesuffix(".gz").removesuffix(".nii") if path.name.endswith(".nii.gz") else path.stem


def _read_numpy(path: Path) -> Volume:
    from diffkit.medical.arrays import load, tensor

    arrays = load(path)
    data = arrays.get("data", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if data is None:
        raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}: name the image in it `data`.")
    if not 2 <= data.ndim <= 4:
        raise ValueError(f"{path} has {data.ndim} axes: give [i, j], [i, j, k] or [channels, i, j, k].")
    grid = data[..., None] if data.ndim == 2 else data
    affine = torch.as_tensor(arrays.get("affine", np.eye(4)), dtype=torch.float64)
    return Volume(tensor(grid if grid.ndim == 4 else grid[None]), affine)


def _corners(volume: Volume) -> Tensor:
    """The places of the first and last voxels, in mm ``[8, 3]``."""
    ends = [torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in volume.shape]
    return torch.cartesian_prod(*ends) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
