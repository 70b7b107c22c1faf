"""Manifolds, Brownian motion and geodesic flows on them, and the solvers of their products."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from diffkit.core.grid import power, uniform
from diffkit.core.joint import Joint
from diffkit.core.manifold import SO3, Brownian, Curved, Euclidean, Geodesic, Manifold, Sphere, Torus
from diffkit.core.manifold.igso3 import images, kernel, quantile, spectrum
from diffkit.core.manifold.so3 import matrix, vector
from diffkit.core.noise import Seeds
from diffkit.core.process import EDM, VP, RectifiedFlow
from diffkit.core.sample import ancestral, sample
from diffkit.core.solvers.geodesic import geodesic
from diffkit.core.solvers.runge_kutta import RULES
from diffkit.core.testing import check_compiles, check_seeds

DOUBLE = torch.float64
MANIFOLDS = [(SO3(), (3, 3)), (Torus(), (2,)), (Sphere(), (3,)), (Euclidean(), (3,))]
HEATED = MANIFOLDS[:2]


def ids(value: Any) -> str | None:
    return type(value).__name__ if isinstance(value, Manifold) else None


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def points(manifold: Manifold, axes: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    return manifold.prior(normal(count, *axes, seed=seed))


def angle_law(sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Angles, their density and their distribution function, by the trapezium rule on 20001 nodes."""
    omega = torch.linspace(0, math.pi, 20_001, dtype=DOUBLE)
    log, _ = kernel(omega, torch.tensor(sigma, dtype=DOUBLE))
    density = log.exp() * (1 - omega.cos()) / math.pi
    return omega, density, torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, omega)])


def follows(angles: Tensor, sigma: float) -> float:
    """The Kolmogorov-Smirnov p-value of angles under IGSO3's."""
    omega, _, below = angle_law(sigma)
    return float(kstest(angles.numpy(), lambda v: np.interp(v, omega.numpy(), below.numpy())).pvalue)


