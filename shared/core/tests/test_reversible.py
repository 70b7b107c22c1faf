"""Exact inversion: the round trip, the published recursions, and what has no inverse."""

from collections.abc import Callable

import pytest
import torch
from core_processes import MONOTONE, PINNED, PLAIN, REPRESENTATIVE, name
from torch import Tensor

from diffkit.core.bridge import OUVE
from diffkit.core.grid import power, uniform
from diffkit.core.joint import Joint
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate, invert, stack
from diffkit.core.predict import anchor
from diffkit.core.process import VP, Gaussian, RectifiedFlow
from diffkit.core.sample import plan_for
from diffkit.core.solvers import Solver, adams, ddim, dpm_solver, heun
from diffkit.core.solvers.reversible import bdia, edict
from diffkit.core.testing import check_order, check_round_trip, flow, graded

MIXTURE = Mixture.reference()
POINTS = torch.linspace(-1.5, 1.5, 9, dtype=torch.float64)[:, None]


def denoiser(process: Gaussian) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: MIXTURE.denoise(process, x, t)


def both_ways(solver: Solver, process: Gaussian, steps: int) -> float:
    """How far noise is from itself after a plan and its inverse, relative to the noise."""
    plan, noise = solver(process, uniform(steps)), POINTS * process.s(torch.ones((), dtype=torch.float64))
    memory = integrate(denoiser(process), noise, plan, full=True)
    back = integrate(denoiser(process), noise, plan.inverse(), memory=memory)
    return float((back - noise).abs().max() / noise.abs().max())


@pytest.mark.parametrize("solver", [bdia(), edict()], ids=lambda s: s.name)
@pytest.mark.parametrize("process", MONOTONE, ids=name)
def test_round_trip(solver: Solver, process: Gaussian) -> None:
    check_round_trip(solver, process)


@pytest.mark.parametrize("process", PLAIN, ids=name)
def test_round_trip_from_the_prior(process: Gaussian) -> None:
    """Forty steps of the leap-frog to rounding, from t = 1 where a may be 0 (METHODS.md 1.10)."""
    assert both_ways(bdia(), process, 40) < 1e-14
    assert both_ways(bdia(0.5), process, 10) < 1e-12
    assert both_ways(edict(), process, 40) < 1e-13


def test_rounding_grows_by_gamma_at_every_step() -> None:
    """2^40 times the rounding of one step: why gamma = 1 is the default."""
    assert 1e-6 < both_ways(bdia(0.5), VP(), 40) < 1e-2


@pytest.mark.parametrize("solver", [bdia(), bdia(0.5), edict()], ids=["bdia", "bdia 0.5", "edict"])
@pytest.mark.parametrize("process", REPRESENTATIVE, ids=name)
def test_order(solver: Solver, process: Gaussian) -> None:
    check_order(solver, process)


@pytest.mark.parametrize("process", MONOTONE, ids=name)
def test_whole_range_is_exact_on_a_point(process: Gaussian) -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    plan = bdia()(process, uniform(6))
    out = integrate(lambda x, t: torch.full_like(x, 0.4), x, plan, draw=Seeds([1, 2]))
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-11, rtol=0)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_bdia_is_the_published_recursion(gamma: float) -> None:
    p, grid = VP(), uniform(7)
    a, s = p.a(grid), p.s(grid)
    states = [POINTS]
    for i in range(7):
        x = states[-1]
        d = MIXTURE.denoise(p, x, grid[i])
        eps = (x - a[i] * d) / s[i]
        ahead = a[i + 1] * d + s[i + 1] * eps
        if i:
            ahead = gamma * states[-2] - gamma * (a[i - 1] * d + s[i - 1] * eps) + ahead
        states.append(ahead)
    out = integrate(denoiser(p), POINTS, bdia(gamma)(p, grid))
    torch.testing.assert_close(out, states[-1], atol=1e-13, rtol=0)


def test_bdia_without_the_past_is_ddim() -> None:
    out, other = (integrate(denoiser(VP()), POINTS, m(VP(), uniform(7))) for m in (bdia(0.0), ddim()))
    torch.testing.assert_close(out, other, atol=1e-14, rtol=0)


