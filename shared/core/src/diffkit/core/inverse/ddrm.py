r"""DDRM, Kawar et al. 2022 (2201.11793): each component of the singular basis by its own law.

With xbar = V^H x and ybar = S^+ U^H y the measurement is ybar_i = xbar_i + noise/s_i eps. In x_t/a_t, whose
noise is sigma = s/a, a step from t to u draws component i about

    D + sqrt(1 - eta^2) sigma_u/sigma_t (x - D)               where s_i = 0,
    D + sqrt(1 - eta^2) sigma_u s_i/noise (ybar - D)          where sigma_u < noise/s_i,    both of std eta sigma_u,
    (1 - eta_b) D + eta_b ybar                                elsewhere, of variance sigma_u^2 - (eta_b noise/s_i)^2,

so that x_u keeps the noise level sigma_u, the measurement's own noise included.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, check
from diffkit.core.inverse.checks import level, share
from diffkit.core.inverse.operator import Decomposed, Operator, decomposed, measured, residual, spectral
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, first_noise, nodes
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw


def ddrm(
    operator: Decomposed | Operator,
    measurement: Tensor,
    *,
    noise: float = 0.0,
    eta: float = 0.85,
    eta_b: float = 1.0,
) -> Sampler:
    """The module's sampler, for operators with a singular value decomposition.

    ``eta`` and ``eta_b`` lie in [0, 1]; the defaults are the paper's. Components are handled as functions of A^H A
    (:func:`~diffkit.core.inverse.operator.spectral`), so that nothing is drawn in the basis itself. The start is
    taken for pure noise, and given the measurement's mean where a > 0 there.

    ValueError for an operator without decomposition, shares outside [0, 1], or a start without noise.
    """
    level(noise)
    share(eta_b, "eta_b")
    if not decomposed(operator):
        raise ValueError(
            "DDRM needs an operator with a singular value decomposition; take dds or pigdm here."
        )
    fresh = math.sqrt(1 - share(eta) ** 2)

    def blend(t: Node, u: Node, x: Tensor, d: Tensor, ybar: Tensor, z: Tensor) -> Tensor:
        """The four terms of the step, each with the weights of its components."""

        def weigh(singular: Tensor) -> tuple[Tensor, ...]:
            known = measured(singular)
            clear = known & (u.s * singular >= u.a * noise)
            own = u.a * noise / singular  # the measurement's noise in x_u
            of_x = torch.where(known, 0.0, fresh * u.s / t.s)
            of_y = torch.where(clear, eta_b * u.a, torch.where(known, fresh * u.s * u.a / own, 0.0))
            spread = (u.s**2 - (eta_b * own).square()).clamp(min=0).sqrt()
            return of_x, u.a - of_y - t.a * of_x, of_y, torch.where(clear, spread, eta * u.s)

        terms = (spectral(operator, lambda s, i=i: weigh(s)[i], v) for i, v in enumerate((x, d, ybar, z)))
        return sum(terms, torch.zeros_like(x))

    def sampler(denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        grid = check(grid)
        path, times = nodes(process, grid), grid.to(x.device)
        back = operator.A_adjoint(residual(operator, measurement, torch.zeros_like(x)))
        ybar = spectral(operator, lambda s: torch.where(measured(s), s.pow(-2), 0.0), back)
        own = (
            noise * path[0].a / first_noise(process, grid)
        )  # the measurement's noise in units of the start's
        x = spectral(operator, lambda s: torch.where(_clear(s, own), _rest(s, own), 1.0), x)
        x = x + path[0].a * spectral(operator, lambda s: _clear(s, own).to(s), ybar)
        for k, (t, u) in enumerate(pairwise(path)):
            x = blend(t, u, x, denoise(x, times[k]), ybar, draw(k, x))
        return x

    return sampler


def _clear(singular: Tensor, noise: float) -> Tensor:
    """Whether a component is measured with less than unit noise."""
    return measured(singular) & (singular >= noise)


def _rest(singular: Tensor, noise: float) -> Tensor:
    """The share of unit noise that is left for a component measured with ``noise``."""
    return (1 - (noise / singular).square()).clamp(min=0).sqrt()
