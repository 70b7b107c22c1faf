"""DPM-Solver++ multistep and its SDE: Lu et al. 2022 (2211.01095), algorithm 2 and appendix.

In data prediction, h = lambda_u - lambda_t, r0 = h_prev/h, D1 = (m0 - m1)/r0. Where lambda is infinite the
steps are of first order (:mod:`~diffkit.core.solvers.base`), and history starts after it.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, ddim_step, nodes


def _phi(h: float) -> tuple[float, float, float]:
    """phi1 = e^-h - 1, phi2 = phi1/h + 1, phi3 = phi2/h - 1/2, by series where h is small."""
    phi1 = math.expm1(-h)
    if h < 1e-2:
        phi2 = sum((-1) ** k * h ** (k + 1) / math.factorial(k + 2) for k in range(6))
        phi3 = sum((-1) ** (k + 1) * h ** (k + 1) / math.factorial(k + 3) for k in range(6))
        return phi1, phi2, phi3
    phi2 = phi1 / h + 1
    return phi1, phi2, phi2 / h - 0.5


def _differences(
    t: Node, h: float, d: Lin, past: list[tuple[Node, Lin]], legacy: bool
) -> tuple[Lin | None, Lin | None]:
    """D1 and D2, the scaled first and second derivatives of m in lambda, as far as history reaches."""
    if not past:
        return None, None
    r0 = (t.lam - past[0][0].lam) / h
    first = (d - past[0][1]) / r0
    if len(past) == 1:
        return first, None
    r1 = (past[0][0].lam - past[1][0].lam) / h
    older = (past[0][1] - past[1][1]) / r1
    bend = (first - older) / (r0 + r1)
    return first + bend * r0, bend * (1.0 if legacy else 2.0)


def _multistep(name: str, order: int, eta: float, legacy: bool, lower_order_final: bool) -> Solver:
    depth = order - 1
    names = " ".join(["x", *(f"m{i + 1}" for i in range(depth)), "d", "z"])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, *memory, d, z = vectors(names)
        path = nodes(process, grid)
        history: list[Node] = []
        for k, (t, u) in enumerate(pairwise(path)):
            left = len(path) - 1 - k
            past = [pair for pair in zip(history, memory, strict=False) if pair[0].regular]
            if lower_order_final:
                past = past[: left - 1]
            if t.regular and u.regular:
                h = u.lam - t.lam
                wide = h * (1 + eta)
                phi1, phi2, phi3 = _phi(wide)
                ahead = x * (u.s / t.s * math.exp(-eta * h)) - d * (u.a * phi1)
                if eta:
                    ahead = ahead + z * (u.s * math.sqrt(-math.expm1(-2 * eta * h)))
                first, second = _differences(t, h, d, past, legacy)
                if first is not None:
                    # Two points: the midpoint rule of the paper. Three: the exact weights of the expansion.
                    ahead = ahead + first * (u.a * (-phi1 / 2 if second is None else phi2))
                if second is not None:
                    ahead = ahead - second * (u.a * phi3)
            else:
                ahead = ddim_step(process, t, u, x, d, z, eta)
            yield Step(t.t, at=x, carry=(ahead, *[d, *memory][:depth]))
            history = [t, *history][:depth]

    return Solver(name, min(order, 2) if legacy or lower_order_final else order, steps)


def dpmpp_2m(lower_order_final: bool = False) -> Solver:
    """DPM-Solver++(2M). ``lower_order_final`` makes the last step first order (diffusers, below 15 steps)."""
    return _multistep("dpmpp_2m", 2, 0.0, False, lower_order_final)


def dpmpp_3m(legacy: bool = False, lower_order_final: bool = False) -> Solver:
    """DPM-Solver++(3M) with the consistent weight on its second difference.

    ``legacy`` halves that weight, as every released implementation does (the authors', diffusers,
    k-diffusion): it measures as second order.
    """
    return _multistep("dpmpp_3m", 3, 0.0, legacy, lower_order_final)


def dpmpp_sde(order: int = 2, eta: float = 1.0, legacy: bool = False) -> Solver:
    """SDE-DPM-Solver++ of 1, 2 (midpoint) or 3 points; ``eta`` = 1 is the reverse SDE, 0 the flow ODE.

    Noise caps the order in law: with independent increments the variance converges at order 1 for one
    point, 2 for more.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"dpmpp_sde has orders 1 to 3, not {order}.")
    if not 0 < eta <= 1:
        raise ValueError(f"eta must lie in (0, 1], not {eta}; for 0 use dpmpp_2m or dpmpp_3m.")
    return _multistep("dpmpp_sde", order, eta, legacy, False)