@pytest.mark.parametrize(("manifold", "axes"), MANIFOLDS, ids=ids)
class TestManifold:
    def test_exp_and_log(self, manifold: Manifold, axes: tuple[int, ...], dtype: torch.dtype) -> None:
        x, y = (points(manifold, axes, 500, seed).to(dtype) for seed in (1, 2))
        way = manifold.log(x, y)
        back = manifold.exp(x, way)
        assert back.dtype == dtype
        gap = manifold.log(back, y) if isinstance(manifold, Torus) else back - y
        assert float(gap.abs().max()) < 20 * torch.finfo(dtype).eps
        manifold.check(back)

    def test_geodesics_have_constant_speed(self, manifold: Manifold, axes: tuple[int, ...]) -> None:
        x, y = points(manifold, axes, 50, 1), points(manifold, axes, 50, 2)
        way = manifold.log(x, y)
        third = manifold.exp(x, way / 3)
        torch.testing.assert_close(manifold.distance(x, y), way.norm(dim=-1))
        torch.testing.assert_close(manifold.distance(x, third), way.norm(dim=-1) / 3)
        torch.testing.assert_close(manifold.distance(third, y), way.norm(dim=-1) * 2 / 3)

    def test_smooth_at_no_distance(self, manifold: Manifold, axes: tuple[int, ...]) -> None:
        """exp and log are inverse to first order at 0."""
        x = points(manifold, axes, 4)
        v = manifold.noise(x, normal(4, *axes, seed=3))
        zero = torch.zeros((), dtype=DOUBLE, requires_grad=True)
        (slope,) = torch.autograd.grad((manifold.log(x, manifold.exp(x, zero * v)) * v).sum(), zero)
        torch.testing.assert_close(slope, v.square().sum())

    @pytest.mark.parametrize("length", [0.0, 1e-4, 0.3, 2.5])
    def test_pull_is_the_derivative_of_log(
        self, manifold: Manifold, axes: tuple[int, ...], length: float
    ) -> None:
        x = points(manifold, axes, 6)
        way = manifold.noise(x, normal(6, *axes, seed=2))
        way = way * length / way.norm(dim=-1, keepdim=True)
        y = manifold.exp(x, way)
        v, step = manifold.noise(y, normal(6, *axes, seed=3)), 1e-5
        ahead, behind = (manifold.log(x, manifold.exp(y, d * v)) for d in (step, -step))
        torch.testing.assert_close(
            manifold.pull(x, way, v), (ahead - behind) / (2 * step), atol=1e-8, rtol=1e-7
        )

    def test_noise_is_a_normal_tangent(self, manifold: Manifold, axes: tuple[int, ...]) -> None:
        x = points(manifold, axes, 1).expand(40_000, *axes)
        v = manifold.noise(x, normal(40_000, *axes))
        covariance = v.T @ v / len(v)
        projection = torch.eye(v.shape[-1], dtype=DOUBLE)
        if isinstance(manifold, Sphere):
            projection = projection - torch.outer(x[0], x[0])
        assert float((covariance - projection).abs().max()) < 5 * math.sqrt(2 / 40_000)

    def test_the_prior_is_uniform(self, manifold: Manifold, axes: tuple[int, ...]) -> None:
        """Its moments, and those of it moved by a fixed point, vanish."""
        x = points(manifold, axes, 40_000)
        if isinstance(manifold, Torus):
            assert kstest(x.flatten().numpy(), "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-3
        elif not isinstance(manifold, Euclidean):
            assert float(x.mean(0).abs().max()) < 4 / math.sqrt(40_000)
            assert float(x.square().mean(0).sub(1 / 3).abs().max()) < 4 / math.sqrt(40_000)
        if isinstance(manifold, SO3):
            assert follows(vector(x).norm(dim=-1), 6.0) > 1e-3

    def test_project(self, manifold: Manifold, axes: tuple[int, ...]) -> None:
        x = points(manifold, axes, 20)
        near = manifold.project(x + 1e-3 * normal(20, *axes, seed=5))
        torch.testing.assert_close(manifold.check(near), near)
        assert float(manifold.distance(x, near).max()) < 1e-2
        torch.testing.assert_close(manifold.project(x), x)


class TestRotations:
    @pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 1e-4, 1e-2])
    @pytest.mark.parametrize("near", [0.0, math.pi])
    def test_vectors_to_rounding(self, gap: float, near: float, dtype: torch.dtype) -> None:
        """Also near 0 and pi, where arccos and the skew part lose half the digits."""
        axis = Sphere().prior(normal(200, 3))
        v = (axis * abs(near - gap)).to(dtype)
        out = vector(matrix(v))
        error = (out - v).norm(dim=-1)
        if near and gap < 1e-6:  # there rounding decides between the two vectors of one rotation
            error = torch.minimum(error, (out + v).norm(dim=-1))
        assert float(error.max()) < 10 * torch.finfo(dtype).eps * max(abs(near - gap), 1e-3)

    def test_matrix_is_the_exponential(self) -> None:
        v = 2 * normal(10, 3)
        x, y, z = v.unbind(-1)
        zero = torch.zeros_like(x)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
        torch.testing.assert_close(matrix(v), torch.linalg.matrix_exp(cross))

    def test_long_walks_stay_rotations(self) -> None:
        x = torch.eye(3).expand(20, 3, 3)
        for k in range(300):
            x = SO3().exp(x, normal(20, 3, seed=k).float())
        assert float((x.mT @ x - torch.eye(3)).abs().max()) < 1e-6

    def test_projection_is_the_nearest(self) -> None:
        """Nearer than a thousand others, also for a reflection."""
        x = torch.cat([normal(5, 3, 3), -torch.eye(3, dtype=DOUBLE)[None]])
        best = (SO3().project(x) - x).flatten(1).norm(dim=1)
        others = (points(SO3(), (3, 3), 1000, 7)[:, None] - x).flatten(2).norm(dim=2).min(0).values
        assert bool((best <= others + 1e-12).all())
        torch.testing.assert_close(torch.linalg.det(SO3().project(x)), torch.ones(6, dtype=DOUBLE))


class TestSphere:
    def test_antipodes(self, dtype: torch.dtype) -> None:
        x = points(Sphere(), (4,), 50).to(dtype)
        way = Sphere().log(x, -x)
        torch.testing.assert_close(way.norm(dim=-1), torch.full((50,), math.pi, dtype=dtype))
        torch.testing.assert_close(Sphere().exp(x, way), -x)


