"""BOSS, OLSS, seeds and boundary conditions, against brute force and closed forms."""

from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.joint import Joint
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import VP, Gaussian, RectifiedFlow
from diffkit.core.sample import sample
from diffkit.core.search.boss import boss, jumps, shortest
from diffkit.core.search.olss import olss
from diffkit.core.search.seeds import Reference, boundary, rank
from diffkit.core.search.teacher import record
from diffkit.core.solvers import adams, ddim, dpmpp_2m, heun

MIXTURE = Mixture.reference()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def denoiser(process: Gaussian):
    """The mixture's; at a bridge's end, where nothing is known of x0, its mean."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        known = process.a(t) > 0
        return MIXTURE.denoise(process, x, t) if known else torch.full_like(x, 0.26)

    return denoise


class TestTeacher:
    @pytest.mark.parametrize("solver", [ddim(), adams(3), heun()], ids=lambda s: s.name)
    def test_every_state_leads_to_the_end(self, solver) -> None:
        p, x, grid = VP(), normal(5, 1), uniform(12)
        path = record(denoiser(p), p, x, grid=grid, solver=solver)
        torch.testing.assert_close(path.x[-1], integrate(denoiser(p), x, solver(p, grid)))
        for k in (0, 7):
            torch.testing.assert_close(path.d[k], denoiser(p)(path.x[k], grid[k]))
        assert torch.equal(path.x[0], x)
        if solver.name != "adams":  # without memory the run can start anywhere
            torch.testing.assert_close(
                integrate(denoiser(p), path.x[7], solver(p, grid[7:])), path.x[-1], atol=1e-12, rtol=0
            )

    def test_a_teacher_must_have_one_trajectory(self) -> None:
        with pytest.raises(ValueError, match="without noise"):
            record(denoiser(VP()), VP(), normal(2, 1), solver=ddim(1.0))

    def test_a_broken_network(self) -> None:
        with pytest.raises(FloatingPointError, match="not finite"):
            record(lambda x, t: x / 0, VP(), normal(2, 1))


class TestBoss:
    def test_equals_brute_force(self) -> None:
        cost = torch.full((12, 12), torch.inf, dtype=torch.float64)
        above = torch.ones(12, 12).triu(1).bool()
        cost[above] = normal(int(above.sum())).square()
        for steps in (1, 2, 3, 5, 11):
            every = [(0, *middle, 11) for middle in combinations(range(1, 11), steps - 1)]
            totals = [sum(float(cost[i, j]) for i, j in pairwise(path)) for path in every]
            assert tuple(shortest(cost, steps)) == every[totals.index(min(totals))]

    def test_two_steps_of_a_linear_flow(self) -> None:
        """dx/dt = x: the middle time minimises both jumps' squared distance from the exponential."""
        p = RectifiedFlow()
        grid = boss(lambda x, t: (1 - t) * x, p, normal(3, 1), 2, grid=uniform(100), teacher=adams(4))
        m = torch.linspace(0, 1, 100_001, dtype=torch.float64)
        middle, end = (m - 1).exp(), torch.tensor(-1.0).exp()
        cost = (m - middle).square() + (middle * (1 - m) - end).square()
        assert float(grid[1]) == pytest.approx(float(m[cost.argmin()]), abs=0.01)

    def test_all_steps_are_the_grid_itself_at_no_cost(self) -> None:
        p, grid = VP(), uniform(9)
        path = record(denoiser(p), p, normal(4, 1), grid=grid, solver=ddim())
        cost = jumps(path, p, ddim())
        assert float(cost.diagonal(1).max()) < 1e-28
        assert torch.equal(grid[shortest(cost, 9)], grid)

    @pytest.mark.parametrize("process", [VP(), SBVE()], ids=["vp", "bridge"])
    def test_beats_equal_steps_on_starts_it_has_not_seen(self, process: Gaussian) -> None:
        found = boss(denoiser(process), process, starts(process, 64), 6, grid=uniform(40))
        assert error(process, ddim()(process, found)) < 0.85 * error(process, ddim()(process, uniform(6)))

    @pytest.mark.parametrize("budget", [0, 10])
    def test_a_budget_that_the_grid_has_not(self, budget: int) -> None:
        with pytest.raises(ValueError, match="has no path of"):
            boss(denoiser(VP()), VP(), normal(2, 1), budget, grid=uniform(9))

    def test_a_solver_of_two_calls(self) -> None:
        with pytest.raises(ValueError, match="a jump is one call"):
            boss(denoiser(VP()), VP(), normal(2, 1), 2, grid=lam_uniform(9, -2, 2), solver=heun())


