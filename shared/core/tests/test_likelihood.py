"""Log p by the probability flow, encoding and decoding, latents between latents."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_processes import MONOTONE, PINNED, name
from torch import Tensor

from diffkit.core.grid import Schedule, lam_uniform, uniform
from diffkit.core.joint import Joint
from diffkit.core.likelihood import bits_per_dim, decode, density, dequantise, encode, log_prob, slerp
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds, centred, masked, normal, symmetric
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, VP, Cosine, Gaussian, RectifiedFlow
from diffkit.core.solvers import dpmpp_2m, runge_kutta
from diffkit.core.spectral import ShortestPath
from diffkit.core.testing import check_likelihood, flow

MIXTURE = Mixture.reference()
POINTS = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64)[:, None]
TRUTH = MIXTURE.log_prob(VP(), POINTS, 0.0)


def to_zero(n: int) -> Schedule:
    """``n`` steps, the last of which goes to t = 0, where nothing is blurred."""
    return lambda process: torch.cat([lam_uniform(n - 1)(process), torch.zeros(1).double()])


def exact(process: Gaussian, mixture: Mixture = MIXTURE) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, t: mixture.denoise(process, z, t)


def plane() -> Mixture:
    """Two dimensions that are not independent."""
    weights, means, stds = [0.4, 0.6], [[-1.0, 0.5], [0.8, -0.3]], [0.5, 0.4]
    return Mixture(*(torch.tensor(v, dtype=torch.float64) for v in (weights, means, stds)))


class TestLogProb:
    @pytest.mark.parametrize("process", MONOTONE, ids=name)
    def test_is_the_mixtures(self, process: Gaussian) -> None:
        check_likelihood(process)

    @pytest.mark.parametrize("process", [Cosine(), RectifiedFlow()], ids=name)
    def test_without_further_words(self, process: Gaussian) -> None:
        torch.testing.assert_close(log_prob(exact(process), process, POINTS), TRUTH, atol=1e-3, rtol=0)

    def test_from_no_signal_to_no_noise(self) -> None:
        """lambda is infinite at both ends of [0, 1]; the flow in the angle is not."""
        p = RectifiedFlow()
        torch.testing.assert_close(log_prob(exact(p), p, POINTS, grid=uniform(40)), TRUTH, atol=1e-5, rtol=0)

    def test_fourth_order(self) -> None:
        p = Cosine()
        errors = [
            float((log_prob(exact(p), p, POINTS, grid=uniform(n)) - TRUTH).abs().max()) for n in (12, 24)
        ]
        assert math.log2(errors[0] / errors[1]) > 3.7

    def test_the_blur_of_the_end(self) -> None:
        """Where the grid ends at sigma, p is p + sigma^2/2 p''."""
        p, sigma, step = EDM(), 0.02, 1e-4
        grid = lam_uniform(80, end=-math.log(sigma))(p)
        out = log_prob(exact(p), p, POINTS, grid=grid, prior=lambda z: MIXTURE.log_prob(p, z, grid[0]))
        near = [MIXTURE.log_prob(p, POINTS + d, 0.0).exp() for d in (-step, 0.0, step)]
        blurred = near[1] + sigma**2 / 2 * (near[0] - 2 * near[1] + near[2]) / step**2
        torch.testing.assert_close(out, blurred.log(), atol=3e-4, rtol=0)  # sigma^4/8 p''''/p
        assert float((out - TRUTH).abs().max()) > 5e-3

    @pytest.mark.parametrize("process", PINNED, ids=name)
    def test_an_anchor_moves_nothing(self, process: Gaussian) -> None:
        """In x, with y, it is the density in z, without."""
        y = torch.full_like(POINTS, 0.7)
        plain = log_prob(exact(process), process, POINTS, prior=lambda z: -z.square().sum(1))
        anchored = log_prob(
            lambda x, t: MIXTURE.denoise(process, x - process.b(t) * y, t),
            process,
            POINTS,
            y=y,
            prior=lambda x: -(x - process.b(lam_uniform(1)(process)[0]) * y).square().sum(1),
        )
        torch.testing.assert_close(anchored, plain, atol=1e-9, rtol=0)

    def test_the_start_of_a_bridge(self) -> None:
        """On a point mass, whose flow is known: x_1 ~ N((a + b) y, s^2)."""
        p, y, x0 = PINNED[1], torch.full((3, 2), 0.3).double(), torch.randn(3, 2).double()
        grid = lam_uniform(40, end=2.0)(p)
        std = 0.5

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return (x - p.b(t) * y) * p.a(t) * std**2 / ((p.a(t) * std) ** 2 + p.s(t) ** 2)

        first, last = grid[0], grid[-1]
        spread = [((p.a(t) * std) ** 2 + p.s(t) ** 2).sqrt() for t in (first, last)]
        z = p.a(last) * x0 * spread[0] / spread[1]
        start = torch.distributions.Normal(p.a(first) * y, p.s(first))
        truth = start.log_prob(z).sum(1) + 2 * (p.a(last) * spread[0] / spread[1]).log()
        torch.testing.assert_close(log_prob(denoise, p, x0, y=y, grid=grid), truth, atol=1e-5, rtol=0)

    def test_float32_networks(self, dtype: torch.dtype) -> None:
        p = Cosine()
        out = log_prob(exact(p), p, POINTS.to(dtype))
        assert out.dtype == torch.float64
        torch.testing.assert_close(out, TRUTH, atol=1e-3, rtol=0)

    def test_needs_no_gradient_from_outside(self) -> None:
        with torch.no_grad():
            assert torch.isfinite(log_prob(exact(VP()), VP(), POINTS)).all()


class TestHutchinson:
    @pytest.mark.parametrize("probe", [torch.sign, normal], ids=["rademacher", "normal"])
    @pytest.mark.parametrize("probes", [1, 3])
    def test_unbiased(self, probe: Any, probes: int) -> None:
        p, x = VP(), torch.tensor([[0.2, -0.4]], dtype=torch.float64)
        grid = lam_uniform(5, -4.0, 2.0)
        many = x.expand(500, -1)
        denoise = exact(p, plane())
        out = log_prob(denoise, p, many, grid=grid, probes=probes, probe=probe, seeds=range(500))
        error = float(out.std()) / math.sqrt(500)
        assert float(out.std()) > 1e-3
        assert abs(float(out.mean() - log_prob(denoise, p, x, grid=grid)[0])) < 4 * error

    def test_what_shrinks_its_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Four probes halve it; and it is below that of one probe for the whole path."""
        p, x = VP(), torch.tensor([[0.2, -0.4]], dtype=torch.float64).expand(500, -1)
        random = density._random_vectors

        def spread(probes: int) -> float:
            grid = lam_uniform(8, -4.0, 2.0)
            return float(log_prob(exact(p, plane()), p, x, grid=grid, probes=probes, seeds=range(500)).std())

        one, four = spread(1), spread(4)
        assert one / four == pytest.approx(2, rel=0.15)  # the deviation of 500 values is known to 3 %
        monkeypatch.setattr(
            density, "_random_vectors", lambda d, p, laws, n, call, x: random(d, p, laws, n, 0, x)
        )
        assert spread(1) > 1.5 * one

    def test_a_sample_is_a_function_of_its_seed(self) -> None:
        p, x = VP(), torch.randn(3, 2).double()
        run = lambda x, seeds: log_prob(exact(p, plane()), p, x, probes=1, seeds=seeds)  # noqa: E731
        both = run(x, [5, 6, 7])
        torch.testing.assert_close(run(x[1:2], [6]), both[1:2])
        assert not torch.equal(both, run(x, [8, 9, 10]))


