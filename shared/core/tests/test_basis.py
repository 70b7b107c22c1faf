"""Orthonormal bases, and the shortest path by frequency against its equations and its released form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffkit.core import predict
from diffkit.core.basis import Basis, cosine, fourier, power_law, within
from diffkit.core.checkpoint import construct, describe
from diffkit.core.grid import beta, karras, lam_uniform, resolve, uniform
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import VP, Gaussian
from diffkit.core.sample import sample
from diffkit.core.solvers.adams import adams
from diffkit.core.solvers.base import Solver
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.dpmpp import dpmpp_2m, dpmpp_3m
from diffkit.core.solvers.runge_kutta import heun
from diffkit.core.spectral import ShortestPath
from diffkit.core.testing import check_correlation, check_marginal, check_order
from diffkit.core.train.loss import denoising_loss

SHAPE = (6, 5)
VARIANCE = power_law(fourier().frequencies(SHAPE))[None, None]
VALUES = [1e-4, 0.04, 0.5, 1.0, 30.0]
PATHS = pytest.mark.parametrize("process", [ShortestPath(v) for v in VALUES], ids=lambda p: str(p.variance))


@pytest.mark.parametrize(
    "basis", [fourier(2), cosine(2), fourier(1), cosine(3)], ids=["F2", "C2", "F1", "C3"]
)
class TestBasis:
    @pytest.mark.parametrize("shape", [(2, 3, 6, 5), (1, 1, 1, 2), (2, 4, 7, 8)])
    def test_is_orthonormal(self, basis: Basis, shape: tuple[int, ...]) -> None:
        x, y = torch.randn(2, *shape, dtype=torch.float64)
        torch.testing.assert_close(basis.inverse(basis.forward(x)), x, atol=1e-13, rtol=0)
        torch.testing.assert_close((basis.forward(x) * basis.forward(y)).sum(), (x * y).sum())

    def test_keeps_the_dtype_and_the_gradient(self, basis: Basis, dtype: torch.dtype) -> None:
        x = torch.randn(2, 3, 4, 5, requires_grad=True)
        c = basis.forward(x)
        assert c.dtype == dtype
        (gradient,) = torch.autograd.grad(c, x, torch.ones_like(c))
        torch.testing.assert_close(gradient, basis.inverse(torch.ones_like(c)))  # transpose = inverse


def test_cosine_is_scipys() -> None:
    from scipy.fft import dctn

    x = torch.randn(2, 6, 5, dtype=torch.float64)
    expected = torch.as_tensor(np.asarray(dctn(x.numpy(), axes=(1, 2), norm="ortho")))
    torch.testing.assert_close(cosine().forward(x), expected, atol=1e-13, rtol=0)


def test_fourier_diagonalises_what_is_even() -> None:
    """A filter by |f| is the same filter in Hartley's basis and in the complex one."""
    x = torch.randn(2, *SHAPE, dtype=torch.float64)
    f = fourier().frequencies(SHAPE)
    weight = 1 / (1 + f)
    expected = torch.fft.ifft2(torch.fft.fft2(x) * weight).real
    torch.testing.assert_close(fourier().inverse(fourier().forward(x) * weight), expected)
    wave = torch.cos(2 * math.pi * 2 * torch.arange(8, dtype=torch.float64) / 8)
    for basis in (fourier(1), cosine(1)):
        power = basis.forward(wave).square()
        assert float(basis.frequencies([8])[power.argmax()]) == 2.0


