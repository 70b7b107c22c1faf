"""The Gaussian flow, what it skips, and which features come first."""

import math

import pytest
import torch
from core_processes import PLAIN, name
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import karras, power, resolve, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, VP, Gaussian
from diffkit.core.solvers import adams, dpmpp_2m
from diffkit.core.solvers.teleport import GaussianScore, teleport

GENERATOR = torch.Generator().manual_seed(0)
MEANS = 0.5 * torch.randn(5, 16, generator=GENERATOR).double()
MIXTURE = Mixture(torch.full((5,), 0.2).double(), MEANS, torch.full((5,), 0.2).double())
DATA = MIXTURE.sample(20_000, GENERATOR)
START = torch.randn(128, 16, generator=GENERATOR).double()


def exact(process: Gaussian, x: Tensor, first: float, last: float) -> Tensor:
    """The mixture's flow from sigma ``first`` to ``last`` in steps of lambda; 0 by one last step."""
    low = last or 1e-3
    grid = process.time(torch.linspace(-math.log(first), -math.log(low), 300, dtype=torch.float64))
    grid = torch.cat([grid, grid.new_zeros(0 if last else 1)])
    return integrate(lambda x, t: MIXTURE.denoise(process, x, t), x, adams(3)(process, grid))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("process", PLAIN, ids=name)
def test_the_flow_of_normal_data_is_exact(process: Gaussian, rank: int | None) -> None:
    """Against the flow ODE of the law's own denoiser, and against itself: there and back, and in two jumps."""
    law = GaussianScore.fit(DATA[:400, :4].reshape(400, 2, 2), rank)
    x = START[:8, :4].reshape(8, 2, 2) * float(process.s(torch.tensor(0.9).double()))
    there = law.flow(process, x, 0.9, 0.1)
    torch.testing.assert_close(law.flow(process, there, 0.1, 0.9), x, atol=1e-11, rtol=1e-12)
    half = law.flow(process, law.flow(process, x, 0.9, 0.5), 0.5, 0.1)
    torch.testing.assert_close(half, there, atol=1e-12, rtol=1e-12)
    lam = process.lam(torch.tensor([0.9, 0.1]).double())
    grid = process.time(torch.linspace(float(lam[0]), float(lam[1]), 400, dtype=torch.float64))
    by_steps = integrate(lambda x, t: law.denoise(process, x, t), x, adams(4)(process, grid))
    torch.testing.assert_close(by_steps, there, atol=1e-5, rtol=1e-5)


def test_its_denoiser_is_that_of_a_mixture_of_one() -> None:
    one = Mixture(torch.ones(1).double(), MEANS[:1], torch.full((1,), 0.3).double())
    law = GaussianScore(MEANS[0], torch.zeros(0, 16).double(), torch.zeros(0).double(), rest=0.09)
    t = torch.linspace(0.1, 0.9, 128, dtype=torch.float64)
    torch.testing.assert_close(law.denoise(VP(), START, t), one.denoise(VP(), START, t))


def test_fit_is_principal_components() -> None:
    law = GaussianScore.fit(DATA)
    covariance = law.basis.T @ law.variances.diag() @ law.basis
    torch.testing.assert_close(covariance, torch.cov(DATA.T), atol=1e-12, rtol=0)
    low = GaussianScore.fit(DATA, 4)
    assert low.rest == pytest.approx(float(law.variances[4:].mean()), rel=1e-12)
    assert low.rest == pytest.approx(0.04, rel=0.02)
    with pytest.raises(ValueError, match="at least two samples"):
        GaussianScore.fit(DATA[:1])


def test_the_error_of_the_jump_falls_with_the_noise_that_is_left() -> None:
    """METHODS.md 1.17: with the mixture's own moments, monotonically; on average by sigma^-2 here."""
    p, mean = EDM(), MEANS.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(MEANS.T, correction=0) + 0.04 * torch.eye(16).double())
    law = GaussianScore(mean, vectors.T, values)
    levels = [1.25, 2.5, 5.0, 10.0, 20.0, 40.0]
    jumps = [
        float((law.flow(p, 80 * START, 1.0, level / 80) - exact(p, 80 * START, 80, level)).abs().max())
        for level in levels
    ]
    assert jumps == sorted(jumps, reverse=True)
    assert math.log2(jumps[2] / jumps[5]) / 3 > 1.9


@pytest.mark.parametrize(("steps", "skipped"), [(12, 3), (18, 5), (30, 9)])
def test_a_quarter_of_the_steps_is_saved_at_equal_error(steps: int, skipped: int) -> None:
    p = EDM()
    grid, truth = resolve(karras(steps), p), exact(p, 80 * START, 80, 0)
    calls = 0

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return MIXTURE.denoise(p, x, t)

    def error(x: Tensor) -> float:
        return float((x - truth).square().mean().sqrt())

    whole = error(integrate(denoise, 80 * START, dpmpp_2m()(p, grid)))
    calls = 0
    jump = teleport(GaussianScore.fit(DATA), float(grid[skipped]), dpmpp_2m())
    jumped = error(jump(denoise, p, 80 * START, grid, draw=Seeds([0])))
    assert calls == steps - skipped
    assert jumped < 1.01 * whole


def test_wide_features_emerge_first() -> None:
    """The painters' theory: emergence is the prediction on the flow over its end, and orders by variance."""
    p, law = VP(), GaussianScore.fit(DATA)
    shown = law.emergence(p, uniform(5, 1.0, 0.0))
    assert bool((shown.diff(dim=0) > 0).all())
    assert bool((shown[1:-1].diff(dim=1) < 0).all())
    assert shown[-1].tolist() == pytest.approx([1.0] * 16)
    t = 0.4
    early, end = law.denoise(p, law.flow(p, START, 1.0, t), t), law.flow(p, START, 1.0, 0.0)
    ratio = ((early - law.mean) @ law.basis.T) / ((end - law.mean) @ law.basis.T)
    torch.testing.assert_close(ratio, law.emergence(p, t).expand_as(ratio))
    half = p.time(-0.5 * law.variances.log())  # a^2 l = s^2
    assert law.emergence(p, half).diagonal().tolist() == pytest.approx([math.sqrt(0.5)] * 16, rel=1e-9)


def test_a_bridge_s_end_has_no_noise_to_start_from() -> None:
    with pytest.raises(ValueError, match="below this bridge's end"):
        teleport(GaussianScore.fit(DATA), 0.5)(lambda x, t: x, SBVE(), START, uniform(4), draw=Seeds([0]))


@pytest.mark.parametrize("skip", [0.0, 1.1])
def test_a_start_off_the_grid(skip: float) -> None:
    law = GaussianScore.fit(DATA)
    with pytest.raises(ValueError, match="not a time to start from"):
        teleport(law, skip)(lambda x, t: x, EDM(), START, power(4, 2.0), draw=Seeds([0]))