def test_edict_is_the_published_coupling() -> None:
    p, grid, mix = VP(), uniform(6), 0.93
    a, s = p.a(grid), p.s(grid)
    pair = [POINTS, POINTS]
    for i in range(6):
        scale = a[i + 1] / a[i]
        first, second = (0, 1) if i % 2 == 0 else (1, 0)
        for own, other in ((first, second), (second, first)):
            eps = (pair[other] - a[i] * MIXTURE.denoise(p, pair[other], grid[i])) / s[i]
            pair[own] = scale * pair[own] + (s[i + 1] - s[i] * scale) * eps
        pair[0] = mix * pair[0] + (1 - mix) * pair[1]
        pair[1] = mix * pair[1] + (1 - mix) * pair[0]
    plan = edict(mix)(p, grid)
    out, gap = integrate(denoiser(p), POINTS, plan, full=True)
    torch.testing.assert_close(out, pair[0], atol=1e-11, rtol=0)
    torch.testing.assert_close(out + gap, pair[1], atol=1e-11, rtol=0)
    assert plan.nfe == 12


def test_inversion_finds_the_noise() -> None:
    """Backwards along the exact flow: the inverse is a solver of its own, of the same order."""
    p, lam = VP(), (-1.5, 2.0)
    start, end = flow(p, MIXTURE, lam)
    errors = []
    for steps in (40, 80):
        found = invert(denoiser(p), end, bdia()(p, graded(p, steps, lam, 0)))
        errors.append(float((found[0] - start).abs().max()))
    assert errors[0] < 0.03
    assert errors[1] < errors[0] / 1.8


def test_an_anchor_is_left_out_and_put_back() -> None:
    p, y = OUVE(), torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    plan = bdia()(p, uniform(20, 1.0))
    denoise = anchor(lambda x, t: torch.tanh(x + 0.3 * y), p, y)
    out = integrate(denoise, POINTS, plan, memory=invert(denoise, POINTS, plan))
    torch.testing.assert_close(out, POINTS, atol=1e-13, rtol=0)


def test_each_element_on_its_own_grid() -> None:
    p = RectifiedFlow()
    plan = stack([bdia()(p, power(8, e)) for e in (1.0, 2.0, 3.0)], (3,))
    x = POINTS[:3]
    torch.testing.assert_close(
        integrate(denoiser(p), x, plan, memory=invert(denoiser(p), x, plan)), x, atol=1e-13, rtol=0
    )


def test_joint_states() -> None:
    joint = Joint({"x": VP(), "adj": RectifiedFlow()})
    plans = plan_for(bdia(), joint, uniform(9))
    x = {"x": POINTS, "adj": POINTS.flip(0)}

    def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"x": torch.tanh(state["x"] + state["adj"]), "adj": torch.sin(state["x"])}

    out = integrate(denoise, x, plans, memory=invert(denoise, x, plans))
    for leaf, value in x.items():
        torch.testing.assert_close(out[leaf], value, atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    "solver",
    [ddim(), adams(1), adams(2), adams(2, corrector=True), heun(), dpm_solver(2), bdia(0.0)],
    ids=lambda s: f"{s.name}{s.order}",
)
def test_what_has_no_inverse(solver: Solver) -> None:
    with pytest.raises(ValueError, match=r"no exact inverse.*use bdia or edict"):
        solver(VP(), uniform(5)).inverse()


def test_noise_has_no_inverse() -> None:
    for plan in (ddim(1.0)(VP(), uniform(5)), bdia()(PINNED[0], uniform(5))):
        with pytest.raises(ValueError, match="draws noise"):
            plan.inverse()


def test_the_inverse_of_the_inverse() -> None:
    plan = bdia()(VP(), uniform(5, 1.0, 0.1))
    back = plan.inverse()
    again: Plan = back.inverse()
    assert (float(back.end), float(again.end)) == pytest.approx((1.0, float(plan.t[-1])))
    for table in "UVB":
        torch.testing.assert_close(getattr(again, table), getattr(plan, table), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("factory", "value"), [(bdia, 1.5), (bdia, -0.1), (edict, 0.0), (edict, 1.1)])
def test_bad_arguments_get_one_sentence(factory: Callable[[float], Solver], value: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        factory(value)
