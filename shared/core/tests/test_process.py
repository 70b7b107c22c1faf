"""Golden values of the published schedules, and the laws that every process obeys."""

import math
import warnings

import numpy as np
import pytest
import torch
from core_processes import BRIDGES, PINNED, PROCESSES, name
from hypothesis import given
from hypothesis import strategies as st

from diffkit.core.bridge import BBED, I2SB, IRSDE, OUVE, RDDM, SBVE, Interpolant, Resfusion, ResShift
from diffkit.core.process import EDM, VE, VP, Gaussian, RectifiedFlow
from diffkit.core.testing import check_correlation, check_marginal


def values(fn: object, times: list[float]) -> list[float]:
    return fn(torch.tensor(times, dtype=torch.float64)).tolist()  # type: ignore[operator]


SINE = Interpolant("sine")
MID = [0.03, 0.25, 0.5, 0.75, 1.0]


def test_ouve_golden() -> None:
    assert values(OUVE().a, MID) == pytest.approx([0.956, 0.687, 0.472, 0.325, 0.223], abs=5e-4)
    assert values(OUVE().s, MID) == pytest.approx([0.019, 0.064, 0.122, 0.218, 0.389], abs=5e-4)


def test_ouve_variance_is_the_integral_of_its_sde() -> None:
    p, t = OUVE(), 0.6
    u = np.linspace(0, t, 200_001)
    rate = math.log(p.sigma_max / p.sigma_min)
    g2 = 2 * rate * p.sigma_min**2 * np.exp(2 * rate * u)
    integral = np.trapezoid(np.exp(-2 * p.theta * (t - u)) * g2, u)
    assert values(p.s, [t])[0] ** 2 == pytest.approx(integral, rel=1e-8)


def test_bbed_golden() -> None:
    times = [0.03, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999]
    expected = [0.125, 0.358, 0.492, 0.538, 0.452, 0.179, 0.059]
    assert values(BBED().s, times) == pytest.approx(expected, abs=6e-4)


def test_bbed_variance_against_the_exponential_integral() -> None:
    """The closed form that SGMSE's code takes through scipy: k^2 c (Ei terms), c = 2 ln k."""
    from scipy.special import expi

    p, t = BBED(), 0.7
    c = 2 * math.log(p.k)
    w = 1 - t
    integral = p.k**2 * ((math.exp(-c * w) / w - math.exp(-c)) + c * (expi(-c * w) - expi(-c)))
    assert values(p.s, [t])[0] ** 2 == pytest.approx(w**2 * p.theta * integral, rel=1e-12)


def test_sbve_golden() -> None:
    assert values(SBVE().a, MID) == pytest.approx([0.990, 0.894, 0.722, 0.446, 0.0], abs=5e-4)
    assert values(SBVE().s, MID) == pytest.approx([0.111, 0.338, 0.492, 0.546, 0.0], abs=6e-4)
    total = SBVE().v(torch.ones((), dtype=torch.float64)).sqrt()
    assert float(total) == pytest.approx(1.098, abs=5e-4)


def test_irsde_golden() -> None:
    p = IRSDE()
    assert values(p.a, [0.0, 1.0]) == pytest.approx([1.0, 0.005], abs=1e-12)
    assert values(p.s, [1.0]) == pytest.approx([0.039], abs=5e-4)
    assert values(IRSDE(level=50 / 255).s, [1.0]) == pytest.approx([0.196], abs=5e-4)
    grid = torch.arange(p.steps + 3, dtype=torch.float64) / (p.steps + 2)
    curve = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
    theta = 1 - (curve / curve[0])[1:-1]
    assert float(p.integral[1] / theta[1]) == pytest.approx(0.1041, abs=5e-5)  # their dt


def test_resshift_golden() -> None:
    steps = [k / 15 for k in range(1, 16)]
    expected = [0.020, 0.117, 0.176, 0.234, 0.292, 0.351, 0.412, 0.476]
    expected += [0.542, 0.610, 0.681, 0.754, 0.830, 0.909, 0.990]
    assert values(ResShift().root, steps) == pytest.approx(expected, abs=6e-4)
    short = ResShift(steps=4, min_noise=0.2)
    assert values(short.root, [0.25, 0.5, 0.75, 1.0]) == pytest.approx([0.1, 0.52, 0.761, 0.99], abs=6e-4)
    assert values(ResShift().a, [1.0]) == pytest.approx([0.0199], abs=1e-4)
    assert values(ResShift().s, [1.0]) == pytest.approx([1.98], abs=1e-9)


