"""Categorical processes: exact laws by enumeration, and sampling a known law."""

import math
from itertools import pairwise

import pytest
import torch
from core_categorical import (
    FLOWS,
    MATRICES,
    NEIGHBOURS,
    NOISES,
    RARE,
    Table,
    everything,
    noise_of,
    sampler_law,
)
from torch import Tensor

from diffkit.core.categorical import (
    Absorbing,
    Categorical,
    Choice,
    Jumps,
    Marginal,
    Transition,
    Uniform,
    distort,
    log_softmax,
    wrap,
)
from diffkit.core.grid import karras, power, uniform
from diffkit.core.noise import masked, symmetric
from diffkit.core.process import VP
from diffkit.core.sample import ancestral, sample, start
from diffkit.core.solvers import ddim
from diffkit.core.testing import check_choices, check_compiles, check_seeds

PROCESSES = [*NOISES, *MATRICES, *FLOWS]
TIMES = [(1.0, 0.6), (0.9, 0.2), (0.5, 0.5), (0.3, 0.0), (1.0, 0.0)]


def time(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def draws(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def transition(process: Categorical, u: float, t: float) -> Tensor:
    """Q(u, t), dense."""
    return process.forward(torch.eye(process.size, dtype=torch.float64), time(u), time(t))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize(("t", "u"), TIMES)
def test_the_posterior_has_the_law_of_the_earlier_marginal(process: object, t: float, u: float) -> None:
    check_choices(process, t=t, u=u, classes=4)  # type: ignore[arg-type]


class TestTransitions:
    @pytest.mark.parametrize("process", [*NOISES, *MATRICES], ids=repr)
    def test_steps_multiply_to_the_whole(self, process: Categorical) -> None:
        steps = [transition(process, float(u), float(t)) for t, u in pairwise(uniform(7))]
        product = torch.linalg.multi_dot(steps[::-1])
        torch.testing.assert_close(product, transition(process, 0, 1), atol=1e-10, rtol=0)
        torch.testing.assert_close(product.sum(1), torch.ones(process.size).double(), atol=1e-10, rtol=0)
        assert bool((torch.stack(steps) >= 0).all())
        back = process.backward(torch.eye(process.size).double(), time(0.3), time(0.7))
        torch.testing.assert_close(back.mT, transition(process, 0.3, 0.7), atol=1e-14, rtol=0)

    @pytest.mark.parametrize("process", [*NOISES, *MATRICES], ids=repr)
    def test_the_prior_is_the_end(self, process: Categorical) -> None:
        assert process.terminal_mismatch() < 1e-8
        torch.testing.assert_close(transition(process, 0, 1)[0], process.weights, atol=1e-8, rtol=0)

    @pytest.mark.parametrize("process", [*NOISES, *MATRICES], ids=repr)
    def test_the_posterior_is_bayes_rule_with_dense_matrices(self, process: Categorical) -> None:
        """Austin et al. eq. 3, written out with sums over x0, for uncertain x0."""
        t, u, size = 0.7, 0.4, process.size
        whole, first, last = (transition(process, *pair) for pair in ((0, t), (0, u), (u, t)))
        states = torch.eye(size, dtype=torch.float64)
        p = draws(size, size).softmax(-1)
        if isinstance(process, Absorbing):
            p = torch.cat([p[:, :-1] / p[:, :-1].sum(1, keepdim=True), 0 * p[:, -1:]], 1)
        expected = torch.zeros(size, size, dtype=torch.float64)
        for i in range(size):
            share = torch.where(whole[:, i] > 0, p[i], 0.0)
            for k in range(size):
                if whole[k, i] > 0:
                    expected[i] += share[k] / share.sum() * last[:, i] * first[k] / whole[k, i]
        torch.testing.assert_close(process.posterior(states, p, t, u).probs, expected, atol=1e-12, rtol=0)

    def test_a_matrix_of_equal_rows_is_marginal(self) -> None:
        dense, structured = Transition([RARE] * 4), Marginal(RARE)
        torch.testing.assert_close(transition(dense, 0.2, 0.6), transition(structured, 0.2, 0.6))
        x, p = everything(4, 2), draws(16, 2, 4).softmax(-1)
        t, u = torch.linspace(0.5, 1, 16).double(), torch.linspace(0, 0.5, 16).double()
        a, b = (process.posterior(x, p, t, u).probs for process in (dense, structured))
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)

    def test_times_may_belong_to_samples_and_tokens(self) -> None:
        x, p, t = (
            everything(4)[:6],
            draws(6, 3, 4).softmax(-1),
            torch.linspace(0.2, 1, 18).double().reshape(6, 3),
        )
        for process in (Marginal(RARE), Transition(NEIGHBOURS), Jumps(Uniform(4), eta=3)):
            together = process.posterior(x, p, t, t / 2).probs
            one = process.posterior(x[2:3, 1:2], p[2:3, 1:2], t[2, 1], t[2, 1] / 2).probs
            torch.testing.assert_close(together[2:3, 1:2], one, atol=1e-12, rtol=0)

    def test_schedules(self) -> None:
        t = uniform(50).flip(0)
        for name in ("linear", "cosine"):
            alpha = Uniform(4, name).alpha(t)
            assert float(alpha[0]) == 1
            assert float(alpha[-1]) == pytest.approx(0, abs=1e-30)
            assert bool((alpha.diff() < 0).all())
        assert float(Uniform(3, lambda t: 1 - t**2).alpha(0.5)) == 0.75


class TestDraws:
    def test_frequencies(self, dtype: torch.dtype) -> None:
        """Within 5 standard errors, of a rare class too; bf16 noise is coarser, and still is."""
        probs, count = torch.tensor([0.6, 0.3, 0.0999, 0.0001], dtype=dtype), 400_000
        for noise in (draws(count, 4, dtype=dtype), draws(count, 4, dtype=torch.bfloat16)):
            drawn = Choice(probs.expand(count, 4)).sample(noise)
            assert drawn.dtype == noise.dtype
            assert bool((drawn.double().sum(1) == 1).all())
            error = (drawn.double().mean(0) - probs.double()).abs()
            assert bool((error < 5 * (probs.double() * (1 - probs.double()) / count).sqrt()).all())

    def test_a_class_of_no_probability_is_never_drawn(self) -> None:
        noise = torch.full((1, 3), 5.0)
        noise[0, 0] = -5.0
        assert Choice(torch.tensor([[1e-30, 0.0, 0.0]])).sample(noise).tolist() == [[1, 0, 0]]

    def test_no_noise_is_no_element(self) -> None:
        """Masks and diagonals: rows of zeros from the prior to the data."""
        nodes = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
        process = Marginal((0.7, 0.2, 0.1))
        law = symmetric(nodes, channels=True)
        exists = nodes[:, :, None] & nodes[:, None, :] & ~torch.eye(5, dtype=torch.bool)
        tilt = draws(5, 5, 3)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            logits = x + x.sum(1, keepdim=True) + x.sum(2, keepdim=True) + tilt + tilt.transpose(0, 1)
            return logits.softmax(-1)

        for way in (process, Jumps(process, eta=5)):
            like = torch.empty(2, 5, 5, 3, dtype=torch.float64)
            out = sample(denoise, way, like, grid=uniform(6), seeds=[1, 2], law=law)
            assert torch.equal(out, out.transpose(1, 2))
            assert torch.equal(out.sum(-1), exists.double())
            noisy = process.corrupt(out, time(0.8), noise=law(draws(2, 5, 5, 3, seed=2)))
            assert torch.equal(noisy, noisy.transpose(1, 2))
            assert torch.equal(noisy.sum(-1), exists.double())
            assert not torch.equal(noisy, out)
            again = process.corrupt(
                out, time(0.8), noise=draws(2, 5, 5, 3, seed=3)
            )  # x0 says what exists, too
            assert torch.equal(again.sum(-1), exists.double())

    def test_masked_nodes(self) -> None:
        mask = torch.tensor([[1, 1, 0]])
        out = start(
            Uniform(4), torch.empty(1, 3, 4), lambda k, like: masked(mask[..., None])(torch.randn(like.shape))
        )
        assert out.sum(-1).tolist() == [[1, 1, 0]]

    def test_edges_with_channels_are_those_of_each_channel(self) -> None:
        noise, mask = draws(3, 4, 4, 2), torch.tensor([[1, 1, 1, 0]] * 3)
        both = symmetric(mask, channels=True)(noise)
        torch.testing.assert_close(both[..., 1], symmetric(mask)(noise[..., 1]))
        torch.testing.assert_close(symmetric(mask)(noise.movedim(-1, 1)), both.movedim(-1, 1))

    @pytest.mark.parametrize(
        "process", [Marginal(RARE), Transition(NEIGHBOURS), Jumps(Absorbing(4), eta=3)], ids=repr
    )
    def test_seeds(self, process: object) -> None:
        def run(seeds: object) -> Tensor:
            shape = (len(seeds), 6, 4)  # type: ignore[arg-type]
            tilt = torch.tensor([0.0, 1.0, 2.0, -9.0])
            return sample(lambda x, t: (x + tilt).softmax(-1), process, shape, grid=uniform(5), seeds=seeds)  # type: ignore[arg-type]

        check_seeds(run, atol=0)

    def test_a_step_compiles(self) -> None:
        net, process = torch.nn.Linear(4, 4), Jumps(Absorbing(4), eta=3)
        denoise = wrap(lambda x, t: net(x), process.process)

        def step(x: Tensor, noise: Tensor) -> Tensor:
            return process.posterior(x, denoise(x, time(0.7)), time(0.7), time(0.4)).sample(noise)

        check_compiles(step, (torch.eye(4), torch.randn(4, 4)), (torch.eye(4), torch.randn(4, 4)))

    def test_a_small_state_is_a_batch_of_elements(self) -> None:
        assert sample(lambda x, t: (0 * x).softmax(-1), Uniform(3), (2, 3)).sum(-1).tolist() == [1, 1]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision_is_finite_and_normalised(process: object, precision: torch.dtype) -> None:
    """Certain and mistaken predictions, at times where quotients are extreme."""
    noise = noise_of(process)
    logits = 300 * draws(noise.size, noise.size, dtype=precision)
    for t, u in [*TIMES, (1e-6, 0.0), (1.0, 1 - 1e-6), (1e-3, 1e-9)]:
        x = torch.eye(noise.size, dtype=precision)
        p = wrap(lambda x, t: logits, noise)(x, time(t))  # type: ignore[arg-type]
        law = process.posterior(x, p, t, u).probs  # type: ignore[attr-defined]
        assert bool(torch.isfinite(law).all())
        torch.testing.assert_close(law.sum(-1), torch.ones(noise.size), atol=1e-5, rtol=0)
        assert bool((law >= 0).all())
        naive = process.posterior(x, logits.softmax(-1), t, u).probs  # type: ignore[attr-defined]
        assert bool(torch.isfinite(naive).all())


class TestFlow:
    def test_masked_diffusion_is_the_masked_path(self) -> None:
        """The posterior of D3PM and the jumps of discrete flow matching, where nothing is redrawn."""
        states, p = torch.eye(5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
        p[:, :4] = draws(5, 4).softmax(-1)
        for t, u in TIMES:
            a, b = (
                process.posterior(states, p, t, u).probs for process in (Absorbing(5), Jumps(Absorbing(5)))
            )
            torch.testing.assert_close(a, b, atol=1e-15, rtol=0)

    @pytest.mark.parametrize("noise", [Uniform(4), Marginal(RARE), Absorbing(5, "cosine")], ids=repr)
    @pytest.mark.parametrize(("eta", "stochasticity"), [(0.0, 0.0), (7.0, 0.0), (0.0, 3.0), (2.0, 1.0)])
    def test_a_step_solves_the_chain_of_its_rates(
        self, noise: Categorical, eta: float, stochasticity: float
    ) -> None:
        """The product of short exponentials of the rates, from t = .8 to .3, class by class of x0.

        Midpoints of n intervals leave an error that falls as 1/n^2, of 3e-5 at 200.
        """
        flow = Jumps(noise, eta, stochasticity)  # type: ignore[arg-type]
        states, n = torch.eye(noise.size, dtype=torch.float64), 200
        middle = torch.linspace(0.8, 0.3, 2 * n + 1, dtype=torch.float64)[1::2]
        alpha = noise.alpha(middle)
        slope = -torch.func.jvp(noise.alpha, (middle,), (torch.ones_like(middle),))[1]
        for x0 in states[:2]:
            marginal = alpha[:, None] * x0 + (1 - alpha[:, None]) * noise.weights
            straight, redraw = slope / (1 - alpha), eta + stochasticity * slope / (1 - alpha)
            target = straight[:, None] * x0 + redraw[:, None] * marginal
            rates = target[:, None, :] - torch.diag_embed((straight + redraw)[:, None].expand(-1, noise.size))
            steps = torch.linalg.matrix_exp(0.5 / n * rates)
            product = states
            for step in steps:
                product = product @ step
            x = (
                states if noise.weights.min() > 0 else states[[int(x0.argmax()), -1]]
            )  # those that x0 leads to
            law = flow.posterior(x, x0.expand_as(x), 0.8, 0.3).probs
            torch.testing.assert_close(law, x @ product, atol=4e-5, rtol=0)

    def test_stochasticity_is_campbells_on_a_masked_linear_path(self) -> None:
        """Back to the mask at the rate eta, out of it at (1 + eta alpha)/(1 - alpha), as FlowMol integrates it."""
        eta, t, step = 10.0, 0.4, 1e-6
        law = Jumps(Absorbing(3), stochasticity=eta).posterior(
            torch.eye(3).double()[[0, 2]], torch.eye(3).double()[[0, 0]], t, t - step
        )
        assert float(law.probs[0, 2] / step) == pytest.approx(eta, rel=1e-4)
        assert float(law.probs[1, 0] / step) == pytest.approx((1 + eta * 0.6) / 0.4, rel=1e-4)

    def test_eta_is_that_of_defog(self) -> None:
        eta, t, step = 5.0, 0.4, 1e-6
        p = Uniform(4).marginal(torch.eye(4).double()[:1], t).probs[0]
        law = Jumps(Uniform(4), eta=eta).posterior(
            torch.eye(4).double()[:1], torch.eye(4).double()[:1], t, t - step
        )
        torch.testing.assert_close(law.probs[0, 1:] / step, eta * p[1:], rtol=1e-4, atol=0)

    def test_guidance_hastens_the_jumps(self) -> None:
        t, step = 0.4, 1e-6
        law = Jumps(Uniform(4), omega=0.5).posterior(
            torch.eye(4).double()[1:2], torch.eye(4).double()[:1], t, t - step
        )
        assert float(law.probs[0, 0] / step) == pytest.approx(1.5 / t, rel=1e-4)

    def test_distortions(self) -> None:
        t = uniform(8)
        torch.testing.assert_close(distort(t, "polydec"), power(8, 2))
        torch.testing.assert_close(distort(t, "polyinc"), 1 - power(8, 2).flip(0))
        for name in ("identity", "polydec", "polyinc", "cosine", "revcos"):
            assert distort(t, name)[[0, -1]].tolist() == [1, 0]
            assert bool((distort(t, name).diff() < 0).all())
        middle = time(0.5)
        slopes = [
            float(torch.func.jvp(lambda t, n=n: distort(t, n), (middle,), (torch.ones_like(middle),))[1])
            for n in ("cosine", "revcos")
        ]
        assert slopes == pytest.approx([math.pi / 2, 2 - math.pi / 2])


class TestSampling:
    """A law of three correlated variables with its exact denoiser; the sampler's own law is found exactly."""

    @pytest.mark.parametrize("process", PROCESSES, ids=repr)
    def test_converges_at_first_order(self, process: object) -> None:
        """Elements are drawn apart within a step: that error, and no other, falls as 1/steps."""
        size = noise_of(process).size
        truth = Table(size)
        if noise_of(process) == Marginal((0.7, 0.3, 0.0, 0.0)):
            truth.table[2:] = truth.table[:, 2:] = truth.table[:, :, 2:] = (
                0  # what this noise cannot hide stays
            )
            truth.table /= truth.table.sum()
        denoise = truth.denoise(process)
        coarse, fine = (truth.distance(sampler_law(process, denoise, uniform(n), size)) for n in (80, 160))
        assert fine < 0.01
        assert 1.6 < coarse / fine < 2.1

    @pytest.mark.parametrize("process", [Uniform(4), Absorbing(5), Jumps(Marginal(RARE), eta=50)], ids=repr)
    def test_one_step_draws_the_elements_apart(self, process: object) -> None:
        """The short-cut of one step is the product of the marginals, 0.35 in total variation away from this law."""
        size = noise_of(process).size
        truth = Table(size)
        table = truth.table
        apart = torch.einsum("a,b,c->abc", table.sum((1, 2)), table.sum((0, 2)), table.sum((0, 1)))
        law = sampler_law(process, truth.denoise(process), uniform(1), size)
        torch.testing.assert_close(law, apart, atol=1e-12, rtol=0)
        assert truth.distance(law) == pytest.approx(0.3506, abs=1e-4)
        distances = [
            truth.distance(sampler_law(process, truth.denoise(process), uniform(n), size))
            for n in (1, 2, 5, 10)
        ]
        assert distances == sorted(distances, reverse=True)

    @pytest.mark.parametrize("process", [Uniform(4), Marginal(RARE), Absorbing(5), *FLOWS], ids=repr)
    def test_one_element_is_exact_in_one_step(self, process: object) -> None:
        size = noise_of(process).size
        truth = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64)[:size]
        states = torch.eye(size, dtype=torch.float64)
        law = process.prior(states[0]).probs  # type: ignore[attr-defined]
        for t, u in pairwise(uniform(3)):
            reach = noise_of(process).backward(states, time(0.0), t)
            p = truth * reach / (truth * reach).sum(1, keepdim=True).clamp(min=1e-300)
            law = law @ process.posterior(states, p, t, u).probs  # type: ignore[attr-defined]
        torch.testing.assert_close(law, truth, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("process", [Marginal(RARE), Jumps(Uniform(4), eta=5), Absorbing(5)], ids=repr)
    def test_draws_have_the_law_that_was_computed(self, process: object, dtype: torch.dtype) -> None:
        """Total variation of n draws over s states is at most sqrt(s/n)/2 on average: 0.028 here."""
        size, count, grid = noise_of(process).size, 20_000, uniform(6)
        truth = Table(size)
        generator = torch.Generator().manual_seed(1)
        like = torch.empty(count, 3, size)

        def draw(step: int, like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator)

        denoise = truth.denoise(process)
        out = ancestral(process, denoise, start(process, like, draw), grid, draw=draw)  # type: ignore[arg-type]
        assert out.dtype == dtype
        counts = torch.einsum("na,nb,nc->abc", *out.double().unbind(1)) / count
        gap = float((counts - sampler_law(process, denoise, grid, size)).abs().sum() / 2)
        assert gap < 0.035

    @pytest.mark.parametrize("noise", [Uniform(4), Marginal(RARE)], ids=repr)
    @pytest.mark.parametrize("eta", [5.0, 50.0])
    def test_euler_steps_of_defog_are_further_off(self, noise: Categorical, eta: float) -> None:
        """Rates R* + eta p of Qin et al. 2024, clamped, at any number of steps; 50 at 10 steps is the prior's law."""
        truth = Table()
        denoise = truth.denoise(noise)
        ours, theirs = [], []
        for n in (5, 10, 40):
            ours.append(truth.distance(sampler_law(Jumps(noise, eta), denoise, uniform(n), 4)))  # type: ignore[arg-type]
            theirs.append(truth.distance(sampler_law(Euler(noise, eta), denoise, uniform(n), 4)))
        assert all(a < b for a, b in zip(ours, theirs, strict=True))
        if eta == 50:
            assert ours[1] < 0.1
            assert theirs[1] > 0.25

    @pytest.mark.parametrize(
        "noise", [Uniform(4), Marginal(RARE), Transition(NEIGHBOURS, "cosine")], ids=repr
    )
    def test_the_parametrisation_of_d3pm_stays_off(self, noise: Categorical) -> None:
        """Without the divisor q(x_t | x0) more steps do not help: .25 to .31 in total variation, where ours is .02."""
        truth = Table()
        denoise = truth.denoise(noise)
        for n in (20, 80):
            assert truth.distance(sampler_law(noise, denoise, uniform(n), 4)) < 0.03
            assert truth.distance(sampler_law(Austin(noise), denoise, uniform(n), 4)) > 0.24

    def test_of_a_mask_the_parametrisation_of_d3pm_is_right(self) -> None:
        noise, truth = Absorbing(5), Table(5)
        ours, theirs = (
            sampler_law(process, truth.denoise(noise), uniform(5), 5) for process in (noise, Austin(noise))
        )
        torch.testing.assert_close(ours, theirs, atol=1e-14, rtol=0)

    def test_between_sees_and_edits_the_state(self) -> None:
        seen: list[float] = []

        def between(frame: object) -> list[Tensor]:
            seen.append(frame.t)  # type: ignore[attr-defined]
            assert torch.equal(frame.x0, torch.full((2, 4), 0.25))  # type: ignore[attr-defined]
            return [torch.eye(4)[:2] for _ in frame.memory]  # type: ignore[attr-defined]

        out = sample(
            lambda x, t: (0 * x).softmax(-1),
            Uniform(4),
            (2, 4),
            grid=uniform(4),
            seeds=[1, 2],
            between=between,
        )
        assert seen == [1, 0.75, 0.5, 0.25]
        assert torch.equal(out, torch.eye(4)[:2])


class Austin:
    """Equation 4 of D3PM: the sum over x0 of q(x_u, x_t | x0) p(x0), normalised."""

    def __init__(self, noise: Categorical):
        self.noise, self.prior = noise, noise.prior

    def posterior(self, x: Tensor, p0: Tensor, t: Tensor, u: Tensor) -> Choice:
        law = self.noise.backward(x, u, t) * self.noise.forward(p0, torch.zeros_like(u), u)
        return Choice(law / law.sum(-1, keepdim=True).clamp(min=1e-300))


class Euler:
    """The steps of DeFoG: x0 drawn, R* (Campbell et al. 2024) and eta p, added up and clamped, the last to x0."""

    def __init__(self, noise: Categorical, eta: float):
        self.noise, self.eta, self.prior = noise, eta, noise.prior

    def posterior(self, x: Tensor, p0: Tensor, t: Tensor, u: Tensor) -> Choice:
        law = torch.zeros_like(x)
        for k, x0 in enumerate(torch.eye(4, dtype=x.dtype)):
            p, slope = self.noise.marginal(x0, t).probs, x0 - self.noise.weights
            here, rise = (x * p).sum(-1, keepdim=True), (x * slope).sum(-1, keepdim=True)
            rates = (slope - rise).clamp(min=0) / (4 * here) + self.eta * p
            jump = (rates * (t - u)).clamp(max=1) * (1 - x)
            step = jump + x * (1 - jump.sum(-1, keepdim=True)).clamp(min=0)
            step = x0.expand_as(x) if u == 0 else step / step.sum(-1, keepdim=True)
            law = law + p0[..., k : k + 1] * step
        return Choice(law)


class TestLogits:
    def test_tokens_that_are_set_at_the_start_stay(self) -> None:
        """A prompt: the chain cannot be there at t = 1, and yet goes on from it."""
        x = torch.eye(4)[[0, 1, 3]][None]
        for process in (Absorbing(4), Jumps(Absorbing(4))):
            denoise = wrap(lambda x, t: torch.zeros(1, 3, 4), Absorbing(4))
            out = ancestral(process, denoise, x, uniform(4), draw=lambda k, like: torch.randn(like.shape))
            assert torch.equal(out[:, :2], x[:, :2])
            assert out[0, 2, :3].sum() == 1

    def test_what_is_not_masked_stays_and_nothing_becomes_the_mask(self) -> None:
        x = torch.eye(4)[[0, 3]]
        denoise = wrap(lambda x, t: torch.tensor([[0.0, 5.0, 0.0, 9.0]] * 2), Absorbing(4))
        p = denoise(x, time(0.5))
        assert p[0].tolist() == [1, 0, 0, 0]
        torch.testing.assert_close(p[1, :3], torch.tensor([0.0, 5.0, 0.0]).softmax(0))
        assert float(p[1, 3]) == 0

    def test_other_noise_excludes_nothing_before_the_data(self) -> None:
        logits = draws(4, 4)
        denoise = wrap(lambda x, t: logits, Uniform(4))
        torch.testing.assert_close(denoise(torch.eye(4).double(), time(0.5)), logits.softmax(-1))
        assert torch.equal(denoise(torch.eye(4).double(), time(0.0)), torch.eye(4).double())

    def test_time_and_conditions_reach_the_network(self) -> None:
        def network(x: Tensor, t: Tensor, shift: float) -> Tensor:
            assert t.shape == (2,)
            assert t.dtype == x.dtype
            return x + shift * t[:, None, None]

        denoise = wrap(network, Uniform(3))
        assert bool(torch.isfinite(denoise(torch.zeros(2, 5, 3), time(0.5), 2.0)).all())

    def test_float32_at_least(self) -> None:
        out = log_softmax(
            Uniform(3), torch.zeros(2, 3, dtype=torch.bfloat16), torch.eye(3)[:2].bfloat16(), 0.5
        )
        assert out.dtype == torch.float32


class TestBadInput:
    def test_rows(self) -> None:
        with pytest.raises(ValueError, match=r"transition matrix: row 1 sums to 0.9, not 1"):
            Transition([[1.0, 0.0], [0.5, 0.4]])
        with pytest.raises(ValueError, match=r"row 0 has -0.2 at 1, below zero"):
            Transition([[1.2, -0.2], [0.5, 0.5]])
        with pytest.raises(ValueError, match="row 0 sums to nan"):
            Transition([[float("nan"), 0.5], [0.5, 0.5]])
        with pytest.raises(ValueError, match="is square"):
            Transition([[1.0, 0.0]])
        with pytest.raises(ValueError, match=r"frequencies of the classes: row 0 sums to 0.8"):
            Marginal((0.5, 0.3))

    def test_rates(self) -> None:
        for name in ("eta", "stochasticity", "omega"):
            for value in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=f"{name} is a rate"):
                    Jumps(Uniform(3), **{name: value})
        with pytest.raises(ValueError, match="uniform, marginal or absorbing"):
            Jumps(Transition(NEIGHBOURS))  # type: ignore[arg-type]

    def test_states(self) -> None:
        process = Uniform(4)
        with pytest.raises(ValueError, match="4 classes: they are its last axis"):
            process.corrupt(torch.eye(3), time(0.5))
        with pytest.raises(ValueError, match="4 classes"):
            process.prior(torch.empty(2, 3))
        with pytest.raises(ValueError, match="4 classes"):
            log_softmax(process, torch.zeros(2, 3), torch.zeros(2, 3), 0.5)
        with pytest.raises(ValueError, match="given one-hot"):
            process.corrupt(torch.tensor([[0, 1, 2, 3]]), time(0.5))
        for rows in (
            [[0.5, 0.6, 0.0, 0.0]],
            [[1.5, -0.5, 0.0, 0.0]],
            [[3.0, 1.0, 2.0, 4.0]],
            [[float("nan")] * 4],
        ):
            with pytest.raises(ValueError, match="must be probabilities"):
                process.corrupt(torch.tensor(rows), time(0.5))
            with pytest.raises(ValueError, match="take the softmax of logits"):
                process.posterior(torch.eye(4)[:1], torch.tensor(rows), 0.5, 0.2)

    def test_anchors(self) -> None:
        x = torch.eye(4)
        for process in (Uniform(4), Jumps(Uniform(4))):
            with pytest.raises(ValueError, match="no anchor"):
                process.corrupt(x, time(0.5), y=x)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="no anchor"):
                sample(lambda x, t: x, process, x, y=x)

    def test_names(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'linear'"):
            Uniform(4, "log-linear")
        with pytest.raises(ValueError, match="did you mean 'polydec'"):
            distort(time(0.5), "polydek")
        with pytest.raises(ValueError, match="at least two classes"):
            Uniform(1)

    def test_a_prior_that_remembers(self) -> None:
        with pytest.warns(UserWarning, match=r"total variation of 0.15.*not the end of this process"):
            Uniform(4, lambda t: 1 - 0.8 * t).prior(torch.empty(2, 4))
        with pytest.warns(UserWarning, match="not the end"):
            Transition([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).prior(torch.empty(2, 3))

    def test_plans_and_levels(self) -> None:
        for options, match in (
            ({"solver": ddim()}, "leave the solver out"),
            ({"grid": karras(5)}, "no levels of noise"),
            ({"plan": ddim()(VP(), uniform(2))}, "only Gaussian leaves follow a plan"),
        ):
            with pytest.raises(ValueError, match=match):
                sample(lambda x, t: x, Uniform(4), (2, 4), **options)  # type: ignore[arg-type]