class TestScalar:
    @PATHS
    def test_variance_is_a_power(self, process: ShortestPath) -> None:
        t = torch.linspace(0, 1, 11, dtype=torch.float64)
        v = float(process.log_variance.exp())
        variance = process.a(t).square() * v + process.s(t).square()
        torch.testing.assert_close(variance, v ** (1 - t), rtol=1e-13, atol=0)
        assert process.a(t)[[0, -1]].tolist() == [1, 0]
        assert process.s(t)[[0, -1]].tolist() == [0, 1]

    @pytest.mark.parametrize("v", [1e-4, 0.04, 30.0])
    def test_is_the_released_alpha_bar(self, v: float) -> None:
        tau = torch.linspace(0.01, 1, 20, dtype=torch.float64)
        torch.testing.assert_close(ShortestPath(v).a(1 - tau).square(), (1 - v**tau) / (1 - v))

    @PATHS
    def test_fisher_length_is_least(self, process: ShortestPath) -> None:
        """int (V'/V)^2/2 dt = (log v)^2/2, and more on VP or any bend of this path."""
        v = float(process.log_variance.exp())
        t = torch.linspace(0, 1, 200_001, dtype=torch.float64)

        def energy(variance: Tensor) -> float:
            return float((variance.log().diff() / t.diff()[0]).square().mean() / 2)

        def along(p: Gaussian, t: Tensor) -> Tensor:
            return p.a(t).square() * v + p.s(t).square()

        least = math.log(v) ** 2 / 2
        assert energy(along(process, t)) == pytest.approx(least, rel=1e-6, abs=1e-12)
        if v != 1:
            bent = along(process, t + 0.05 * torch.sin(2 * math.pi * t) / (2 * math.pi))
            assert energy(bent) > 1.001 * least
            assert energy(along(VP(), t)) > 1.5 * least

    @PATHS
    def test_laws(self, process: ShortestPath) -> None:
        check_marginal(process, count=20_000)
        check_correlation(process)
        t, h = torch.tensor([0.2, 0.7], dtype=torch.float64), 1e-6
        for fn, rate in zip((process.a, process.b, process.s), process.rates(t), strict=True):
            torch.testing.assert_close(rate, (fn(t + h) - fn(t - h)) / (2 * h), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("solver", [ddim(), adams(3), heun(), dpmpp_3m()], ids=lambda s: s.name)
    def test_order(self, solver: Solver) -> None:
        check_order(solver, ShortestPath(0.04))


class TestByElement:
    PROCESS = ShortestPath(VARIANCE)

    def test_is_the_family_of_its_scalar_processes(self) -> None:
        """Corruption, targets and plans of each coefficient are those of its own process."""
        t, x0, eps = torch.rand(2).double(), *torch.randn(2, 2, 3, *SHAPE, dtype=torch.float64)
        x = self.PROCESS.corrupt(x0, t, noise=eps)
        law = self.PROCESS.posterior(x, x0, t, t / 2)
        plan = adams(2)(self.PROCESS, uniform(6))
        out = integrate(lambda x, t: torch.tanh(x), x, plan)
        for i, j in ((0, 0), (1, 2), (5, 4)):
            alone = ShortestPath(float(VARIANCE[0, 0, i, j]))
            at = (..., slice(i, i + 1), slice(j, j + 1))
            torch.testing.assert_close(x[at], alone.corrupt(x0[at], t, noise=eps[at]))
            one = alone.posterior(x[at], x0[at], t, t / 2)
            torch.testing.assert_close(law.mean[at], one.mean)
            torch.testing.assert_close(law.std[at].flatten(), one.std)
            expected = integrate(lambda x, t: torch.tanh(x), x[at], adams(2)(alone, uniform(6)))
            torch.testing.assert_close(out[at], expected, atol=1e-12, rtol=0)

    def test_corrupts_as_released(self) -> None:
        """Values to values: x_t = F^-1(sqrt(bar) F x0 + sqrt(1 - bar) F eps), with complex F."""
        x0, eps = torch.randn(2, 2, 3, *SHAPE, dtype=torch.float64)
        basis, tau = fourier(), 0.3
        bar = (1 - VARIANCE**tau) / (1 - VARIANCE)
        spectrum = bar.sqrt() * torch.fft.fft2(x0, norm="ortho") + (1 - bar).sqrt() * torch.fft.fft2(
            eps, norm="ortho"
        )
        ours = self.PROCESS.corrupt(basis.forward(x0), torch.tensor(1 - tau), noise=basis.forward(eps))
        torch.testing.assert_close(basis.inverse(ours), torch.fft.ifft2(spectrum, norm="ortho").real)

    @pytest.mark.parametrize(
        "target", [predict.x0, predict.eps, predict.v, predict.flow, predict.Preconditioned()]
    )
    def test_targets_are_solved_and_trained(self, target: predict.Target) -> None:
        """A perfect network of values has no loss on coefficients, and is the denoiser."""
        p, basis = self.PROCESS, cosine()
        x0, eps = torch.randn(2, 2, 3, *SHAPE, dtype=torch.float64)
        c0, noise = basis.forward(x0), basis.forward(eps)
        t = torch.tensor([0.2, 0.8], dtype=torch.float64)
        perfect = within(basis, lambda x, t: basis.inverse(predict.truth(target, p, c0, noise, t)))
        assert float(denoising_loss(perfect, p, c0, t=t, noise=noise, target=target)) < 1e-25
        out = predict.wrap(perfect, p, target)(p.corrupt(c0, t, noise=noise), t)
        torch.testing.assert_close(out, c0, atol=1e-9, rtol=0)

    def test_samples_a_field_from_its_denoiser_of_values(self) -> None:
        """Normal data of the law's spectrum: the flow scales coefficient f from 1 to sqrt(v_f)."""
        p, basis = self.PROCESS, fourier()

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            a, s = p.a(t), p.s(t)
            gain = a * VARIANCE / (a.square() * VARIANCE + s.square())
            return basis.inverse(gain * basis.forward(x))

        like, grid = torch.empty(2, 1, *SHAPE, dtype=torch.float64), beta(60, 0.4, 0.4)
        out = sample(within(basis, denoise), p, like, solver=adams(3), grid=grid, seeds=[5, 6])
        expected = VARIANCE.sqrt() * Seeds([5, 6])(-1, like)
        torch.testing.assert_close(out, expected, rtol=0.01, atol=0)
        first = sample(within(basis, denoise), p, like[:1], solver=adams(3), grid=grid, seeds=[5])
        torch.testing.assert_close(first, out[:1])

    def test_few_steps_go_further_than_on_one_noise_level_for_all(self) -> None:
        """Relative error of the coefficients of a normal field after 10 calls, root mean square.

        Equal steps: 0.21 against 0.50 of VP. The best of a few grids for each: 0.008 against 0.030.
        """
        variance = power_law(fourier().frequencies((16, 16)))[None, None]

        def error(p: Gaussian, solver: Solver, grid: Tensor) -> float:
            def level(t: Tensor) -> Tensor:
                return p.a(t).square() * variance + p.s(t).square()

            x = level(grid[0]).sqrt() * torch.ones_like(variance)
            out = integrate(lambda x, t: p.a(t) * variance / level(t) * x, x, solver(p, grid))
            return float((out / variance.sqrt() - 1).square().mean().sqrt())

        p, level = ShortestPath(variance), lam_uniform(10, -5.0, 5.0)(VP())
        assert error(p, ddim(), uniform(10)) < 0.5 * error(VP(), ddim(), uniform(10))
        assert error(p, dpmpp_2m(), beta(10, 0.4, 0.4)) < 0.5 * error(VP(), dpmpp_2m(), level)

    def test_a_checkpoint_stores_it(self) -> None:
        process = ShortestPath(VARIANCE.tolist())
        again = construct(describe(process))
        assert torch.equal(again.log_variance, self.PROCESS.log_variance)

    def test_misuse_gets_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="use a grid in time"):
            resolve(karras(4), self.PROCESS)
        with pytest.raises(ValueError, match="one grid for all samples"):
            ddim()(self.PROCESS, torch.stack([uniform(3), uniform(3, 0.9)]))
        with pytest.raises(ValueError, match="positive and finite"):
            ShortestPath(0.0)
