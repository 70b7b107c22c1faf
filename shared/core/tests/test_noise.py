"""Noise that is not normal: heavy tails, and pairs by optimal transport."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffkit.core.grid import karras, uniform
from diffkit.core.noise import NoiseLaw, coupled, heavy_tailed, normal
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, RectifiedFlow
from diffkit.core.sample import sample
from diffkit.core.solvers.adams import adams
from diffkit.core.solvers.ddim import ddim
from diffkit.core.testing import check_seeds


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class TestHeavyTailed:
    @pytest.mark.parametrize(("values", "dims"), [(2, 1), (3, 3), (16, 128), (768, 2048)])
    def test_radius_is_that_of_pfgmpp(self, values: int, dims: int) -> None:
        """R^2/(D + R^2) ~ Beta(N/2, D/2), at the quantile of the normal radius, in the same direction."""
        from scipy import stats

        noise = draws(4000, values)
        out = heavy_tailed(dims)(noise)
        radius2 = out.square().sum(1)
        share = (radius2 / (dims + radius2)).numpy()
        own = stats.chi2(values).cdf(noise.square().sum(1).numpy())
        assert stats.beta(values / 2, dims / 2).cdf(share) == pytest.approx(own, abs=1e-9)
        torch.testing.assert_close(out / radius2.sqrt()[:, None], noise / noise.norm(dim=1, keepdim=True))

    def test_second_moment(self) -> None:
        """E R^2/N = D/(D - 2), integrated over the quantiles of the normal radius."""
        from scipy import stats

        values, dims, count = 8, 12, 20_000
        middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        noise = torch.zeros(count, values, dtype=torch.float64)
        noise[:, 0] = torch.as_tensor(stats.chi2(values).ppf(middle.numpy())).sqrt()
        radius2 = heavy_tailed(dims)(noise).square().sum(1)
        assert float(radius2.mean()) / values == pytest.approx(dims / (dims - 2), rel=2e-3)

    def test_many_dimensions_are_normal(self) -> None:
        noise = draws(50, 30)
        assert torch.equal(heavy_tailed(math.inf)(noise), noise)
        gaps = [float((heavy_tailed(dims)(noise) - noise).abs().max()) for dims in (1e3, 1e4, 1e5)]
        assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)
        assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)

    def test_edges(self) -> None:
        noise = torch.zeros(2, 3)
        noise[1] = 8.0
        out = heavy_tailed(128)(noise)
        assert not out[0].any()
        assert bool(out.isfinite().all())
        assert heavy_tailed(128)(noise.double()).dtype == torch.float64
        with pytest.raises(ValueError, match="must be positive"):
            heavy_tailed(0)

    def test_seeds(self) -> None:
        def run(seeds: object) -> Tensor:
            shape = (len(seeds), 5)  # type: ignore[arg-type]
            return sample(lambda x, t: torch.tanh(x), EDM(), shape, seeds=seeds, law=heavy_tailed(4))  # type: ignore[arg-type]

        check_seeds(run)

    def test_a_point_is_reached_on_a_line(self) -> None:
        """x - c is proportional to sigma, whatever the prior."""
        p, c, grid = EDM(), 0.7, uniform(4, 1.0, 0.25)
        x = c + p.s(grid[0]) * heavy_tailed(3)(draws(5, 2))
        out = integrate(lambda x, t: torch.full_like(x, c), x, ddim()(p, grid))
        torch.testing.assert_close(out - c, 0.25 * (x - c))

    def test_samples_have_the_law_of_the_data(self) -> None:
        """Two points of weights .3 and .7, N = 1, D = 3, the exact denoiser, solver and grid as for EDM.

        On the line the flow keeps the order, so equally many quantiles of the prior give the law of the samples.
        A normal prior in the place of the heavy-tailed one is found out.
        """
        from scipy.special import ndtri

        p, dims, grid = EDM(), 3, karras(40, 0.02)(EDM())
        points = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        log_weights = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
        quantiles = torch.as_tensor(ndtri((torch.arange(2000).double().numpy() + 0.5) / 2000))[:, None]

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            level = (x - points).square() + dims * p.s(t) ** 2
            return (log_weights - (1 + dims) / 2 * level.log()).softmax(-1) @ points[:, None]

        def share(law: NoiseLaw) -> float:
            out = integrate(denoise, p.s(grid[0]) * law(quantiles), adams(2)(p, grid))
            assert float((out.abs() - 1).abs().median()) < 1e-6
            return float((out > 0).double().mean())

        assert share(heavy_tailed(dims)) == pytest.approx(0.7, abs=0.003)
        assert share(normal) > 0.71


class TestCoupled:
    def test_is_the_best_permutation(self) -> None:
        noise, data = draws(6, 2, 3), draws(6, 2, 3, seed=1)
        out = coupled(noise, data)
        best = min(
            itertools.permutations(range(6)),
            key=lambda order: float((noise[list(order)] - data).square().sum()),
        )
        assert torch.equal(out, noise[list(best)])

    def test_shapes_must_match(self) -> None:
        with pytest.raises(ValueError, match="of one shape"):
            coupled(torch.zeros(3, 2), torch.zeros(4, 2))

    def test_straightens_paths(self) -> None:
        """A flow fitted by least squares to random features: what is left of the velocity's variance, and the
        error of one Euler step against many, both fall when pairs are coupled in batches of 128.
        """
        p, count, features = RectifiedFlow(), 6400, 300
        corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
        data = 2 * corners.repeat(count // 4, 1) + 0.2 * draws(count, 2, seed=3)
        data = data[torch.randperm(count, generator=torch.Generator().manual_seed(4))]
        noise, t = (
            draws(count, 2, seed=5),
            torch.rand(count, generator=torch.Generator().manual_seed(6)).double(),
        )
        weights = draws(3, features, seed=7) * torch.tensor([[1.0], [1.0], [3.0]])
        phase = 6.3 * torch.rand(features, generator=torch.Generator().manual_seed(8)).double()

        def basis(x: Tensor, t: Tensor) -> Tensor:
            return torch.cos(torch.cat([x, t.expand(len(x))[:, None]], 1) @ weights + phase)

        def fit(noise: Tensor) -> tuple[float, float]:
            x, velocity = p.corrupt(data, t, noise=noise), noise - data
            design = basis(x, t)
            gram = design.T @ design + 1e-3 * torch.eye(features, dtype=torch.float64)
            solution = torch.linalg.solve(gram, design.T @ velocity)
            left = float((design @ solution - velocity).square().mean())

            def denoise(x: Tensor, t: Tensor) -> Tensor:
                return x - t * (basis(x, t) @ solution)

            z = draws(500, 2, seed=9)
            one, many = (integrate(denoise, z, ddim()(p, uniform(n))) for n in (1, 30))
            return left, float((one - many).square().mean())

        apart = fit(noise)
        together = fit(
            torch.cat([coupled(n, d) for n, d in zip(noise.split(128), data.split(128), strict=True)])
        )
        assert together[0] < 0.25 * apart[0]
        assert together[1] < 0.25 * apart[1]
