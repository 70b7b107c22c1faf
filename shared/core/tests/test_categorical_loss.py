"""Losses of categorical denoisers against brute force over all states and all orders."""

import itertools
import math

import numpy as np
import pytest
import torch
from core_categorical import RARE, Table, everything, sampler_law
from torch import Tensor

from diffkit.core.categorical import (
    Absorbing,
    Categorical,
    Jumps,
    Marginal,
    Uniform,
    bits,
    bound,
    cross_entropy,
    log_softmax,
    masked_bound,
    step_bound,
)
from diffkit.core.grid import uniform
from diffkit.core.noise import symmetric

X0 = torch.eye(5, dtype=torch.float64)[[2, 0, 3]]
"""A datum of three tokens, of four classes and the mask."""


def network(x: Tensor) -> Tensor:
    """Logits of no consistent law: what is predicted of a token depends on all others."""
    generator = torch.Generator().manual_seed(5)
    inner = torch.randn(x.shape[1] * 5, 32, generator=generator, dtype=torch.float64)
    outer = torch.randn(32, x.shape[1] * 5, generator=generator, dtype=torch.float64)
    return (torch.tanh(x.flatten(1) @ inner) @ outer / 4).reshape(x.shape)


def orders() -> Tensor:
    """-log of the probability of X0 when the network writes its tokens in each order, ``[6]``."""
    out = []
    for order in itertools.permutations(range(3)):
        x, nats = torch.eye(5, dtype=torch.float64)[[4, 4, 4]], 0.0
        for i in order:
            nats -= float(log_softmax(Absorbing(5), network(x[None]), x[None], 0.5)[0, i, X0[i].argmax()])
            x[i] = X0[i]
        out.append(nats)
    return torch.tensor(out, dtype=torch.float64)


def expected_masked_bound(process: Absorbing) -> float:
    """The integral over t, and the sum over all masks, of :func:`masked_bound`."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    masks = torch.tensor(list(itertools.product([False, True], repeat=3)))
    x = torch.where(masks[..., None], torch.eye(5).double()[4], X0)
    total = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        t = torch.tensor((node + 1) / 2)
        masked = 1 - process.alpha(t)
        chance = torch.where(masks, masked, 1 - masked).prod(1)
        total += weight / 2 * float(chance @ masked_bound(process, network(x), X0.expand_as(x), x, t))
    return total


class TestMaskedBound:
    @pytest.mark.parametrize(("schedule", "atol"), [("linear", 1e-12), ("cosine", 1e-4)])
    def test_is_the_mean_over_all_orders(self, schedule: str, atol: float) -> None:
        """The schedule does not matter; sixteen nodes are exact for the linear one, a polynomial of t."""
        assert expected_masked_bound(Absorbing(5, schedule)) == pytest.approx(
            float(orders().mean()), abs=atol
        )

    def test_bounds_the_likelihood(self) -> None:
        """Of an order drawn at random; they differ, so the bound is not tight."""
        likelihood = -math.log(float((-orders()).exp().mean()))
        assert likelihood + 0.01 < expected_masked_bound(Absorbing(5))

    def test_is_tight_for_a_consistent_denoiser(self) -> None:
        """Of Bayes' rule every order gives the same."""
        truth, total = Table(5), 0.0
        denoise = truth.denoise(Absorbing(5))
        nodes, weights = np.polynomial.legendre.leggauss(4)
        masks = torch.tensor(list(itertools.product([False, True], repeat=3)))
        x = torch.where(masks[..., None], torch.eye(5).double()[4], X0)
        for node, weight in zip(nodes, weights, strict=True):
            t = torch.tensor((node + 1) / 2)
            logits = denoise(x, t).clamp(min=1e-300).log()
            chance = torch.where(masks, t, 1 - t).prod(1)
            total += weight / 2 * float(chance @ masked_bound(Absorbing(5), logits, X0.expand_as(x), x, t))
        assert total == pytest.approx(-math.log(float(truth.table[2, 0, 3])), abs=1e-10)

    def test_low_precision(self) -> None:
        x = torch.eye(5)[[4, 4, 3]].expand(2, 3, 5).bfloat16()
        logits = torch.tensor([0.0, -300.0, 300.0, 0.0, 300.0]).expand(2, 3, 5).bfloat16()
        nats = masked_bound(Absorbing(5), logits, X0.expand(2, 3, 5).bfloat16(), x, torch.tensor([1e-3, 1.0]))
        assert bool(torch.isfinite(nats).all())
        assert nats.dtype == torch.float32


