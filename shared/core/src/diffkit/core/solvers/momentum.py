r"""Heavy-ball momentum against divergence artefacts: Wizadwongsa et al. 2023 (2307.11118).

In x/a over rho = s/a, where the flow's slope is eps, a velocity v averages slopes with weight beta,

    HB:    v <- (1 - beta) v + beta AB_r(eps),    x/a += drho v,
    GHVB:  v <- (1 - beta) v + beta eps,          x/a += drho sum_j c_j v_{n-j},

which enlarges the region of stability. HB costs the order; GHVB restores it: with q a step back, AB_r(q)
times (1 - (1 - beta) q)/beta turns velocities into slopes, and modulo (1 - q)^r it has r weights c_j.
v starts as the first noise prediction. The weights are those of equal steps, as in
:mod:`~diffkit.core.solvers.pndm`, and cap the order at 2 elsewhere; steps equal in rho reach order r.
"""

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np

from diffkit.core.grid import Grid
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, ddim_step, eps_at, linked, nodes, transfer, weigh
from diffkit.core.solvers.pndm import adams_bashforth


def hb(order: int = 4, beta: float = 0.8, nesterov: bool = False) -> Solver:
    """Polyak's heavy ball on Adams-Bashforth of ``order`` 1 to 4; order 1 unless ``beta`` = 1 (ipndm).

    ``nesterov`` moves along (1 - beta) v + beta AB_r with the new v: half as much damping.
    """
    if order not in (1, 2, 3, 4) or not 0 < beta <= 1:
        raise ValueError(f"hb has orders 1 to 4 and beta in (0, 1], not order {order} and beta {beta}.")
    names = " ".join(["x", "v", *(f"e{i}" for i in range(order - 1)), "d", "z"])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, v, *past, d, z = vectors(names)
        known = 0  # how many noise predictions are in memory
        for t, u in pairwise(nodes(process, grid)):
            if not linked(t, u):
                yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z), v, *past))
                continue
            reach = min(order, known + 1)
            slopes = [eps_at(t, x, d), *past]
            push = weigh(adams_bashforth(reach), slopes[:reach])
            velocity = (1 - beta) * v + beta * push if known else push
            along = (1 - beta) * velocity + beta * push if nesterov else velocity
            yield Step(t.t, at=x, carry=(transfer(t, u, x, along), velocity, *slopes[: order - 1]))
            known += 1

    return Solver("hb", min(order, 2) if beta == 1 else 1, steps)


@cache
def ghvb_weights(order: int, beta: float) -> tuple[float, ...]:
    """c_0, ..., c_{order-1}: with ``order`` 2, (2 + beta)/(2 beta) and -(2 - beta)/(2 beta)."""
    product = np.convolve(adams_bashforth(order), [1.0, beta - 1.0]) / beta
    return tuple(float(c) for c in (product - product[-1] * np.poly(np.ones(order))[::-1])[:-1])


def ghvb(order: float = 1.8) -> Solver:
    """``order`` in (0, 5], r its ceiling and beta its fraction (1 if whole, which is ipndm): 1.8 to 3.8, say."""
    if not 0 < order <= 5:
        raise ValueError(f"ghvb has orders above 0 up to 5, not {order}.")
    r = math.ceil(order)
    beta = order - r + 1
    depth = max(r - 1, 1)
    names = " ".join(["x", *(f"v{i}" for i in range(depth)), "d", "z"])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, *past, d, z = vectors(names)
        known = 0  # how many velocities are in memory
        for t, u in pairwise(nodes(process, grid)):
            if not linked(t, u):
                yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z), *past))
                continue
            eps = eps_at(t, x, d)
            velocities = [(1 - beta) * past[0] + beta * eps if known else eps, *past]
            reach = min(r, known + 1)
            along = weigh(ghvb_weights(reach, beta), velocities[:reach])
            yield Step(t.t, at=x, carry=(transfer(t, u, x, along), *velocities[:depth]))
            known += 1

    return Solver("ghvb", min(r, 2), steps)
