"""Churn, restart, annealed Langevin: their algorithms, and their laws by an exact recursion."""

import math
from itertools import pairwise

import pytest
import torch
from core_processes import MONOTONE, REPRESENTATIVE, name
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import karras, lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate, walk
from diffkit.core.process import EDM, VE, VP, Gaussian
from diffkit.core.sample import sample
from diffkit.core.solvers import Solver, ddim, heun
from diffkit.core.solvers.churn import churn, restart
from diffkit.core.solvers.langevin import annealed_langevin
from diffkit.core.testing import check_seeds, law_on_normal

MIXTURE = Mixture.reference()
IMAGENET = (
    (19.35, 40.79, 3, 1),
    (1.09, 1.92, 3, 1),
    (0.59, 1.09, 3, 5),
    (0.3, 0.59, 3, 5),
    (0.06, 0.3, 5, 6),
)


def excess(plan: Plan, process: Gaussian) -> float:
    """How far the variance of the end is from that of the process, for data N(0, 1/4)."""
    a, s = process.a(plan.end), process.s(plan.end)
    return float(law_on_normal(plan, process).std ** 2 - (0.5 * a) ** 2 - s**2)


def test_churn_is_algorithm_two_of_edm() -> None:
    p, steps, options = EDM(), 12, (20.0, 0.05, 50.0, 1.003)
    s_churn, s_min, s_max, s_noise = options
    grid = karras(steps)(p)
    plan = churn(*options)(p, grid)
    draw, x = Seeds([0, 1, 2]), 80 * torch.randn(3, 1, dtype=torch.float64)
    noise = iter([draw(k, x) for k, row in enumerate(plan.rows) if row.noisy])
    out = integrate(lambda x, t: MIXTURE.denoise(p, x, t), x, plan, draw=draw)

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - MIXTURE.denoise(p, x, torch.tensor(sigma / 80, dtype=torch.float64))) / sigma

    for here, ahead in pairwise(p.s(grid).tolist()):
        gamma = min(s_churn / steps, math.sqrt(2) - 1) if s_min <= here <= s_max else 0.0
        raised = here * (1 + gamma)
        if gamma:
            x = x + math.sqrt(raised**2 - here**2) * s_noise * next(noise)
        first, begin = slope(x, raised), x
        x = x + (ahead - raised) * first
        if ahead:
            x = begin + (ahead - raised) * (first + slope(x, ahead)) / 2
    assert next(noise, None) is None
    torch.testing.assert_close(out, x, atol=1e-11, rtol=0)


@pytest.mark.parametrize("process", REPRESENTATIVE, ids=name)
def test_churn_keeps_the_marginals(process: Gaussian) -> None:
    """The noise is exact, so the variance converges at the solver's order."""
    for solver, order in ((heun(), 2), (ddim(), 1)):
        plans = [churn(5.0, solver=solver)(process, lam_uniform(n, -2.0, 2.0)(process)) for n in (64, 128)]
        assert plans[0].noisy
        errors = [abs(excess(plan, process)) for plan in plans]
        assert math.log2(errors[0] / errors[1]) > order - 0.15


def test_without_churn_it_is_the_solver() -> None:
    grid = uniform(6)
    for table in ("t", "U", "V", "B", "C"):
        assert torch.equal(getattr(churn(0.0)(VP(), grid), table), getattr(heun()(VP(), grid), table))


def test_churn_stays_within_the_process() -> None:
    plan = churn(1000.0)(VP(), uniform(6))
    assert float(plan.t.max()) <= 1
    assert sum(row.noisy for row in plan.rows) == 5  # not at t = 1


@pytest.mark.parametrize("process", REPRESENTATIVE, ids=name)
def test_restart_contracts_the_error(process: Gaussian) -> None:
    """What the main pass got wrong is noised away; the error that is left is that of the restarts' own steps."""
    errors = []
    for n in (8, 16):
        grid = lam_uniform(8, -2.0, 2.0)(process)
        errors.append(abs(excess(restart([(0.14, 2.0, n, 4)])(process, grid), process)))
    assert errors[0] < abs(excess(heun()(process, grid), process)) / 2
    assert math.log2(errors[0] / errors[1]) > 1.85


def test_restart_makes_the_published_number_of_calls() -> None:
    """The authors' command for ImageNet-64: 36 Heun steps and five intervals are 203 calls."""
    plan = restart(IMAGENET, 1.003)(EDM(), karras(36)(EDM()))
    calls = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t))
        return MIXTURE.denoise(EDM(), x, t)

    frames = list(walk(denoise, 80 * torch.ones(1, 1, dtype=torch.float64), plan, draw=Seeds([0])))
    assert plan.nfe == len(calls) == 203
    assert sum(frame.x0 is None for frame in frames) == len(plan.t) - 203 == 18