class TestSubspaces:
    def test_without_centre_of_mass(self) -> None:
        """Normal data of deviation .5 on 3 (nodes - 1) dimensions, exact and estimated."""
        p, std = Cosine(), 0.5
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
        law = centred(mask)
        x0 = std * law(torch.randn(2, 4, 3, dtype=torch.float64))

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return x * p.a(t) * std**2 / ((p.a(t) * std) ** 2 + p.s(t) ** 2)

        dims = 3.0 * (mask.sum(1) - 1)
        truth = -x0.square().sum((1, 2)) / (2 * std**2) - dims * math.log(std * math.sqrt(2 * math.pi))
        out = log_prob(denoise, p, x0, law=law)
        torch.testing.assert_close(out, truth, atol=2e-3, rtol=0)
        rough = log_prob(denoise, p, x0, law=law, probes=16, seeds=[1, 2])
        torch.testing.assert_close(rough, truth, atol=0.5, rtol=0)
        assert float((log_prob(denoise, p, x0) - truth).abs().min()) > 0.5

    def test_data_off_the_subspace(self) -> None:
        with pytest.raises(ValueError, match=r"off the subspace of its noise law by .*x0 = law\(x0\)"):
            log_prob(exact(VP()), VP(), torch.ones(2, 4, 3), law=centred())

    def test_a_law_that_is_no_projection(self) -> None:
        with pytest.raises(ValueError, match="no orthogonal projection"):
            log_prob(exact(VP()), VP(), torch.zeros(2, 4, 4), law=symmetric())


