"""Inverse problems: what each guide computes, its published sampler, and the exact posterior of normal data."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from test_inverse_operators import KNOWN, OPERATORS, SHAPE, random
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.gradient import predict, slope
from diffkit.core.grid import lam_uniform, power, uniform
from diffkit.core.inverse import (
    INVERSE,
    Coils,
    Fourier,
    Mask,
    Matrix,
    ddnm,
    ddrm,
    dds,
    diffpir,
    dps,
    flowchef,
    pigdm,
    plug,
    renoise,
    renoised,
    repaint,
    steered,
    travel,
)
from diffkit.core.inverse.operator import solve
from diffkit.core.inverse.repaint import levels
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, VP, Cosine, Gaussian, RectifiedFlow
from diffkit.core.sample import sample
from diffkit.core.solvers import Sampler, adams, ddim, dpmpp_sde
from diffkit.core.testing import check_compiles, check_seeds, law_on_normal
from diffkit.core.types import Denoiser, Guide, expand_as

PROCESSES = pytest.mark.parametrize("process", [VP(), RectifiedFlow(), EDM()], ids=lambda p: type(p).__name__)
T = torch.tensor(0.4, dtype=torch.float64)


def normal(process: Gaussian, mean: Tensor, variance: float = 0.5) -> Denoiser:
    """E[x0 | x] of independent normal data."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        a, s = (expand_as(f(t), x) for f in (process.a, process.s))
        return mean + a * variance / (a**2 * variance + s**2) * (x - a * mean)

    return denoise


def curved(x: Tensor, t: Tensor) -> Tensor:
    """A denoiser of no law, which mixes the pixels."""
    x = x + 0.3 * x.roll(1, -1)
    return x * torch.exp(-0.2 * (x.conj() * x).real) + 0.1


A = Matrix(random(10, 30, seed=2), (1, 5, 6))
X0 = random(3, 1, 5, 6, seed=7)
Y = A.A(X0)
EXACT: dict[str, Callable[[Any, Tensor, Gaussian], Guide]] = {
    "ddnm": lambda A, y, p: ddnm(A, y),
    "dds": lambda A, y, p: dds(A, y, iterations=40),
    "diffpir": lambda A, y, p: diffpir(A, y, p, noise=0.0),
}
GUIDES: dict[str, Callable[[Any, Tensor, Gaussian], Guide]] = {
    **EXACT,
    "dds gamma": lambda A, y, p: dds(A, y, gamma=2.0),
    "diffpir noise": lambda A, y, p: diffpir(A, y, p, noise=0.1),
    "dps": lambda A, y, p: dps(A, y, p, scale=2.0),
    "flowchef": lambda A, y, p: flowchef(A, y, scale=3.0),
    "pigdm": lambda A, y, p: pigdm(A, y, p, noise=0.1),
    "pigdm exact": lambda A, y, p: pigdm(A, y, p),
    "steered": lambda A, y, p: steered(lambda x: (A.A(x) - y).abs().square().flatten(1).sum(1), p),
}
SAMPLERS: dict[str, Callable[[Any, Tensor], Sampler]] = {
    "ddrm": lambda A, y: ddrm(A, y),
    "repaint": lambda A, y: repaint(A, y, jump=2, repeats=2),
    "renoised": lambda A, y: renoised(dds(A, y)),
}


