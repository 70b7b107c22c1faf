"""RePaint, Lugmayr et al. 2022 (2201.09865): what is known is drawn anew, and steps are travelled several times.

Going back from t to a noisier u is the process' own step, x_u = (a_u/a_t) x_t + sqrt(s_u^2 - (a_u/a_t)^2 s_t^2) z,
as in :mod:`diffkit.core.solvers.churn`; it lets known and unknown agree. From every ``jump``-th level, counted
from the last that has noise, the path goes ``jump`` levels back, ``repeats`` - 1 times.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, check
from diffkit.core.inverse.operator import Operator, residual, solve
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, ddim_step, nodes, raised
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw


def repaint(operator: Operator, measurement: Tensor, *, jump: int = 10, repeats: int = 10) -> Sampler:
    """RePaint's algorithm 1 for exact measurements: ancestral steps, the known part of each result replaced.

    By a_u A^+ y + s_u z in the range of A^H, that is the known pixels of a mask. At the end A x = y. Their 250
    steps make 2,410 calls. ValueError for ``jump`` or ``repeats`` below 1.
    """
    _check(jump, repeats)

    def sampler(denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        grid = check(grid)
        path, times = nodes(process, grid), grid.to(x.device)
        known = solve(operator, operator.A_adjoint(residual(operator, measurement, torch.zeros_like(x))))
        for k, (i, j) in enumerate(pairwise(levels(len(path) - 1, jump, repeats))):
            t, u, z = path[i], path[j], draw(k, x)
            if j < i:
                x = raised(t, u, x, z)
                continue
            x = ddim_step(process, t, u, x, denoise(x, times[i]), z, eta=1.0)
            change = u.a * known + u.s * z - x
            x = x + solve(operator, operator.A_adjoint(operator.A(change)))
        return x

    return sampler


def travel(jump: int = 10, repeats: int = 10, eta: float = 1.0) -> Solver:
    """``ddim(eta)`` on RePaint's path: the time travel of DDNM (2212.00490), the inner loop of Steered Diffusion
    (2310.00224, ``jump`` 1), for any guide.

    ValueError for ``jump`` or ``repeats`` below 1.
    """
    _check(jump, repeats)

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, d, z = vectors("x d z")
        path = nodes(process, grid)
        for i, j in pairwise(levels(len(path) - 1, jump, repeats)):
            t, u = path[i], path[j]
            moved = raised(t, u, x, z) if j < i else ddim_step(process, t, u, x, d, z, eta)
            yield Step(t.t, at=x, carry=(moved,))

    return Solver("travel", 1, steps)


def levels(steps: int, jump: int, repeats: int) -> list[int]:
    """The places on a grid of ``steps`` steps that a path visits: 0 is the start, ``steps`` the data.

    Steps are single, and returns ``jump`` long, whose law is that of so many single ones.
    """
    left = {steps - 1 - k: repeats - 1 for k in range(0, steps - jump, jump)}
    path = [0]
    while path[-1] < steps:
        path.append(path[-1] + 1)
        if left.get(path[-1], 0):
            left[path[-1]] -= 1
            path.append(path[-1] - jump)
    return path


def _check(jump: int, repeats: int) -> None:
    if min(jump, repeats) < 1:
        raise ValueError(f"time travel needs jump and repeats of at least 1, not {jump} and {repeats}.")
