"""Twisted sequential Monte Carlo against the exact posterior of linear measurements of normal data."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, VP, Gaussian, RectifiedFlow
from diffkit.core.sample import start
from diffkit.core.solvers import ddim
from diffkit.core.steer import Particles, twisted
from diffkit.core.testing import check_seeds, law_on_normal

P, COUNT, STD = VP(), 20_000, 0.8
MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
A, MEASURED = torch.tensor([1.0, 0.5], dtype=torch.float64), 1.4
PRIOR = Mixture(torch.ones(1).double(), MEAN[None], torch.tensor([STD]).double())


def likelihood(noise: float, process: Gaussian | None = None) -> Any:
    """log p(y | x0) of y = A x0 + noise; with a ``process``, the exact log p(y | x_t) of its prediction."""

    def log(x0: Tensor, t: Tensor) -> Tensor:
        variance = torch.tensor(noise**2, dtype=torch.float64)
        if process is not None:
            a, s = process.a(t), process.s(t)
            variance = variance + A.square().sum() * (STD * s).square() / ((a * STD).square() + s.square())
        return -0.5 * ((x0.to(A) @ A - MEASURED).square() / variance + (2 * math.pi * variance).log())

    return log


def posterior(process: Gaussian, grid: Tensor, noise: float) -> tuple[Tensor, Tensor, float]:
    """Mean, covariance and log-evidence for what ancestral sampling on ``grid`` draws from the prior."""
    laws = [law_on_normal(ddim(1.0)(process, grid), process, mean=float(m), std=STD) for m in MEAN]
    mean, cov = (
        torch.stack([law.mean for law in laws]),
        torch.stack([law.std for law in laws]).square().diag(),
    )
    spread = A @ cov @ A + noise**2
    gain = cov @ A / spread
    gap = MEASURED - A @ mean
    mass = -0.5 * (gap**2 / spread + (2 * math.pi * spread).log())
    return mean + gain * gap, cov - torch.outer(gain, A @ cov), float(mass)


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    w = weights.reshape(-1, 1)
    mean = (w * x).sum(0)
    return mean, (w * (x - mean)).T @ (x - mean)


def run(process: Gaussian, grid: Tensor, noise: float, *, wide: bool, **options: Any) -> Particles:
    log = likelihood(noise, process if wide else None)
    y = torch.zeros(COUNT, 2).double()
    options = {"particles": COUNT, "grid": grid, "seeds": [0], "y": y, **options}
    return twisted(partial(PRIOR.denoise, process), process, y, log, **options)


@pytest.mark.parametrize("process", [P, RectifiedFlow(), EDM(), SBVE()], ids=lambda p: type(p).__name__)
def test_the_posterior_and_the_evidence(process: Gaussian) -> None:
    """To four standard errors of half as many independent samples. The same guidance without weights, by the
    likelihood of the prediction alone, is sure of too much: its mean is off by more than twice that."""
    grid = torch.cat([lam_uniform(30, -4.0, 4.0)(process), torch.zeros(1)])
    mean, cov, mass = posterior(process, grid, 0.3)
    found = run(process, grid, 0.3, wide=True)
    error = 4 * math.sqrt(2 * 2 / COUNT) * float(cov.diagonal().max())
    for value, wanted in zip(moments(found.x, found.weights), (mean, cov), strict=True):
        torch.testing.assert_close(value, wanted, atol=error, rtol=0)
    assert float(found.log_z) == pytest.approx(mass, abs=0.02)
    plain = run(process, grid, 0.3, wide=False, threshold=0.0)
    bent, _ = moments(plain.x, torch.full_like(plain.weights, 1 / COUNT))
    assert float((bent - mean).abs().max()) > 2 * error


def test_any_twist_is_right_and_a_good_one_keeps_more_particles() -> None:
    grid = lam_uniform(30, None, 4.0)(P)
    mean, _, mass = posterior(P, grid, 1.0)
    good, own = (run(P, grid, 1.0, wide=wide) for wide in (True, False))
    for found in (good, own):
        torch.testing.assert_close(moments(found.x, found.weights)[0], mean, atol=0.03, rtol=0)
        assert float(found.log_z) == pytest.approx(mass, abs=0.02)
    assert float(own.ess.min()) < 0.9 * float(good.ess.min())


def test_from_a_prior_without_signal() -> None:
    """At t = 1 a flow's prediction depends on nothing, so nothing is bent there."""
    mean, cov, _ = posterior(RectifiedFlow(), uniform(30), 1.0)
    found = run(RectifiedFlow(), uniform(30), 1.0, wide=True)
    value = moments(found.x, found.weights)
    torch.testing.assert_close(value[0], mean, atol=0.03, rtol=0)
    torch.testing.assert_close(value[1], cov, atol=0.03, rtol=0)


