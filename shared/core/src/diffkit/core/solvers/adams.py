r"""Exponential Adams methods in lambda = log(a/s), with exact integrals.

The data form of the flow ODE, d(x/s)/dlambda = e^lambda D, has the solution

    x_u = (s_u/s_t) x_t + s_u int_{lambda_t}^{lambda_u} e^lambda D(lambda) dlambda.

D is replaced by the polynomial through past predictions (and, to correct, the new one). Order 1 is DDIM;
order 3 is the consistent DPM-Solver++(3M); with a corrector it is UniPC's (Zhao et al. 2023, 2302.04867) for
the orders at which that is exact. On a bridge's z it is MR-Sampler (Li et al. 2025, 2502.07856).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, ddim_step, nodes

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def lagrange_integrals(h: float, at: Sequence[float]) -> list[float]:
    """int_0^h e^(tau - h) l_j(tau) dtau for the Lagrange basis l_j on the nodes ``at``."""
    tau = h * (_NODES + 1) / 2
    weight = h / 2 * _WEIGHTS * np.exp(tau - h)
    integrals: list[float] = []
    for j, own in enumerate(at):
        basis = np.ones_like(tau)
        for i, other in enumerate(at):
            if i != j:
                basis *= (tau - other) / (own - other)
        integrals.append(float(weight @ basis))
    return integrals


def _advance(process: Gaussian, t: Node, u: Node, x: Lin, known: Sequence[tuple[Node, Lin]], z: Lin) -> Lin:
    """From t to u through the predictions ``known`` at their nodes, the one at t among them."""
    if not (t.regular and u.regular):
        current = next(d for n, d in known if n is t)
        return ddim_step(process, t, u, x, current, z)
    known = [(n, d) for n, d in known if n.regular]
    integrals = lagrange_integrals(u.lam - t.lam, [n.lam - t.lam for n, _ in known])
    out = x * (u.s / t.s)
    for weight, (_, d) in zip(integrals, known, strict=True):
        out = out + d * (u.a * weight)
    return out


def adams(order: int = 2, corrector: bool = False) -> Solver:
    """Adams-Bashforth of ``order`` 1 to 4, self-started; with ``corrector`` one order more at no more calls.

    The corrector re-uses the evaluation at the predicted point, which also is what history keeps; the last
    point is not corrected, since that would take one more call.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"adams has orders 1 to 4, not {order}.")
    depth = order if corrector else order - 1
    names = " ".join(["x", *(f"d{i}" for i in range(depth)), "d", "z"])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, *past, d, z = vectors(names)
        path = nodes(process, grid)
        history: list[Node] = []  # nodes of the predictions in memory, newest first
        for k, (t, u) in enumerate(pairwise(path)):
            old = list(zip(history, past, strict=False))
            at, here = x, x
            if corrector and k > 0:
                last = path[k - 1]
                at = _advance(process, last, t, x, old[:order], z)
                here = _advance(process, last, t, x, [(t, d), *old[:order]], z)
                if any(at.weights[-2:]):  # a bridge's first step draws noise, which no evaluation point can
                    raise ValueError("the corrector cannot leave a bridge's end: start the grid below 1.")
            ahead = _advance(process, t, u, here, [(t, d), *old][:order], z)
            final = k == len(path) - 2
            yield Step(t.t, at=at, carry=(here if corrector and not final else ahead, *[d, *past][:depth]))
            history = [t, *history][:depth]

    return Solver("adams", order + corrector, steps)
