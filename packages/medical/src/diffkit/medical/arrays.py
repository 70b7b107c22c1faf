"""NumPy's arrays and files, as torch has them."""

import zipfile
from pathlib import Path

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
        found = np.load(path, allow_pickle=False)
        arrays = {"data": found} if isinstance(found, np.ndarray) else dict(found)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no NumPy file, or a damaged one.") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{path}: {name} holds {array.dtype}, and not numbers.")
    return arrays