def starts(process: Gaussian, count: int, seed: int = 1) -> Tensor:
    return float(process.s(torch.tensor(1.0).double())) * normal(count, 1, seed=seed)


def error(process: Gaussian, plan: Plan) -> float:
    """The rms distance of a plan's ends from those of many steps, on starts and noise of their own."""
    x, draw = starts(process, 128, seed=2), Seeds(range(500, 628))
    truth = integrate(denoiser(process), x, adams(3)(process, uniform(150)), draw=draw)
    return float((integrate(denoiser(process), x, plan, draw=draw) - truth).square().mean().sqrt())


class TestOlss:
    def test_one_call_is_exact_on_an_isotropic_normal_law(self) -> None:
        """Every state is a multiple of the start."""
        p = VP()

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return 0.25 * p.a(t) / (0.25 * p.a(t) ** 2 + p.s(t) ** 2) * x

        x = normal(8, 3)
        plan = olss(denoise, p, x, 1)
        truth = integrate(denoise, x, adams(3)(p, uniform(100)))
        assert plan.nfe == 1
        assert float((integrate(denoise, x, plan) - truth).abs().max()) < 1e-6  # what the ridge leaves
        exact = olss(denoise, p, x, 1, ridge=0)
        assert float((integrate(denoise, x, exact) - truth).abs().max()) < 1e-13

    def test_as_many_calls_as_variances(self) -> None:
        """With three variances the state lies in the span of the start and two predictions."""
        p, variance = VP(), torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return variance * p.a(t) / (variance * p.a(t) ** 2 + p.s(t) ** 2) * x

        x = normal(16, 3)
        truth = integrate(denoise, x, adams(3)(p, uniform(100)))
        errors = [
            float((integrate(denoise, x, olss(denoise, p, x, n, ridge=0)) - truth).abs().max())
            for n in (1, 2)
        ]
        assert errors[0] > 1e-2
        assert errors[1] < 1e-10

    @pytest.mark.parametrize("process", [VP(), RectifiedFlow(), SBVE()], ids=["vp", "flow", "bridge"])
    def test_beats_fixed_solvers_on_starts_it_has_not_seen(self, process: Gaussian) -> None:
        found = error(process, olss(denoiser(process), process, starts(process, 128), 5))
        fixed = [error(process, solver(process, uniform(5))) for solver in (ddim(), adams(2), dpmpp_2m())]
        assert found < 0.3 * min(fixed)

    def test_fitting_to_its_own_predictions_corrects_drift(self) -> None:
        p = RectifiedFlow()
        own, paper = (olss(denoiser(p), p, starts(p, 128), 5, rollout=own) for own in (True, False))
        assert error(p, own) < 0.8 * error(p, paper)

    def test_all_steps_of_a_ddim_teacher_are_ddim(self) -> None:
        """With no data but one point the ridge decides, and it leads to DDIM."""
        p, grid = VP(), uniform(4, 1.0, 0.1)
        plan = olss(denoiser(p), p, normal(1, 1), 4, grid=grid, teacher=ddim())
        x = normal(5, 1, seed=3)
        torch.testing.assert_close(
            integrate(denoiser(p), x, plan), integrate(denoiser(p), x, ddim()(p, grid))
        )
        assert float(plan.end) == pytest.approx(0.1)

    @pytest.mark.parametrize("budget", [0, 10])
    def test_a_budget_that_the_grid_has_not(self, budget: int) -> None:
        with pytest.raises(ValueError, match="has no path of"):
            olss(denoiser(VP()), VP(), normal(2, 1), budget, grid=uniform(9))


