"""The solver of choices, its special cases, and the searches over it."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from core_processes import name
from torch import Tensor

from diffkit.core.bridge import OUVE, SBVE
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import VP, Gaussian, RectifiedFlow
from diffkit.core.search.evolve import Sizes
from diffkit.core.search.goal import Goal
from diffkit.core.search.s3 import fixed, s3
from diffkit.core.search.usf import Choice, Relaxation, Taylor, usf
from diffkit.core.solvers import Solver, adams, ddim, dpm_solver, dpmpp_2m, dpmpp_3m
from diffkit.core.solvers.unipc import unipc
from diffkit.core.testing import check_order

PROCESS = VP()
GRID = torch.tensor([0.95, 0.7, 0.62, 0.4, 0.15, 0.1], dtype=torch.float64)
HALVES = PROCESS.time(
    torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)
)  # steps with their middles, in lambda
ONE, BH2 = Taylor(1), Taylor(2, "bh2")
MIXTURE = Mixture.reference()


def denoise(x: Tensor, t: Tensor) -> Tensor:
    return MIXTURE.denoise(PROCESS, x, t)


def starts(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(plan: Plan) -> Tensor:
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3)
    return integrate(lambda x, t: torch.tanh(2 * x) * (1 + t), x, plan)


@pytest.mark.parametrize("grid", [GRID, uniform(5)], ids=["inside", "whole"])
@pytest.mark.parametrize(
    ("choices", "solver"),
    [
        ([Choice(ONE)], ddim()),
        ([Choice(ONE, noise=True)], ddim()),
        ([Choice(BH2)], dpmpp_2m()),
        ([Choice(Taylor(3))], adams(3)),
        ([Choice(Taylor(4))], adams(4)),
        ([Choice(BH2)] * 2 + [Choice(Taylor(3))], dpmpp_3m()),
        ([Choice(Taylor(2), Taylor(3))], adams(2, corrector=True)),
    ],
    ids=["ddim", "ddim noise", "2m", "adams 3", "adams 4", "3m", "corrected"],
)
def test_special_cases(choices: list[Choice], solver: Solver, grid: Tensor) -> None:
    torch.testing.assert_close(
        run(usf(*choices)(PROCESS, grid)), run(solver(PROCESS, grid)), atol=1e-13, rtol=0
    )


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc(variant: Literal["bh1", "bh2"]) -> None:
    choices = [Choice(ONE, Taylor(2, variant)), Choice(Taylor(2, variant), Taylor(3))]
    released = run(unipc(2, variant)(PROCESS, GRID))
    torch.testing.assert_close(run(usf(*choices)(PROCESS, GRID)), released, atol=1e-13, rtol=0)


@pytest.mark.parametrize("prediction", ["data", "noise"])
def test_single_steps_go_back(prediction: Literal["data", "noise"]) -> None:
    """DPM-Solver-2 is a first-order step to the middle, then a step from the start of that one."""
    noise = prediction == "noise"
    choices = [Choice(ONE, noise=noise), Choice(BH2, noise=noise, back=1)] * 4
    single = dpm_solver(2, prediction)(PROCESS, HALVES[::2])
    torch.testing.assert_close(run(usf(*choices)(PROCESS, HALVES)), run(single), atol=1e-13, rtol=0)


@pytest.mark.parametrize("relax", ["bh1", "bh2", "exp", "-exp", 0.3])
@pytest.mark.parametrize("sign", [1, -1], ids=["data", "noise"])
def test_relaxations_vanish_with_the_step(relax: Relaxation, sign: int) -> None:
    gaps = []
    for h in (1e-2, 1e-3):
        at = [0.0, -sign * h]
        plain, relaxed = Taylor(2).weights(sign * h, at), Taylor(2, relax).weights(sign * h, at)
        gaps.append(abs(relaxed[1] / plain[1] - 1))
    assert gaps[0] > 1e-4
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.1)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), SBVE()], ids=name)
@pytest.mark.parametrize(
    ("choice", "order"),
    [
        (Choice(Taylor(3), noise=True), 3),
        (Choice(Taylor(3, 0.5)), 2),
        (Choice(Taylor(2, "-exp"), noise=True, back=1), 2),
        (Choice(Taylor(2, points=3)), 2),
        (Choice(Taylor(2, "bh1"), Taylor(3), noise=True), 3),
        (Choice(Taylor(3), Taylor(3)), 3),
    ],
)
def test_order(choice: Choice, order: int, process: Gaussian) -> None:
    solver = usf(choice)
    assert solver.order == order
    check_order(solver, process)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), SBVE(), OUVE()], ids=name)
def test_whole_range_is_exact_on_a_point(process: Gaussian) -> None:
    choices = [
        Choice(BH2, Taylor(3)),
        Choice(Taylor(3), noise=True),
        Choice(Taylor(2, 0.1, 3), back=1),
        Choice(Taylor(3), Taylor(4), noise=True, back=1),
    ]
    out = integrate(
        lambda x, t: torch.full_like(x, 0.4),
        torch.randn(2, 3, dtype=torch.float64),
        usf(*choices)(process, uniform(6)),
        draw=Seeds([1, 2]),
    )
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Taylor(5), "order 1 to 4"),
        (lambda: Taylor(3, points=2), "2 points do not give 3 terms"),
        (lambda: Taylor(2, "bh3"), "no relaxation 'bh3'"),  # type: ignore[arg-type]
        (usf, "at least one choice"),
    ],
)
def test_bad_choices(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


class TestS3:
    GRID = lam_uniform(60, float(PROCESS.lam(1.0)), float(PROCESS.lam(1e-3)))(PROCESS)

    def test_beats_the_best_common_solver_on_other_starts(self) -> None:
        x = starts(48, 0)
        plan = s3(denoise, PROCESS, x, 4, grid=self.GRID)
        goal = Goal.of(denoise, PROCESS, starts(256, 1), grid=self.GRID)
        best = min(float(goal.errors(g.plan(PROCESS)).mean()) for g in fixed(PROCESS, 4, self.GRID))
        assert plan.nfe == 4
        assert float(goal.errors(plan).mean()) < 0.5 * best

    def test_is_a_function_of_its_seed(self) -> None:
        sizes = Sizes(population=80, rounds=1)
        one, same = (
            s3(denoise, PROCESS, starts(6, 0), 3, grid=self.GRID, stages=1, sizes=sizes, seed=5)
            for _ in range(2)
        )
        assert torch.equal(one.t, same.t)
        assert torch.equal(one.B, same.B)

    def test_a_score_needs_no_teacher(self) -> None:
        """The variance of the samples, 0.8674 by construction, of which few calls lose much."""
        calls = 0

        def counted(x: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return denoise(x, t)

        def score(end: Tensor) -> float:
            return abs(float(end.var()) - 0.8674)

        x = starts(64, 0)
        plan = s3(counted, PROCESS, x, 3, score=score, stages=1, sizes=Sizes(rounds=1))
        assert calls < 3 * 110  # 63 common plans, 40 children, no teacher of a hundred calls
        equal = integrate(denoise, x, ddim()(PROCESS, uniform(3)))
        assert score(Goal.of(denoise, PROCESS, x, grid=uniform(3)).reach(plan)) < 0.1 * score(equal)

    def test_no_budget(self) -> None:
        with pytest.raises(ValueError, match="at least one call, not 0"):
            s3(denoise, PROCESS, starts(2, 0), 0)
