"""The orthogonal wavelet transform of Daubechies' filter with four vanishing moments, periodic, as matrices."""

from functools import lru_cache

import torch
from torch import Tensor

_SCALING = (
    0.23037781330889653,
    0.7148465705529157,
    0.6308807679298589,
    -0.027983769416859854,
    -0.18703481171909309,
    0.030841381835560764,
    0.0328830116668852,
    -0.010597401785069032,
)
"""Daubechies 1988 (db4): low frequencies are sums of eight neighbours with these weights."""


def decompose(x: Tensor, levels: int) -> Tensor:
    """The coefficients of ``[..., height, width]``, in its shape: the coarsest in the first corner (Mallat 1989)."""
    for level in range(levels):
        height, width = (n >> level for n in x.shape[-2:])
        corner = _step(height, x) @ x[..., :height, :width] @ _step(width, x).mT
        x = x.clone()
        x[..., :height, :width] = corner
    return x


def compose(c: Tensor, levels: int) -> Tensor:
    """The inverse of :func:`decompose`, and its adjoint."""
    for level in reversed(range(levels)):
        height, width = (n >> level for n in c.shape[-2:])
        corner = _step(height, c).mT @ c[..., :height, :width] @ _step(width, c)
        c = c.clone()
        c[..., :height, :width] = corner
    return c


def depth(shape: torch.Size, wanted: int = 4) -> int:
    """How many levels an image of ``shape`` has, at most ``wanted``: each halves sizes that must be even.

    The coarsest has at least eight values. ValueError for an odd size.
    """
    levels = 0
    while levels < wanted and all((n >> levels) % 2 == 0 and n >> levels >= 16 for n in shape[-2:]):
        levels += 1
    if not levels:
        raise ValueError(f"wavelets need even sizes of at least 16, not {tuple(shape[-2:])}: pad the image.")
    return levels


def _step(size: int, like: Tensor) -> Tensor:
    """One level along an axis: ``[size, size]``, low frequencies first."""
    return _matrix(size).to(like)


@lru_cache(maxsize=32)
def _matrix(size: int) -> Tensor:
    low = torch.tensor(_SCALING, dtype=torch.float64)
    high = low.flip(0) * torch.tensor([1.0, -1.0] * 4)
    places = (torch.arange(size // 2)[:, None] * 2 + torch.arange(8)) % size
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix[: size // 2].scatter_add_(1, places, low.expand(size // 2, 8))
    matrix[size // 2 :].scatter_add_(1, places, high.expand(size // 2, 8))
    return matrix