class TestSampling:
    @pytest.mark.parametrize("start", [1.0, 0.8])
    def test_a_plan_is_its_solver_on_its_grid(self, start: float) -> None:
        p, y, grid = SBVE(), torch.linspace(-1, 1, 3)[:, None], uniform(4, start, 0.1)
        ways: tuple[dict[str, Any], ...] = (
            {"plan": adams(2)(p, grid)},
            {"solver": adams(2), "grid": grid},
        )
        one, two = (sample(lambda x, t: torch.tanh(x), p, y, y=y, seeds=[1, 2, 3], **way) for way in ways)
        assert torch.equal(one, two)

    def test_a_plan_for_each_leaf(self) -> None:
        joint, grid = Joint({"x": VP(), "adj": RectifiedFlow()}), uniform(4)
        like = {name: torch.zeros(2, 3) for name in joint}
        ways: tuple[dict[str, Any], ...] = (
            {"plan": {name: ddim()(leaf, grid) for name, leaf in joint.items()}},  # type: ignore[arg-type]
            {"solver": ddim(), "grid": grid},
        )
        one, two = (sample(lambda x, t: x, joint, like, seeds=[1, 2], **way) for way in ways)
        assert all(torch.equal(one[name], two[name]) for name in joint)

    def test_a_plan_and_a_grid(self) -> None:
        with pytest.raises(ValueError, match="a solver on a grid already"):
            sample(lambda x, t: x, VP(), (1, 2), plan=ddim()(VP(), uniform(2)), grid=uniform(2))


class TestSeeds:
    def test_equals_brute_force(self) -> None:
        worth = normal(50).tolist()
        found = rank(lambda seed, one: worth[seed] + one, range(50), [0.1, 0.2], [0.3], keep=5)
        assert found.seeds == sorted(range(50), key=lambda seed: worth[seed])[:5]
        assert found.best[0].held_out == pytest.approx(min(worth) + 0.3)
        assert found.gain > 0.5

    def test_luck_has_no_gain(self) -> None:
        """A loss that does not depend on the seed but on chance: chosen ones look good, and are not."""

        def loss(seed: int, one: int) -> float:
            return float(normal(1, seed=1000 * seed + one))

        found = rank(loss, range(200), range(4), range(4, 104), keep=20)
        assert sum(r.loss for r in found.best) / 20 < -0.5
        assert abs(found.gain) < 4 * (2 / (100 * 20)) ** 0.5

    def test_reproducible(self) -> None:
        worth = normal(30).tolist()
        one, two = (rank(lambda seed, x: worth[seed], range(30), [0], [1], keep=3) for _ in range(2))
        assert one == two

    def test_wrong_numbers(self) -> None:
        with pytest.raises(ValueError, match="keep 3 of 2"):
            rank(lambda seed, one: 0.0, [1, 2], [0], [1], keep=3)
        with pytest.raises(ValueError, match="held out"):
            rank(lambda seed, one: 0.0, [1, 2], [0], [])


def test_the_best_boundary_of_a_normal_posterior_is_the_smallest_start() -> None:
    """x0 given y is N(y, 0.25): a start moves the restoration from its mean, so the smallest one wins."""
    p, count = RectifiedFlow(), 24
    truths = [normal(1, 4, seed=k) for k in range(24)]

    def reference(k: int) -> Reference:
        y = truths[k] + 0.5 * normal(1, 4, seed=100 + k)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            a, s = p.a(t), p.s(t)
            return y + 0.25 * a / (0.25 * a**2 + s**2) * (x - a * y)

        return Reference(denoise, truths[k])

    references = [reference(k) for k in range(24)]
    found = boundary(p, range(count), references[:16], references[16:], grid=uniform(4), keep=count)
    size = {seed: float(Seeds([seed])(-1, torch.empty(1, 4)).norm()) for seed in range(count)}
    by_size = sorted(size, key=lambda seed: size[seed])
    assert set(found.seeds[:3]) <= set(by_size[:8])
    assert set(found.seeds[-3:]) <= set(by_size[-8:])
    losses = {ranked.seed: ranked.loss for ranked in found.best}
    best = [min(losses[seed] for seed in range(k)) for k in (1, 4, 12, 24)]
    assert best == sorted(best, reverse=True)