class TestIGSO3:
    @pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 0.999, 1.0, 1.5, 3.0])
    def test_normalised(self, sigma: float) -> None:
        omega, density, _ = angle_law(sigma)
        assert float(torch.trapezoid(density, omega)) == pytest.approx(1, abs=1e-10)
        assert bool((density >= 0).all())

    @pytest.mark.parametrize("sigma", [0.9, 1.0, 1.1])
    def test_the_two_sums_overlap(self, sigma: float) -> None:
        omega = torch.linspace(0, math.pi, 501, dtype=DOUBLE)
        both = (f(omega, torch.tensor(sigma, dtype=DOUBLE)) for f in (images, spectrum))
        for p, q in zip(*both, strict=True):
            torch.testing.assert_close(p, q, atol=1e-9, rtol=1e-9)

    @pytest.mark.parametrize("sigma", [0.4, 0.7])
    def test_is_the_long_series(self, sigma: float) -> None:
        """The definition, with 60 terms."""
        omega = torch.linspace(0.1, 3.1, 31, dtype=DOUBLE)
        degree = torch.arange(60, dtype=DOUBLE)[:, None]
        terms = (
            (2 * degree + 1)
            * torch.exp(-degree * (degree + 1) * sigma**2 / 2)
            * torch.sin((degree + 0.5) * omega)
        )
        truth = terms.sum(0) / torch.sin(omega / 2)
        log, _ = kernel(omega, torch.tensor(sigma, dtype=DOUBLE))
        torch.testing.assert_close(log.exp(), truth, atol=1e-11, rtol=1e-9)

    @pytest.mark.parametrize("sigma", [0.02, 0.3, 0.99, 1.01, 3.0])
    def test_slope_against_differences(self, sigma: float) -> None:
        omega = torch.linspace(0.01, 3.13, 300, dtype=DOUBLE)
        step = 1e-5
        high, low = (kernel(omega + d, torch.tensor(sigma, dtype=DOUBLE))[0] for d in (step, -step))
        slope = kernel(omega, torch.tensor(sigma, dtype=DOUBLE))[1] * omega
        torch.testing.assert_close(slope, (high - low) / (2 * step), atol=1e-6, rtol=1e-5)

    def test_the_pull_is_below_pi(self) -> None:
        """s^2 |score| < pi, so that Tweedie's point gives the score back."""
        omega = torch.linspace(0, math.pi, 501, dtype=DOUBLE)
        sigma = torch.linspace(0.02, 4, 80, dtype=DOUBLE)[:, None]
        slope = kernel(omega, sigma)[1] * omega
        assert float((sigma.square() * slope).abs().max()) < math.pi
        assert float(slope[:, [0, -1]].abs().max()) < 1e-9  # also at pi, where the way around is as long

    @pytest.mark.parametrize("sigma", [1e-5, 0.02, 0.3, 1.0, 3.0])
    def test_quantiles(self, sigma: float) -> None:
        """The distribution function gives the share back; below 10 sigma, beyond which there are 1e-21."""
        share = torch.rand(2000, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        omega = quantile(share, torch.tensor(sigma, dtype=DOUBLE))
        nodes, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(80))
        at = omega[:, None] * (nodes + 1) / 2
        density = (
            kernel(at, torch.tensor(sigma, dtype=DOUBLE))[0].exp() * 2 * (at / 2).sin().square() / math.pi
        )
        torch.testing.assert_close((density * weights).sum(1) * omega / 2, share, atol=1e-8, rtol=0)

    @pytest.mark.parametrize("sigma", [0.05, 0.5, 1.5])
    def test_samples_have_the_law(self, sigma: float) -> None:
        x0 = points(SO3(), (3, 3), 1).expand(20_000, 3, 3)
        x = SO3().diffuse(x0, torch.tensor(sigma), normal(20_000, 3, 3))
        way = SO3().log(x0, x)
        assert follows(way.norm(dim=-1), sigma) > 1e-3
        axis = way / way.norm(dim=-1, keepdim=True)
        assert float(axis.mean(0).abs().max()) < 4 / math.sqrt(3 * 20_000)

    def test_each_sample_its_sigma(self) -> None:
        x0, values = points(SO3(), (3, 3), 6).reshape(2, 3, 3, 3), normal(2, 3, 3, 3)
        sigma = torch.tensor([[0.1, 0.5, 2.0], [0.0, 1e-6, 1.0]], dtype=DOUBLE)
        both = SO3().diffuse(x0, sigma, values)
        alone = torch.stack(
            [SO3().diffuse(x0[0, i][None], sigma[0, i], values[0, i][None])[0] for i in range(3)]
        )
        torch.testing.assert_close(both[0], alone)
        torch.testing.assert_close(SO3().diffuse(x0, sigma[:, 0], values)[:, 0], both[:, 0])
        torch.testing.assert_close(both[1, 0], x0[1, 0])
        narrow = SO3().log(x0[1, 1], both[1, 1])
        torch.testing.assert_close(narrow, 1e-6 * SO3().noise(x0[1, 1], values[1, 1]), atol=1e-14, rtol=0)

    @pytest.mark.parametrize(("first", "second"), [(0.3, 0.4), (0.8, 1.1)])
    def test_composition(self, first: float, second: float) -> None:
        """Two motions are one, of the sum of variances."""
        x = torch.eye(3, dtype=DOUBLE).expand(20_000, 3, 3)
        for k, sigma in enumerate((first, second)):
            x = SO3().diffuse(x, torch.tensor(sigma), normal(20_000, 3, 3, seed=k))
        assert follows(vector(x).norm(dim=-1), math.hypot(first, second)) > 1e-3