class TestEveryMethod:
    @pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
    def test_measuring_nothing_is_sampling_freely(self, guide: Any) -> None:
        p, nothing, x = VP(), Mask(torch.zeros(6, 6)), random(*SHAPE)
        guided = guide(nothing, torch.zeros_like(x), p)(curved)
        torch.testing.assert_close(guided(x, T), curved(x, T), atol=0, rtol=0)

    @pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
    def test_samplers_that_measure_nothing(self, sampler: Any) -> None:
        p, nothing, x, grid = VP(), Mask(torch.zeros(6, 6)), random(*SHAPE), uniform(6)
        out = sampler(nothing, torch.zeros_like(x))(curved, p, x, grid, draw=Seeds([1, 2]))
        free = travel(2, 2) if "repaint" in str(sampler(nothing, x)) else renoise()
        torch.testing.assert_close(out, integrate(curved, x, free(p, grid), draw=Seeds([1, 2])))

    @pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_a_sample_of_a_batch_is_that_of_a_batch_of_one(self, guide: Any, dtype: torch.dtype) -> None:
        p = VP()
        operator = OPERATORS["coils" if dtype.is_complex else "blur"][0]
        y = operator.A(random(3, 1, 6, 6, seed=1, dtype=dtype))

        def run(seeds: Any) -> Tensor:
            some = [s - 11 for s in seeds]
            guided = guide(operator, y[some], p)(curved)
            like = torch.empty(len(some), 1, 6, 6, dtype=dtype)
            return sample(guided, p, like, solver=ddim(1.0), grid=uniform(4), seeds=seeds)

        check_seeds(run, atol=1e-9)

    @pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
    def test_samplers_too(self, sampler: Any) -> None:
        operator = OPERATORS["fourier"][0]
        y = operator.A(random(3, 1, 6, 6, seed=1, dtype=torch.complex128))

        def run(seeds: Any) -> Tensor:
            some = [s - 11 for s in seeds]
            like = torch.empty(len(some), 1, 6, 6, dtype=y.dtype)
            return sample(curved, VP(), like, solver=sampler(operator, y[some]), grid=uniform(4), seeds=seeds)

        check_seeds(run, atol=1e-9)

    @pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
    def test_where_no_gradients_are_kept(self, guide: Any) -> None:
        x = random(*SHAPE)
        y = OPERATORS["blur"][0].A(x)
        guided = guide(OPERATORS["blur"][0], y, VP())(curved)
        expected = guided(x, T)
        assert not expected.requires_grad
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                assert torch.equal(guided(x.clone(), T), expected)

    @pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
    def test_on_a_bridge_and_at_a_for_each_sample(self, guide: Any) -> None:
        """At a bridge's end a = s = 0, and a flow's a = 0: finite, and equal to a time for each sample."""
        x = random(*SHAPE)
        y = OPERATORS["mask"][0].A(x)
        for p in (SBVE(), RectifiedFlow(), Cosine()):
            guided = guide(OPERATORS["mask"][0], y, p)(curved)
            times = torch.tensor([1.0, 0.3], dtype=torch.float64)
            each = torch.cat([guided(x, t)[i : i + 1] for i, t in enumerate(times)])
            assert bool(torch.isfinite(each).all())
            torch.testing.assert_close(guided(x, times), each)

    def test_names(self) -> None:
        assert set(INVERSE) == {k for k in GUIDES | SAMPLERS if " " not in k} - {"renoised"}