def test_resshift_posterior_is_the_published_one() -> None:
    """Mean (eta_u/eta_t) x_t + (alpha/eta_t) x0, variance kappa^2 (eta_u/eta_t) alpha; Yue et al. eq. 6."""
    p = ResShift()
    t, u = torch.tensor(9 / 15).double(), torch.tensor(8 / 15).double()
    eta_t, eta_u = p.root(t) ** 2, p.root(u) ** 2
    x, x0, y = (torch.full((1,), v, dtype=torch.float64) for v in (1.3, 0.2, -0.7))
    law = p.posterior(x, x0, t, u, y=y)
    assert float(law.mean) == pytest.approx(
        float(eta_u / eta_t * x + (eta_t - eta_u) / eta_t * x0), rel=1e-12
    )
    assert float(law.std) ** 2 == pytest.approx(
        float(p.kappa**2 * eta_u / eta_t * (eta_t - eta_u)), rel=1e-12
    )


def test_ddpm_posterior() -> None:
    """Ho et al. 2020, eq. 7, in continuous time."""
    p = VP()
    t, u = torch.tensor(0.5).double(), torch.tensor(0.4).double()
    bar_t, bar_u = p.a(t) ** 2, p.a(u) ** 2
    alpha = bar_t / bar_u
    x, x0 = torch.full((1,), 0.9).double(), torch.full((1,), -0.3).double()
    law = p.posterior(x, x0, t, u)
    mean = bar_u.sqrt() * (1 - alpha) / (1 - bar_t) * x0 + alpha.sqrt() * (1 - bar_u) / (1 - bar_t) * x
    assert float(law.mean) == pytest.approx(float(mean), rel=1e-12)
    assert float(law.std) ** 2 == pytest.approx(float((1 - bar_u) / (1 - bar_t) * (1 - alpha)), rel=1e-12)


def test_rddm_golden() -> None:
    p = RDDM(steps=10, noise=0.01)
    alpha = [(11 - k) / 55 for k in range(1, 11)]
    beta2 = [k / 55 * 0.01 for k in range(1, 11)]
    steps = [k / 10 for k in range(1, 11)]
    assert values(p.b, steps) == pytest.approx(np.cumsum(alpha).tolist(), abs=1e-12)
    assert values(p.s, steps) == pytest.approx(np.sqrt(np.cumsum(beta2)).tolist(), abs=1e-12)
    assert values(p.a, [1.0]) == [0.0]
    assert values(RDDM(noise=1.0).s, [1.0]) == pytest.approx([1.0])


def test_resfusion_golden() -> None:
    p = Resfusion()
    assert values(p.a, [1.0]) == [0.0]
    assert values(p.b, [1.0]) == [0.5]
    assert values(p.s, [1.0]) == pytest.approx([0.866], abs=5e-4)
    assert len(p.log_m) - 1 == 5
    beta = 1 - torch.exp(2 * p.log_m.diff())
    assert beta[:4].tolist() == pytest.approx([0.008, 0.159, 0.310, 0.461], abs=6e-4)


def test_resfusion_is_ddpm_on_resnoise() -> None:
    """The standard DDPM mean with the target eps + (1 - sqrt(a)) sqrt(1 - abar)/beta R is our posterior mean."""
    p = Resfusion()
    t, u = torch.tensor(3 / 5).double(), torch.tensor(2 / 5).double()
    m_t, m_u = p.c(t), p.c(u)
    alpha = (m_t / m_u) ** 2
    x0, y, eps = (torch.full((1,), v, dtype=torch.float64) for v in (0.4, -0.2, 1.1))
    x = p.corrupt(x0, t, y=y, noise=eps)
    resnoise = eps + (1 - alpha.sqrt()) * (1 - m_t**2).sqrt() / (1 - alpha) * (y - x0)
    mean = (x - (1 - alpha) / (1 - m_t**2).sqrt() * resnoise) / alpha.sqrt()
    assert float(p.posterior(x, x0, t, u, y=y).mean) == pytest.approx(float(mean), rel=1e-10)