class TestWrapped:
    @pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0, 8.0])
    def test_density(self, sigma: float) -> None:
        """Normalised over the circle, and its Fourier coefficients are e^(-l^2 sigma^2/2)."""
        x = torch.linspace(-math.pi, math.pi, 2001, dtype=DOUBLE)[:-1, None]
        density = Torus().log_prob(x, torch.zeros_like(x), torch.tensor(sigma)).exp()
        for degree in range(4):
            truth = math.exp(-(degree**2) * sigma**2 / 2)
            assert float((density * torch.cos(degree * x[:, 0])).mean()) == pytest.approx(truth, abs=2e-9)

    def test_periodic(self) -> None:
        x, x0, sigma = normal(20, 3), normal(20, 3, seed=1), torch.tensor(0.7)
        for turns in (1, -5):
            moved = x + 2 * math.pi * turns
            torch.testing.assert_close(Torus().score(moved, x0, sigma), Torus().score(x, x0, sigma))
            torch.testing.assert_close(Torus().log_prob(moved, x0, sigma), Torus().log_prob(x, x0, sigma))

    def test_samples(self) -> None:
        x = Torus().diffuse(torch.full((20_000, 1), 3.0, dtype=DOUBLE), torch.tensor(1.2), normal(20_000, 1))
        assert float(x.abs().max()) <= math.pi
        for degree in (1, 2):
            moment = float(torch.cos(degree * (x - 3)).mean())
            assert moment == pytest.approx(math.exp(-(degree**2) * 0.72), abs=4 / math.sqrt(20_000))


@pytest.mark.parametrize(("manifold", "axes"), HEATED, ids=ids)
class TestKernel:
    @pytest.mark.parametrize("sigma", [0.05, 0.6, 2.0])
    def test_score_against_differences(self, manifold: Any, axes: tuple[int, ...], sigma: float) -> None:
        x0 = points(manifold, axes, 40)
        x = manifold.diffuse(x0, torch.tensor(sigma), normal(40, *axes, seed=1))
        score = manifold.score(x, x0, torch.tensor(sigma))
        step = 1e-5 * sigma
        for i in range(score.shape[-1]):
            way = step * torch.eye(score.shape[-1], dtype=DOUBLE)[i].expand_as(score)
            high, low = (manifold.log_prob(manifold.exp(x, w), x0, torch.tensor(sigma)) for w in (way, -way))
            torch.testing.assert_close(score[..., i], (high - low) / (2 * step), atol=1e-5, rtol=1e-5)

    def test_finite_where_it_is_hard(self, manifold: Any, axes: tuple[int, ...], dtype: torch.dtype) -> None:
        """At x0, a hair from it and at the farthest point, forward and backward."""
        x0 = points(manifold, axes, 1).to(dtype)
        v = torch.zeros(1, 3 if isinstance(manifold, SO3) else 2, dtype=dtype)
        for length in (0.0, 1e-7, math.pi):
            v[:, 0] = length
            target = x0.clone().requires_grad_()
            score = manifold.score(manifold.exp(x0, v), target, torch.tensor(0.3))
            (grad,) = torch.autograd.grad(score.sum(), target)
            assert torch.isfinite(score).all()
            assert torch.isfinite(grad).all()
            assert score.dtype == dtype

    def test_the_prior_is_where_it_ends(self, manifold: Any, axes: tuple[int, ...]) -> None:
        x, x0 = points(manifold, axes, 20), points(manifold, axes, 20, 1)
        far = manifold.log_prob(x, x0, torch.tensor(5.0))
        torch.testing.assert_close(far, torch.zeros(20, dtype=DOUBLE), atol=1e-4, rtol=0)


