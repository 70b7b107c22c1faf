"""DPM-Solver and DPM-Solver++, single step: Lu et al. 2022 (2206.00927 and 2211.01095)."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch

from diffkit.core.grid import Grid, Schedule, lam_uniform
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, ddim_step, eps_at, nodes

MEMORY = "x start m low d z"
"""Where to evaluate next, the start of the step, the model there, and the embedded lower order."""

Prediction = Literal["data", "noise"]


def between(process: Gaussian, pairs: Sequence[tuple[Node, Node]], order: int) -> Iterator[list[Node]]:
    """Of each step the ``order`` - 1 nodes inside, equal in lambda; none where lambda is infinite."""
    shares = [k / order for k in range(1, order)]
    finite = [t.regular and u.regular for t, u in pairs]
    lam = [
        t.lam + r * (u.lam - t.lam) for (t, u), ok in zip(pairs, finite, strict=True) if ok for r in shares
    ]
    found = iter(nodes(process, process.time(torch.tensor(lam, dtype=torch.float64))))
    return ([next(found) for _ in shares] if ok else [] for ok in finite)


def single_step(
    process: Gaussian,
    t: Node,
    inside: Sequence[Node],
    u: Node,
    prediction: Prediction,
    embedded: bool = False,
) -> Iterator[Step]:
    """The rows of one step from t to u, of order one more than the nodes ``inside``, at most two.

    Memory is :data:`MEMORY`. ``embedded`` leaves in its last slot the result of one order less, from the
    same calls, for orders 2 and 3.
    """
    x, start, m, low, d, z = vectors(MEMORY)
    nothing = 0.0 * x
    sign = -1.0 if prediction == "data" else 1.0

    def model(at: Node) -> Lin:
        """What is expanded: x0 itself, or eps."""
        return d if prediction == "data" else eps_at(at, x, d)

    def expand(to: Node, x: Lin, m: Lin, slope: Lin, midpoint: bool = False) -> Lin:
        """x at ``to``: base + phi1 m + phi2 slope, with slope the derivative of m in lambda times h.

        The midpoint form, the paper's second order, has half of phi1's size in place of phi2.
        """
        h = to.lam - t.lam
        phi1 = math.expm1(sign * h)
        phi2 = sign * phi1 / 2 if midpoint else phi1 / h - sign
        if prediction == "data":
            return (to.s / t.s) * x - (to.a * phi1) * m + (to.a * phi2) * slope
        return (to.a / t.a) * x - (to.s * phi1) * m - (to.s * phi2) * slope

    if not (inside and t.regular and u.regular):
        yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z), nothing, nothing, nothing))
        return
    one, m0 = inside[0], model(t)
    rise = (model(one) - m) / ((one.lam - t.lam) / (u.lam - t.lam))
    second = expand(u, start, m, rise, midpoint=True)
    yield Step(t.t, at=x, carry=(expand(one, x, m0, nothing), x, m0, nothing))
    if len(inside) == 1:
        first = expand(u, start, m, nothing) if embedded else nothing
        yield Step(one.t, at=x, carry=(second, nothing, nothing, first))
        return
    two = inside[1]
    share = (two.lam - t.lam) / (u.lam - t.lam)
    third = expand(u, start, m, (model(two) - m) / share)
    kept = second if embedded else nothing
    yield Step(one.t, at=x, carry=(expand(two, start, m, rise * share), start, m, kept))
    yield Step(two.t, at=x, carry=(third, nothing, nothing, low))


def dpm_solver(order: int = 2, prediction: Prediction = "data") -> Solver:
    """``order`` calls a step: 1 is DDIM; 2 has its midpoint at r = 1/2, 3 its nodes at 1/3 and 2/3, in lambda.

    ``data`` is DPM-Solver++(S), ``noise`` DPM-Solver. Steps to or from an infinite lambda take one call.
    """
    if order not in (1, 2, 3) or prediction not in ("data", "noise"):
        raise ValueError(f"dpm_solver has orders 1 to 3 of 'data' or 'noise', not {order} of {prediction!r}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        pairs = list(pairwise(nodes(process, grid)))
        for (t, u), inside in zip(pairs, between(process, pairs, order), strict=True):
            yield from single_step(process, t, inside, u, prediction)

    return Solver("dpm_solver", order, steps)


def _orders(calls: int) -> list[int]:
    """Orders of the steps that spend ``calls``: threes, and at the end 2 and 1, or 1, or 2."""
    threes, rest = divmod(calls, 3)
    return [3] * (threes - 1) + [2, 1] if threes and not rest else [3] * threes + [rest] * (rest > 0)


def dpm_fast(prediction: Prediction = "noise") -> Solver:
    """DPM-Solver-fast: one call for each step of the grid, grouped by threes into steps of third order.

    The last group makes up the number with orders 2 and 1, so it converges at order 2. On equal steps in
    time this is the released ``time_uniform``; its ``logSNR`` has the nodes of :func:`fast_grid`.
    """
    if prediction not in ("data", "noise"):
        raise ValueError(f"dpm_fast predicts 'data' or 'noise', not {prediction!r}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        path = nodes(process, grid)
        inner = sum(t.regular and u.regular for t, u in pairwise(path))
        first = int(not path[0].regular)
        k = 0
        for order in [1] * first + _orders(inner) + [1] * (len(path) - 1 - first - inner):
            yield from single_step(process, path[k], path[k + 1 : k + order], path[k + order], prediction)
            k += order

    return Solver("dpm_fast", 2, steps)


def fast_grid(calls: int, start: float | None = None, end: float | None = None) -> Schedule:
    """The grid of DPM-Solver-fast for ``calls``: its groups are equal in lambda, and each is divided equally.

    ``start`` and ``end`` are values of lambda, as in :func:`~diffkit.core.grid.lam_uniform`.
    """
    if calls < 1:
        raise ValueError(f"a grid needs at least one call, not {calls}.")
    orders = _orders(calls)

    def schedule(process: Gaussian) -> Grid:
        outer = process.lam(lam_uniform(len(orders), start, end)(process))
        ramps = [
            torch.linspace(float(t), float(u), n + 1, dtype=torch.float64)[:-1]
            for (t, u), n in zip(pairwise(outer), orders, strict=True)
        ]
        return process.time(torch.cat([*ramps, outer[-1:]]))

    return schedule