def test_i2sb_against_their_thousand_intervals() -> None:
    n, high = 1000, 0.3
    beta = np.linspace(1e-4**0.5, (high / n) ** 0.5, n) ** 2
    beta = np.concatenate([beta[: n // 2], beta[: n // 2][::-1]])
    v = np.concatenate([[0], np.cumsum(beta)])
    times = [0.1, 0.3, 0.5, 0.8]
    ours = values(I2SB().v, times)
    assert ours == pytest.approx([v[round(t * n)] for t in times], rel=2e-3)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
class TestLaws:
    def test_starts_at_the_data(self, process: Gaussian) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        assert float(process.a(zero)) == pytest.approx(1, abs=1e-12)
        assert float(process.b(zero)) == pytest.approx(0, abs=1e-12)
        assert float(process.s(zero)) == pytest.approx(0, abs=1e-9)

    def test_marginal(self, process: Gaussian) -> None:
        check_marginal(process)

    def test_correlation_composes(self, process: Gaussian) -> None:
        if process == SINE:
            pytest.skip("its noise shrinks faster than any Markov chain's: rho is capped at 1")
        check_correlation(process)

    def test_lambda_inverts(self, process: Gaussian) -> None:
        if process == SINE:
            pytest.skip("its lambda is not monotone")
        t = torch.tensor([0.05, 0.3, 0.7, 0.95], dtype=torch.float64)
        torch.testing.assert_close(process.time(process.lam(t)), t, rtol=1e-8, atol=1e-9)

    def test_rates(self, process: Gaussian) -> None:
        t, h = torch.tensor([0.111, 0.413, 0.837], dtype=torch.float64), 1e-6
        for fn, rate in zip((process.a, process.b, process.s), process.rates(t), strict=True):
            torch.testing.assert_close(rate, (fn(t + h) - fn(t - h)) / (2 * h), rtol=1e-5, atol=1e-6)

    def test_corrupt_keeps_dtype_and_takes_batched_times(self, process: Gaussian, dtype: torch.dtype) -> None:
        x0, y, noise = torch.randn(3, 2, 4, 5)
        t = torch.tensor([0.2, 0.9])
        both = process.corrupt(x0, t, y=y, noise=noise)
        assert both.dtype == dtype
        for i in range(2):
            one = process.corrupt(x0[i : i + 1], t[i], y=y[i : i + 1], noise=noise[i : i + 1])
            torch.testing.assert_close(both[i : i + 1], one)


def test_sine_interpolant_is_not_markov_but_valid() -> None:
    """gamma = sin^2(pi t) shrinks faster than 1 - t past the middle: correlation is capped at 1."""
    assert float(SINE.rho(0.9, 0.6)) == 1.0
    assert SINE.terminal_mismatch().ratio > 1
    assert Interpolant("quadratic").terminal_mismatch().ratio > 0.9


@pytest.mark.parametrize("process", PINNED, ids=name)
def test_a_bridge_ends_exactly_at_its_anchor(process: Gaussian) -> None:
    y = torch.randn(2, 3)
    law = process.prior(y, y=y)
    assert torch.equal(law.mean, y)
    assert float(law.std) == pytest.approx(0, abs=1e-12)
    assert process.terminal_mismatch().ratio < 0.01


@pytest.mark.parametrize("process", BRIDGES, ids=name)
def test_the_prior_takes_the_anchor_for_the_data(process: Gaussian) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        law = process.prior(torch.zeros(1).double(), y=torch.ones(1).double())
    one = torch.ones((), dtype=torch.float64)
    assert float(law.mean) == pytest.approx(float(process.a(one) + process.b(one)))


@pytest.mark.parametrize(
    ("process", "signal", "noise"),
    [(OUVE(), 0.223, 0.389), (VP(0.1, 1.0), 0.760, 0.650)],
    ids=["SGMSE", "GDSS"],
)
def test_mismatched_priors_are_reported_and_warned_of(process: Gaussian, signal: float, noise: float) -> None:
    found = process.terminal_mismatch()
    assert found.signal == pytest.approx(signal, abs=5e-4)
    assert found.noise == pytest.approx(noise, abs=5e-4)
    with pytest.warns(UserWarning, match="not the end of this process"):
        process.prior(torch.zeros(1))


@pytest.mark.parametrize("process", [VP(), VE(), EDM(), RectifiedFlow(), ResShift()], ids=name)
def test_matched_priors_are_silent(process: Gaussian) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process.prior(torch.zeros(1))


@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_rho_is_a_correlation(first: float, second: float) -> None:
    t, u = max(first, second), min(first, second)
    for process in PROCESSES:
        assert 0 <= float(process.rho(t, u)) <= 1
