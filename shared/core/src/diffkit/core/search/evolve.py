"""Evolution, and AutoDiffusion: which of a model's times a few-step sampler should call.

AutoDiffusion (Li et al. 2023, 2309.10438) evolves subsets of the times under a score of the samples; their
sizes of population and rounds are the defaults here. The paper's score is FID; any function of the end states
will do, and by default it is their distance from the ends of a fine trajectory, which needs no data.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from torch import Tensor

from diffkit.core.grid import Grid, Schedule, resolve, uniform
from diffkit.core.process import Gaussian
from diffkit.core.search.goal import Goal, Score
from diffkit.core.solvers import Solver, ddim
from diffkit.core.types import Denoiser, Draw

Genome = TypeVar("Genome", bound=Hashable)


@dataclass(frozen=True)
class Sizes:
    """Of an evolution: the first population; in each of ``rounds`` how many ``parents`` the ``mutants`` and
    ``crossovers`` have. The defaults are AutoDiffusion's."""

    population: int = 50
    parents: int = 10
    mutants: int = 25
    crossovers: int = 15
    rounds: int = 10


PAPER = Sizes()


def evolution(
    first: Sequence[Genome],
    score: Callable[[Genome], float],
    *,
    mutate: Callable[[Genome, Random], Genome],
    cross: Callable[[Genome, Genome, Random], Genome],
    sizes: Sizes = PAPER,
    seed: int = 0,
) -> list[tuple[float, Genome]]:
    """All genomes that were scored, the best first.

    The population starts with ``first``, filled up with their mutants. Parents are the best of all that were
    seen, so the best is never lost. No genome is scored twice; a score that is not finite comes last. The result
    is a function of the arguments alone.
    """
    rng = Random(seed)
    found: dict[Genome, float] = {}

    def add(born: Callable[[], Genome], count: int) -> None:
        for _ in range(count):
            for _ in range(20):  # a small space runs out of genomes that are new
                child = born()
                if child not in found:
                    value = score(child)
                    found[child] = value if math.isfinite(value) else math.inf
                    break

    for genome in first:
        add(lambda genome=genome: genome, 1)
    add(lambda: mutate(rng.choice(first), rng), sizes.population - len(found))
    for _ in range(sizes.rounds):
        best = sorted(found, key=found.__getitem__)[: sizes.parents]
        add(lambda best=best: mutate(rng.choice(best), rng), sizes.mutants)
        add(lambda best=best: cross(rng.choice(best), rng.choice(best), rng), sizes.crossovers)
    return sorted(((value, genome) for genome, value in found.items()), key=lambda pair: pair[0])


def evolve(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    budget: int,
    *,
    grid: Grid | Schedule | None = None,
    solver: Solver | None = None,
    teacher: Solver | None = None,
    draw: Draw | None = None,
    score: Score | None = None,
    sizes: Sizes = PAPER,
    seed: int = 0,
) -> Grid:
    """The best ``budget`` steps among the times of ``grid``, by evolution from equal ones.

    The first time is free too where there is no anchor; see :class:`~diffkit.core.search.goal.Goal`.

    Args:
        denoise, process, x, grid, teacher, draw: see :func:`~diffkit.core.search.teacher.record`.
        budget: steps, from 1 to those of ``grid``.
        solver: that the grid is for; :func:`~diffkit.core.solvers.ddim`.
        score: of end states; by default the mean squared distance from the teacher's.
        sizes, seed: of the evolution.

    Raises:
        ValueError: a budget that the grid does not have.
    """
    times = resolve(uniform(100) if grid is None else grid, process)
    last = len(times) - 1
    if not 1 <= budget <= last:
        raise ValueError(f"a grid of {last} steps has no path of {budget}: change the budget.")
    goal = Goal.of(denoise, process, x, grid=times, teacher=teacher, draw=draw, score=score)
    method, fixed = solver or ddim(), 0 if goal.lowers else 1
    pool = range(fixed, last)

    def chosen(picks: tuple[int, ...]) -> Grid:
        return times[[*range(fixed), *picks, last]]

    def judge(picks: tuple[int, ...]) -> float:
        return float(goal.errors(method(process, chosen(picks))).mean())

    def mutate(picks: tuple[int, ...], rng: Random) -> tuple[int, ...]:
        kept = {p for p in picks if rng.random() > 0.3}
        free = [p for p in pool if p not in kept]
        return tuple(sorted(kept | set(rng.sample(free, len(picks) - len(kept)))))

    def cross(one: tuple[int, ...], other: tuple[int, ...], rng: Random) -> tuple[int, ...]:
        shared = set(one) & set(other)
        rest = sorted((set(one) | set(other)) - shared)
        return tuple(sorted(shared | set(rng.sample(rest, len(one) - len(shared)))))

    even = tuple(round(k * last / budget) for k in range(fixed, budget))
    ranking = evolution([even], judge, mutate=mutate, cross=cross, sizes=sizes, seed=seed)
    return chosen(ranking[0][1])