class TestBound:
    @pytest.mark.parametrize(
        "process", [Uniform(4), Marginal(RARE, "cosine"), Jumps(Uniform(4), eta=2), Absorbing(5)], ids=repr
    )
    @pytest.mark.parametrize("steps", [1, 4])
    def test_bounds_the_likelihood_of_the_sampler(self, process: Categorical, steps: int) -> None:
        """Exactly, for every datum: expectations over x_t are sums, the sampler's law is a product of matrices."""
        size = 5 if isinstance(process, Absorbing) else 4
        grid, states = uniform(steps), everything(size)
        noise = process.process if isinstance(process, Jumps) else process

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            logits = network(torch.nn.functional.pad(x, (0, 5 - size)))[..., :size]
            return log_softmax(noise, logits, x, t).exp()

        likelihood = -sampler_law(process, denoise, grid, size).log()
        for index in ((0, 0, 0), (2, 0, 3), (1, 3, 2)):
            x0 = torch.eye(size).double()[list(index)]
            total = 0.0
            for t, u in itertools.pairwise(grid):
                chance = (states * noise.marginal(x0, t).probs).sum(-1).prod(-1)
                total += float(
                    chance @ step_bound(process, denoise(states, t), x0.expand_as(states), states, t, u)
                )
            gap = total - float(likelihood[index])
            assert gap > -1e-10
            if steps == 1 and size == 5:
                assert gap < 1e-10  # one x_t alone, all masks: nothing is left out

    def test_masked_is_tight_for_one_token(self) -> None:
        process, logits = Absorbing(5), torch.tensor([0.3, -1.0, 2.0, 0.1, 7.0]).double()
        x0, total = torch.eye(5).double()[None, None, 2], 0.0
        for t, u in itertools.pairwise(uniform(7)):
            for x, chance in ((x0, 1 - t), (torch.eye(5).double()[None, None, 4], t)):
                p = log_softmax(process, logits.expand(1, 1, 5), x, t).exp()
                total += float(chance * step_bound(process, p, x0, x, t, u))
        assert total == pytest.approx(-float(logits[:4].log_softmax(0)[2]), abs=1e-12)

    def test_many_steps_are_continuous_time(self) -> None:
        """One draw at each of the times is unbiased: the mean over 4000 data is within 5 standard errors of it."""
        process, x0 = Absorbing(5), X0.expand(4000, 3, 5)
        generator = torch.Generator().manual_seed(0)
        nats = bound(
            process,
            lambda x, t: log_softmax(process, network(x), x, t).exp(),
            x0,
            uniform(30),
            draw=lambda k, like: torch.randn(like.shape, generator=generator, dtype=like.dtype),
        )
        limit = float(orders().mean())
        assert nats.shape == (4000,)
        assert float(nats.mean()) == pytest.approx(limit, abs=5 * float(nats.std()) / 4000**0.5 + 0.01)
        per_token = bits(nats, x0)
        assert float(per_token.mean()) == pytest.approx(float(nats.mean()) / 3 / math.log(2))

    def test_a_prior_that_remembers_counts(self) -> None:
        process, x0 = Uniform(2, lambda t: 1 - t / 2), torch.eye(2).double()[None, :1]
        with pytest.warns(UserWarning, match="not the end"):
            nats = bound(
                process, lambda x, t: x0, x0, uniform(3), draw=lambda k, like: torch.randn_like(like)
            )
        p = 0.75
        assert float(nats) == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)), abs=1e-9)

    def test_gradients_and_mistakes_are_finite(self) -> None:
        for process, size in ((Absorbing(5), 5), (Uniform(4), 4), (Jumps(Marginal(RARE), eta=1), 4)):
            logits = (
                100 * torch.randn(6, 3, size, generator=torch.Generator().manual_seed(0))
            ).requires_grad_()
            x0 = torch.eye(size)[torch.arange(18).reshape(6, 3) % 4]
            t = torch.linspace(0.1, 1, 6)
            x = process.corrupt(
                x0, t, noise=torch.randn(6, 3, size, generator=torch.Generator().manual_seed(1))
            )
            nats = step_bound(process, logits.softmax(-1), x0, x, t, 0.9 * t)
            (gradient,) = torch.autograd.grad(nats.sum(), logits)
            assert bool(torch.isfinite(nats).all() and torch.isfinite(gradient).all())
            assert bool(gradient.any())
        certain = torch.tensor([[[1.0, 0.0]]])
        wrong = step_bound(Uniform(2), certain, certain.flip(-1), torch.tensor([[[0.0, 1.0]]]), 0.5, 0.0)
        assert float(wrong) == pytest.approx(20 * math.log(10), rel=0.02)


