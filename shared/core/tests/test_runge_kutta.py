"""Runge-Kutta rules, DPM-Solver-fast and DPM-Solver with adaptive steps."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from core_processes import name
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, VP, Cosine, Gaussian, RectifiedFlow
from diffkit.core.solvers import dpm_solver
from diffkit.core.solvers.adaptive import Attempt, dpm_adaptive
from diffkit.core.solvers.runge_kutta import RULES, heun, runge_kutta
from diffkit.core.solvers.singlestep import dpm_fast, fast_grid
from diffkit.core.testing import check_order, flow

MIXTURE = Mixture.reference()


class TestRungeKutta:
    @pytest.mark.parametrize("rule", RULES)
    def test_order(self, rule: str) -> None:
        check_order(runge_kutta(rule), VP(), steps=(20, 40) if RULES[rule].order > 2 else (40, 80))

    @pytest.mark.parametrize("process", [RectifiedFlow(), SBVE()], ids=name)
    def test_order_elsewhere(self, process: Gaussian) -> None:
        check_order(runge_kutta("ralston3"), process)

    def test_rk4_is_the_classical_one(self) -> None:
        """On dx/dsigma = (x - D)/sigma, where a = 1."""
        p, grid = EDM(), uniform(6, 0.5, 0.1)
        x = start = 5 * torch.randn(4, 1, dtype=torch.float64)

        def slope(x: Tensor, sigma: Tensor) -> Tensor:
            return (x - MIXTURE.denoise(p, x, sigma / 80)) / sigma

        for t, u in pairwise(p.s(grid)):
            h, mid = u - t, (t + u) / 2
            one = slope(x, t)
            two = slope(x + h / 2 * one, mid)
            three = slope(x + h / 2 * two, mid)
            x = x + h / 6 * (one + 2 * two + 2 * three + slope(x + h * three, u))
        out = integrate(lambda x, t: MIXTURE.denoise(p, x, t), start, runge_kutta("rk4")(p, grid))
        torch.testing.assert_close(out, x, atol=1e-11, rtol=0)

    @pytest.mark.parametrize("process", [VP(), Cosine(), SBVE()], ids=name)
    @pytest.mark.parametrize("rule", ["euler", "midpoint", "ssprk3", "rk4"])
    def test_whole_range_is_exact_on_a_point(self, rule: str, process: Gaussian) -> None:
        plan = runge_kutta(rule)(process, uniform(5))
        x = torch.randn(2, 3, dtype=torch.float64)
        out = integrate(lambda x, t: torch.full_like(x, 0.4), x, plan, draw=Seeds([1, 2]))
        torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)

    def test_heun_keeps_predictions_as_they_are(self) -> None:
        """Two combinations a step and no other arithmetic: its second slots are copies."""
        plan = heun()(VP(), uniform(4, 0.9, 0.1))
        assert plan.nfe == 8
        assert [len(part) for part in plan.rows[0].carry] == [2, 1, 1]
        assert [len(part) for part in plan.rows[1].carry] == [3, 0, 0]

    def test_an_unknown_rule_gets_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="rk4"):
            runge_kutta("rk5")


class TestFast:
    @pytest.mark.parametrize(
        ("calls", "orders"),
        [(9, [3, 3, 2, 1]), (10, [3, 3, 3, 1]), (11, [3, 3, 3, 2]), (2, [2]), (3, [2, 1])],
    )
    def test_groups(self, calls: int, orders: list[int]) -> None:
        """``logSNR``: groups equal in lambda, each the step of :func:`dpm_solver` of its order."""
        p = VP()
        grid = fast_grid(calls, -2.0, 2.0)(p)
        plan = dpm_fast()(p, grid)
        assert plan.nfe == calls == len(grid) - 1
        outer = p.lam(grid)[[0, *torch.tensor(orders).cumsum(0).tolist()]]
        expected = torch.linspace(-2, 2, len(orders) + 1, dtype=torch.float64)
        torch.testing.assert_close(outer, expected, atol=1e-9, rtol=0)
        x = y = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
        for order, (t, u) in zip(orders, pairwise(p.time(expected)), strict=True):
            y = integrate(lambda x, t: torch.tanh(x), y, dpm_solver(order, "noise")(p, torch.stack([t, u])))
        torch.testing.assert_close(integrate(lambda x, t: torch.tanh(x), x, plan), y, atol=1e-8, rtol=0)

    @pytest.mark.parametrize("prediction", ["noise", "data"])
    def test_order(self, prediction: Any) -> None:
        check_order(dpm_fast(prediction), VP(), steps=(60, 120))  # both end with a step of first order
        check_order(dpm_fast(prediction), VP(), steps=(61, 121))

    @pytest.mark.parametrize("process", [VP(), Cosine(), SBVE()], ids=name)
    @pytest.mark.parametrize("calls", [1, 2, 5, 6, 7])
    def test_whole_range_is_exact_on_a_point(self, calls: int, process: Gaussian) -> None:
        plan = dpm_fast()(process, uniform(calls))
        x = torch.randn(2, 3, dtype=torch.float64)
        out = integrate(lambda x, t: torch.full_like(x, 0.4), x, plan, draw=Seeds([1, 2]))
        assert plan.nfe == calls
        torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)

    def test_bad_arguments_get_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="'data' or 'noise'"):
            dpm_fast("v")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at least one call"):
            fast_grid(0)


def silence(step: int, like: Tensor) -> Tensor:
    return torch.zeros_like(like)


class TestAdaptive:
    @pytest.mark.parametrize(("order", "slope"), [(2, 1.0), (3, 1.0)])
    def test_error_follows_the_tolerance(self, order: int, slope: float) -> None:
        p = VP()
        z, truth = flow(p, MIXTURE, (-1.5, 2.0))
        errors, calls = [], []
        for tolerance in (1e-2, 1e-3):
            attempts: list[Attempt] = []
            made = 0

            def denoise(x: Tensor, t: Tensor) -> Tensor:
                nonlocal made
                made += 1
                return MIXTURE.denoise(p, x, t)

            sampler = dpm_adaptive(order, atol=tolerance, rtol=tolerance, watch=attempts.append)
            out = sampler(denoise, p, z, lam_uniform(1, -1.5, 2.0)(p), draw=silence)
            errors.append(float((out - truth).abs().max()))
            calls.append(made)
            assert made == sum(attempt.calls for attempt in attempts)
            kept = [attempt for attempt in attempts if attempt.error <= 1]
            assert len(kept) < len(attempts)  # some were refused, and cost a call less the next time
            assert made == order * len(attempts) - (len(attempts) - len(kept))
            assert all(one.u == two.t for one, two in pairwise(kept))
        assert math.log10(errors[0] / errors[1]) == pytest.approx(slope, abs=0.35)
        assert calls[0] < calls[1] < (800 if order == 2 else 150)

    def test_a_refused_step_changes_nothing(self) -> None:
        """With a first step that is much too long the result is that of the steps that were kept."""
        p, grid = VP(), lam_uniform(1, -1.5, 2.0)(VP())
        x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
        attempts: list[Attempt] = []
        sampler = dpm_adaptive(3, first=3.0, watch=attempts.append)
        out = sampler(lambda x, t: MIXTURE.denoise(p, x, t), p, x, grid, draw=silence)
        assert attempts[0].error > 1
        kept = torch.tensor([float(grid[0])] + [a.u for a in attempts if a.error <= 1], dtype=torch.float64)
        expected = integrate(lambda x, t: MIXTURE.denoise(p, x, t), x, dpm_solver(3, "noise")(p, kept))
        torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("process", [VP(), Cosine(), SBVE()], ids=name)
    def test_infinite_lambda_at_the_ends(self, process: Gaussian) -> None:
        x = torch.randn(2, 3, dtype=torch.float64)
        out = dpm_adaptive(2)(
            lambda x, t: torch.full_like(x, 0.4), process, x, uniform(8), draw=Seeds([1, 2])
        )
        torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)

    def test_bad_arguments_get_one_sentence(self) -> None:
        x = torch.ones(1, 1, dtype=torch.float64)
        grid = uniform(4, 0.9, 0.1)
        with pytest.raises(ValueError, match="must be 2 or 3"):
            dpm_adaptive(1)
        with pytest.raises(ValueError, match="atol > 0"):
            dpm_adaptive(atol=0.0)
        with pytest.raises(ValueError, match="give the grid more steps"):
            dpm_adaptive()(lambda x, t: x, RectifiedFlow(), x, uniform(1), draw=silence)
        with pytest.raises(RuntimeError, match="3 adaptive steps did not reach"):
            dpm_adaptive(limit=3, atol=1e-9, rtol=0.0)(
                lambda x, t: torch.tanh(x), VP(), x, grid, draw=silence
            )
        with pytest.raises(FloatingPointError, match="not finite"):
            dpm_adaptive()(lambda x, t: x * math.nan, VP(), x, grid, draw=silence)