class TestProjection:
    @pytest.mark.parametrize("guide", EXACT.values(), ids=EXACT)
    @pytest.mark.parametrize("name", OPERATORS)
    def test_the_end_agrees_with_exact_measurements(self, guide: Any, name: str) -> None:
        operator, dtype = OPERATORS[name]
        y = operator.A(random(*SHAPE, seed=4, dtype=dtype))
        for solver in (ddim(1.0), adams(2)):
            out = sample(
                guide(operator, y, VP())(curved),
                VP(),
                torch.empty(SHAPE, dtype=dtype),
                solver=solver,
                grid=uniform(5),
                seeds=[1, 2],
            )
            gap = float((operator.A(out) - y).abs().max())
            # where systems are iterated they stop at 1e-5 (dds) or 1e-8 of the first residual
            assert gap < 1e-3 * float(y.abs().max() + 1e-9), f"{name}: off by {gap:.1e}"

    def test_dds_is_the_projection_after_as_many_iterations_as_the_rank(self) -> None:
        d = random(3, 1, 5, 6, seed=8)
        pinv = torch.linalg.pinv(A.matrix)
        onto = d + ((Y - A.A(d)) @ pinv.mT).unflatten(1, (1, 5, 6))
        for n, low, high in ((10, 0.0, 1e-11), (5, 1e-2, 1.0)):
            out = dds(A, Y, iterations=n, tolerance=0.0)(lambda x, t: d)(d, T)
            gap = float((out - onto).abs().max())
            assert low <= gap < high, f"{n} iterations: {gap:.1e}"
            outside = (out - d).flatten(1) @ (torch.eye(30).double() - pinv @ A.matrix)
            assert float(outside.abs().max()) < 1e-11  # the update stays in the range of A^H
        torch.testing.assert_close(ddnm(A, Y)(lambda x, t: d)(d, T), onto)

    def test_dds_with_noise_solves_its_system_with_a_complex_operator(self) -> None:
        operator, dtype = OPERATORS["coils"]
        d, x = random(2, *SHAPE, dtype=dtype)
        y, gamma = operator.A(x), 0.7
        out = dds(operator, y, gamma=gamma, iterations=40, tolerance=1e-12)(lambda x, t: d)(d, T)

        def left(gradient: complex) -> float:
            """What (1 + gamma A^H A) x leaves of D + gradient A^H y."""
            rest = out + gamma * operator.A_adjoint(operator.A(out)) - d - gradient * operator.A_adjoint(y)
            return float(rest.abs().max())

        assert left(gamma) < 1e-10
        assert left(gamma * (1 + 1j)) > 1  # the system of released code

    def test_diffpir_minimises(self) -> None:
        p, d = VP(), random(3, 1, 5, 6, seed=8)
        noise, scale = 0.2, 5.0
        rho = float(scale * noise**2 * (p.a(T) / p.s(T)) ** 2)
        out = diffpir(A, Y, p, noise=noise, scale=scale)(lambda x, t: d)(d, T)

        def objective(x: Tensor) -> Tensor:
            return (Y - A.A(x)).square().sum(1) + rho * (x - d).flatten(1).square().sum(1)

        assert float(slope(objective, out).abs().max()) < 1e-12

    @pytest.mark.parametrize("guide", [ddnm(A, Y), dds(A, Y, iterations=3)], ids=["ddnm", "dds"])
    def test_renoised_is_the_published_sampler(self, guide: Guide) -> None:
        p, grid, draw, eta = VP(), uniform(6), Seeds([1, 2, 3]), 0.85
        noise = draw(-1, X0) * p.s(grid[0])
        out = sample(curved, p, X0, solver=renoised(guide, eta), grid=grid, seeds=[1, 2, 3])
        x = noise
        for k, (t, u) in enumerate(pairwise(grid)):
            d = curved(x, t)
            eps = (x - p.a(t) * d) / p.s(t)
            projected = guide(lambda x, t, d=d: d)(x, t)
            fresh = math.sqrt(1 - eta**2) * eps + eta * draw(k, x)
            x = p.a(u) * projected + p.s(u) * fresh
        torch.testing.assert_close(out, x)

    def test_renoise_is_the_published_diffpir(self) -> None:
        p, grid, draw, zeta = VP(), uniform(6), Seeds([1, 2, 3]), 0.3
        guided = diffpir(A, Y, p, noise=0.1)(curved)
        out = sample(guided, p, X0, solver=renoise(math.sqrt(zeta)), grid=grid, seeds=[1, 2, 3])
        x = draw(-1, X0) * p.s(grid[0])
        for k, (t, u) in enumerate(pairwise(grid)):
            d = guided(x, t)
            eps = (x - p.a(t) * d) / p.s(t)
            x = p.a(u) * d + p.s(u) * (math.sqrt(1 - zeta) * eps + math.sqrt(zeta) * draw(k, x))
        torch.testing.assert_close(out, x)

    def test_plugged_in_it_rests_at_the_mean_of_the_posterior(self) -> None:
        """For normal data of variance c^2 + sigma^2, where sigma hardly falls; and of c^2 where it falls to 0."""
        p, c, noise = VP(), 0.5, 0.3
        prior = normal(p, torch.zeros_like(X0), c**2)
        guided = diffpir(A, Y, p, noise=noise, scale=1.0)(prior)
        for grid in (uniform(400, 0.5, 0.499), uniform(400, 0.5, 0.0)):
            out = sample(guided, p, X0, solver=plug(), grid=grid, seeds=[1, 2, 3])
            spread = c**2 + float(p.s(grid[-2]) / p.a(grid[-2])) ** 2
            mean = p.a(grid[-1]) * solve(A, A.A_adjoint(Y), noise**2 / spread)
            torch.testing.assert_close(out, mean, atol=2e-3, rtol=0)

    def test_momentum_rests_at_the_same_point_and_sooner(self) -> None:
        at = torch.tensor(0.2, dtype=torch.float64)
        p, sigma = VP(), float(VP().s(at) / VP().a(at))
        prior = normal(p, torch.zeros_like(X0), 9 * sigma**2)  # a step leaves 0.9 of what was not measured
        guided = diffpir(A, Y, p, noise=0.3, scale=1.0)(prior)

        def run(steps: int, momentum: float) -> Tensor:
            grid = uniform(steps, 0.2, 0.1999)
            return sample(guided, p, X0, solver=plug(momentum), grid=grid, seeds=[1, 2, 3])

        rest = run(400, 0.0)
        torch.testing.assert_close(run(400, 0.5), rest, atol=1e-3, rtol=0)
        slow, fast = (float((run(9, momentum) - rest).norm()) for momentum in (0.0, 0.5))
        assert fast < 0.5 * slow  # of 0.9^8 and 0.75^8, but for the constants
        with pytest.raises(ValueError, match=r"momentum lies in \[0, 1\)"):
            plug(1.0)

    @pytest.mark.parametrize(("eta", "std"), [(0.0, 0.5), (0.55, 0.478), (0.85, 0.436), (1.0, 0.353)])
    def test_a_constant_share_of_fresh_noise_narrows_the_law(self, eta: float, std: float) -> None:
        """Its limit on normal data of deviation .5, where that of ancestral steps is .5."""
        grid = power(400)  # at which ancestral steps are 0.0045 off
        assert float(law_on_normal(renoise(eta)(VP(), grid), VP()).std) == pytest.approx(std, abs=5e-3)
        assert float(law_on_normal(ddim(1.0)(VP(), grid), VP()).std) == pytest.approx(0.5, abs=5e-3)

    def test_compiles(self) -> None:
        plan = renoise(0.0)(VP(), uniform(2))
        guided = dds(Mask(KNOWN), torch.ones(SHAPE) * KNOWN, iterations=2)(lambda x, t: torch.tanh(x))
        check_compiles(
            lambda x: integrate(guided, x, plan), *((random(*SHAPE, seed=i).float(),) for i in (1, 2))
        )