class TestCrossEntropy:
    def test_is_that_of_torch(self) -> None:
        logits, index = torch.randn(4, 6, 3), torch.randint(0, 3, (4, 6))
        x0 = torch.eye(3)[index]
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), index.flatten())
        torch.testing.assert_close(cross_entropy(logits, x0), expected)
        weight = torch.tensor([1.0, 2.0, 5.0])
        nats = -logits.log_softmax(-1).gather(-1, index[..., None])[..., 0] * weight[index]
        torch.testing.assert_close(cross_entropy(logits, x0, weight=weight), nats.mean())
        mask = torch.rand(4, 6) < 0.5
        torch.testing.assert_close(cross_entropy(logits, x0, weight=weight, mask=mask), nats[mask].mean())

    def test_elements_that_do_not_exist_count_nothing(self) -> None:
        nodes = torch.tensor([[True, True, True, False]])
        noise = symmetric(nodes, channels=True)(torch.randn(1, 4, 4, 2))
        x0 = Uniform(2).prior(noise).sample(noise)
        logits = torch.randn(1, 4, 4, 2, requires_grad=True)
        exists = x0.any(-1)
        expected = torch.nn.functional.cross_entropy(logits[exists], x0.argmax(-1)[exists])
        torch.testing.assert_close(cross_entropy(logits, x0), expected)
        one = torch.ones(4, 4).triu(1)[None]
        torch.testing.assert_close(bits(torch.ones(1), x0, mask=one), torch.tensor([1 / (3 * math.log(2))]))
        assert float(cross_entropy(logits.detach(), 0 * x0)) == 0

    def test_bf16_sums_in_float32(self) -> None:
        logits = torch.tensor([[[300.0, -300.0]]]).bfloat16()
        assert float(cross_entropy(logits, torch.tensor([[[0.0, 1.0]]]))) == pytest.approx(600, rel=0.01)


def test_bad_input() -> None:
    x0 = torch.eye(4)[None]
    for call in (
        lambda p: cross_entropy(p, x0),
        lambda p: masked_bound(Absorbing(4), p, x0, x0, torch.tensor(0.5)),
        lambda p: step_bound(Uniform(4), p, x0, x0, 0.5, 0.2),
    ):
        with pytest.raises(ValueError, match="must be of one shape, classes last"):
            call(torch.zeros(1, 4, 5))
    for grid in (uniform(3, 0.9), uniform(3, 1.0, 0.1), uniform(3).flip(0), uniform(3).expand(2, 4)):
        with pytest.raises(ValueError, match="one row that descends from 1 to 0"):
            bound(Uniform(4), lambda x, t: x, x0, grid, draw=lambda k, like: like)