def test_restart_goes_back_to_its_levels() -> None:
    p = EDM()
    plan = restart([(0.5, 4.0, 2, 3)], solver=ddim())(p, uniform(160))
    sigma = p.s(plan.t)
    tops = [float(sigma[k + 1]) for k, row in enumerate(plan.rows) if row.noisy]
    assert tops == pytest.approx([4.0] * 3, rel=1e-9)
    assert [float(sigma[k]) for k, row in enumerate(plan.rows) if row.noisy] == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("method", ["churn", "restart"])
@pytest.mark.parametrize("process", MONOTONE, ids=name)
def test_whole_range_is_exact_on_a_point(method: str, process: Gaussian) -> None:
    grid = uniform(12)
    low, high = process.lam(grid[[8, 6]]).neg().exp().tolist()
    plan = (churn() if method == "churn" else restart([(low, high, 2, 2)]))(process, grid)
    assert plan.noisy
    x = torch.randn(2, 3, dtype=torch.float64)
    out = integrate(lambda x, t: torch.full_like(x, 0.4), x, plan, draw=Seeds([1, 2]))
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-11, rtol=0)


@pytest.mark.parametrize("solver", [churn(), restart()], ids=lambda s: s.name)
def test_seeds(solver: Solver) -> None:
    def run(seeds: list[int]) -> Tensor:
        return sample(
            lambda x, t: MIXTURE.denoise(VP(), x, t), VP(), (len(seeds), 1), solver=solver, seeds=seeds
        )

    check_seeds(run)  # type: ignore[arg-type]


@pytest.mark.parametrize("process", [VP(), VE(), EDM()], ids=name)
@pytest.mark.parametrize("step", [0.05, 0.4])
def test_langevin_inflates_the_variance_as_derived(process: Gaussian, step: float) -> None:
    """At one level of N(0, V) the stationary variance is V/(1 - step s^2/(4 V))."""
    t = process.time(torch.tensor(-0.5, dtype=torch.float64))
    plan = annealed_langevin(step, 400)(process, torch.stack([t, t - 1e-9]))
    total = float((0.5 * process.a(t)) ** 2 + process.s(t) ** 2)
    expected = total / (1 - step * float(process.s(t)) ** 2 / (4 * total))
    assert float(law_on_normal(plan, process).std ** 2) == pytest.approx(expected, rel=1e-6)


def test_annealed_langevin_is_its_algorithm() -> None:
    """Song and Ermon's loop with alpha_i = epsilon (sigma_i/sigma_L)^2, then one call to denoise."""
    p, epsilon = VE(), 2e-5
    grid = torch.cat([p.time(-torch.tensor([1.0, 0.1, 0.01]).double().log()), torch.zeros(1).double()])
    x, draw, row = torch.randn(2, 1, dtype=torch.float64), Seeds([0, 1]), 0
    plan = annealed_langevin(epsilon / 0.01**2, 3)(p, grid)
    out = integrate(lambda x, t: MIXTURE.denoise(p, x, t), x, plan, draw=draw)
    for t in grid[:-1]:
        sigma = p.s(t)
        alpha = epsilon * (sigma / 0.01) ** 2
        for _ in range(3):
            score = (MIXTURE.denoise(p, x, t) - x) / sigma**2
            x = x + alpha / 2 * score + alpha.sqrt() * draw(row, x)
            row += 1
    torch.testing.assert_close(out, MIXTURE.denoise(p, x, grid[-2]), atol=1e-10, rtol=0)
    assert plan.nfe == 10


def test_bad_arguments_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        churn(-1.0)
    for interval in ((0.3, 0.06, 3, 2), (0.1, 0.2, 0, 1), (0.0, 0.2, 3, 1)):
        with pytest.raises(ValueError, match="with 0 < sigma_min < sigma_max"):
            restart([interval])
    with pytest.raises(ValueError, match="cannot go from sigma"):
        restart([(1.0, 200.0, 3, 1)])(EDM(), uniform(8))
    with pytest.raises(ValueError, match="no time to restart from"):
        restart()(SBVE(), uniform(1))
    with pytest.raises(ValueError, match="0 < step < 4"):
        annealed_langevin(5.0)
    with pytest.raises(ValueError, match="begin below t = 1"):
        annealed_langevin()(SBVE(), uniform(3))
