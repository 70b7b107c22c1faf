"""BOSS, the Bellman optimal step sizes: Nguyen et al. 2023 (2312.16414).

On a fine trajectory x_0 .. x_n the cost of a jump is how far one step lands from it,

    c_ij = mean |step(x_i, d_i; t_i -> t_j) - x_j|^2,

and of all paths of K jumps dynamic programming finds the cheapest, F_k(j) = min_i F_{k-1}(i) + c_ij. Costs are
taken from states of the fine trajectory: the drift of earlier jumps is not seen.
"""

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule
from diffkit.core.process import Gaussian
from diffkit.core.search.teacher import Trajectory, jump, record
from diffkit.core.solvers import Solver, ddim
from diffkit.core.types import Denoiser, Draw


def boss(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    budget: int,
    *,
    grid: Grid | Schedule | None = None,
    teacher: Solver | None = None,
    solver: Solver | None = None,
    draw: Draw | None = None,
) -> Grid:
    """The ``budget`` steps of ``solver`` that follow a fine trajectory best.

    Args:
        denoise, process, x, grid, draw: see :func:`~diffkit.core.search.teacher.record`.
        budget: steps, from 1 to those of ``grid``.
        teacher: what makes the trajectory.
        solver: what the grid is for, whose first step is the rule of a jump; by default
            :func:`~diffkit.core.solvers.ddim`, Euler on the flow.

    Raises:
        ValueError: a budget that the grid does not have, or a solver of several calls a step.
    """
    path = record(denoise, process, x, grid=grid, solver=teacher, draw=draw)
    return path.t[shortest(jumps(path, process, solver or ddim()), budget)]


@torch.no_grad()
def jumps(path: Trajectory, process: Gaussian, rule: Solver) -> Tensor:
    """``cost[i, j]`` of a jump from time i to time j > i, float64 ``[n + 1, n + 1]``; others are infinite."""
    cost = torch.full((len(path.t),) * 2, torch.inf, dtype=torch.float64)
    for i in range(len(path.t) - 1):
        for j in range(i + 1, len(path.t)):
            state, prediction, noise = jump(rule, process, path.t[[i, j]])
            gap = torch.sub(path.d[i] * prediction, path.x[j]).add(path.x[i], alpha=state)
            if noise and path.noise is not None:
                gap = gap.add(path.noise, alpha=noise)
            cost[i, j] = gap.square().mean().item()
    return cost


def shortest(cost: Tensor, steps: int) -> list[int]:
    """The cheapest path of exactly ``steps`` edges from the first node to the last, as its nodes.

    ``cost[i, j]`` ``[n, n]`` is infinite where there is no edge. ValueError if no such path exists.
    """
    best = torch.full_like(cost[0], torch.inf)
    best[0] = 0.0
    origins: list[Tensor] = []
    for _ in range(steps):
        best, origin = (best[:, None] + cost).min(0)
        origins.append(origin)
    if steps < 1 or not bool(torch.isfinite(best[-1])):
        raise ValueError(f"a grid of {len(cost) - 1} steps has no path of {steps}: change the budget.")
    path = [len(cost) - 1]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return path[::-1]
