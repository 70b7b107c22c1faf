"""SA-Solver: what it contains, its orders in law, and diffusers."""

import math
from collections.abc import Callable

import pytest
import torch
from core_processes import REPRESENTATIVE, name
from torch import Tensor

from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Recorded
from diffkit.core.plan import integrate
from diffkit.core.process import VP, Cosine, Gaussian, RectifiedFlow
from diffkit.core.solvers import adams, dpmpp_sde
from diffkit.core.solvers.sa import sa
from diffkit.core.testing import check_order, law_on_normal

MIXTURE = Mixture.reference()


def denoise(x: Tensor, t: Tensor) -> Tensor:
    return MIXTURE.denoise(VP(), x, t)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_without_noise_it_is_adams(order: int) -> None:
    x, grid = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], uniform(9)
    for corrector in (0, order):
        ours = integrate(denoise, x, sa(order, corrector, tau=0.0)(VP(), grid))
        theirs = integrate(denoise, x, adams(order, corrector > 0)(VP(), grid))
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("order", "tau"), [(1, 1.0), (1, 0.5), (3, 1.0)])
def test_exact_integrals_are_those_of_dpmpp_sde(order: int, tau: float) -> None:
    """One point, and three; with two the midpoint of DPM-Solver++ differs by O(h^3)."""
    grid = lam_uniform(9, -2.0, 2.0)(VP())
    ours, theirs = sa(order, 0, tau)(VP(), grid), dpmpp_sde(order, tau**2)(VP(), grid)
    for table in "UVBC":  # the second row of three points has two
        first, second = (torch.cat([getattr(p, table)[:1], getattr(p, table)[2:]]) for p in (ours, theirs))
        torch.testing.assert_close(first, second, atol=1e-9, rtol=0)


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), Cosine()], ids=name)
def test_a_point_has_its_exact_law(process: Gaussian, tau: float) -> None:
    """x0 = c: mean a c and variance s^2 at any step sizes, from t = 1 on; noise beyond that would stay."""
    plan = sa(3, 3, tau)(process, uniform(6, 1.0, 0.2))
    law = law_on_normal(plan, process, mean=0.7, std=0.0)
    assert float(law.mean) == pytest.approx(0.7 * float(process.a(plan.end)), abs=1e-13)
    assert float(law.std) == pytest.approx(float(process.s(plan.end)), rel=1e-12)


def variance_order(predictor: int, corrector: int, tau: float | Callable[[float], float]) -> float:
    errors = []
    for n in (64, 128):
        plan = sa(predictor, corrector, tau)(VP(), lam_uniform(n, -2.0, 2.0)(VP()))
        truth = (0.5 * VP().a(plan.end)) ** 2 + VP().s(plan.end) ** 2
        errors.append(abs(float(law_on_normal(plan, VP()).std ** 2 - truth)))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(
    ("predictor", "corrector", "expected"), [(1, 0, 1), (2, 0, 2), (3, 0, 2), (1, 1, 2), (2, 2, 2), (3, 3, 2)]
)
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_variance_order(predictor: int, corrector: int, expected: int, tau: float) -> None:
    assert variance_order(predictor, corrector, tau) > expected - 0.15


def test_noise_in_the_middle_alone() -> None:
    assert variance_order(3, 3, lambda t: float(0.2 < t < 0.8)) > 1.85
    plan = sa(tau=lambda t: float(0.2 < t < 0.8))(VP(), uniform(10))
    assert [row.noisy for row in plan.rows] == [0.2 < t < 0.8 for t in plan.t.tolist()]


@pytest.mark.parametrize("process", REPRESENTATIVE, ids=name)
@pytest.mark.parametrize(("predictor", "corrector"), [(3, 0), (1, 1), (2, 2)])
def test_order_without_noise(predictor: int, corrector: int, process: Gaussian) -> None:
    check_order(sa(predictor, corrector, tau=0.0), process)


def test_three_points_corrected_are_of_order_four() -> None:
    check_order(sa(3, 3, tau=0.0), VP(), steps=(80, 160))


def test_the_released_two_point_rule_costs_accuracy_and_no_order() -> None:
    """Twice the error of the exact integrals, at equal order."""
    errors = {False: [], True: []}
    for n in (64, 128):
        for legacy, found in errors.items():
            plan = sa(2, 0, 0.0, legacy)(VP(), lam_uniform(n, -2.0, 2.0)(VP()))
            truth = (0.5 * VP().a(plan.end)) ** 2 + VP().s(plan.end) ** 2
            found.append(abs(float(law_on_normal(plan, VP()).std ** 2 - truth)))
    assert math.log2(errors[True][0] / errors[True][1]) == pytest.approx(2, abs=0.1)
    assert errors[True][1] / errors[False][1] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(("predictor", "corrector"), [(1, 1), (2, 1), (3, 2), (4, 3), (2, 3)])
@pytest.mark.parametrize("tau", [1.0, None])
def test_diffusers(predictor: int, corrector: int, tau: float | None) -> None:
    """Theirs in float64, with the same noise; they count the new prediction in the corrector's order."""
    diffusers = pytest.importorskip("diffusers")

    def at(index: float) -> float:
        return tau if tau is not None else float(200 <= index <= 800)

    scheduler = diffusers.SASolverScheduler(
        predictor_order=predictor,
        corrector_order=corrector + 1,
        prediction_type="sample",
        lower_order_final=False,
        tau_func=lambda t: torch.tensor(at(t)),
    )
    scheduler.set_timesteps(8)
    scheduler.sigmas = scheduler.sigmas.double()
    p = Cosine()
    grid = p.time(-scheduler.sigmas.log())
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    noise = torch.stack([torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(8)])
    sample, generator = x, torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        sample = scheduler.step(torch.tanh(2 * sample), t, sample, generator=generator).prev_sample
    index = dict(zip(grid.tolist(), scheduler.timesteps.tolist(), strict=False))
    solver = sa(predictor, corrector, lambda t: at(index[t]), legacy=True)
    out = integrate(lambda x, t: torch.tanh(2 * x), x, solver(p, grid), draw=Recorded(noise))
    assert float((out - sample).abs().max()) < 1e-6


def test_bad_arguments_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="predicts by 1 to 4"):
        sa(5)
    with pytest.raises(ValueError, match="corrects by 0 to 4"):
        sa(3, 5)
    with pytest.raises(ValueError, match="must not be negative"):
        sa(tau=lambda t: -t)(VP(), uniform(3))
