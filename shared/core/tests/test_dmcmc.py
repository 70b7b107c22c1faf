"""Denoising MCMC: the law of its chain and of its samples, and what they cost."""

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import VE, VP, Cosine
from diffkit.core.solvers import ddim
from diffkit.core.solvers.dmcmc import bayes, denoising_mcmc, level_loss
from diffkit.core.types import Draw

MIXTURE, P = Mixture.reference(), VE(0.02, 5.0)
LEVELS = lam_uniform(12, -1.5, 2.0)(P)
LOW = torch.linspace(0, 3, 13, dtype=torch.float64).exp().softmax(0)
DENOISE, LOG_PROB = partial(MIXTURE.denoise, P), partial(MIXTURE.log_prob, P)
POSTERIOR = bayes(LOG_PROB, P, LEVELS)
TRUTH = MIXTURE.sample(200_000, torch.Generator().manual_seed(0)).flatten().sort().values


def normal(seed: int) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    return lambda k, like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def away(samples: Tensor) -> float:
    """The Wasserstein distance of order 1 to the mixture."""
    found = samples.flatten().sort().values
    wanted = TRUTH[((torch.arange(len(found)) + 0.5) / len(found) * len(TRUTH)).long()]
    return float((found - wanted).abs().mean())


def collect(blocks: int, start: Tensor, skip: int = 0, **options: Any) -> Tensor:
    """Samples of chains from ``start`` after ``skip`` blocks."""
    chain = denoising_mcmc(DENOISE, P, start, LEVELS, POSTERIOR, draw=normal(1), **options)
    return torch.cat(list(itertools.islice(chain, skip, skip + blocks)))


NOWHERE = torch.zeros(1000, 1, dtype=torch.float64)
"""Where no data is."""


def test_a_metropolis_test_makes_the_chain_exact() -> None:
    """The chain itself, seen through a step of no length: begun at data, w stays x0 + sigma eps with every level
    equally often. At this step an unadjusted chain leaves it."""
    data = MIXTURE.sample(20_000, torch.Generator().manual_seed(2))
    variance = float((P.s(LEVELS) ** 2).mean() + TRUTH.var())
    hardly: dict[str, Any] = {
        "schedule": lambda t: torch.tensor([t, t * (1 - 1e-9)], dtype=torch.float64),
        "step": 0.5,
    }
    exact = collect(1, data, 2, log_prob=LOG_PROB, **hardly)
    assert float(exact.var()) == pytest.approx(variance, rel=0.05)
    assert float(collect(1, data, 2, **hardly).var()) > 1.15 * variance


def test_the_law_of_samples() -> None:
    """METHODS.md 1.16: drawn levels and a Metropolis test tend to the mixture; the released rules do not."""
    options: dict[str, Any] = {"schedule": lambda t: uniform(12, t), "step": 0.1, "moves": 4, "skip": 10}
    exact = collect(8, NOWHERE, log_prob=LOG_PROB, **options)
    share = float((TRUTH < -0.2).double().mean())
    assert float((exact < -0.2).double().mean()) == pytest.approx(share, abs=0.03)
    assert away(exact) < 0.06
    assert away(collect(8, NOWHERE, log_prob=LOG_PROB, legacy=True, **options)) > 2 * away(exact)


def test_fewer_calls_at_equal_error() -> None:
    """Four moves and two calls to denoise, by DDIM, against DDIM alone in up to twice as many."""
    ours = away(
        collect(10, NOWHERE, skip=10, moves=4, step=0.1, weights=LOW, schedule=lambda t: uniform(2, t))
    )
    x = 5 * torch.randn(10_000, 1, generator=torch.Generator().manual_seed(3)).double()
    plain = [away(integrate(DENOISE, x, ddim()(P, uniform(n)))) for n in (6, 12)]
    assert plain[0] > plain[1] > ours


def test_calls_and_seeds() -> None:
    """One call a move and one a step; a chain depends on its own seed alone."""
    calls = 0

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return MIXTURE.denoise(P, x, t)

    def run(seeds: list[int]) -> Tensor:
        start = torch.zeros(len(seeds), 1).double()
        return next(
            denoising_mcmc(denoise, P, start, LEVELS, POSTERIOR, draw=Seeds(seeds), step=0.1, moves=3)
        )

    both = run([1, 2])
    assert calls == 3 + 4
    torch.testing.assert_close(both[1:], run([2]))


def test_posterior_and_classifier() -> None:
    """Bayes' rule in z equals that in w, also where a is not 1, and the classifier's loss is least there."""
    process, levels = VP(), lam_uniform(5, -1.5, 2.0)(VP())
    posterior = bayes(partial(MIXTURE.log_prob, process), process, levels)
    w = torch.linspace(-2, 2, 9).double()[:, None]
    exact = posterior(w).softmax(1)
    variance = MIXTURE.stds**2 + (process.s(levels) / process.a(levels))[None, :, None] ** 2
    density = MIXTURE.weights * (-((w[..., None] - MIXTURE.means[:, 0]) ** 2) / variance / 2).exp()
    density = (density / variance.sqrt()).sum(-1)
    torch.testing.assert_close(exact, density / density.sum(1, keepdim=True))

    def loss(slope: float) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            tilt = slope * torch.arange(6)
            return float(level_loss(lambda w: posterior(w) + tilt * w.abs(), process, data, levels))

    data = MIXTURE.sample(20_000, torch.Generator().manual_seed(0))
    assert loss(0.0) < min(loss(0.1), loss(-0.1)) - 1e-3


@pytest.mark.parametrize("levels", [uniform(4), uniform(4, 1.0, 0.1)])
def test_levels_without_data_or_noise(levels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        denoising_mcmc(DENOISE, Cosine(), NOWHERE, levels, POSTERIOR, draw=normal(0), step=0.1)


@pytest.mark.parametrize("options", [{"step": 0.0}, {"step": 0.1, "moves": 0}])
def test_bad_chains(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive step and at least one move"):
        denoising_mcmc(DENOISE, P, NOWHERE, LEVELS, POSTERIOR, draw=normal(0), **options)
