"""Evolution, and the times it finds."""

import math
from itertools import combinations, pairwise
from random import Random

import pytest
import torch
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import uniform
from diffkit.core.mixture import Mixture
from diffkit.core.plan import integrate
from diffkit.core.process import VP
from diffkit.core.search.evolve import Sizes, evolution, evolve
from diffkit.core.solvers import ddim

MIXTURE, PROCESS = Mixture.reference(), VP()


def denoise(x: Tensor, t: Tensor) -> Tensor:
    return MIXTURE.denoise(PROCESS, x, t)


def starts(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(genome: int, rng: Random) -> int:
    return genome + rng.choice((-1, 1))


def middle(one: int, other: int, rng: Random) -> int:
    return (one + other) // 2


class TestEvolution:
    def test_nothing_is_scored_twice_and_the_best_is_never_lost(self) -> None:
        seen: list[int] = []

        def score(genome: int) -> float:
            seen.append(genome)
            return math.nan if genome == 3 else abs(genome - 12)

        ranking = evolution([0], score, mutate=walk, cross=middle, sizes=Sizes(5, rounds=20))
        assert len(seen) == len(set(seen))
        assert ranking[0] == (0, 12)
        assert ranking[-1] == (math.inf, 3)
        assert [value for value, _ in ranking] == sorted(value for value, _ in ranking)

    def test_a_space_that_runs_out(self) -> None:
        ranking = evolution(
            [0], float, mutate=lambda g, rng: rng.randrange(3), cross=middle, sizes=Sizes(9, rounds=2)
        )
        assert sorted(ranking) == [(0, 0), (1, 1), (2, 2)]


def test_evolution_finds_what_brute_force_finds() -> None:
    """3 of 20 times on a normal law, where a plan is a gain and the distance W2 is that of two deviations."""
    std, grid = 0.5, uniform(20)

    def law(x: Tensor, t: Tensor) -> Tensor:
        a, s = PROCESS.a(t), PROCESS.s(t)
        return a * std**2 / ((a * std) ** 2 + s**2) * x

    def distance(end: Tensor | float) -> float:
        return abs(abs(float(end)) - std)

    one = torch.ones(1, 1, dtype=torch.float64)
    steps: dict[tuple[int, ...], float] = {
        (i, j): float(integrate(law, one, ddim()(PROCESS, grid[[i, j]])))
        for i, j in combinations(range(21), 2)
    }

    def gain(picks: tuple[int, ...]) -> float:
        first = float(PROCESS.s(grid[picks[0]]))
        return distance(first * math.prod(steps[pair] for pair in pairwise([*picks, 20])))

    start = PROCESS.s(grid[:1])[None]  # of one deviation
    everything: dict[tuple[int, ...], float] = {picks: gain(picks) for picks in combinations(range(20), 3)}
    best = min(everything, key=everything.__getitem__)
    for seed in (0, 1):
        found = evolve(law, PROCESS, start, 3, grid=grid, score=distance, seed=seed)
        assert found.tolist() == grid[[*best, 20]].tolist()
    equal = tuple(round(k * 20 / 3) for k in range(3))
    assert everything[best] < 0.5 * everything[equal]
    early = [
        evolve(law, PROCESS, start, 3, grid=grid, score=distance, sizes=Sizes(rounds=0), seed=7)
        for _ in range(2)
    ]
    assert torch.equal(*early)
    assert gain(tuple((20 - early[0][:-1] * 20).round().int().tolist())) <= everything[equal]


@pytest.mark.parametrize("budget", [4, 6])
def test_found_times_beat_equal_ones_on_other_starts(budget: int) -> None:
    found = evolve(denoise, PROCESS, starts(32, 0), budget, grid=uniform(50), sizes=Sizes(rounds=4))
    truth = integrate(denoise, starts(256, 1), ddim()(PROCESS, uniform(400)))

    def error(grid: Tensor) -> float:
        x = starts(256, 1) * float(PROCESS.s(grid[0]) / PROCESS.s(torch.ones(1, dtype=torch.float64)))
        return float((integrate(denoise, x, ddim()(PROCESS, grid)) - truth).square().mean().sqrt())

    assert error(found) < 0.75 * error(uniform(budget))
    assert len(found) == budget + 1


def test_a_bridge_starts_where_its_anchor_is() -> None:
    found = evolve(
        lambda z, t: torch.tanh(z + 1), SBVE(), torch.zeros(4, 2), 3, grid=uniform(12), sizes=Sizes(rounds=2)
    )
    assert found[0] == 1
    assert len(found) == 4


def test_a_budget_beyond_the_grid() -> None:
    with pytest.raises(ValueError, match="a grid of 5 steps has no path of 6"):
        evolve(denoise, PROCESS, starts(2, 0), 6, grid=uniform(5))
