r"""Explicit Runge-Kutta rules on d(x/a)/drho = eps, rho = s/a: the rho-RK of DEIS (2204.13902), EDM's Heun.

A stage is a point on the way from t to u, reached along a mean of the earlier noise predictions. All of them
are linear in the state at t and the predictions so far, which is what memory holds. The midpoint rule with
its stage halfway in log rho, DPM-2 in k-diffusion, is ``dpm_solver(2, "noise")``.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, ddim_step, eps_at, node, nodes, transfer, weigh
from diffkit.core.types import lookup


class Rule(NamedTuple):
    """A Butcher tableau: ``weights[i]`` of the slopes 0 to i at the next stage, the last row of the result."""

    order: int
    weights: tuple[tuple[float, ...], ...]

    @property
    def times(self) -> list[float]:
        """Where the stages after the first lie, as shares of the step."""
        return [sum(row) for row in self.weights[:-1]]


RULES = {
    "euler": Rule(1, ((1.0,),)),
    "midpoint": Rule(2, ((1 / 2,), (0.0, 1.0))),
    "heun2": Rule(2, ((1.0,), (1 / 2, 1 / 2))),
    "ralston2": Rule(2, ((2 / 3,), (1 / 4, 3 / 4))),
    "kutta3": Rule(3, ((1 / 2,), (-1.0, 2.0), (1 / 6, 2 / 3, 1 / 6))),
    "heun3": Rule(3, ((1 / 3,), (0.0, 2 / 3), (1 / 4, 0.0, 3 / 4))),
    "ralston3": Rule(3, ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))),
    "houwen3": Rule(3, ((8 / 15,), (1 / 4, 5 / 12), (1 / 4, 0.0, 3 / 4))),
    "ssprk3": Rule(3, ((1.0,), (1 / 4, 1 / 4), (1 / 6, 1 / 6, 2 / 3))),
    "rk4": Rule(4, ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
}
"""Tableaus by name (Butcher 2016, section 31; Shu and Osher 1988 for ``ssprk3``)."""


def stages(
    rule: Rule, path: Sequence[Node], x: Lin, kept: Sequence[Lin], d: Lin
) -> Iterator[tuple[Node, tuple[Lin, ...]]]:
    """Each call of a step from t to u: where it is made, and x and ``kept`` after it.

    ``path`` holds t, the further stages and u. ``kept`` has a slot for each stage: the start, and the
    predictions but the last; zero after the step.
    """
    start, *calls, _, _ = vectors(" ".join(["start", *(f"d{i}" for i in range(len(kept)))]) + " d z")
    point, slopes = start, list[Lin]()
    memory = [x]
    for i, (here, there, row) in enumerate(zip(path[:-1], path[1:], rule.weights, strict=True)):
        slopes.append(eps_at(here, point, calls[i]))
        point = transfer(path[0], there, start, weigh([w / sum(row) for w in row], slopes))
        memory = [*memory, d]
        ahead = weigh(point.weights[: i + 2], memory)
        last = i == len(kept) - 1
        rest = [] if last else memory
        yield here, (ahead, *rest, *[0.0 * x] * (len(kept) - len(rest)))
        memory = list(kept[: i + 2])


def _solver(name: str, rule: Rule) -> Solver:
    names = " ".join(["x", *(f"k{i}" for i in range(len(rule.weights))), "d", "z"])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, *kept, d, z = vectors(names)

        def stage(t: Node, u: Node, share: float) -> Node:
            rho = (1 - share) * t.s / t.a + share * u.s / u.a
            return u if share == 1 else node(process, float(process.time(-math.log(rho))))

        for t, u in pairwise(nodes(process, grid)):
            if not (t.regular and u.regular):
                yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z), *[0.0 * x] * len(kept)))
                continue
            path = [t, *(stage(t, u, c) for c in rule.times), u]
            for here, carry in stages(rule, path, x, kept, d):
                yield Step(here.t, at=x, carry=carry)

    return Solver(name, rule.order, steps)


def runge_kutta(rule: str = "rk4") -> Solver:
    """A rule of :data:`RULES`, with as many calls a step as it has stages, at nodes equal in rho.

    One call where lambda is infinite at an end of the step (:mod:`~diffkit.core.solvers.base`).
    """
    return _solver("runge_kutta", lookup(rule, RULES, "Runge-Kutta rule"))


def heun() -> Solver:
    """Heun's method in rho: algorithm 1 of Karras et al. 2022 (2206.00364) without churn; two calls a step."""
    return _solver("heun", RULES["heun2"])
