"""What solvers share: the process read at the nodes of a grid, and the steps that no formula covers.

lambda = log(a/s) is infinite where s = 0 or a = 0, so three kinds of step stand apart, here and nowhere
else. To s = 0 a solver returns its prediction. From a = 0 it takes a DDIM step. From a bridge's end, where
the state is exactly the anchor and says nothing of eps, it draws eps (Zheng et al. 2024, 2405.15885,
the booting noise of DBIM).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from diffkit.core.grid import Grid, check
from diffkit.core.plan import Lin, Plan, Step, tabulate
from diffkit.core.process import Gaussian


class Node(NamedTuple):
    """A process at one time, as numbers."""

    t: float
    a: float
    s: float
    lam: float

    @property
    def regular(self) -> bool:
        """Whether lambda is finite."""
        return math.isfinite(self.lam)


def nodes(process: Gaussian, grid: Grid) -> list[Node]:
    """The process at every time of ``grid``."""
    columns = (grid, process.a(grid), process.s(grid), process.lam(grid))
    return [Node(*values) for values in zip(*(c.tolist() for c in columns), strict=True)]


def node(process: Gaussian, t: float) -> Node:
    """The process at one time."""
    return nodes(process, torch.tensor([t], dtype=torch.float64))[0]


@dataclass(frozen=True)
class Solver:
    """A named method: call it with a process and a grid for its plan.

    Args:
        name: as in :data:`diffkit.core.solvers.SOLVERS`.
        order: of global convergence on a smooth problem with exact history.
        steps: ``(process, grid) -> steps``.
    """

    name: str
    order: int
    steps: Callable[[Gaussian, Grid], Iterator[Step]]

    def __call__(self, process: Gaussian, grid: Grid) -> Plan:
        grid = check(grid)
        return tabulate(self.steps(process, grid), float(grid[-1]))


def ddim_step(process: Gaussian, t: Node, u: Node, x: Lin, d: Lin, z: Lin, eta: float = 0.0) -> Lin:
    """x_u = a_u D + sqrt(s_u^2 - tau^2) eps + tau z with eps = (x - a_t D)/s_t.

    tau = eta s_u sqrt(1 - rho^2), eta = 1 being the posterior; tau = s_u where s_t = 0, since eps is unknown.
    """
    if t.s == 0:
        return u.a * d + u.s * z
    rho2 = float(process.rho(t.t, u.t)) ** 2 if eta else 0.0
    keep = u.s * math.sqrt(1 - eta**2 + eta**2 * rho2) / t.s
    return keep * x + (u.a - t.a * keep) * d + (eta * u.s * math.sqrt(1 - rho2)) * z
