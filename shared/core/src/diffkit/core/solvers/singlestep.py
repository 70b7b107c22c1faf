"""DPM-Solver and DPM-Solver++, single step: Lu et al. 2022 (2206.00927 and 2211.01095)."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, ddim_step, node, nodes


def dpm_solver(order: int = 2, prediction: Literal["data", "noise"] = "data") -> Solver:
    """``order`` calls a step: 1 is DDIM; 2 has its midpoint at r = 1/2, 3 its nodes at 1/3 and 2/3, in lambda.

    ``data`` is DPM-Solver++(S), ``noise`` DPM-Solver. Steps to or from an infinite lambda take one call.
    """
    if order not in (1, 2, 3) or prediction not in ("data", "noise"):
        raise ValueError(f"dpm_solver has orders 1 to 3 of 'data' or 'noise', not {order} of {prediction!r}.")
    sign = -1.0 if prediction == "data" else 1.0

    def model(at: Node, point: Lin, d: Lin) -> Lin:
        """What is expanded: x0 itself, or eps = (x - a x0)/s."""
        return d if prediction == "data" else (point - at.a * d) / at.s

    def expand(t: Node, u: Node, x: Lin, m: Lin, slope: Lin | None = None) -> Lin:
        """x_u = base + phi1 m + phi2 slope, with slope the derivative of m in lambda times h."""
        h = u.lam - t.lam
        phi1 = math.expm1(sign * h)
        phi2 = phi1 / h - sign
        if prediction == "data":
            out, scale = x * (u.s / t.s) - m * (u.a * phi1), u.a
        else:
            out, scale = x * (u.a / t.a) - m * (u.s * phi1), -u.s
        return out if slope is None else out + slope * (scale * phi2)

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, start, m, d, z = vectors("x start m d z")  # x: where to evaluate next; m: the model at t
        nothing = x * 0.0

        def between(t: Node, u: Node, r: float) -> Node:
            return node(process, float(process.time(t.lam + r * (u.lam - t.lam))))

        for t, u in pairwise(nodes(process, grid)):
            if order == 1 or not (t.regular and u.regular):
                yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z), nothing, nothing))
                continue
            m0 = model(t, x, d)
            if order == 2:
                mid = between(t, u, 0.5)
                yield Step(t.t, at=x, carry=(expand(t, mid, x, m0), x, m0))
                m1 = model(mid, x, d)
                rise = (m1 - m) * (1 / (2 * 0.5))  # the paper's form: phi1/(2 r) in place of phi2/r
                h = u.lam - t.lam
                phi1 = math.expm1(sign * h)
                scale = -u.a * phi1 if prediction == "data" else -u.s * phi1
                yield Step(mid.t, at=x, carry=(expand(t, u, start, m) + rise * scale, nothing, nothing))
                continue
            one, two = between(t, u, 1 / 3), between(t, u, 2 / 3)
            yield Step(t.t, at=x, carry=(expand(t, one, x, m0), x, m0))
            m1 = model(one, x, d)
            yield Step(one.t, at=x, carry=(expand(t, two, start, m, (m1 - m) * 2.0), start, m))
            m2 = model(two, x, d)
            yield Step(two.t, at=x, carry=(expand(t, u, start, m, (m2 - m) * 1.5), nothing, nothing))

    return Solver("dpm_solver", order, steps)
