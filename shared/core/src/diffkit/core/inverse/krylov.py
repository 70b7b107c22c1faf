"""Conjugate gradients (Hestenes and Stiefel 1952), for each sample of a batch alone."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    x0: Tensor | None = None,
    *,
    iterations: int,
    tolerance: float = 0.0,
    early: bool = False,
) -> Tensor:
    """x with M x = b, from ``x0`` (0 by default), after at most ``iterations`` applications of M.

    Args:
        operator: x to M x, Hermitian and positive semidefinite, of each sample; ``b`` in its range.
        b, x0: ``[batch, ...]``, real or complex, whose inner products are Hermitian. After k iterations x is the
            best of x0 + span{r, M r, ..., M^(k-1) r}.
        tolerance: a sample stops where the residual is at most this share of ``b``.
        early: look after every iteration whether all samples have stopped, which waits for the device; worth it
            where M is dear.
    """
    if iterations < 1 or not tolerance >= 0:
        raise ValueError(
            f"conjugate gradients need an iteration and a tolerance >= 0, not {iterations}, {tolerance}."
        )
    x = torch.zeros_like(b) if x0 is None else x0
    r = b if x0 is None else b - operator(x0)
    p, power = r, norm(r).square()
    enough = (tolerance * norm(b)).square()
    for _ in range(iterations):
        active = power > enough
        if early and not bool(active.any()):
            break
        image = operator(p)
        curvature = _inner(p, image)
        step = torch.where(active & (curvature > 0), power / curvature, 0.0)
        x = x + step * p
        r = r - step * image
        last, power = power, norm(r).square()
        p = r + torch.where(active, power / last, 0.0) * p
    return x


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each sample, ``[batch, 1, ...]``, real."""
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)


def _inner(u: Tensor, v: Tensor) -> Tensor:
    return (u.conj() * v).real.sum(tuple(range(1, u.ndim)), keepdim=True)
