r"""Measurements y = A x + noise, and what the methods need of A.

A linear operator has ``A`` and ``A_adjoint``, deepinv's names, so that its physics objects are operators as they
are; a nonlinear one is any function of x. A complex state or measurement counts as two real channels, so that
inner products are Re <u, v>, and ``noise`` is always the standard deviation of a real component.

Of a known decomposition A = U S V^H all that is needed are functions of A^H A = V S^2 V^H. An operator offers
them by a method ``spectral(weight, x)`` = V weight(S) V^H x, where ``weight`` is given the singular values, 0
for the null space, with the axes of the coefficients; deepinv's decomposable physics are read through their
``V``, ``V_adjoint`` and ``mask``. Where neither is there, conjugate gradients do.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from diffkit.core.inverse.krylov import conjugate_gradients, norm
from diffkit.core.noise import Seeds
from diffkit.core.types import Denoiser, Guide, Through, expand_as

Weight: TypeAlias = Callable[[Tensor], Tensor]
"""Singular values to real weights of their shape, or of one that broadcasts with it."""


class Operator(Protocol):
    """A linear map of states ``[batch, ...]`` to measurements ``[batch, ...]``, and its adjoint."""

    def A(self, x: Tensor, /) -> Tensor: ...
    def A_adjoint(self, y: Tensor, /) -> Tensor: ...


class Decomposed(Operator, Protocol):
    """An operator with a singular value decomposition (see the module)."""

    def spectral(self, weight: Weight, x: Tensor, /) -> Tensor: ...


Forward: TypeAlias = Operator | Callable[[Tensor], Tensor]
"""A linear operator, or any differentiable function of a state."""


def correct(change: Callable[[Tensor, Tensor], Tensor]) -> Guide:
    """The guide that takes each prediction x0 at time t to ``change(x0, t)``."""

    def changed(inner: Denoiser) -> Denoiser:
        return lambda x, t: change(inner(x, t), t)

    return partial(Through, changed)


def residual(operator: Forward, measurement: Tensor, x0: Tensor) -> Tensor:
    """y - A x0; ValueError if the measurement is not of the shape, dtype and device of A x0."""
    forward = cast(Callable[[Tensor], Tensor], getattr(operator, "A", operator))
    made = forward(x0)
    ours, theirs = ((tuple(v.shape), v.dtype, v.device) for v in (measurement, made))
    if ours != theirs:
        kinds = [f"{shape} {dtype} on {device}" for shape, dtype, device in (ours, theirs)]
        raise ValueError(
            f"the measurement is {kinds[0]} and A(x) of this state is {kinds[1]}: give one of that kind."
        )
    return measurement - made


def decomposed(operator: Any) -> bool:
    """Whether :func:`spectral` knows the operator's decomposition."""
    return hasattr(operator, "spectral") or all(hasattr(operator, n) for n in ("V", "V_adjoint", "mask"))


def spectral(operator: Any, weight: Weight, x: Tensor) -> Tensor:
    """V weight(S) V^H x of a decomposed operator."""
    if hasattr(operator, "spectral"):
        return cast(Decomposed, operator).spectral(weight, x)
    coefficients = operator.V_adjoint(x)
    return operator.V(weight(with_axes(operator.mask.abs(), coefficients)) * coefficients)


def with_axes(singular: Tensor, coefficients: Tensor) -> Tensor:
    """Singular values with as many axes as ``coefficients``, to whose last they belong."""
    return singular[(None,) * (coefficients.ndim - singular.ndim)]


def measured(singular: Tensor) -> Tensor:
    """Which singular values count: those above sqrt(eps) of the largest, whose inverse rounding leaves alone."""
    return singular > torch.finfo(singular.dtype).eps ** 0.5 * singular.amax()


def solve(operator: Operator, b: Tensor, ridge: Tensor | float = 0.0, *, iterations: int = 100) -> Tensor:
    """(A^H A + ridge)^-1 b for ``b`` in the range of A^H, where the inverse is; ``ridge`` a number or ``[batch]``.

    Without a decomposition by at most ``iterations`` of conjugate gradients, until the residual of each sample has
    fallen to eps^(3/4) of b. That is looked at after each, which waits for the device and saves most of them.
    """

    def added(like: Tensor) -> Tensor | float:
        return expand_as(ridge, like) if isinstance(ridge, Tensor) else ridge

    if decomposed(operator):
        return spectral(operator, lambda s: torch.where(measured(s), 1 / (s.square() + added(s)), 0.0), b)
    more, tolerance = added(b), torch.finfo(b.dtype).eps ** 0.75
    return conjugate_gradients(
        lambda x: operator.A_adjoint(operator.A(x)) + more * x,
        b,
        iterations=iterations,
        tolerance=tolerance,
        early=True,
    )


def check_adjoint(operator: Operator, like: Tensor, *, tolerance: float | None = None) -> float:
    """The dot test: how far <A x, v> is from <x, A^H v>, in units of abs(A x) abs(v), for states as ``like``.

    x is random and v half along A x, half random, so that a wrong scale or a missing conjugate shows at any size.
    ``tolerance`` is sqrt(eps) by default; projectors that interpolate need more.

    ValueError, which says by how much, where the operator fails, or if A^H v is not like the state.
    """
    draw = Seeds(range(len(like)))
    x = draw(0, like)
    y = operator.A(x)
    v = y / norm(y).clamp(min=torch.finfo(y.dtype).tiny)
    w = draw(1, y)
    v = v + w / norm(w)
    back = operator.A_adjoint(v)
    if (back.shape, back.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"A_adjoint(A(x)) is {tuple(back.shape)} {back.dtype} for a state {tuple(x.shape)} {x.dtype}: "
            "the adjoint must return what A takes."
        )
    gap = (y.conj() * v).sum() - (x.conj() * back).sum()
    gap = gap if x.is_complex() else gap.real
    size = torch.maximum(_total(y) * _total(v), _total(x) * _total(back))
    error = float(gap.abs() / size.clamp(min=torch.finfo(y.dtype).tiny))
    limit = torch.finfo(y.dtype).eps ** 0.5 if tolerance is None else tolerance
    if not error <= limit:
        raise ValueError(
            f"A_adjoint is not the adjoint of A: <A x, v> and <x, A^H v> differ by {error:.2g} of their size, where "
            f"{limit:.2g} is allowed; look for a conjugate or a scale, or give a solver the true adjoint."
        )
    return error


def _total(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x)