class TestEquivariance:
    """Rotating the world rotates points, and leaves tangents of rotations as they are."""

    TURN = matrix(torch.tensor([0.4, -1.9, 0.8], dtype=DOUBLE))

    def test_rotations(self) -> None:
        x, x0, values = points(SO3(), (3, 3), 30), points(SO3(), (3, 3), 30, 1), normal(30, 3, 3, seed=2)
        p, t = Brownian(SO3()), torch.tensor(0.6)
        torch.testing.assert_close(p.score(self.TURN @ x, self.TURN @ x0, t), p.score(x, x0, t))
        torch.testing.assert_close(
            p.corrupt(self.TURN @ x0, t, noise=self.TURN @ values), self.TURN @ p.corrupt(x0, t, noise=values)
        )
        torch.testing.assert_close(SO3().prior(self.TURN @ values), self.TURN @ SO3().prior(values))

    def test_unit_vectors(self) -> None:
        x, x0, values = points(Sphere(), (3,), 30), points(Sphere(), (3,), 30, 1), normal(30, 3, seed=2)
        p, t = Geodesic(Sphere()), torch.tensor(0.6)
        torch.testing.assert_close(
            p.velocity(x @ self.TURN.T, x0 @ self.TURN.T, t), p.velocity(x, x0, t) @ self.TURN.T
        )
        torch.testing.assert_close(
            p.corrupt(x0 @ self.TURN.T, t, noise=values @ self.TURN.T),
            p.corrupt(x0, t, noise=values) @ self.TURN.T,
        )

    def test_the_sampler_commutes(self) -> None:
        """With a network that knows no frame: a rotated start and rotated noise give rotated samples."""
        p = Brownian(SO3())
        x = points(SO3(), (3, 3), 8).reshape(4, 2, 3, 3)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return SO3().exp(x, 0.3 * SO3().log(x, x.flip(1)))

        def run(turn: Tensor) -> Tensor:
            draw = Seeds([1, 2, 3, 4], lambda values: turn @ values)
            return ancestral(p, denoise, turn @ x, uniform(10), draw=draw)

        torch.testing.assert_close(run(self.TURN), self.TURN @ run(torch.eye(3, dtype=DOUBLE)))