class TestJoint:
    def test_two_leaves_are_one_state(self) -> None:
        p, mixture, x = VP(), plane(), torch.randn(5, 2).double()

        def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            out = mixture.denoise(p, torch.cat([state["p"], state["q"]], 1), t)
            return {"q": out[:, 1:], "p": out[:, :1]}

        leaves = {"p": x[:, :1], "q": x[:, 1:]}
        joint = Joint({"p": p, "q": p})
        torch.testing.assert_close(log_prob(denoise, joint, leaves), log_prob(exact(p, mixture), p, x))
        latent = encode(denoise, joint, leaves)
        torch.testing.assert_close(latent["q"], encode(exact(p, mixture), p, x)[:, 1:])

    def test_leaves_of_different_processes(self) -> None:
        """Correlated normal data, of which one value follows VP and the other EDM."""
        joint: Any = Joint({"p": VP(), "q": EDM()})
        covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)

        def gains(t: Tensor) -> tuple[Tensor, Tensor]:
            a, s = (torch.stack([getattr(leaf, c)(t) for leaf in joint.values()]) for c in "as")
            return covariance * a, covariance * a * a[:, None] + torch.diag(s**2)

        def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            gain, total = gains(t)
            out = torch.cat([state["p"], state["q"]], 1) @ torch.linalg.solve(total, gain.T)
            return {"p": out[:, :1], "q": out[:, 1:]}

        def prior(state: dict[str, Tensor]) -> Tensor:
            total = gains(first)[1]
            end = torch.distributions.MultivariateNormal(torch.zeros(2).double(), total)
            return end.log_prob(torch.cat([state["p"], state["q"]], 1))

        x = law.sample((6,))
        grid = to_zero(64)(joint["p"])
        first = grid[0]
        leaves = {"p": x[:, :1], "q": x[:, 1:]}
        out = log_prob(denoise, joint, leaves, grid=grid, prior=prior)
        torch.testing.assert_close(out, law.log_prob(x), atol=1e-3, rtol=0)
        short = lam_uniform(8, -3.0, 3.0)(joint["p"])
        first = short[0]
        whole = log_prob(denoise, joint, leaves, grid=short, prior=prior)
        estimate = log_prob(denoise, joint, leaves, grid=short, prior=prior, probes=100, seeds=range(6))
        torch.testing.assert_close(estimate, whole, atol=0.1, rtol=0)
        back = decode(denoise, joint, encode(denoise, joint, leaves, grid=grid), grid=grid)
        torch.testing.assert_close(back["q"], leaves["q"], atol=1e-4, rtol=0)


