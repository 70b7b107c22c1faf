"""Heun's method in rho = s/a: algorithm 1 of Karras et al. 2022 (2206.00364) without churn."""

from collections.abc import Iterator
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, ddim_step, nodes


def heun() -> Solver:
    """Second order in two calls a step; one call where s_u = 0, a_t = 0 or a bridge ends.

    With x/a as the state the flow ODE is d(x/a)/drho = eps.
    """

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, half, d, z = vectors("x half d z")
        for t, u in pairwise(nodes(process, grid)):
            euler = ddim_step(process, t, u, x, d, z)
            if not (t.regular and u.regular):
                yield Step(t.t, at=x, carry=(euler, half * 0.0))
                continue
            rho_t, rho_u = t.s / t.a, u.s / u.a
            slope = (x / t.a - d) / rho_t
            yield Step(t.t, at=x, carry=(euler, (x / t.a + slope * ((rho_u - rho_t) / 2)) * u.a))
            slope = (x / u.a - d) / rho_u
            yield Step(u.t, at=x, carry=(half + slope * ((rho_u - rho_t) / 2 * u.a), half * 0.0))

    return Solver("heun", 2, steps)