class TestProcesses:
    def test_flat_space_is_rectified_flow(self) -> None:
        p, flat, x, x0, noise = (
            Geodesic(Euclidean()),
            RectifiedFlow(),
            normal(4, 3),
            normal(4, 3, seed=1),
            normal(4, 3, seed=2),
        )
        t = torch.tensor(0.8)
        torch.testing.assert_close(p.corrupt(x0, t, noise=noise), flat.corrupt(x0, t, noise=noise))
        torch.testing.assert_close(p.velocity(x, x0, t), (x - x0) / t.double())
        grid = power(6)
        walk, table = (
            sample(lambda x, t: torch.tanh(x), process, x, grid=grid, seeds=range(4)) for process in (p, flat)
        )
        torch.testing.assert_close(walk, table)
        start = Seeds(range(4))(-1, x)
        torch.testing.assert_close(geodesic(lambda x, t: torch.tanh(x), p, start, grid, rule="euler"), walk)

    def test_narrow_motion_is_the_flat_posterior(self) -> None:
        """Angles far from their cut: VE's law of x_u."""
        level = EDM(0.2)
        p, t, u = Brownian(Torus(), level), torch.tensor(0.9), torch.tensor(0.4)
        x0, noise = 0.3 * normal(5, 2), normal(5, 2, seed=2)
        x = p.corrupt(x0, t, noise=normal(5, 2, seed=1))
        torch.testing.assert_close(
            p.posterior(x, x0, t, u).sample(noise), level.posterior(x, x0, t, u).sample(noise)
        )

    @pytest.mark.parametrize(("manifold", "axes"), HEATED, ids=ids)
    def test_short_steps_keep_the_marginal(self, manifold: Any, axes: tuple[int, ...]) -> None:
        """From x_t by 60 steps to x_u, towards the point of the score given x0 (law 1, in the limit)."""
        p, count = Brownian(manifold, EDM(2.0)), 6_000
        x0 = points(manifold, axes, 1).expand(count, *axes)
        times = torch.linspace(0.9, 0.3, 61, dtype=DOUBLE)
        x = p.corrupt(x0, times[0], noise=normal(count, *axes))
        generator = torch.Generator().manual_seed(1)
        for t, u in pairwise(times):
            toward = p.tweedie(x, p.score(x, x0, t), t)
            x = p.posterior(x, toward, t, u).sample(torch.randn(x.shape, generator=generator, dtype=DOUBLE))
        gap = manifold.distance(x0, x)
        direct = manifold.distance(x0, p.corrupt(x0, times[-1], noise=normal(count, *axes, seed=9)))
        assert float(gap.mean() / direct.mean()) == pytest.approx(1, abs=0.03)
        assert float(gap.std() / direct.std()) == pytest.approx(1, abs=0.04)

    @pytest.mark.parametrize(
        "process", [Brownian(SO3()), Brownian(Torus()), Geodesic(SO3()), Geodesic(Sphere())], ids=repr
    )
    def test_points_tangents_and_back(self, process: Curved[Any]) -> None:
        axes = next(a for m, a in MANIFOLDS if type(m) is type(process.manifold))
        x, x0 = points(process.manifold, axes, 30), points(process.manifold, axes, 30, 1)
        for t in (torch.tensor(0.1), torch.tensor(0.9)):
            velocity = process.velocity(x, x0, t)
            again = process.velocity(x, process.point(x, velocity, t), t)
            torch.testing.assert_close(again, velocity)
            if isinstance(process, Brownian):
                score = process.score(x, x0, t)
                toward = process.tweedie(x, score, t)
                s2 = process.s(t.double()) ** 2
                torch.testing.assert_close(process.manifold.log(x, toward) / s2, score)
                half = -process.rate(t) * s2 * score  # dx/dt = -(s^2)' score/2
                torch.testing.assert_close(process.velocity(x, toward, t), half)

    def test_paths_run_from_data_to_the_prior(self) -> None:
        p, x0, noise = Geodesic(Sphere()), points(Sphere(), (3,), 5), normal(5, 3, seed=1)
        torch.testing.assert_close(p.corrupt(x0, torch.tensor(0.0), noise=noise), x0)
        torch.testing.assert_close(p.corrupt(x0, torch.tensor(1.0), noise=noise), Sphere().prior(noise))
        rows = p.corrupt(x0, torch.linspace(0, 1, 5), noise=noise)
        torch.testing.assert_close(rows[2], p.corrupt(x0, torch.tensor(0.5), noise=noise)[2])
        t, step = torch.tensor(0.4, dtype=DOUBLE), 1e-6
        ahead, behind = (p.corrupt(x0, t + d, noise=noise) for d in (step, -step))
        here = p.corrupt(x0, t, noise=noise)
        torch.testing.assert_close(p.velocity(here, x0, t), (ahead - behind) / (2 * step), atol=1e-8, rtol=0)


class Two:
    """IGSO3 of deviation .25 around two rotations 2.25 apart, with weights .3 and .7: its score is known."""

    WIDTH, WEIGHTS = 0.25, torch.tensor([0.3, 0.7], dtype=DOUBLE)

    def __init__(self, process: Brownian) -> None:
        first = matrix(torch.tensor([0.5, 1.0, -2.0], dtype=DOUBLE))
        self.centres = torch.stack([first, first @ matrix(torch.tensor([0.0, 2.2, 0.5], dtype=DOUBLE))])
        self.process = process

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        sigma = torch.hypot(self.process.s(t), torch.tensor(self.WIDTH))
        both, centres = x[:, None].expand(-1, 2, 3, 3), self.centres.expand(len(x), 2, 3, 3)
        share = (SO3().log_prob(both, centres, sigma) + self.WEIGHTS.log()).softmax(1)
        score = (share[..., None] * SO3().score(both, centres, sigma)).sum(1)
        return self.process.tweedie(x, score, t)

    def check(self, x: Tensor) -> None:
        distance = SO3().distance(self.centres, x[:, None].expand(-1, 2, 3, 3))
        share = float((distance[:, 0] < distance[:, 1]).double().mean())
        assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / len(x)))
        assert follows(distance.min(1).values, self.WIDTH) > 1e-3