class TestThrough:
    @PROCESSES
    def test_pigdm_is_the_posterior_mean_of_normal_data(self, process: Gaussian) -> None:
        """E[x0 | x, y] of N(m, v): both observations are linear and normal."""
        v, noise, mean = 0.5, 0.3, random(1, 1, 5, 6, seed=9)
        x, M = random(3, 1, 5, 6, seed=3), A.matrix
        out = pigdm(A, Y, process, noise=noise, spread=math.sqrt(v))(normal(process, mean, v))(x, T)
        a, s = float(process.a(T)), float(process.s(T))
        precision = torch.eye(30).double() * (1 / v + a**2 / s**2) + M.mT @ M / noise**2
        rhs = mean.flatten(1) / v + a * x.flatten(1) / s**2 + Y @ M / noise**2
        torch.testing.assert_close(out.flatten(1), torch.linalg.solve(precision, rhs.mT).mT)

    @pytest.mark.parametrize("guide", ["pigdm", "dps"])
    def test_the_posterior_is_sampled_by_pigdm_and_not_by_dps(self, guide: str) -> None:
        """x0 ~ N(.5, .5 I) in two dimensions, y = x0_0 + x0_1/2 + noise: mean and covariance of 4,000 samples."""
        p, v, noise, count = VP(), 0.5, 0.4, 4000
        row = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
        operator, y = Matrix(row, (2,)), torch.full((count, 1), 1.6, dtype=torch.float64)
        chosen = {
            "pigdm": pigdm(operator, y, p, noise=noise, spread=math.sqrt(v)),
            "dps": dps(operator, y, p, scale=1 / noise),
        }
        mean = torch.full((2,), 0.5, dtype=torch.float64)
        out = sample(
            chosen[guide](normal(p, mean, v)),
            p,
            torch.empty(count, 2, dtype=torch.float64),
            solver=dpmpp_sde(2),
            grid=lam_uniform(40, -5.0, 6.0),
            seeds=range(count),
        )
        covariance = torch.linalg.inv(torch.eye(2).double() / v + row.mT @ row / noise**2)
        centre = covariance @ (mean / v + row[0] * 1.6 / noise**2)
        # five standard errors: sqrt(.5/4000) of a mean, sqrt(2/4000) .5 of a variance
        right = bool(((out.mean(0) - centre).abs() < 0.056).all())
        right &= bool(((out.mT.cov() - covariance).abs() < 0.056).all())
        assert right == (guide == "pigdm")

    def test_the_gradient_of_dps_on_normal_data(self) -> None:
        """grad abs(y - A D) = -J A^H r/abs(r), J = a v/(a^2 v + s^2): what is added is scale cov(x0|x) A^H r/abs(r)."""
        p, v, x = VP(), 0.5, random(3, 1, 5, 6, seed=3)
        denoise = normal(p, torch.zeros(()), v)
        r = Y - A.A(denoise(x, T))
        a, s = float(p.a(T)), float(p.s(T))
        covariance = v * s**2 / (a**2 * v + s**2)
        shift = 1.3 * covariance * A.A_adjoint(r / torch.linalg.vector_norm(r, dim=1, keepdim=True))
        torch.testing.assert_close(dps(A, Y, p, scale=1.3)(denoise)(x, T) - denoise(x, T), shift)
        batch_norm = (
            shift * torch.linalg.vector_norm(r, dim=1)[:, None, None, None] / torch.linalg.vector_norm(r)
        )
        assert float((batch_norm - shift).abs().max()) > 0.1 * float(shift.abs().max())  # the release's norm

    def test_dps_on_its_plan_is_algorithm_1(self) -> None:
        p, grid, draw, zeta = VP(), uniform(6), Seeds([1, 2, 3]), 0.4
        plan = ddim(1.0)(p, grid)
        out = sample(dps(A, Y, p, scale=zeta, plan=plan)(curved), p, X0, plan=plan, seeds=[1, 2, 3])
        x = draw(-1, X0) * p.s(grid[0])
        for k, (t, u) in enumerate(pairwise(grid)):
            point = x.clone().requires_grad_()
            d = curved(point, t)
            distance = torch.linalg.vector_norm(Y - A.A(d), dim=1).sum()
            gradient = torch.autograd.grad(distance, point)[0]
            x = p.posterior(x, d.detach(), t, u).sample(draw(k, x)) - zeta * gradient
        torch.testing.assert_close(out, x)

    def test_the_two_scales_of_dps(self) -> None:
        """A row that gives D the weight w makes of zeta the scale zeta a/(w s^2)."""
        p, x = VP(), random(3, 1, 5, 6, seed=3)
        plan = ddim(1.0)(p, uniform(6))
        t, w = plan.t[2], float(plan.B[2, 0])
        scale = 0.4 * float(p.a(t)) / (w * float(p.s(t)) ** 2)
        torch.testing.assert_close(
            dps(A, Y, p, scale=0.4, plan=plan)(curved)(x, t), dps(A, Y, p, scale=scale)(curved)(x, t)
        )

    def test_steered_descends_a_nonlinear_loss(self) -> None:
        p, x = VP(), random(3, 1, 5, 6, seed=3)

        def loss(x0: Tensor) -> Tensor:
            return torch.tanh(x0).flatten(1).sum(1).square()

        gradient = slope(lambda x: loss(curved(x, T)), x)
        out = steered(loss, p, scale=0.001)(curved)(x, T)
        torch.testing.assert_close(out, curved(x, T) - 0.001 * p.s(T) * gradient)
        assert bool((loss(out) < loss(curved(x, T))).all())

    def test_nonlinear_operators(self) -> None:
        """The phase of x is lost: both descend on y = abs(x)."""
        p, x = VP(), random(2, 1, 4, 4, seed=3, dtype=torch.complex128)
        y = random(2, 1, 4, 4, seed=4, dtype=torch.complex128).abs()
        before = (y - curved(x, T).abs()).square().flatten(1).sum(1)
        for guide in (dps(torch.abs, y, p, scale=0.05), flowchef(torch.abs, y, scale=1.0)):
            after = (y - guide(curved)(x, T).abs()).square().flatten(1).sum(1)
            assert bool((after < before).all())