class TestLatents:
    @pytest.mark.parametrize("process", MONOTONE, ids=name)
    def test_there_and_back(self, process: Gaussian) -> None:
        """To 1e-4 where the flow is steep, in 50 steps."""
        latent = encode(exact(process), process, POINTS)
        torch.testing.assert_close(decode(exact(process), process, latent), POINTS, atol=1e-4, rtol=0)

    def test_the_flow_is_the_exact_one(self) -> None:
        p = VP()
        z, end = flow(p, MIXTURE, (-1.5, 2.0))
        grid = lam_uniform(40, -1.5, 2.0)
        last = p.a(p.time(2.0))
        torch.testing.assert_close(encode(exact(p), p, end / last, grid=grid), z, atol=1e-6, rtol=0)
        torch.testing.assert_close(decode(exact(p), p, z, grid=grid), end / last, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("solver", [runge_kutta(), dpmpp_2m()], ids=lambda s: s.name)
    def test_solvers_decode(self, solver: Any) -> None:
        p = RectifiedFlow()
        grid = uniform(100, 0.999, 0.0)
        out = integrate(exact(p), encode(exact(p), p, POINTS, grid=grid), solver(p, grid))
        torch.testing.assert_close(out, POINTS, atol=5e-3, rtol=0)

    def test_latents_of_data_are_normal(self) -> None:
        p = Cosine()
        x = MIXTURE.sample(20_000, torch.Generator().manual_seed(0))
        latent = encode(exact(p), p, x, grid=uniform(20))
        assert float(latent.mean()) == pytest.approx(0, abs=0.03)
        assert float(latent.std()) == pytest.approx(1, abs=0.02)
        assert float(latent.pow(4).mean()) == pytest.approx(3, abs=0.2)

    def test_anchors(self) -> None:
        p = PINNED[0]
        y = torch.randn(21, 1).double()
        denoise = lambda x, t: MIXTURE.denoise(p, x - p.b(t) * y, t)  # noqa: E731
        latent = encode(denoise, p, POINTS, y=y)
        plain = encode(exact(p), p, POINTS)
        first = lam_uniform(1)(p)[0]
        torch.testing.assert_close(latent, plain + p.b(first) * y)
        torch.testing.assert_close(decode(denoise, p, latent, y=y), POINTS, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.complex64])
    def test_states_keep_their_kind(self, kind: torch.dtype) -> None:
        p, x = VP(), torch.linspace(-1, 1, 6).reshape(2, 3).to(kind)

        def denoise(z: Tensor, t: Tensor) -> Tensor:
            assert z.dtype == kind
            return (z * p.a(t) / (p.a(t) ** 2 + p.s(t) ** 2)).to(kind)

        latent = encode(denoise, p, x)
        assert latent.dtype == kind
        torch.testing.assert_close(
            decode(denoise, p, latent), x, atol=1e-5 if kind != torch.bfloat16 else 0.1, rtol=0
        )

    def test_data_may_ask_for_its_gradient(self) -> None:
        x = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
        grid = lam_uniform(10, -2.0, 2.0)
        (slope,) = torch.autograd.grad(encode(exact(VP()), VP(), x, grid=grid).sum(), x)
        near = [encode(exact(VP()), VP(), x.detach() + d, grid=grid) for d in (1e-5, -1e-5)]
        torch.testing.assert_close(slope, (near[0] - near[1]) / 2e-5, atol=1e-7, rtol=1e-6)


class TestSlerp:
    def test_norms_and_ends(self, dtype: torch.dtype) -> None:
        draw = Seeds([1, 2])
        x, z = (draw(k, torch.empty(2, 3, 50)) * (1 + k) for k in (0, 1))
        for share, norm in ((0.0, x.flatten(1).norm(dim=1)), (1.0, z.flatten(1).norm(dim=1))):
            out = slerp(x, z, share)
            assert out.dtype == dtype
            torch.testing.assert_close(out, z if share else x)
            torch.testing.assert_close(out.flatten(1).norm(dim=1), norm)
        middle = slerp(x, z, 0.5).flatten(1).norm(dim=1)
        torch.testing.assert_close(middle, (x.flatten(1).norm(dim=1) + z.flatten(1).norm(dim=1)) / 2)
        assert ((x + z) / 2).flatten(1).norm(dim=1).lt(0.85 * middle).all()  # what a straight line does

    def test_equal_steps_of_angle(self) -> None:
        x, z = torch.eye(2, dtype=torch.float64)[:1], torch.eye(2, dtype=torch.float64)[1:]
        out = torch.cat([slerp(x, z, k / 3) for k in range(4)])
        angle = torch.atan2(out[:, 1], out[:, 0])
        torch.testing.assert_close(angle, torch.linspace(0, math.pi / 2, 4, dtype=torch.float64))

    def test_each_sample_its_share_and_each_leaf_its_circle(self) -> None:
        x, z = ({n: torch.randn(2, 5).double() for n in "pq"} for _ in range(2))
        out = slerp(x, z, torch.tensor([0.0, 1.0]))
        for n in "pq":
            torch.testing.assert_close(out[n], torch.stack([x[n][0], z[n][1]]))
            torch.testing.assert_close(slerp(x, z, 0.3)[n], slerp(x[n], z[n], 0.3))

    def test_complex_latents_are_two_channels(self) -> None:
        x, z = (torch.randn(2, 4, dtype=torch.complex128) for _ in range(2))
        real = slerp(torch.view_as_real(x), torch.view_as_real(z), 0.4)
        torch.testing.assert_close(slerp(x, z, 0.4), torch.view_as_complex(real))

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match="of one shape"):
            slerp(torch.ones(2, 3), torch.ones(2, 4), 0.5)


