"""Measured k-space: fastMRI's HDF5 files, and NumPy's arrays.

fastMRI (Zbontar et al. 2018, 1811.08839) keeps ``kspace``, complex [slices, coils, readout, phase] (no coils axis for a
single coil), of some files a ``mask`` over phases, and the header of ISMRMRD as XML: the matrix and the field of view
of what was encoded, which is oversampled along the readout, and of what is to be reconstructed.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from diffkit.core.files import whole
from diffkit.medical.arrays import load, load_hdf5, tensor
from diffkit.medical.header import Header
from diffkit.medical.mri import fft, ifft
from diffkit.medical.volume import Volume

SUFFIXES = (".h5", ".hdf5", ".npy", ".npz")


@dataclass(frozen=True, eq=False)
class KSpace:
    """k-space ``data`` complex ``[slices, coils, height, width]``, its centre in the middle of both axes.

    ``mask`` is true where it was measured, bool, ``[width]`` or ``[height, width]``; None where the file does not say.
    ``crop`` is the ``(height, width)`` of the image to cut from the middle of the encoded one, None for all of it.
    ``affine`` is float64 ``[4, 4]`` from indices (height, width, slice) of that image to mm: of fastMRI, which does not
    say where the slices stand, only the sizes of voxels. ``noise`` is the covariance of the coils' noise, complex
    ``[coils, coils]``, in any unit, where a scan of it tells.

    ValueError if the axes do not fit together, values are not finite, or all are zero.
    """

    data: Tensor
    mask: Tensor | None = None
    crop: tuple[int, int] | None = None
    affine: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or not self.data.is_complex():
            raise ValueError(
                f"k-space is complex [slices, coils, height, width], and this is {self.data.dtype} "
                f"{list(self.data.shape)}."
            )
        bad = self.data.numel() - int(torch.isfinite(self.data).sum())
        if bad or not bool(self.data.any()):
            raise ValueError(
                f"k-space has {f'{bad} values that are not finite' if bad else 'nothing in it'}."
            )
        size = self.data.shape[-2:]
        if self.mask is not None and self.mask.shape not in (size, size[1:]):
            raise ValueError(f"a mask of {list(self.mask.shape)} does not fit k-space of {list(size)}.")
        if self.crop is not None and (self.crop[0] > size[0] or self.crop[1] > size[1]):
            raise ValueError(f"an image of {list(self.crop)} cannot be cut from k-space of {list(size)}.")

    def volume(self, image: Tensor) -> Volume:
        """``image`` ``[slices, height, width]`` in space, cut by :attr:`crop`."""
        image = image if self.crop is None else cropped(image, self.crop)
        return Volume(image.permute(1, 2, 0)[None], self.affine)

    def narrowed(self) -> "KSpace":
        """k-space of the rows of the image that :attr:`crop` keeps, by which readouts were oversampled.

        Where whole lines were measured it says the same of these, and costs less. Else it is this one.
        """
        height, width = self.data.shape[-2:]
        measured = (self.data != 0).any(0).any(0) if self.mask is None else self.mask.expand(height, width)
        lines = measured.any(0)
        if self.crop is None or self.crop[0] == height or not bool((measured == lines).all()):
            return self
        kept = cropped(ifft(self.data, (-2,)), (self.crop[0], width))
        return replace(self, data=fft(kept, (-2,)), mask=lines)


def cropped(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle ``size`` of the last two axes, whose origin n // 2 stays the origin."""
    top, left = (n // 2 - m // 2 for n, m in zip(image.shape[-2:], size, strict=True))
    return image[..., top : top + size[0], left : left + size[1]]


def read(path: str | Path) -> KSpace:
    """k-space from fastMRI's HDF5 (.h5, .hdf5) or NumPy (.npy; .npz with "kspace", maybe "mask", "affine", "noise").

    ``[slices, height, width]`` is of a single coil. ValueError if the file is missing, damaged, holds no k-space, only
    zeros, or values that are not finite.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    if path.suffix in (".h5", ".hdf5"):
        arrays = load_hdf5(path, ("kspace", "mask", "crop", "affine", "noise", "ismrmrd_header"))
    elif path.suffix in (".npy", ".npz"):
        arrays = load(path)
        arrays = {"kspace": arrays["data"]} if path.suffix == ".npy" else arrays
    else:
        raise ValueError(f"{path} is no k-space: give fastMRI's HDF5 or NumPy ({', '.join(SUFFIXES)}).")
    if "kspace" not in arrays:
        raise ValueError(f"{path} has no `kspace`; it holds {', '.join(arrays) or 'nothing'}.")
    data = tensor(arrays["kspace"])
    data = data[:, None] if data.ndim == 3 else data
    mask = torch.from_numpy(arrays["mask"].squeeze() != 0) if "mask" in arrays else None
    header = arrays.get("ismrmrd_header")
    try:
        crop, affine = (
            _geometry(bytes(header), data.shape[-2:])
            if header is not None
            else (arrays.get("crop"), arrays.get("affine"))
        )
        return KSpace(
            data,
            mask,
            crop=None if crop is None else (int(crop[0]), int(crop[1])),
            affine=torch.as_tensor(np.eye(4) if affine is None else affine, dtype=torch.float64),
            noise=tensor(arrays["noise"]) if "noise" in arrays else None,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: str | Path, kspace: KSpace) -> None:
    """Write an HDF5 file that is whole or not there: as fastMRI's, with "crop", "affine", "noise" for the header."""
    arrays = {
        "kspace": kspace.data,
        "mask": kspace.mask,
        "crop": kspace.crop,
        "affine": kspace.affine,
        "noise": kspace.noise,
    }
    with whole(path) as beside, h5py.File(beside, "w") as file:
        for name, value in arrays.items():
            if value is not None:
                file[name] = np.asarray(value.cpu() if isinstance(value, Tensor) else value)


def _geometry(header: bytes, size: torch.Size) -> tuple[tuple[int, int], np.ndarray]:
    """The crop and the affine that ISMRMRD's header says, of k-space of ``size``.

    The readout is x and the phases are y. The field of view of what was encoded belongs to all of k-space.
    """
    said = Header.of(header)
    height, width = size
    (x, y, z), field = said.recon.matrix, said.encoded.field
    return (min(x, height), min(y, width)), np.diag(
        [field[0] / height, field[1] / width, said.recon.field[2] / z, 1.0]
    )
