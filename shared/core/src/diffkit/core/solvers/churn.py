r"""Noise added on the way, then removed by any solver: churn (Karras et al. 2022) and restart (Xu et al. 2023).

From a clean t to a noisier u the process in x/a adds noise and nothing else, which keeps its marginals:

    x_u = (a_u/a_t) x_t + sqrt(s_u^2 - (a_u/a_t)^2 s_t^2) z.

A row that does this makes no call. The solver begins afresh after it, so multistep methods fall to their
start: take one of a single step. Levels are sigma = s/a, which is the time of both papers.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from diffkit.core.grid import Grid, power
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, node, nodes, raised
from diffkit.core.solvers.runge_kutta import heun


def _renoise(t: Node, u: Node, like: Step, scale: float = 1.0) -> Step:
    """The row from t to a noisier u, with as many slots as ``like``."""
    x, *rest, _, z = vectors(" ".join(["x", *(f"m{i}" for i in range(len(like.carry) - 1)), "d", "z"]))
    return Step(t.t, at=x, carry=(raised(t, u, x, z, scale), *(0.0 * slot for slot in rest)))


def _top(process: Gaussian) -> float:
    """The lowest lambda to go back to: where t approaches 1, since a bridge's lambda may jump there."""
    return float(process.lam(1 - 1e-6))


def churn(
    s_churn: float = 40.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    solver: Solver | None = None,
) -> Solver:
    """Algorithm 2 of Karras et al. 2022 (2206.00364): every step first raises sigma by a factor 1 + gamma.

    gamma = min(``s_churn``/steps, sqrt(2) - 1) where ``s_min`` <= sigma <= ``s_max``; the noise is scaled by
    ``s_noise``. Their values: 0 (none) on CIFAR-10; 40, 0.05, 50, 1.003 on ImageNet-64. ``solver`` is
    :func:`heun` by default. Levels beyond the process' own are cut to it. ValueError if an option is negative.
    """
    if min(s_churn, s_min, s_max, s_noise) < 0:
        raise ValueError("s_churn, s_min, s_max and s_noise must not be negative.")
    base = solver or heun()

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        gamma = min(s_churn / (len(grid) - 1), math.sqrt(2) - 1)
        lam = (process.lam(grid) - math.log1p(gamma)).clamp(min=_top(process))
        raised = nodes(process, process.time(lam))
        like = next(base.steps(process, grid))
        for (t, u), high, level in zip(
            pairwise(nodes(process, grid)), raised[:-1], lam.tolist(), strict=False
        ):
            if t.regular and level < t.lam and s_min <= t.s / t.a <= s_max:
                yield _renoise(t, high, like, s_noise)
                t = high
            yield from base.steps(process, torch.tensor([t.t, u.t], dtype=torch.float64))

    return Solver("churn", base.order, steps)


def restart(
    intervals: Sequence[tuple[float, float, int, int]] = ((0.06, 0.3, 5, 6),),
    s_noise: float = 1.0,
    solver: Solver | None = None,
) -> Solver:
    """Restart sampling, Xu et al. 2023 (2306.14878).

    Args:
        intervals: ``(sigma_min, sigma_max, steps, repeats)``: from the time of the grid nearest to sigma_min,
            ``repeats`` times back to sigma_max and again down in ``steps`` steps, equal in sigma^(1/7). The
            default is the last of their five for ImageNet-64 in 203 calls; before it (19.35, 40.79, 3, 1),
            (1.09, 1.92, 3, 1), (0.59, 1.09, 3, 5), (0.3, 0.59, 3, 5), on ``karras(36)`` with ``s_noise`` 1.003.
        s_noise: a factor of the noise.
        solver: of all steps; :func:`heun` by default.

    ValueError if an interval is empty or reaches beyond the process.
    """
    base = solver or heun()
    for low, high, count, repeats in intervals:
        if not 0 < low < high or count < 1 or repeats < 0:
            raise ValueError(
                f"a restart is (sigma_min, sigma_max, steps, repeats) with 0 < sigma_min < sigma_max and at least "
                f"one step, not {(low, high, count, repeats)}."
            )

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        path = nodes(process, grid)
        like = next(base.steps(process, grid))
        inner = [k for k, n in enumerate(path) if n.regular]
        if not inner and intervals:
            raise ValueError("the grid has no time to restart from: give it more steps.")
        cuts = [min(inner, key=lambda k: abs(path[k].lam + math.log(low))) for low, *_ in intervals]
        done = 0
        for k, (_, high, count, repeats) in sorted(zip(cuts, intervals, strict=True)):
            if k > done:
                yield from base.steps(process, grid[done : k + 1])
            done, low = k, path[k].s / path[k].a
            if not low < high <= math.exp(-_top(process)):
                raise ValueError(
                    f"a restart cannot go from sigma {low:.3g}, which the grid has, to {high:.3g} on this process."
                )
            again = process.time(-power(count, 7.0, high, low).log())
            again[-1] = grid[k]
            for _ in range(repeats):
                yield _renoise(path[k], node(process, float(again[0])), like, s_noise)
                yield from base.steps(process, again)
        if done < len(path) - 1:
            yield from base.steps(process, grid[done:])

    return Solver("restart", base.order, steps)