class TestSamplers:
    def test_the_reverse_walk_finds_a_mixture(self) -> None:
        p, count = Brownian(SO3()), 1000
        x = p.prior(torch.empty(count, 3, 3)).sample(normal(count, 3, 3))
        generator = torch.Generator().manual_seed(1)

        def draw(step: int, like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=DOUBLE)

        two = Two(p)
        two.check(ancestral(p, two.denoise, x, power(150), draw=draw))

    def test_the_flow_finds_it_too(self) -> None:
        p, count = Brownian(SO3()), 1200
        x = p.prior(torch.empty(count, 3, 3)).sample(normal(count, 3, 3))
        two = Two(p)
        two.check(geodesic(two.denoise, p, x, power(24)))

    def test_the_geodesic_flow_of_points_on_a_sphere(self) -> None:
        """Data at three points, whose D is the mean of tangents under the posterior: a third go to each."""
        centres = torch.eye(3, dtype=DOUBLE)
        p, count = Geodesic(Sphere()), 3000

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            """x_t at angle r from a centre came from x_1 at r/t: its density is sin(r/t)/(t sin r)."""
            way = Sphere().log(x[:, None].expand(-1, 3, 3), centres.expand(len(x), 3, 3))
            r = way.norm(dim=-1)
            share = torch.where(r < math.pi * t, (r / t).sin() / r.sin(), 0.0)
            return Sphere().exp(x, ((share / share.sum(1, keepdim=True))[..., None] * way).sum(1))

        x = points(Sphere(), (3,), count)
        out = geodesic(denoise, p, x, uniform(100, 1.0, 0.02))
        nearest = (out @ centres).max(1)
        counts = torch.bincount(nearest.indices, minlength=3) / count
        assert float((counts - 1 / 3).abs().max()) < 4 * math.sqrt(2 / 9 / count)
        assert float(nearest.values.acos().mean()) < 0.05

    @pytest.mark.parametrize(("manifold", "axes"), MANIFOLDS, ids=ids)
    def test_order(self, manifold: Manifold, axes: tuple[int, ...]) -> None:
        """On a smooth field that depends on the time, against 80 steps of the fourth-order rule."""
        p, x, mix = Geodesic(manifold), points(manifold, axes, 5), normal(axes[-1], axes[-1], seed=4)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return p.point(x, manifold.noise(x, torch.sin(x) @ mix + torch.cos(3 * t)), t)

        def end(rule: str, steps: int) -> Tensor:
            return geodesic(denoise, p, x, uniform(steps, 0.9, 0.3), rule=rule)

        truth = end("rk4", 80)
        for rule in ("euler", "midpoint", "heun2", "kutta3", "rk4"):
            errors = [float(manifold.distance(end(rule, n), truth).max()) for n in (12, 24)]
            assert math.log2(errors[0] / errors[1]) > RULES[rule].order - 0.15, rule

    PRODUCT = Joint({"r": Brownian(SO3()), "angle": Brownian(Torus()), "n": Geodesic(Sphere()), "x": VP()})
    LIKE = (("r", (3, 3)), ("angle", (2,)), ("n", (3,)), ("x", (4,)))

    def test_a_product_in_one_call_a_step(self, dtype: torch.dtype) -> None:
        """Leaves with their own processes, coupled by one network; a sample is a function of its seed."""
        calls = 0

        def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            warm = torch.tanh(state["x"][:, :1])
            return {
                "r": SO3().exp(state["r"], 0.3 * warm * state["n"]),
                "angle": 0.5 * state["angle"],
                "n": Sphere().project(state["n"] + 0.2 * state["r"][:, 0]),
                "x": 0.1 * state["x"] + state["angle"].repeat(1, 2),
            }

        def run(seeds: Any) -> Tensor:
            like = {n: torch.zeros(len(seeds), 2, *axes)[:, 0] for n, axes in self.LIKE}
            out = sample(denoise, self.PRODUCT, like, grid=uniform(7), seeds=seeds)
            SO3().check(out["r"])
            Sphere().check(out["n"])
            assert all(leaf.dtype == dtype for leaf in out.values())
            return torch.cat([leaf.flatten(1) for leaf in out.values()], 1)

        run([1, 2])
        assert calls == 7
        check_seeds(run)

    def test_flows_of_a_product(self) -> None:
        """One call a stage, one in the last step; leaves that do not see each other go as alone."""
        parts = {"r": Geodesic(SO3()), "x": Geodesic(Euclidean())}
        x = {"r": points(SO3(), (3, 3), 4), "x": normal(4, 3)}
        calls = 0

        def alone(name: str) -> Any:
            target = points(SO3(), (3, 3), 1, 5).expand(4, 3, 3) if name == "r" else torch.ones(4, 3)
            return lambda x, t: target if name == "x" else SO3().exp(x, torch.cos(t) * SO3().log(x, target))

        def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            nonlocal calls
            calls += 1
            return {n: alone(n)(v, t) for n, v in state.items()}

        out = geodesic(denoise, parts, x, uniform(5), rule="rk4")
        assert calls == 4 * 4 + 1
        for n, process in parts.items():
            torch.testing.assert_close(out[n], geodesic(alone(n), process, x[n], uniform(5), rule="rk4"))

    @pytest.mark.parametrize("rule", ["euler", "heun2"])
    def test_a_point_is_reached_along_the_geodesic(self, rule: str, dtype: torch.dtype) -> None:
        """Straight paths: one step of Euler is exact, and so are the steps of other rules before the last."""
        x0, x = (points(SO3(), (3, 3), 6, k).to(dtype) for k in (1, 2))
        p = Geodesic(SO3())
        middle = geodesic(lambda x, t: x0, p, x, uniform(1 if rule == "euler" else 40, 1.0, 0.5), rule=rule)
        tolerance = 20 * torch.finfo(dtype).eps if rule == "euler" else 1e-4
        half = SO3().exp(x0, SO3().log(x0, x) / 2)
        torch.testing.assert_close(middle, half, atol=tolerance, rtol=0)
        assert torch.equal(geodesic(lambda x, t: x0, p, x, uniform(3), rule=rule), x0)

    def test_steps_compile(self) -> None:
        """A step of the walk is one graph."""
        p = Brownian(SO3())
        t, u = torch.tensor(0.5), torch.tensor(0.4)

        def step(x: Tensor, noise: Tensor) -> Tensor:
            return p.posterior(x, SO3().exp(x, x[..., 0]), t, u).sample(noise)

        first, second = ((points(SO3(), (3, 3), 2, k).float(), normal(2, 3, 3).float()) for k in (0, 1))
        check_compiles(step, first, second)


