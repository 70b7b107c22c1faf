"""S3, the search for a solver schedule: Liu et al. 2023 (2312.07243), section 4.

Genomes are the times and the choices of every step (:mod:`~diffkit.core.search.usf`). The paper trains a
network that predicts the FID of a genome, since a score costs thousands of samples there. Here a score is the
error of some starts against their own fine trajectories, which is cheap and exact, so every genome is scored.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, lam_uniform, power, resolve, uniform
from diffkit.core.plan import Plan
from diffkit.core.process import Gaussian
from diffkit.core.search.evolve import Sizes, evolution
from diffkit.core.search.goal import Goal, Score, halves
from diffkit.core.search.usf import Choice, Taylor, usf
from diffkit.core.solvers import Solver
from diffkit.core.types import Denoiser, Draw

_FIXED = [
    [Choice(Taylor(1))],  # ddim
    [Choice(Taylor(2, "bh2"))],  # dpmpp_2m
    [Choice(Taylor(3))],  # adams(3)
    [Choice(Taylor(2), noise=True)],
    [Choice(Taylor(3), noise=True)],
    [Choice(Taylor(2, "bh2"), Taylor(3))],  # unipc of order 2
    [Choice(Taylor(3), Taylor(4))],
]
_SIZES = Sizes(population=40, mutants=20, crossovers=10, rounds=6)
_ODDS = 0.3  # of a gene's mutation, as in the release


class Genome(NamedTuple):
    """A plan as evolution sees it."""

    times: tuple[float, ...]
    choices: tuple[Choice, ...]

    def plan(self, process: Gaussian) -> Plan:
        """The plan of the genome."""
        times = torch.tensor(self.times, dtype=torch.float64)
        return usf(*self.choices)(process, times)


def fixed(process: Gaussian, budget: int, grid: Grid) -> Iterator[Genome]:
    """The common solvers of ``budget`` calls on the common grids, and on even parts of ``grid``."""
    start, end = float(grid[0]), float(grid[-1])
    grids = [power(budget, exponent, start, end) for exponent in (1.0, 2.0, 3.0, 5.0)]
    if budget < len(grid):
        grids.append(grid[torch.linspace(0, len(grid) - 1, budget + 1).round().long()])
    whole = [int(process.lam(t).isfinite()) for t in (start, end)]  # else that end is a step apart
    inner = budget - 2 + sum(whole)
    for cut in (1e-3, 1e-2, 3e-2, 0.1) if inner > 0 else ():
        first, last = (start if whole[0] else start - cut), (end if whole[1] else end + cut)
        if first > last:
            lam = lam_uniform(inner, float(process.lam(first)), float(process.lam(last)))(process).tolist()
            inside = lam[whole[0] : len(lam) - whole[1]]
            grids.append(torch.tensor([start, *inside, end], dtype=torch.float64))
    for times in grids:
        for choices in _FIXED:
            yield Genome((start, *times.tolist()[1:-1], end), tuple(choices * budget))


def s3(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    budget: int,
    *,
    grid: Grid | Schedule | None = None,
    teacher: Solver | None = None,
    draw: Draw | None = None,
    score: Score | None = None,
    stages: int = 2,
    sizes: Sizes = _SIZES,
    seed: int = 0,
) -> Plan:
    """The best plan of ``budget`` calls that evolution finds from the common solvers on the common grids.

    Every stage begins with the best of the one before, and mutates half as far. Every second start is held
    out: of the ten best genomes the one is returned that is best on these.

    Args:
        denoise, process, x, teacher, draw: see :func:`~diffkit.core.search.teacher.record`.
        budget: network calls.
        grid: of the teacher; the plan has its ends.
        score: of all end states; by default the mean squared distance from the teacher's.
        stages, sizes, seed: of the evolution.

    Raises:
        ValueError: a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"a plan needs at least one call, not {budget}.")
    times = resolve(uniform(100) if grid is None else grid, process)
    goal = Goal.of(denoise, process, x, grid=times, teacher=teacher, draw=draw, score=score)

    @cache
    def errors(genome: Genome) -> tuple[float, float]:
        return halves(goal.errors(genome.plan(process)))

    best = list(fixed(process, budget, times))
    for stage in range(stages):
        ranking = evolution(
            best,
            lambda genome: errors(genome)[0],
            mutate=partial(_mutate, width=0.5**stage, start=float(times[0]) if goal.lowers else None),
            cross=_cross,
            sizes=sizes,
            seed=seed + stage,
        )
        best = [genome for _, genome in ranking[:10]]
    return min(best, key=lambda genome: errors(genome)[1]).plan(process)


def _mutate(genome: Genome, rng: Random, *, width: float, start: float | None) -> Genome:
    """The choices and the times between their neighbours; with ``start`` the first one too, below it."""
    times = list(genome.times)
    for k in range(int(start is None), len(times) - 1):
        if rng.random() < _ODDS:
            above = times[k - 1] if k else start or times[0]
            low, gap = times[k + 1], above - times[k + 1]
            share = (times[k] - low) / gap + rng.gauss(0, 0.25 * width)
            times[k] = low + gap * min(max(share, 0.02), 0.98 if k else 1.0)
    return Genome(tuple(times), tuple(_vary(choice, rng, width) for choice in genome.choices))


def _vary(choice: Choice, rng: Random, width: float) -> Choice:
    """Every gene changes with the same odds; the odds of the orders are the release's."""

    def changes() -> bool:
        return rng.random() < _ODDS

    predict, correct, noise, back = choice.predict, choice.correct, choice.noise, choice.back
    if changes():
        predict = Taylor(rng.choices((1, 2, 3, 4), (0.2, 0.4, 0.3, 0.1))[0], predict.relax)
    if changes():
        predict = replace(predict, points=rng.choice((0, predict.order + 1)))
    if changes():
        near = 0.0 if isinstance(predict.relax, str) else predict.relax
        predict = replace(predict, relax=rng.choice(("bh1", "bh2", 0.0, near + rng.gauss(0, 0.1 * width))))
    if changes():
        correct = rng.choice((None, Taylor(min(predict.order + 1, 4))))
    if changes():
        noise = not noise
    if changes():
        back = rng.choice((0, 0, 1))
    return Choice(predict, correct, noise, back)


def _cross(one: Genome, other: Genome, rng: Random) -> Genome:
    """Choices from either parent, times between both: a mean of two descents descends."""
    choices = (rng.choice(pair) for pair in zip(one.choices, other.choices, strict=True))
    share = rng.random()
    times = (t + share * (u - t) for t, u in zip(one.times, other.times, strict=True))
    return Genome(tuple(times), tuple(choices))
