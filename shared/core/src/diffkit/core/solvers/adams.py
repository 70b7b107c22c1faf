r"""Exponential Adams methods in lambda = log(a/s), with exact integrals.

The data form of the flow ODE, d(x/s)/dlambda = e^lambda D, has the solution

    x_u = (s_u/s_t) x_t + s_u int_{lambda_t}^{lambda_u} e^lambda D(lambda) dlambda.

D is replaced by the polynomial through past predictions (and, to correct, the new one). Order 1 is DDIM;
order 3 is the consistent DPM-Solver++(3M); with a corrector it is UniPC's (Zhao et al. 2023, 2302.04867) for
the orders at which that is exact. On a bridge's z it is MR-Sampler (Li et al. 2025, 2502.07856).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, weigh
from diffkit.core.solvers.multistep import Known, multistep

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def lagrange_integrals(
    h: float,
    at: Sequence[float],
    rate: float = 1.0,
    along: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> list[float]:
    """int_0^h e^(rate (tau - h)) l_j(tau) dtau for the Lagrange basis l_j on the nodes ``at``.

    With ``along``, a coordinate as a function of tau, the basis is in it: l_j(along(tau)).
    """
    tau = h * (_NODES + 1) / 2
    weight = h / 2 * _WEIGHTS * np.exp(rate * (tau - h))
    place = tau if along is None else along(tau)
    integrals: list[float] = []
    for j, own in enumerate(at):
        basis = np.ones_like(tau)
        for i, other in enumerate(at):
            if i != j:
                basis *= (place - other) / (own - other)
        integrals.append(float(weight @ basis))
    return integrals


def through(
    integrals: Callable[[float, Sequence[float]], Sequence[float]],
) -> Callable[[Node, Node, Lin, Known], Lin]:
    """The step x_u = (s_u/s_t) x_t + a_u sum_j w_j d_j, with weights w from h and the nodes relative to t."""

    def advance(t: Node, u: Node, x: Lin, known: Known) -> Lin:
        weights = integrals(u.lam - t.lam, [n.lam - t.lam for n, _ in known])
        return weigh([u.s / t.s, *(u.a * w for w in weights)], [x, *(d for _, d in known)])

    return advance


def adams(order: int = 2, corrector: bool = False) -> Solver:
    """Adams-Bashforth of ``order`` 1 to 4, self-started; with ``corrector`` one order more at no more calls.

    The corrector re-uses the evaluation at the predicted point, which also is what history keeps; the last
    point is not corrected, since that would take one more call.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"adams has orders 1 to 4, not {order}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        if corrector and float(process.s(grid[0])) == 0:
            raise ValueError("the corrector cannot leave a bridge's end: start the grid below 1.")
        return multistep(process, grid, order, through(lagrange_integrals), corrector=corrector)

    return Solver("adams", order + corrector, steps)