def test_a_likelihood_that_says_nothing_is_ancestral_sampling() -> None:
    denoise, grid = partial(PRIOR.denoise, P), uniform(6)
    found = twisted(denoise, P, (3, 2), lambda x, t: 0 * x.sum(1), particles=1, grid=grid, seeds=[1, 2, 3])
    draw = Seeds([1, 2, 3])
    wanted = integrate(denoise, start(P, torch.empty(3, 2), draw), ddim(1.0)(P, grid), draw=draw)
    torch.testing.assert_close(found.x, wanted)
    assert not found.log_weights.any()


def test_forbidden_states_are_left() -> None:
    def right(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((x[:, 0] > 0.5) | (t > 0.1), -(x[:, 0] - 1).square(), -math.inf)

    found = twisted(
        partial(PRIOR.denoise, P), P, (64, 2), right, particles=32, grid=uniform(20), seeds=[1, 2]
    )
    assert bool((found.log_weights == -math.inf).any())
    assert float(found.resampled()[:, 0].min()) > 0.5


def test_a_complex_state_is_two_real_channels() -> None:
    def log(x: Tensor, t: Tensor) -> Tensor:
        return -3 * (x - 1).square().flatten(1).sum(1)

    def pair(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x)

    def whole(x: Tensor, t: Tensor) -> Tensor:
        return torch.view_as_complex(torch.tanh(torch.view_as_real(x)))

    options: dict[str, Any] = {"particles": 4, "grid": uniform(6), "seeds": [3, 4]}
    real = twisted(pair, P, torch.empty(8, 3, 2), log, **options)
    like = torch.empty(8, 3, dtype=torch.complex64)
    found = twisted(whole, P, like, lambda x, t: log(torch.view_as_real(x), t), **options)
    torch.testing.assert_close(torch.view_as_real(found.x), real.x)
    torch.testing.assert_close(found.log_weights, real.log_weights, rtol=1e-5, atol=1e-5)  # sums in float32


def test_a_group_is_a_function_of_its_seed() -> None:
    def sampled(seeds: Any) -> Tensor:
        like, denoise = (4 * len(seeds), 2), partial(PRIOR.denoise, P)
        found = twisted(
            denoise, P, like, likelihood(0.3), particles=4, grid=uniform(8), seeds=seeds, threshold=1.0
        )
        return torch.cat([found.x.reshape(-1, 8), found.one()], 1)

    check_seeds(sampled)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log": lambda x, t: x}, "a value for each particle"),
        ({"log": lambda x, t: x.detach().sum(1)}, "no gradient"),
        ({"log": lambda x, t: x.sum(1) * math.nan}, "log_likelihood gave NaN or infinity"),
        ({"log": lambda x, t: 0 * x.sum(1) - math.inf}, "every particle of a group has weight zero"),
        ({"denoise": lambda x, t: torch.tanh(x.detach())}, "no gradient"),
        ({"particles": 3}, "3 particles do not divide"),
        ({"grid": torch.stack([uniform(4)] * 4)}, "one row of times"),
    ],
)
def test_bad_input_gets_one_sentence(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "denoise": lambda x, t: torch.tanh(x),
        "log": lambda x, t: x.sum(1),
        "particles": 4,
        "grid": uniform(4),
        **options,
    }
    denoise, log = given.pop("denoise"), given.pop("log")
    with pytest.raises(ValueError, match=message):
        twisted(denoise, P, (4, 2), log, **given)


def test_what_is_not_finite() -> None:
    with pytest.raises(FloatingPointError, match="network or the grid"):
        twisted(lambda x, t: x * math.nan, P, (4, 1), lambda x, t: x.sum(1), particles=4, grid=uniform(4))
