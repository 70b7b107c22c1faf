"""What solvers share: the process read at the nodes of a grid, and the steps that no formula covers.

lambda = log(a/s) is infinite where s = 0 or a = 0, so three kinds of step stand apart, here and nowhere
else. To s = 0 a solver returns its prediction, unless it extrapolates noise predictions over rho = s/a, which
is finite there (:func:`linked`). From a = 0 it takes a DDIM step. From a bridge's end, where
the state is exactly the anchor and says nothing of eps, it draws eps (Zheng et al. 2024, 2405.15885,
the booting noise of DBIM).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, resolve
from diffkit.core.plan import Lin, Plan, Step, Weight, pause, stack, tabulate
from diffkit.core.process import Gaussian

Vector = TypeVar("Vector", Lin, Tensor)
"""What a step combines: an author's symbols, or the states themselves in a method that is no table."""


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


def raised(t: Node, u: Node, x: Vector, z: Vector, scale: float = 1.0) -> Vector:
    """x at a noisier u, from t: the process' own step, with its noise ``scale`` times as large."""
    grow = u.a / t.a
    return grow * x + (scale * math.sqrt(max(u.s**2 - (grow * t.s) ** 2, 0.0))) * z


def first_noise(process: Gaussian, grid: Grid) -> float:
    """s at the first time of ``grid``; ValueError at a bridge's end, where there is none."""
    if (s := float(process.s(grid[0]))) == 0:
        raise ValueError("this method starts from noise: begin the grid below this bridge's end.")
    return s


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

    def __call__(self, process: Gaussian, grid: Grid | Schedule) -> Plan:
        """The plan; where the grid has rows or the process differs by element, of one for each."""
        grid, parts = resolve(grid, process), process.split()
        if grid.ndim == 1 and parts is None:
            return tabulate(self.steps(process, grid), float(grid[-1]))
        if grid.ndim == 1 and parts is not None:
            processes, index = parts
            plans = [self(process, grid) for process in processes]
        elif parts is None:
            rows, index = grid.flatten(0, -2).unique(dim=0, return_inverse=True)
            index, plans = index.reshape(grid.shape[:-1]), self._rows(process, rows)
        else:
            raise ValueError(f"{type(process).__name__} differs by element: give one grid for all samples.")
        return stack([plans[i] for i in index.flatten().tolist()], index.shape)

    def _rows(self, process: Gaussian, rows: Grid) -> list[Plan]:
        """A plan for each of the distinct ``rows``, which may pause."""
        moves = rows.diff() < 0
        if bool(moves.all()):
            return [self(process, row) for row in rows]
        plans = {
            k: self(process, row[[True, *move.tolist()]])
            for k, (row, move) in enumerate(zip(rows, moves, strict=True))
            if bool(move.any())
        }
        if any(len(plan.t) != int(moves[k].sum()) for k, plan in plans.items()):
            raise ValueError(f"{self.name} takes several calls a step, so that its grid cannot pause.")
        still = next(iter(plans.values()))[:0]
        return [pause(plans.get(k, still), moves[k], float(row[-1])) for k, row in enumerate(rows)]


def ddim_step(
    process: Gaussian, t: Node, u: Node, x: Vector, d: Vector, z: Vector, eta: float = 0.0
) -> Vector:
    """x_u = a_u D + sqrt(s_u^2 - tau^2) eps + tau z with eps = (x - a_t D)/s_t.

    tau = eta s_u sqrt(1 - rho^2), eta = 1 being the posterior; tau = s_u where s_t = 0, since eps is unknown.
    """
    if t.s == 0:
        return u.a * d + u.s * z
    rho2 = float(process.rho(t.t, u.t)) ** 2 if eta else 0.0
    keep = u.s * math.sqrt(1 - eta**2 + eta**2 * rho2) / t.s
    return keep * x + (u.a - t.a * keep) * d + (eta * u.s * math.sqrt(1 - rho2)) * z


def eps_at(t: Node, x: Vector, d: Vector) -> Vector:
    """The noise prediction (x - a D)/s at a node where s > 0."""
    return (x - t.a * d) / t.s


def transfer(t: Node, u: Node, x: Vector, eps: Vector) -> Vector:
    """From t to u along a fixed eps: a_u (x - s_t eps)/a_t + s_u eps, where a_t > 0.

    Euler's step on d(x/a)/drho = eps, rho = s/a; with ``eps_at`` the deterministic :func:`ddim_step`.
    """
    return (u.a / t.a) * x + (u.s - u.a * t.s / t.a) * eps


def linked(t: Node, u: Node) -> bool:
    """Whether noise predictions can take a state from t to u: rho = s/a is finite, and positive at t."""
    return t.regular and u.a > 0


def weigh(weights: Sequence[Weight], vectors: Sequence[Vector]) -> Vector:
    """The combination of ``vectors``, with a weight for each."""
    first, *rest = (w * v for w, v in zip(weights, vectors, strict=True))
    return sum(rest, first)
