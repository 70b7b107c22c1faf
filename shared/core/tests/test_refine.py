"""Plans as triangles, and those that least squares finds."""

import pytest
import torch
from core_processes import name
from torch import Tensor

from diffkit.core.bridge import OUVE, SBVE
from diffkit.core.grid import Grid, lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate, stack
from diffkit.core.process import VP, Gaussian, RectifiedFlow
from diffkit.core.sample import sample
from diffkit.core.search.goal import Goal
from diffkit.core.search.refine import refine, roll, unroll
from diffkit.core.search.s3 import fixed
from diffkit.core.solvers import Solver, adams, ddim, dpm_solver, heun

LINE = Mixture.reference()
SPACE = Mixture(
    torch.full((4,), 0.25, dtype=torch.float64),
    torch.randn(4, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64),
    torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64),
)


def starts(process: Gaussian, count: int, dims: int, seed: int) -> Tensor:
    noise = torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise * float(process.s(torch.ones((), dtype=torch.float64)))


def fine(process: Gaussian) -> Grid:
    """From 1 to 0, equal in lambda between times close to them."""
    lam = [float(process.lam(t)) for t in (0.9999, 1e-4)]
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return torch.cat([ends[:1], lam_uniform(60, *lam)(process), ends[1:]])


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), SBVE()], ids=name)
@pytest.mark.parametrize(
    "solver",
    [ddim(), ddim(1.0), adams(3), adams(2, corrector=True), heun(), dpm_solver(3)],
    ids=lambda s: f"{s.name}{s.order}",
)
def test_a_triangle_is_the_plan(solver: Solver, process: Gaussian) -> None:
    plan = solver(process, uniform(5, 0.9))
    again = roll(plan.t, unroll(plan), float(plan.end))
    x, draw = torch.randn(3, 4, dtype=torch.float64), Seeds([1, 2, 3])
    first, second = (integrate(lambda x, t: torch.tanh(x) * (1 + t), x, p, draw=draw) for p in (plan, again))
    torch.testing.assert_close(first, second, atol=1e-12, rtol=0)
    torch.testing.assert_close(unroll(again), unroll(plan), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("mixture", "process", "budget", "count", "share"),
    [
        (LINE, VP(), 4, 48, 0.5),
        (LINE, VP(), 6, 48, 0.1),
        (LINE, RectifiedFlow(), 5, 48, 0.2),
        (SPACE, VP(), 4, 256, 0.75),
        (SPACE, RectifiedFlow(), 4, 256, 0.6),
        (SPACE, RectifiedFlow(), 6, 256, 0.8),
    ],
)
def test_beats_every_common_plan_on_other_starts(
    mixture: Mixture, process: Gaussian, budget: int, count: int, share: float
) -> None:
    """By error; the common plan is the best on the very starts that both are judged on."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return mixture.denoise(process, x, t)

    grid, dims = fine(process), mixture.means.shape[1]
    plan = refine(denoise, process, starts(process, count, dims, 0), budget, grid=grid, iterations=12)
    goal = Goal.of(denoise, process, starts(process, 256, dims, 1), grid=grid)
    best = min(float(goal.errors(g.plan(process)).mean()) for g in fixed(process, budget, grid))
    assert plan.nfe == budget
    assert float(goal.errors(plan).mean()) < share**2 * best


def test_without_exactness_it_gets_closer_between_modes() -> None:
    process, errors = RectifiedFlow(), []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return SPACE.denoise(process, x, t)

    x, others = (starts(process, 256, 8, seed) for seed in (0, 1))
    goal = Goal.of(denoise, process, others, grid=fine(process))
    for exact in (True, False):
        plan = refine(denoise, process, x, 4, grid=fine(process), exact=exact, iterations=8)
        errors.append(float(goal.errors(plan).mean()))
    assert errors[1] < 0.8 * errors[0]


def curved(z: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(3 * z + t - 0.2)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), SBVE(), OUVE()], ids=name)
@pytest.mark.parametrize("start", [1.0, 0.8])
@pytest.mark.parametrize("given", [True, False], ids=["adams", "olss"])
def test_stays_exact_on_a_point_and_descends(process: Gaussian, start: float, given: bool) -> None:
    """Every point of a refined plan is a c + s eps, where the start is and all predictions are c."""
    grid = uniform(12, start, 0.1)
    simple = adams(3)(process, uniform(4, start, 0.1))
    x = starts(process, 24, 2, 0)
    plan = refine(curved, process, x, 4, first=simple if given else None, grid=grid, iterations=4)
    goal = Goal.of(curved, process, x, grid=grid)
    assert float(goal.errors(plan).sum()) < float(goal.errors(simple).sum())
    assert bool((torch.cat([plan.t, plan.end[None]]).diff() < 0).all())

    c, eps = 0.7, torch.full((1, 1), 1.3, dtype=torch.float64)
    a, s = process.a(grid), process.s(grid)
    seen = Goal.of(
        lambda x, t: torch.full_like(x, c), process, a[:1] * c + s[:1] * eps, grid=grid, draw=lambda k, x: eps
    )
    torch.testing.assert_close(seen.reach(plan), a[-1:] * c + s[-1:] * eps, atol=1e-12, rtol=0)


def test_a_start_below_the_first_time_is_what_sampling_draws() -> None:
    process, grid = RectifiedFlow(), fine(RectifiedFlow())

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return LINE.denoise(process, x, t)

    like, seeds = torch.empty(8, 1, dtype=torch.float64), list(range(8))
    x = Seeds(seeds)(-1, like)
    plan = refine(denoise, process, x, 3, grid=grid, iterations=6)
    assert 0.5 < float(plan.t[0]) < 1
    goal = Goal.of(denoise, process, x, grid=grid)
    torch.testing.assert_close(sample(denoise, process, like, plan=plan, seeds=seeds), goal.reach(plan))


def test_never_worse_than_the_first_on_what_is_held_out() -> None:
    """Two starts, of which one is fitted alone: what does not help the other is not taken."""
    process, grid = VP(), uniform(30)
    first, x = adams(2)(process, uniform(5)), starts(process, 2, 3, 0)
    errors = [
        float(Goal.of(curved, process, x, grid=grid).errors(plan)[1])
        for plan in (first, refine(curved, process, x, 5, first=first, grid=grid, iterations=10))
    ]
    assert errors[1] <= errors[0]


def test_a_constant_prediction_leaves_nothing_to_improve() -> None:
    first = adams(2)(VP(), uniform(3))
    plan = refine(
        lambda x, t: torch.ones_like(x), VP(), starts(VP(), 4, 2, 0), 3, first=first, grid=uniform(9)
    )
    assert plan is first


def test_one_call_leaves_nothing_to_search() -> None:
    plan = refine(curved, SBVE(), torch.zeros(2, 3), 1, grid=uniform(10))
    torch.testing.assert_close(unroll(plan)[1], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (ddim()(VP(), uniform(3)), "makes 3 calls to t = 0, and the search 4"),
        (ddim()(VP(), uniform(4, 1.0, 0.1)), "4 calls to t = 0.1, and the search 4 to 0"),
        (stack([ddim()(VP(), uniform(4, t)) for t in (1.0, 0.9)], (2,)), "one weight for all elements"),
    ],
    ids=["budget", "end", "elements"],
)
def test_bad_firsts(first: Plan, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        refine(curved, VP(), torch.zeros(2, 3, dtype=torch.float64), 4, first=first, grid=uniform(10))


def test_a_bridge_starts_at_its_end() -> None:
    first = ddim()(OUVE(), uniform(4, 0.9))
    with pytest.raises(ValueError, match=r"the plan starts at 0\.9 and the teacher at 1"):
        refine(curved, OUVE(), torch.zeros(2, 3, dtype=torch.float64), 4, first=first, grid=uniform(10))
