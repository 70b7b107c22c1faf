"""NIfTI-1 and -2 files, .nii and .nii.gz."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from diffkit.core.files import whole
from diffkit.medical.arrays import tensor
from diffkit.medical.volume import Volume

# What places the voxels, beside the first of pixdim: two transforms, of which programs prefer one or the other.
_PLACE = (
    "qform_code sform_code quatern_b quatern_c quatern_d qoffset_x qoffset_y qoffset_z srow_x srow_y srow_z"
)


def read(path: Path) -> Volume:
    """The image with its header as ``meta["nifti"]``; see :func:`diffkit.medical.volume.read`."""
    try:
        image: Any = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
    except (ImageFileError, HeaderDataError) as error:
        raise ValueError(f"{path} is no NIfTI image.") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is damaged or not complete, and cannot be read.") from error
    if array.ndim == 5 and array.shape[3] == 1:  # vectors: i, j, k, time, component
        array = array[:, :, :, 0]
    if not 2 <= array.ndim <= 4 or array.dtype.kind not in "biufc":
        raise ValueError(f"{path} has voxels of {array.dtype} on {array.ndim} axes, and is no image of ours.")
    array = array.reshape(array.shape + (1,) * (4 - array.ndim))
    affine = torch.as_tensor(image.affine, dtype=torch.float64)
    return Volume(tensor(np.moveaxis(array, 3, 0)), affine, {"nifti": image.header.copy()})


def write(path: Path, volume: Volume) -> None:
    """One channel as three axes, more as a fourth; see :func:`diffkit.medical.volume.write`."""
    array = volume.data.movedim(0, -1).numpy()
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.int64:
        if np.abs(array).max() > np.iinfo(np.int32).max:
            raise ValueError(
                f"{path}: integers above 32 bit are not written, as most programs cannot read them."
            )
        array = array.astype(np.int32)
    affine = volume.affine.numpy()
    image = nibabel.Nifti1Image(array[..., 0] if array.shape[-1] == 1 else array, affine)
    image.header.set_xyzt_units("mm")
    before = volume.meta.get("nifti")
    if before is not None and np.array_equal(before.get_best_affine(), affine):
        for name in _PLACE.split():
            image.header[name] = before[name]
        image.header["pixdim"][:4] = before["pixdim"][:4]
    content = image.to_bytes()
    with whole(path) as beside:
        beside.write_bytes(gzip.compress(content, 3, mtime=0) if path.suffix == ".gz" else content)