class TestBits:
    def test_uniform_data_of_eight_bits(self) -> None:
        log_p = torch.tensor([-30 * math.log(2)])  # uniform on [-1, 1]^30
        assert float(bits_per_dim(log_p, 30, 2 / 256)) == pytest.approx(8, abs=1e-5)

    def test_a_bound_on_the_code_length(self) -> None:
        """Normal data in steps of a deviation: a little above the entropy of the steps."""
        edges = torch.arange(-8, 9).double()
        share = torch.special.ndtr(edges + 0.5) - torch.special.ndtr(edges - 0.5)
        entropy = float(-(share * share.log2()).sum())
        x = torch.randn(200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()
        noise = torch.randn(200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        data = dequantise(x, 1.0, noise)
        assert torch.equal(data.round(), x)
        # the best normal model of dequantised data has its variance
        bits = bits_per_dim(torch.distributions.Normal(0.0, float(data.std())).log_prob(data)[:, 0], 1, 1.0)
        assert entropy < float(bits.mean()) < entropy + 0.1


class TestBadInput:
    def test_complex_data(self) -> None:
        with pytest.raises(ValueError, match="view complex values as two channels"):
            log_prob(exact(VP()), VP(), torch.zeros(1, 2, dtype=torch.complex64))

    def test_no_probes(self) -> None:
        with pytest.raises(ValueError, match="at least one probe"):
            log_prob(exact(VP()), VP(), POINTS, probes=0)

    def test_a_denoiser_without_gradient(self) -> None:
        with pytest.raises(ValueError, match="gives no gradient"):
            log_prob(torch.no_grad()(exact(VP())), VP(), POINTS)

    @pytest.mark.parametrize("grid", [uniform(4, 0.9, 0.1).expand(21, -1), torch.tensor([1.0, 0.5])])
    def test_grids(self, grid: Tensor) -> None:
        with pytest.raises(ValueError, match="one row of times along which lambda rises"):
            log_prob(exact(VP()), PINNED[0], POINTS, grid=grid)

    def test_coefficients_by_element(self) -> None:
        process = ShortestPath(torch.tensor([[0.5, 2.0, 1.0, 3.0]]))
        with pytest.raises(ValueError, match="the same for all elements"):
            encode(exact(VP()), process, torch.zeros(2, 4), grid=uniform(4))

    def test_an_anchor_for_leaves(self) -> None:
        with pytest.raises(ValueError, match="no anchor yet"):
            encode(exact(VP()), Joint({"x": VP()}), {"x": POINTS}, y=POINTS)

    def test_not_finite(self) -> None:
        with pytest.raises(FloatingPointError, match="not finite"):
            log_prob(lambda x, t: x * float("nan"), VP(), POINTS)


def test_masked_values_have_no_density() -> None:
    """A law that zeroes the second value leaves the density of the first."""
    p = VP()
    law = masked(torch.tensor([[1.0, 0.0]]))
    x = torch.cat([POINTS, torch.zeros_like(POINTS)], 1)
    denoise = lambda z, t: torch.cat([MIXTURE.denoise(p, z[:, :1], t), 0 * z[:, 1:]], 1)  # noqa: E731
    torch.testing.assert_close(log_prob(denoise, p, x, law=law), log_prob(exact(p), p, POINTS))