class Blocked(torch.autograd.Function):
    """The identity, whose derivative must not be asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise AssertionError("the network was differentiated")


class TestFlowChef:
    def test_on_its_plan_is_the_published_update(self) -> None:
        p, grid, s = RectifiedFlow(), uniform(5), 7.0
        plan = ddim()(p, grid)

        def network(x: Tensor, t: Tensor) -> Tensor:
            return Blocked.apply(curved(x.requires_grad_(), t))  # type: ignore[no-untyped-call]

        guided = flowchef(A, Y, scale=s, plan=plan)(network)
        out = sample(guided, p, X0, plan=plan, seeds=[1, 2, 3]).detach()
        x = Seeds([1, 2, 3])(-1, X0)
        for t, u in pairwise(grid):
            d = curved(x, t)
            v = (x - d) / t
            if u > 0:
                x = x - 2 * s / Y.shape[1] * A.A_adjoint(A.A(d) - Y)
            x = x + (u - t) * v
        torch.testing.assert_close(out, x)

    def test_a_straight_flow_is_solved_exactly(self) -> None:
        out = sample(
            flowchef(A, Y, scale=5.0)(lambda x, t: X0), RectifiedFlow(), X0, grid=uniform(3), seeds=[1, 2, 3]
        )
        torch.testing.assert_close(out, X0)

    def test_a_complex_measurement_is_two_real_ones(self) -> None:
        operator, dtype = OPERATORS["fourier"]
        x, d = random(2, *SHAPE, dtype=dtype)
        y = operator.A(x)
        out = flowchef(operator, y, scale=1.0)(lambda x, t: d)(d, T)
        torch.testing.assert_close(out, d - 2 / (2 * 36) * operator.A_adjoint(operator.A(d) - y))


class TestDDRM:
    @pytest.mark.parametrize("name", [n for n in OPERATORS if n != "coils"])
    @pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=lambda p: type(p).__name__)
    def test_the_end_agrees_with_exact_measurements(self, name: str, process: Gaussian) -> None:
        operator, dtype = OPERATORS[name]
        y = operator.A(random(*SHAPE, seed=4, dtype=dtype))
        like = torch.empty(SHAPE, dtype=dtype)
        out = sample(curved, process, like, solver=ddrm(operator, y), grid=uniform(5), seeds=[1, 2])
        assert float((operator.A(out) - y).abs().max()) < 1e-8

    @pytest.mark.parametrize("end", [0.6, 0.15, 0.02])
    @pytest.mark.parametrize("eta_b", [1.0, 0.4])
    def test_every_component_keeps_its_noise_level(self, end: float, eta_b: float) -> None:
        """Where the prediction is the truth, x_t ~ N(a x0, s^2) in every component, measurement noise included."""
        p, noise, count = VP(), 0.3, 20_000
        operator = Mask(torch.tensor([0.0, 0.2, 1.0, 3.0], dtype=torch.float64))
        x0 = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64).expand(count, 4)
        y = operator.A(x0) + noise * random(count, 4, seed=5) * (operator.mask > 0)
        solver = ddrm(operator, y, noise=noise, eta=0.7, eta_b=eta_b)
        grid = uniform(4, 1.0, end)
        out = sample(lambda x, t: x0, p, x0, solver=solver, grid=grid, seeds=range(count))
        law = p.marginal(x0, grid[-1])
        std = float(law.std)
        off = (out.mean(0) - law.mean[0]).abs().max() / (std / math.sqrt(count))
        spread = (out.var(0) / std**2 - 1).abs().max() / math.sqrt(2 / count)
        assert float(off) < 5
        assert float(spread) < 5

    def test_needs_a_decomposition(self) -> None:
        with pytest.raises(ValueError, match="needs an operator with a singular value decomposition"):
            ddrm(OPERATORS["coils"][0], torch.zeros(1))

    def test_needs_noise_at_its_start(self) -> None:
        with pytest.raises(ValueError, match="starts from noise"):
            ddrm(A, Y)(curved, SBVE(), X0, uniform(3), draw=Seeds([1, 2, 3]))


class TestRePaint:
    def test_the_path_is_the_published_one(self) -> None:
        """Their 250 steps with jumps of 10, 10 times: 4,570 moves when a return takes single steps."""
        path = levels(250, 10, 10)
        ups = sum(j < i for i, j in pairwise(path))
        assert (path[0], path[-1], ups) == (0, 250, 24 * 9)
        assert sum(abs(i - j) for i, j in pairwise(path)) == 4570
        assert sum(j > i for i, j in pairwise(path)) == 2410
        assert levels(4, 1, 1) == [0, 1, 2, 3, 4]
        assert levels(4, 1, 2) == [0, 1, 0, 1, 2, 1, 2, 3, 2, 3, 4]
        assert levels(4, 2, 2) == [0, 1, 2, 3, 1, 2, 3, 4]

    def test_the_known_part_is_kept(self) -> None:
        operator, dtype = OPERATORS["mask"]
        y = operator.A(random(*SHAPE, seed=4, dtype=dtype))
        out = sample(
            curved, VP(), y, solver=repaint(operator, y, jump=2, repeats=3), grid=uniform(6), seeds=[1, 2]
        )
        torch.testing.assert_close(out * KNOWN, y)
        assert bool((out[:, ~KNOWN[0]] != 0).all())

    def test_travelling_makes_the_unknown_agree_with_the_known(self) -> None:
        """Two values of correlation .9, the first known to be 1.5, so that the second has mean 1.35.

        All is linear and normal, so that a run without noise is the run of the means.
        """
        p = VP()
        covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            a, s = float(p.a(t)), float(p.s(t))
            gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * torch.eye(2).double())
            return x @ gain.mT

        y = torch.tensor([[1.5, 0.0]], dtype=torch.float64)

        def mean(repeats: int) -> float:
            sampler = repaint(Mask(torch.tensor([1.0, 0.0])), y, jump=1, repeats=repeats)
            silent = lambda k, like: torch.zeros_like(like)  # noqa: E731
            return float(sampler(denoise, p, torch.zeros_like(y), power(25), draw=silent)[0, 1])

        assert mean(1) < 0.9
        assert mean(30) == pytest.approx(1.35, abs=0.02)

    @pytest.mark.parametrize("path", [(5, 4), (1, 3)])
    def test_travel_keeps_the_marginals(self, path: tuple[int, int]) -> None:
        """The law at the end converges to that of the data, at the first order of the ancestral steps."""
        gaps = [0.5 - float(law_on_normal(travel(*path)(VP(), power(n)), VP()).std) for n in (200, 400)]
        assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.1)


def test_multi_coil_mri() -> None:
    """Random fields of a known spectrum from 6 of 16 lines of their frequencies and four coils: samples are nearer
    to the truth than the zero-filled image, and not as near as the mean of the exact posterior."""
    p, n, noise = VP(), 16, 0.05
    f = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    spectrum = (1 + f[:, None] ** 2 + f**2) ** -1.5
    spectrum = spectrum / spectrum.mean()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x] of the field, both parts of each frequency of variance ``spectrum``."""
        gain = p.a(t) * spectrum / (p.a(t) ** 2 * spectrum + p.s(t) ** 2)
        return torch.fft.ifft2(gain * torch.fft.fft2(x))

    truth = torch.fft.ifft2(
        spectrum.sqrt() * torch.fft.fft2(random(4, 1, n, n, seed=3, dtype=torch.complex128))
    )
    lines = torch.zeros(n, 1, dtype=torch.bool)
    lines[[0, 1, -1, 4, 8, 12]] = True
    at = torch.linspace(-1, 1, n, dtype=torch.float64)
    maps = [
        torch.exp(-((at[:, None] - v) ** 2) - (at - u) ** 2 + 2j * u * at) for v in (-1, 1) for u in (-1, 1)
    ]
    coils = torch.stack(maps) / torch.stack(maps).abs().square().sum(0).sqrt()
    operator = Coils(Fourier(lines), coils)
    y = operator.A(truth)
    y = y + noise * lines * random(*y.shape, seed=9, dtype=y.dtype)

    columns = torch.eye(n * n, dtype=y.dtype).reshape(-1, 1, n, n)
    M = operator.A(columns).flatten(1).mT
    C = torch.fft.ifft2(spectrum * torch.fft.fft2(columns)).flatten(1).mT
    gain = C @ M.mH @ torch.linalg.inv(M @ C @ M.mH + noise**2 * torch.eye(len(M)))

    def error(x: Tensor) -> float:
        return float((x - truth).abs().square().mean())

    best = error((gain @ y.flatten(1).mT).mT.reshape(truth.shape))
    zero_filled = error(operator.A_adjoint(y))
    for guide in (
        ddnm(operator, y),
        dds(operator, y),
        diffpir(operator, y, p, noise=noise),
        pigdm(operator, y, p, noise=noise),
    ):
        out = sample(guide(denoise), p, truth, solver=ddim(1.0), grid=power(20), seeds=range(4))
        assert best < error(out) < 0.6 * zero_filled


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: dps(A, Y, VP(), scale=float("nan")), "scale must be a finite number, not nan"),
            (lambda: steered(torch.sum, VP(), scale=float("inf")), "scale must be a finite number, not inf"),
            (lambda: flowchef(A, Y, scale=float("inf")), "scale must be a finite number, not inf"),
            (lambda: pigdm(A, Y, VP(), noise=-0.1), r"noise, .*, must be a finite number >= 0, not -0\.1"),
            (lambda: diffpir(A, Y, VP(), noise=-1.0), "noise, .* >= 0, not -1"),
            (lambda: ddrm(A, Y, noise=float("nan")), "noise, .* >= 0, not nan"),
            (lambda: diffpir(A, Y, VP(), noise=1.0, scale=-1.0), "scale must be a finite number >= 0"),
            (lambda: pigdm(A, Y, VP(), spread=0.0), "spread, .* above 0, not 0"),
            (lambda: dds(A, Y, gamma=-1.0), "gamma must be a finite number >= 0"),
            (lambda: ddrm(A, Y, eta=1.5), r"eta must lie in \[0, 1\], not 1\.5"),
            (lambda: ddrm(A, Y, eta_b=-0.5), r"eta_b must lie in \[0, 1\]"),
            (lambda: renoise(2.0), r"eta must lie in \[0, 1\]"),
            (lambda: renoised(ddnm(A, Y), 2.0), r"eta must lie in \[0, 1\]"),
            (lambda: repaint(A, Y, jump=0), "jump and repeats of at least 1, not 0 and 10"),
            (lambda: travel(1, 0), "jump and repeats of at least 1"),
            (lambda: dps(A, Y, VP(), plan=adams(2)(VP(), uniform(3))), "a plan of one slot"),
            (lambda: flowchef(A, Y, scale=1.0, plan=travel(1, 2)(VP(), uniform(3))), "one call a time"),
        ],
    )
    def test_numbers(self, make: Callable[[], Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()

    def test_measurements(self) -> None:
        x = random(2, 1, 5, 6)
        for guide in GUIDES.values():
            if guide is not GUIDES["steered"]:
                with pytest.raises(ValueError, match="the measurement is"):
                    guide(A, Y, VP())(curved)(x, T)
        for sampler in SAMPLERS.values():
            with pytest.raises(ValueError, match="the measurement is"):
                sampler(A, Y)(curved, VP(), x, uniform(3), draw=Seeds([1, 2]))

    def test_denoisers_and_losses(self) -> None:
        with pytest.raises(ValueError, match="keeps no gradients"):
            predict(torch.no_grad()(curved), X0, T)
        with pytest.raises(ValueError, match="keeps no gradients"):
            sample(curved, VP(), X0, solver=renoised(pigdm(A, Y, VP())), seeds=[1, 2, 3])
        with pytest.raises(ValueError, match="one value for each sample"):
            steered(torch.sum, VP())(curved)(X0, T)
