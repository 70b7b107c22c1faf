r"""Stacks by a prior of slices, coupled by total variation along z: DDS in 3D, Chung et al. 2024 (2303.05754).

The network denoises slices, and the measurements with the total variation

    1/2 abs(y - A x)^2 + weight abs(D x)_1,    D x the differences of neighbouring slices,

correct the whole stack, which is one system here. A step of the alternating direction method of multipliers (ADMM)
from Tweedie's D0 with the scaled dual w is z = shrink(D D0 + w, weight/rho), x = argmin of 1/2 abs(y - A x)^2 +
rho/2 abs(D x - z + w)^2, and w + D x - z. With v = D D0 + w and c = v - z, which is v cut at weight/rho, that is

    (A^H A + rho D^H D) d = A^H (y - A D0) - rho D^H c,    x = D0 + d,    w <- c + D d,

so that w is all that there is to keep from one step to the next. ``plug_tv`` has also the term ridge/2 abs(x - D0)^2 of
:func:`~diffkit.core.inverse.projection.diffpir`, which adds ridge to the matrix.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid
from diffkit.core.inverse import conjugate_gradients, plug, renoised
from diffkit.core.inverse.checks import finite, positive
from diffkit.core.inverse.operator import Operator, correct, residual
from diffkit.core.plan import integrate
from diffkit.core.process import Gaussian
from diffkit.core.solvers import Sampler
from diffkit.core.types import Denoiser, Draw, Guide, expand_as, float64
from diffkit.medical.classical import shrink


def dds_tv(
    operator: Operator,
    measurement: Tensor,
    *,
    weight: float,
    rho: float = 0.05,
    iterations: int = 5,
    eta: float = 0.85,
) -> Sampler:
    """The published sampler, of one stack ``[slices, channels, height, width]``: a step of ADMM at each of its own.

    Args:
        operator: of unit norm, and its measurements ``measurement``.
        weight: of the total variation; 0 leaves slices alone.
        rho: of the constraint. A step takes at most weight/rho from a difference, and a large rho holds differences
            to those that the network sees; theirs is 10, with weights of 0.04 and 0.4, for operators of larger norm.
        iterations: of conjugate gradients a step.
        eta: the share of fresh noise, see :func:`~diffkit.core.inverse.renoise.renoised`.
    """
    finite(weight, "the weight of the total variation", low=0.0)
    positive(rho, "rho")

    def sampler(denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        guide = _coupled(operator, measurement, rho * (weight > 0), weight / rho, iterations)
        return renoised(guide, eta)(denoise, process, x, grid, draw=draw)

    return sampler


def plug_tv(
    operator: Operator,
    measurement: Tensor,
    *,
    noise: float,
    weight: float,
    rho: float = 0.05,
    iterations: int = 6,
    momentum: float = 0.0,
) -> Sampler:
    """:func:`~diffkit.core.inverse.plug.plug` of one stack, with arguments as of :func:`dds_tv`.

    ``noise`` is the standard deviation of a part of the measurements, ``momentum`` that of ``plug``.
    """
    finite(weight, "the weight of the total variation", low=0.0)
    positive(rho, "rho")

    def sampler(denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        def ridge(t: Tensor) -> Tensor:
            return expand_as(noise**2 * (2 * process.lam(float64(t))).exp(), x)

        guide = _coupled(operator, measurement, rho * (weight > 0), weight / rho, iterations, ridge)
        return integrate(guide(denoise), x, plug(momentum)(process, grid), draw=draw)

    return sampler


def _coupled(
    operator: Operator,
    y: Tensor,
    rho: float,
    threshold: float,
    iterations: int,
    ridge: Callable[[Tensor], Tensor | float] = lambda t: 0.0,
) -> Guide:
    """The correction of one run, which remembers the dual variable."""
    dual: Tensor | float = 0.0

    def nearer(x0: Tensor, t: Tensor) -> Tensor:
        nonlocal dual
        v = differences(x0) + dual
        cut = v - shrink(v, threshold)
        back = operator.A_adjoint(residual(operator, y, x0)) - rho * differences_adjoint(cut)
        more = ridge(t)

        def normal(x: Tensor) -> Tensor:
            """Of the stack as one sample, [1, slices, ...]."""
            x = x[0]
            coupling = rho * differences_adjoint(differences(x))
            return (operator.A_adjoint(operator.A(x)) + more * x + coupling)[None]

        change = conjugate_gradients(normal, back[None], iterations=iterations)[0]
        dual = cut + differences(change)
        return x0 + change

    return correct(nearer)


def differences(x: Tensor) -> Tensor:
    """From each slice to the next, ``[slices - 1, ...]``."""
    return x.diff(dim=0)


def differences_adjoint(q: Tensor) -> Tensor:
    """The adjoint of :func:`differences`."""
    edge = q.new_zeros(1, *q.shape[1:])
    return torch.cat([edge, q]) - torch.cat([q, edge])
