"""NumPy's arrays and files, as torch has them."""

import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

_NEAREST = {"u2": "i4", "u4": "i8", "u8": "i8", "f2": "f4", "f8": "f4", "f16": "f4", "c16": "c8", "c32": "c8"}


def tensor(array: np.ndarray) -> Tensor:
    """``array`` in the machine's own byte order, and a dtype of torch: floats as float32, complex as complex64."""
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    return torch.from_numpy(np.require(array, _NEAREST.get(kind, kind), ["C", "W"]))


def load(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a .npz by name, or that of a .npy as "data"; ValueError if there are none to be read."""
    try:
        with path.open("rb") as file:  # which numpy leaves open where an archive is damaged
            found = np.load(file, allow_pickle=False)
            arrays = {"data": found} if isinstance(found, np.ndarray) else dict(found)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no NumPy file, or a damaged one.") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{path}: {name} holds {array.dtype}, and not numbers.")
    return arrays


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """An HDF5 file to read; ValueError if it is none, or damaged, also where that shows only inside."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        reason = "is truncated" if "truncated" in str(error) else "is no HDF5 file, or a damaged one"
        raise ValueError(f"{path} {reason}, and cannot be read.") from error


def load_hdf5(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """What an HDF5 file holds under ``names``, or if that is nothing what else it has, each as None.

    ValueError as of :func:`opened`.
    """
    with opened(path) as file:
        return {name: file[name][()] for name in names if name in file} or dict.fromkeys(file)


def names(path: Path) -> list[str]:
    """The arrays that a .npz or HDF5 file holds; none if it cannot be read, as whoever reads it will say."""
    try:
        if path.suffix in (".h5", ".hdf5"):
            return list(load_hdf5(path, ()))
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile):
        return []
