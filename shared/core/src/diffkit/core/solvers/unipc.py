r"""UniPC: Zhao et al. 2023 (2302.04867), with DC-Solver's compensation.

With r_i = (lambda_i - lambda_t)/h and D_i = (m_i - m_0)/r_i the paper steps by

    x_u = (s_u/s_t) x_t - a_u phi1 m_0 - a_u B(h) sum_i rho_i D_i,   sum_i r_i^(k-1) rho_i = k! chi_(k+1)/B(h),

which is the integral of the polynomial through the predictions: B(h) cancels, and UniPC is
:mod:`~diffkit.core.solvers.adams` with its corrector. It stays only where the paper sets rho = 1/2 instead of
solving, with one difference: in the predictor of order 2 and the corrector of order 1.

DC-Solver (Zhao et al. 2024, 2409.03755) replaces the newest prediction, before the predictor, by the value at
rho t + (1 - rho) t_prev of the parabola in time through the last three.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step
from diffkit.core.process import Gaussian
from diffkit.core.solvers.adams import lagrange_integrals, through
from diffkit.core.solvers.base import Solver, weigh
from diffkit.core.solvers.multistep import Known, multistep

Variant = Literal["bh1", "bh2", "vary_coeff"]


def unipc(
    order: int = 2,
    variant: Variant = "bh2",
    corrector: bool = True,
    skip: Collection[int] = (),
    lower_order_final: bool = False,
    ratios: Sequence[float] | None = None,
    legacy: bool = False,
) -> Solver:
    """UniPC of ``order`` 1 to 4, self-started, at one call a step; UniP where ``corrector`` is False.

    Args:
        order: of the predictor; the corrector adds one.
        variant: B(h) = -h (``bh1``, for few unguided steps) or e^-h - 1 (``bh2``), or none: the exact integrals.
        corrector: correct every step but the last, re-using the evaluation at the predicted point.
        skip: steps, counted from 0, that are not corrected; released DC-Solver skips the first.
        lower_order_final: no more predictions than steps are left (diffusers' default): steadier with few
            steps, and of second order.
        ratios: DC-Solver's rho for every step, in which 1 changes nothing; the first two steps, with fewer
            than three predictions, do not use theirs. :func:`diffkit.core.search.compensation.compensate` finds them.
        legacy: the released corrector of ``vary_coeff``, whose sum stops one short: first order from
            ``order`` 2 on.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"unipc has orders 1 to 4, not {order}.")
    if variant not in ("bh1", "bh2", "vary_coeff"):
        raise ValueError(f"unipc has the variants 'bh1', 'bh2' and 'vary_coeff', not {variant!r}.")
    if legacy and (variant != "vary_coeff" or not corrector):
        raise ValueError(
            "legacy is the released corrector of 'vary_coeff': the other variants have no defect."
        )
    rule = (
        _released if legacy else lagrange_integrals if variant == "vary_coeff" else partial(_halved, variant)
    )

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        if ratios is not None and len(ratios) != len(grid) - 1:
            raise ValueError(f"{len(ratios)} ratios for {len(grid) - 1} steps: give one for each.")
        return multistep(
            process,
            grid,
            order,
            through(rule),
            corrector=corrector,
            skip=skip,
            lower_order_final=lower_order_final,
            amend=None if ratios is None else partial(_compensated, ratios),
        )

    reached = 1 if legacy and order > 1 else order + corrector
    return Solver("unipc", min(reached, 2) if lower_order_final else reached, steps)


def _halved(variant: Variant, h: float, at: Sequence[float]) -> list[float]:
    """The exact integrals, or B(h)/2 on the only difference."""
    if len(at) != 2:
        return lagrange_integrals(h, at)
    own = at.index(0.0)
    half = (-h if variant == "bh1" else math.expm1(-h)) / 2 / (at[1 - own] / h)
    weights = [-half, -half]
    weights[own] = half - math.expm1(-h)
    return weights


def _released(h: float, at: Sequence[float]) -> list[float]:
    """``vary_coeff`` as released: of the corrector's K differences, newest first, the K-th row is left out."""
    if at[0] == 0:
        return lagrange_integrals(h, at)  # the predictor is right
    r = np.array([*at[2:], at[0]]) / h
    k = np.arange(1, len(r) + 1)
    factorial = np.array([math.factorial(i) for i in k])
    inverse = np.linalg.inv(r[:, None] ** (k - 1) / factorial)
    chi = [-math.expm1(-h) / h - 1]
    for i in k[:-1]:
        chi.append(-chi[-1] / h - 1 / math.factorial(i + 1))
    share = np.array(chi[:-1]) @ inverse[:-1]
    share[-1] = chi[-1] * inverse[max(len(r) - 2, 0), -1]
    weights = -share / r
    return [weights[-1], -math.expm1(-h) - weights.sum(), *weights[:-1]]


def _compensated(ratios: Sequence[float], k: int, known: Known) -> Lin:
    """The newest prediction of step k, moved along the parabola in time through the last three."""
    newest, ratio = known[0][1], ratios[k]
    if len(known) < 3 or ratio == 1:
        return newest
    times = [n.t for n, _ in known[:3]]
    moved = times[1] + ratio * (times[0] - times[1])
    weights = [math.prod((moved - t) / (own - t) for t in times if t != own) for own in times]
    return weigh(weights, [m for _, m in known[:3]])