class TestBadInput:
    def test_no_rotations(self) -> None:
        x = 1.1 * torch.eye(3).expand(2, 3, 3)
        for run in (
            lambda: Brownian(SO3()).corrupt(x, torch.tensor(0.5)),
            lambda: geodesic(lambda x, t: x, Geodesic(SO3()), x, uniform(2)),
        ):
            with pytest.raises(ValueError, match=r"off SO3 by 0\.1: take project\(x\)"):
                run()

    def test_a_reflection_is_no_rotation(self) -> None:
        with pytest.raises(ValueError, match="off SO3 by 2"):
            SO3().check(-torch.eye(3)[None])

    def test_off_the_sphere(self) -> None:
        with pytest.raises(ValueError, match=r"off Sphere by 1: take project\(x\)"):
            Geodesic(Sphere()).corrupt(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor(0.5))

    def test_angles_that_are_not_finite(self) -> None:
        with pytest.raises(ValueError, match="off Torus by nan"):
            Brownian(Torus()).corrupt(torch.tensor([[math.nan]]), torch.tensor(0.5))

    @pytest.mark.parametrize("sigma", [0.0, -1.0])
    @pytest.mark.parametrize(("manifold", "axes"), HEATED, ids=ids)
    def test_sigma(self, manifold: Any, axes: tuple[int, ...], sigma: float) -> None:
        x = points(manifold, axes, 1)
        with pytest.raises(ValueError, match=f"sigma of a kernel must be positive, not {sigma:g}"):
            manifold.log_prob(x, x, torch.tensor(sigma))

    def test_levels(self) -> None:
        with pytest.raises(ValueError, match="a level of a = 1 with noise"):
            Brownian(SO3(), VP())
        with pytest.raises(ValueError, match="a level of a = 1 with noise"):
            Brownian(SO3(), EDM(0.0))

    def test_a_level_that_ends_too_early(self) -> None:
        like = torch.empty(2, 3, 3)
        with pytest.warns(UserWarning, match=r"peak is 1\.98 times the uniform density"):
            Brownian(SO3(), EDM(1.5)).prior(like)
        Brownian(SO3()).prior(like)
        Brownian(Torus()).prior(like)

    def test_anchors(self) -> None:
        for process in (Brownian(SO3()), Geodesic(SO3())):
            with pytest.raises(ValueError, match="has no anchor"):
                process.prior(torch.empty(1, 3, 3), y=torch.eye(3)[None])

    def test_rules_and_grids(self) -> None:
        x = torch.eye(3)[None]
        with pytest.raises(ValueError, match="no Runge-Kutta rule 'heun'"):
            geodesic(lambda x, t: x, Geodesic(SO3()), x, uniform(2), rule="heun")
        with pytest.raises(ValueError, match="one row of times"):
            geodesic(lambda x, t: x, Geodesic(SO3()), x, uniform(2).expand(1, -1))
