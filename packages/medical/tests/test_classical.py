"""Reconstruction without learning against the optimum, and the measures it is judged by."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.noise import Seeds
from diffkit.medical import classical
from diffkit.medical.classical import cg_sense, l1_wavelet, largest, sart, shrink, tv, zero_filled
from diffkit.medical.coils import birdcage, espirit, loops, smooth_phase
from diffkit.medical.ct import Projector
from diffkit.medical.fbp import fbp
from diffkit.medical.masks import random_lines
from diffkit.medical.metrics import nmse, psnr, rmse, ssim
from diffkit.medical.mri import Cartesian, Sense
from diffkit.medical.phantom import Ellipses
from diffkit.medical.scan import Parallel
from diffkit.medical.wavelet import compose, decompose, depth


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return Seeds([seed + i for i in range(shape[0])])(0, torch.empty(shape, dtype=dtype))


class TestWavelet:
    def test_orthonormal_and_back(self) -> None:
        x = random(2, 1, 48, 32, dtype=torch.complex128)
        levels = depth(x.shape)
        assert levels == 2  # 32 is halved down to 8
        c = decompose(x, levels)
        torch.testing.assert_close(compose(c, levels), x)
        assert float(c.norm()) == pytest.approx(float(x.norm()))

    def test_four_vanishing_moments(self) -> None:
        """Polynomials of degree three have no detail away from the seam, those of degree four do."""
        n = 64
        r = torch.arange(n, dtype=torch.float64) / n
        for degree in range(5):
            image = r**degree * torch.ones(n, 1, dtype=torch.float64)
            detail = decompose(image, 1)[: n // 2, n // 2 : -4].abs().max()
            assert bool(detail > 1e-9) == (degree == 4)

    def test_odd_sizes(self) -> None:
        with pytest.raises(ValueError, match=r"need even sizes of at least 16, not \(64, 33\)"):
            depth(torch.Size((64, 33)))


class TestParts:
    def test_gradient_and_adjoint(self) -> None:
        x, q = random(2, 1, 5, 6), random(2, 2, 1, 5, 6, seed=9)
        left = (classical._gradient(x) * q).sum()
        torch.testing.assert_close(left, (x * classical._gradient_adjoint(q)).sum())

    def test_largest_is_a_little_above_the_norm_of_each_sample(self) -> None:
        maps = random(2, 3, 12, 10, dtype=torch.complex128)
        operator = Sense(Cartesian(torch.ones(1, 10, dtype=torch.bool)), maps)
        like = torch.zeros(2, 1, 12, 10, dtype=torch.complex128)
        exact = (
            maps.abs().square().sum(1).flatten(1).amax(1).sqrt()
        )  # A^H A is the sum of squares of the maps
        ratio = largest(operator, like, iterations=200).flatten() / exact
        assert bool(((ratio > 1) & (ratio <= 1.02 + 1e-9)).all())

    def test_shrink(self) -> None:
        x = torch.tensor([3.0, -0.5, 0.0, -2.0])
        torch.testing.assert_close(shrink(x, 1.0), torch.tensor([2.0, 0.0, 0.0, -1.0]))
        z = torch.tensor([3 + 4j])
        torch.testing.assert_close(shrink(z, 2.0), 0.6 * z)


class Identity:
    def A(self, x: Tensor) -> Tensor:
        return x

    A_adjoint = A


class TestOptimality:
    def test_tv_of_a_step_is_known(self) -> None:
        """1/2 abs(x - y)^2 + w TV of a step of two halves of n columns moves each by w/n; of complex ones, too."""
        n, w = 8, 0.6
        y = (3 + 4j) * (torch.arange(2 * n) >= n).to(torch.complex128).expand(1, 1, 6, 2 * n)
        moved = (3 + 4j) / 5 * w / n
        expected = torch.where(y == 0, moved, y - moved)
        torch.testing.assert_close(tv(Identity(), y, weight=w, iterations=3000), expected, rtol=0, atol=1e-4)

    def test_tv_is_the_least_of_its_objective(self) -> None:
        """Of a random matrix, against a smoothed objective minimised by L-BFGS."""
        root = random(1, 15, 36)[0]

        class Operator:
            def A(self, x: Tensor) -> Tensor:
                return (x.flatten(1) @ root.mT)[:, None, None]

            def A_adjoint(self, y: Tensor) -> Tensor:
                return (y.flatten(1) @ root).unflatten(1, (1, 6, 6))

        operator, weight = Operator(), 2.0
        y = operator.A(random(2, 1, 6, 6, seed=5).cumsum(-1))

        def objective(x: Tensor, smooth: float = 0.0) -> Tensor:
            squares = classical._gradient(x).square().sum(0)
            return (0.5 * (y - operator.A(x)).square()).sum() + weight * (squares + smooth).sqrt().sum()

        x = torch.zeros(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([x], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-14)

        def closure() -> Tensor:
            solver.zero_grad()
            value = objective(x, 1e-7)
            value.backward()
            return value

        solver.step(closure)
        best = float(objective(x.detach()))
        assert float(objective(tv(operator, y, weight=weight, iterations=1000))) < best * 1.001

    def test_positive(self) -> None:
        y = random(1, 1, 16, 16)
        assert float(tv(Identity(), y, weight=0.1, iterations=50).min()) < 0
        assert float(tv(Identity(), y, weight=0.1, iterations=50, positive=True).min()) == 0

    def test_least_squares(self) -> None:
        maps = birdcage(4, (16, 16), dtype=torch.complex128)
        operator = Sense(Cartesian(random_lines(16, 2, 4)), maps)
        y = operator.A(random(2, 1, 16, 16, dtype=torch.complex128))
        x = cg_sense(operator, y, ridge=0.1, iterations=60)
        normal = operator.A_adjoint(operator.A(x)) + 0.1 * x
        torch.testing.assert_close(normal, operator.A_adjoint(y), rtol=0, atol=1e-6)


class TestAgainstZeroFilling:
    def test_mri(self) -> None:
        """4x lines, coils and maps of different models, noise: each method is better than the one before."""
        shape = (128, 128)
        image = torch.polar(Ellipses.shepp_logan(55).image(shape), smooth_phase(shape).double()).to(
            torch.complex64
        )
        mask = random_lines(128, 4, 16)
        y = Sense(Cartesian(mask), loops(8, shape)).measure(image, noise=0.002, seeds=[0])
        operator = Sense(Cartesian(mask), espirit(y))
        found = {
            "zero": zero_filled(operator, y),
            "cg": cg_sense(operator, y, iterations=15),
            "wavelet": l1_wavelet(operator, y, weight=2e-3, iterations=60),
            "tv": tv(operator, y, weight=2e-3, iterations=150),
        }
        level = {name: psnr(x, image) for name, x in found.items()}
        assert level["cg"] > level["zero"] + 2
        assert level["wavelet"] > level["cg"] + 2
        assert level["tv"] > level["wavelet"] + 2

    def test_random_shifts_help_wavelets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shape = (64, 64)
        image = Ellipses.shepp_logan(28).image(shape).to(torch.complex64)
        operator = Sense(Cartesian(random_lines(64, 3, 10)), birdcage(4, shape))
        y = operator.measure(image, noise=0.005, seeds=[0])
        shifted = psnr(l1_wavelet(operator, y, weight=5e-3, iterations=60), image)
        monkeypatch.setattr(
            torch, "randint", lambda low, high, size, **_: torch.zeros(size, dtype=torch.int64)
        )
        assert shifted > psnr(l1_wavelet(operator, y, weight=5e-3, iterations=60), image) + 0.3

    def test_ct(self) -> None:
        """20 views of exact integrals, which no projector has made: from backprojection to SART to TV."""
        head, scan = Ellipses.shepp_logan(45), Parallel(torch.arange(20) * (math.pi / 20), 141, 1.0)
        projector, image = Projector(scan, (96, 96)), head.image((96, 96)).float()
        y = head.sinogram(scan).float()
        level = [
            psnr(x, image)
            for x in (
                fbp(projector, y, window="hann"),
                sart(projector, y, sweeps=10),
                tv(projector, y, weight=1.0, iterations=300, positive=True),
            )
        ]
        assert level[1] > level[0] + 3
        assert level[2] > level[1] + 0.5  # 20.4, 27.9, 29.0

    def test_samples_do_not_know_of_each_other(self) -> None:
        scan = Parallel(torch.arange(6) * (math.pi / 6), 24, 1.0)
        projector = Projector(scan, (16, 16))
        y = projector.A(random(2, 1, 16, 16).abs() * torch.tensor([1.0, 40.0])[:, None, None, None])
        for method in (
            lambda y: sart(projector, y, sweeps=2),
            lambda y: tv(projector, y, weight=0.1, iterations=10),
            lambda y: l1_wavelet(projector, y, weight=0.1, iterations=10),
            lambda y: cg_sense(projector, y, iterations=5),
        ):
            torch.testing.assert_close(method(y)[1:], method(y[1:]))

    def test_a_sinogram_of_another_scan(self) -> None:
        projector = Projector(Parallel(torch.zeros(1), 30, 1.0), (16, 16))
        with pytest.raises(ValueError, match="the scan has 1 angles of 30 bins"):
            sart(projector, torch.zeros(1, 1, 2, 30))


class TestMetrics:
    def test_structural_similarity_is_its_formula(self) -> None:
        image, reference = random(2, 12, 11).abs(), random(2, 12, 11, seed=7).abs()
        c1, c2 = (0.01 * reference.max()) ** 2, (0.03 * reference.max()) ** 2
        values: list[Tensor] = []
        for s in range(2):
            for i in range(6):
                for j in range(5):
                    pair = torch.stack([v[s, i : i + 7, j : j + 7].flatten() for v in (image, reference)])
                    (u, v), cov = pair.mean(1), pair.cov()
                    above = (2 * u * v + c1) * (2 * cov[0, 1] + c2)
                    values.append(above / ((u**2 + v**2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
        assert ssim(image, reference) == pytest.approx(float(torch.stack(values).mean()))
        assert ssim(image, image) == pytest.approx(1)

    def test_values_by_hand(self) -> None:
        reference = torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[4.0, 0.0], [0.0, 0.0]]])
        image = reference + torch.tensor([1.0, -1.0])
        assert psnr(image, reference) == pytest.approx(10 * math.log10(16))
        assert nmse(image, reference) == pytest.approx(8 / 20)
        assert rmse(image, reference) == pytest.approx(1)
        assert psnr(reference, reference) == math.inf

    def test_the_magnitude_of_complex_images_counts(self) -> None:
        x = random(2, 8, 8, dtype=torch.complex128)
        turned = x * torch.exp(torch.tensor(0.7j))
        assert nmse(turned, x) < 1e-14  # the turn is of single precision
        assert ssim(turned, x) == pytest.approx(1)
        assert psnr(2 * turned, x) == pytest.approx(psnr(2 * x.abs(), x.abs()))

    @pytest.mark.parametrize("metric", [psnr, ssim, nmse, rmse])
    def test_bad_input(self, metric: Any) -> None:
        x = torch.ones(8, 8)
        with pytest.raises(ValueError, match=r"is \(8, 7\) and its reference \(8, 8\)"):
            metric(x[:, 1:], x)
        with pytest.raises(ValueError, match="the image has values that are not finite"):
            metric(x / 0, x)
        with pytest.raises(ValueError, match="the reference has values"):
            metric(x, x / 0)

    def test_no_range_and_no_window(self) -> None:
        with pytest.raises(ValueError, match="no range to measure by"):
            psnr(torch.ones(8, 8), torch.zeros(8, 8))
        with pytest.raises(ValueError, match="needs 7 x 7 pixels"):
            ssim(torch.ones(6, 8), torch.ones(6, 8))
