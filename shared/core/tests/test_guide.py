"""Guides: their identities, on normal laws and mixtures where denoisers are exact, and what a run remembers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.guide import (
    GUIDES,
    Aligner,
    Conditional,
    Features,
    adaptive,
    alignment,
    apg,
    autoguidance,
    cfg,
    fit_linear,
    gradient,
    gradient_free,
    identity_attention,
    interval,
    lacon,
    linear,
    pag,
)
from diffkit.core.mixture import Mixture
from diffkit.core.plan import integrate
from diffkit.core.predict import anchor, eps, to_data, to_noise, v, x0
from diffkit.core.process import EDM, Cosine, Gaussian, RectifiedFlow
from diffkit.core.sample import sample
from diffkit.core.solvers import adams, ddim, heun
from diffkit.core.types import Denoiser, begin, expand_as

PROCESS = Cosine()
WIDE = Mixture(*(torch.tensor(value, dtype=torch.float64) for value in ([1.0], [[0.2, -0.4]], [0.9])))
NARROW = Mixture(*(torch.tensor(value, dtype=torch.float64) for value in ([1.0], [[0.5, 0.1]], [0.4])))


class Counted:
    """A denoiser that counts its calls, and the samples it was given."""

    def __init__(self, denoise: Callable[..., Any]):
        self.denoise, self.calls, self.samples = denoise, 0, 0

    def __call__(self, x: Any, t: Tensor, *condition: Any) -> Any:
        self.calls += 1
        self.samples += len(x if isinstance(x, Tensor) else next(iter(x.values())))
        return self.denoise(x, t, *condition)


def exact(mixture: Mixture, process: Gaussian = PROCESS) -> Denoiser:
    return partial(mixture.denoise, process)


def points(count: int = 5) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


T = torch.tensor(0.4, dtype=torch.float64)


class TestContrast:
    def test_scale_one_is_the_conditional_denoiser_and_calls_nothing_else(self) -> None:
        own, uncond = Counted(exact(NARROW)), Counted(exact(WIDE))
        torch.testing.assert_close(cfg(1.0, uncond)(own)(points(), T), NARROW.denoise(PROCESS, points(), T))
        assert (own.calls, uncond.calls) == (1, 0)

    @pytest.mark.parametrize("target", [x0, eps, v])
    def test_same_in_every_prediction(self, target: Any) -> None:
        """Guided by a network's outputs F, then turned into x0, it is the same as guided x0."""
        x, d, u = points(), exact(NARROW), exact(WIDE)
        if target is x0:
            outputs = [d(x, T), u(x, T)]
        else:
            noise = [to_noise(PROCESS, part(x, T), x, T) for part in (d, u)]
            p, q, _ = target(PROCESS, T)
            outputs = [p * part(x, T) + q * n for part, n in zip((d, u), noise, strict=True)]
        mixed = outputs[1] + 3.5 * (outputs[0] - outputs[1])
        expected = to_data(target, PROCESS, mixed, x, T)
        torch.testing.assert_close(cfg(3.5, u)(d)(x, T), expected, rtol=0, atol=1e-12)

    def test_score_is_that_of_the_product(self) -> None:
        """At each t, grad log p_c^w p_u^(1 - w): METHODS.md 4.1."""
        x, w = points(), 2.5
        tilted = torch.func.grad(
            lambda x: (w * NARROW.log_prob(PROCESS, x, T) + (1 - w) * WIDE.log_prob(PROCESS, x, T)).sum()
        )(x)
        a, s = PROCESS.a(T), PROCESS.s(T)
        guided = cfg(w, exact(WIDE))(exact(NARROW))(x, T)
        torch.testing.assert_close((a * guided - x) / s**2, tilted, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        ("w", "variance"), [(0.0, 0.5), (1.0, 0.25), (1.5, 0.1768), (2.0, 0.125), (3.0, 0.0625)]
    )
    def test_terminal_variance_is_geometric(self, w: float, variance: float) -> None:
        """Zero-mean normal laws of variance .25 and .5: the flow ends at s_u^2(1 - w) s_c^2w, not at the product's."""
        process, x = EDM(100.0), torch.tensor([[100.0]], dtype=torch.float64)
        good, bad = (
            Mixture(*(torch.tensor(value).double() for value in ([1.0], [[0.0]], [math.sqrt(square)])))
            for square in (0.25, 0.5)
        )
        guided = autoguidance(w, exact(bad, process))(exact(good, process))
        end = integrate(guided, x, adams(3)(process, lam_uniform(200, -math.log(100), 7.0)(process)))
        assert float(end.square()) == pytest.approx(variance, rel=1e-3)

    def test_contrasts_add_up_in_any_order(self) -> None:
        """Perturbed attention beside classifier-free guidance: D_c + (w - 1)(D_c - D_u) + s (D_c - D_p)."""
        x, c, u = points(), exact(NARROW), exact(WIDE)
        p: Denoiser = lambda x, t: 0.3 * x  # noqa: E731
        expected = c(x, T) + 3 * (c(x, T) - u(x, T)) + 2 * (c(x, T) - p(x, T))
        torch.testing.assert_close(pag(2.0, p)(cfg(4.0, u)(c))(x, T), expected)
        torch.testing.assert_close(cfg(4.0, u)(pag(2.0, p)(c))(x, T), expected)

    def test_a_scale_for_each_sample(self) -> None:
        x, scales = points(3), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        many = cfg(scales, exact(WIDE))(exact(NARROW))(x, T)
        for i, w in enumerate(scales.tolist()):
            one = cfg(w, exact(WIDE))(exact(NARROW))(x[i : i + 1], T)
            torch.testing.assert_close(many[i : i + 1], one)

    def test_rescale_restores_the_spread_of_each_sample(self) -> None:
        x = torch.randn(3, 4, 8, dtype=torch.float64)
        own: Denoiser = lambda x, t: 0.5 * x  # noqa: E731
        other: Denoiser = lambda x, t: 0.1 * x.flip(-1)  # noqa: E731
        full = cfg(6.0, other, rescale=1.0)(own)(x, T)
        torch.testing.assert_close(full.std((1, 2)), own(x, T).std((1, 2)))
        plain, half = cfg(6.0, other)(own)(x, T), cfg(6.0, other, rescale=0.5)(own)(x, T)
        torch.testing.assert_close(half, (plain + full) / 2)

    def test_leaves_of_a_joint_state(self) -> None:
        own: Denoiser = lambda x, t: {"a": x["a"] * 0.5, "b": x["b"] * 0.2}  # noqa: E731
        other: Denoiser = lambda x, t: {"a": x["a"] * 0.1, "b": x["b"]}  # noqa: E731
        x = {"a": torch.ones(2, 3), "b": torch.ones(2, 1, 4)}
        out = cfg(2.0, other)(own)(x, T)
        torch.testing.assert_close(out, {"a": torch.full((2, 3), 0.9), "b": torch.full((2, 1, 4), -0.6)})


class TestTogether:
    @staticmethod
    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return x * 0.5 + expand_as(label, x) * expand_as(t.expand(len(x)), x)

    @pytest.mark.parametrize("t", [T, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)])
    def test_one_network_at_three_conditions_is_one_batch(self, t: Tensor) -> None:
        x, net = points(3), Counted(self.network)
        branches = [Conditional(net, torch.full((3,), value)) for value in (1.0, 0.0, -2.0)]
        out = pag(2.0, branches[2])(cfg(4.0, branches[1])(branches[0]))(x, t)
        assert (net.calls, net.samples) == (1, 9)
        c, u, p = (self.network(x, t, branch.condition) for branch in branches)
        torch.testing.assert_close(out, c + 3 * (c - u) + 2 * (c - p))

    def test_conditions_of_several_leaves(self) -> None:
        def network(x: dict[str, Tensor], t: Tensor, c: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"x": x["x"] * 0 + c["text"] + c["image"]}

        net = Counted(network)
        one, two = (
            {"text": torch.full((2, 3), a), "image": torch.full((2, 3), b)} for a, b in ((1, 2), (3.0, 4.0))
        )
        out = cfg(2.0, Conditional(net, one))(Conditional(net, two))({"x": torch.zeros(2, 3)}, T)
        assert net.calls == 1
        torch.testing.assert_close(out["x"], torch.full((2, 3), 11.0))

    def test_another_batch_is_refused(self) -> None:
        one, two = (Conditional(self.network, torch.zeros(n)) for n in (3, 2))
        with pytest.raises(ValueError, match="not of the state's batch of 3"):
            cfg(2.0, two)(one)(points(3), T)


class TestProjected:
    def test_with_all_of_the_update_it_is_cfg(self) -> None:
        x, c, u = points(), exact(NARROW), exact(WIDE)
        same = apg(5.0, u, parallel=1.0, momentum=0.0)(c)(x, T)
        torch.testing.assert_close(same, cfg(5.0, u)(c)(x, T), rtol=0, atol=1e-14)

    def test_update_is_orthogonal_and_bounded(self) -> None:
        x, c, u = points(), exact(NARROW), exact(WIDE)
        update = apg(5.0, u, radius=0.1)(c)(x, T) - c(x, T)
        assert float((update * c(x, T)).sum(1).abs().max()) < 1e-12
        assert float(update.norm(dim=1).max()) <= 4 * 0.1 + 1e-12
        assert float(update.norm(dim=1).max()) > 0.1

    def test_saturation_falls(self) -> None:
        """What grows with w in cfg is the part along D_c: the norm of the prediction."""
        x, c, u = 2 * points(200), exact(NARROW), exact(WIDE)
        plain, projected = (g(10.0, u)(c)(x, T).norm(dim=1).mean() for g in (cfg, apg))
        assert float(projected) < 0.8 * float(plain)

    def test_momentum_is_of_the_run(self) -> None:
        guided = apg(3.0, exact(WIDE), parallel=1.0, momentum=-0.5)(exact(NARROW))
        run, x = begin(guided), points()
        delta = exact(NARROW)(x, T) - exact(WIDE)(x, T)
        first, second = run(x, T), run(x, T)
        torch.testing.assert_close(first - exact(NARROW)(x, T), 2 * delta)
        torch.testing.assert_close(second - exact(NARROW)(x, T), 2 * 0.5 * delta)
        torch.testing.assert_close(begin(guided)(x, T), first)

    def test_two_runs_share_nothing(self) -> None:
        """Also behind an anchor, and inside another guide."""
        inner = apg(3.0, exact(WIDE))(exact(NARROW))
        for guided in (inner, interval(lambda _: inner, 0.1, 0.9)(exact(WIDE)), cfg(2.0, exact(WIDE))(inner)):
            outs = [sample(guided, PROCESS, (2, 2), seeds=[1, 2], grid=uniform(4)) for _ in range(2)]
            torch.testing.assert_close(*outs, rtol=0, atol=0)
        behind = anchor(inner, PROCESS, torch.zeros(2, 2, dtype=torch.float64))
        plan, x = ddim()(PROCESS, uniform(4, 0.9)), points(2)
        torch.testing.assert_close(integrate(behind, x, plan), integrate(inner, x, plan))

    def test_zero_prediction(self) -> None:
        """A zero D_c has no direction to project on."""
        out = apg(3.0, lambda x, t: -torch.ones_like(x))(lambda x, t: torch.zeros_like(x))(points(), T)
        torch.testing.assert_close(out, torch.full_like(out, 2.0))


class TestInterval:
    def test_calls_are_saved_outside(self) -> None:
        own, uncond = Counted(exact(NARROW)), Counted(exact(WIDE))
        sample(interval(cfg(3.0, uncond), 0.35, 0.75)(own), PROCESS, (2, 2), grid=uniform(10))
        assert (own.calls, uncond.calls) == (10, 4)  # 0.7, 0.6, 0.5, 0.4

    def test_rows_of_a_batch(self) -> None:
        x, t = points(3), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
        out = interval(cfg(3.0, exact(WIDE)), 0.4, 0.6)(exact(NARROW))(x, t)
        guided, own = cfg(3.0, exact(WIDE))(exact(NARROW))(x, t), exact(NARROW)(x, t)
        torch.testing.assert_close(out, torch.stack([own[0], guided[1], own[2]]))

    def test_compiles_as_one_graph(self) -> None:
        guided = interval(cfg(3.0, lambda x, t: 0.1 * x), 0.35, 0.75)(lambda x, t: 0.5 * x)
        plan, x = ddim()(PROCESS, uniform(4)), torch.randn(3, 2)
        compiled = torch.compile(lambda x: integrate(guided, x, plan), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), integrate(guided, x, plan))


class TestAdaptive:
    """Wide and narrow are alike near the noise; so the start is dropped at a low threshold."""

    def run(self, threshold: float) -> tuple[Tensor, int]:
        uncond = Counted(exact(WIDE))
        guided = adaptive(3.0, uncond, PROCESS, threshold=threshold)(exact(NARROW))
        out = sample(guided, PROCESS, (4, 2), seeds=range(4), grid=uniform(12, 0.98, 0.02))
        return out, uncond.calls

    def test_ends_are_cfg_and_the_conditional_denoiser(self) -> None:
        grid = uniform(12, 0.98, 0.02)
        out, calls = self.run(1.1)
        plain = sample(cfg(3.0, exact(WIDE))(exact(NARROW)), PROCESS, (4, 2), seeds=range(4), grid=grid)
        torch.testing.assert_close(out, plain)
        assert calls == 12
        out, calls = self.run(-1.1)
        own = sample(exact(NARROW), PROCESS, (4, 2), seeds=range(4), grid=grid)
        torch.testing.assert_close(out, own)
        assert calls == 0

    def test_a_sample_stays_dropped_and_calls_end_with_the_last(self) -> None:
        """cos passes the threshold for sample 0 at the first call, for sample 1 at the second, then falls."""
        step, turn = [0], torch.tensor([[0.0, 2.0], [0.0, 0.0], [2.0, 2.0], [2.0, 2.0]])

        def other(x: Tensor, t: Tensor) -> Tensor:
            angle = turn[step[0]].to(x)
            step[0] += 1
            return x - torch.stack([angle.cos(), angle.sin()], 1)  # eps is (cos, sin) where a = s = 1

        class Unit(RectifiedFlow):
            def a(self, t: Tensor) -> Tensor:
                return torch.ones_like(t)

            def s(self, t: Tensor) -> Tensor:
                return torch.ones_like(t)

        counted, own = Counted(other), lambda x, t: x - torch.tensor([1.0, 0.0]).to(x)
        guided = begin(adaptive(2.0, counted, Unit(), threshold=0.9)(own))
        x = points(2)
        outs = [guided(x, T) - own(x, T) for _ in range(3)]
        assert [bool(out[0].any()) for out in outs] == [False, False, False]
        assert [bool(out[1].any()) for out in outs] == [True, False, False]
        assert counted.calls == 2

    def test_saves_more_than_a_quarter_of_the_calls(self) -> None:
        """The claim, from where the classes differ on: two modes in 8 dimensions, and one of them."""
        modes = torch.tensor([[-1.0], [1.0]]).expand(2, 8).double()
        both = Mixture(torch.tensor([0.5, 0.5]).double(), modes, torch.tensor([0.3, 0.3]).double())
        right = Mixture(torch.ones(1).double(), modes[1:], torch.tensor([0.3]).double())
        like = torch.zeros(64, 8).double()
        how: dict[str, Any] = dict(seeds=range(64), grid=uniform(40, 0.8, 0.01))
        uncond, own = Counted(exact(both)), exact(right)
        full = sample(cfg(2.0, exact(both))(own), PROCESS, like, **how)
        kept = sample(adaptive(2.0, uncond, PROCESS)(own), PROCESS, like, **how)
        assert 40 + uncond.calls <= 60  # of 80; measured: 50
        assert float((kept - full).norm() / (sample(own, PROCESS, like, **how) - full).norm()) < 0.15


class TestLinear:
    def fitted(self, own: Denoiser, other: Denoiser) -> tuple[Any, Any, Tensor]:
        plan = ddim()(PROCESS, uniform(10, 0.98, 0.02))
        x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return plan, fit_linear(3.0, own, other, PROCESS, plan, x), x

    def test_rows(self) -> None:
        _, weights, _ = self.fitted(exact(NARROW), exact(WIDE))
        assert [None if w is None else len(w) for w in weights] == [None, 3, None, 7, None]

    def test_exact_where_the_noise_is_a_combination(self) -> None:
        """Isotropic normal laws of one mean: the foretold rows equal the called ones (METHODS.md 4.3)."""
        wide, narrow = (
            Mixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.tensor([std]).double())
            for std in (1.5, 0.4)
        )
        plan, weights, _ = self.fitted(exact(narrow), exact(wide))
        other, x = Counted(exact(wide)), points()
        foretold = integrate(linear(3.0, other, PROCESS, weights)(exact(narrow)), x, plan)
        assert other.calls == 3

        full, rows = [cfg(3.0, exact(wide))(exact(narrow))], [0]

        def halved(x: Tensor, t: Tensor) -> Tensor:
            rows[0] += 1
            return full[0](x, t) if rows[0] <= 5 else exact(narrow)(x, t)

        torch.testing.assert_close(foretold, integrate(halved, x, plan), rtol=1e-9, atol=1e-9)


class TestClassifier:
    both = Mixture(*(torch.tensor(v).double() for v in ([0.5, 0.5], [[-1.0], [1.0]], [0.6, 0.6])))

    def part(self, k: int) -> Mixture:
        return Mixture(torch.ones(1).double(), self.both.means[k : k + 1], self.both.stds[k : k + 1])

    def log_chance(self, x: Tensor, t: Tensor) -> Tensor:
        return self.part(1).log_prob(PROCESS, x, t) + math.log(0.5) - self.both.log_prob(PROCESS, x, t)

    def test_gradient_gives_the_conditional_denoiser(self) -> None:
        """Bayes: the unconditional denoiser and the exact noisy classifier are the conditional denoiser."""
        x = points()[:, :1]
        guided = gradient(self.log_chance, PROCESS)(exact(self.both))
        torch.testing.assert_close(guided(x, T), self.part(1).denoise(PROCESS, x, T), rtol=0, atol=1e-12)

    def test_gradient_at_no_signal_and_without_grad(self) -> None:
        one = torch.ones((), dtype=torch.float64)
        with torch.no_grad():
            out = gradient(self.log_chance, PROCESS)(exact(self.both))(points()[:, :1], one)
        torch.testing.assert_close(out, exact(self.both)(points()[:, :1], one))

    def classify(self, x: Tensor) -> Tensor:
        densities = [-0.5 * ((x - m) / 0.6).square()[:, 0] for m in (-1.0, 1.0)]
        return torch.stack(densities, 1).softmax(1)

    def conditional(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        parts = torch.stack([self.part(k).denoise(PROCESS, x, t) for k in (0, 1)])
        return parts[label, torch.arange(len(x))]

    def test_accuracy_rises_without_gradients(self) -> None:
        labels = torch.arange(400) % 2
        own, accuracy = Conditional(self.conditional, labels), []
        for scale in (0.0, 1.0, 3.0):
            guided = gradient_free(self.classify, labels, scale=scale)(own)
            out = sample(guided, PROCESS, torch.zeros(400, 1).double(), seeds=range(400), grid=uniform(20))
            accuracy.append(float((self.classify(out).argmax(1) == labels).float().mean()))
            if scale == 0.0:
                plain = sample(own, PROCESS, torch.zeros(400, 1).double(), seeds=range(400), grid=uniform(20))
                torch.testing.assert_close(out, plain)
        assert accuracy[0] < accuracy[1] < accuracy[2]

    def test_off_where_the_classifier_is_sure(self) -> None:
        labels = torch.ones(5, dtype=torch.long)
        own = Conditional(self.conditional, labels)
        sure = torch.tensor([[0.0, 1.0]]).expand(5, 2).double()
        out = gradient_free(lambda _: sure, labels, scale=9.0)(own)(points()[:, :1], T)
        torch.testing.assert_close(out, own(points()[:, :1], T), rtol=0, atol=0)

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="Conditional denoiser"):
            gradient_free(self.classify, torch.zeros(1).long())(exact(self.both))
        own = Conditional(self.conditional, torch.zeros(5).long())
        with pytest.raises(ValueError, match=r"\[batch, classes\]"):
            gradient_free(lambda x: x[:, 0], torch.zeros(5).long())(own)(points()[:, :1], T)
        with pytest.raises(ValueError, match="one value for each sample"):
            gradient(lambda x, t: x.sum(), PROCESS)(exact(self.both))(points()[:, :1], T)


class Attends(nn.Module):
    """A small network with three kinds of self-attention, and one to other tokens."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.mix = kind, nn.Linear(8, 24)
        self.block = nn.Identity() if kind != "module" else nn.MultiheadAttention(8, 2, batch_first=True)
        self.plain = nn.Linear(8, 8)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x).chunk(3, -1)
        if self.kind == "module":
            return self.block(x, x, x)[0]
        if self.kind == "function":
            return nn.functional.scaled_dot_product_attention(q, k, v)
        if self.kind == "cross":
            return nn.functional.scaled_dot_product_attention(q, k[:, :2], v[:, :2])
        return torch.softmax(q @ k.mT / 8**0.5, -1) @ v

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.plain(x) + self.attend(x)


class Network(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.down, self.middle = Attends(kind), Attends(kind)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.middle(self.down(x, t), t)


class TestAttention:
    @pytest.mark.parametrize("kind", ["module", "function", "softmax"])
    def test_tokens_attend_to_themselves_in_the_chosen_layer(self, kind: str) -> None:
        network, x = Network(kind).eval(), torch.randn(2, 5, 8)
        perturbed = identity_attention(network, ["down", "middle"])
        whole, alone = perturbed(x, T), torch.cat([perturbed(x[:, i : i + 1], T) for i in range(5)], 1)
        torch.testing.assert_close(whole, alone)
        one = identity_attention(network, ["middle"])(x, T)
        assert not torch.allclose(one, whole)
        assert not torch.allclose(one, network(x, T))

    @pytest.mark.parametrize("kind", ["module", "function", "softmax"])
    def test_one_token_has_nothing_to_lose(self, kind: str) -> None:
        network, x = Network(kind).eval(), torch.randn(2, 1, 8)
        perturbed = identity_attention(network, ["middle"])
        torch.testing.assert_close(pag(5.0, perturbed)(network)(x, T), network(x, T))

    def test_scale_zero_is_the_network(self) -> None:
        network = Counted(Network("function"))
        assert pag(0.0, identity_attention(Network("function"), ["middle"]))(network) is network

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="no layer 'mid'; it has down"):
            identity_attention(Network("function"), ["mid"])
        with pytest.raises(ValueError, match="'middle' has no self-attention"):
            identity_attention(Network("cross"), ["middle"])(torch.randn(1, 5, 8), T)

    def test_an_error_inside_leaves_no_trace(self) -> None:
        network, x = Network("function"), torch.randn(2, 5, 8)
        before = network(x, T)
        with pytest.raises(RuntimeError):
            identity_attention(network, ["middle"])(torch.randn(2, 5, 3), T)
        torch.testing.assert_close(network(x, T), before)


class TestLaCon:
    def test_a_small_step_lowers_the_loss_and_none_changes_nothing(self) -> None:
        matrix = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        goal = torch.zeros(5, 3, dtype=torch.float64)
        loss = alignment(lambda x, t: x @ matrix.T, goal)
        own, x, plan = exact(NARROW), points(), ddim()(PROCESS, torch.tensor([0.6, 0.5]).double())
        ends = [loss(integrate(lacon(loss, PROCESS, scale=k)(own), x, plan), T) for k in (0.0, 0.05, 0.2)]
        torch.testing.assert_close(ends[0], loss(integrate(own, x, plan), T))
        assert bool((ends[1] < ends[0]).all() and (ends[2] < ends[1]).all())
        late = lacon(loss, PROCESS, scale=1.0, until=0.7)(own)
        torch.testing.assert_close(integrate(late, x, plan), integrate(own, x, plan))

    def test_each_sample_by_itself(self) -> None:
        loss = alignment(lambda x, t: x, torch.zeros(1, 2, dtype=torch.float64))
        guided, x = lacon(loss, PROCESS)(exact(NARROW)), points()
        torch.testing.assert_close(guided(x, T)[2:3], guided(x[2:3], T))

    def test_an_aligner_trained_on_features_steers_samples(self) -> None:
        """The mean of a field, a condition that its network never saw, read from two of its layers."""
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv1d(8, 1, 3, padding=1))

        class Field(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = network

            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                return self.body(x)

        features = Features(Field(), ["body.1", "body.2"])
        aligner = Aligner(9, 1, width=32)
        assert not list(features.parameters())
        optimizer = torch.optim.Adam(aligner.parameters(), 1e-2)
        for _ in range(150):
            level = torch.randn(64, 1, 1)
            clean, t = level.expand(64, 1, 8), torch.rand(64)
            x = PROCESS.corrupt(clean, t)
            loss = alignment(lambda x, t: aligner(features(x, t), t), clean)(x, t).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        aligner.requires_grad_(False)

        def own(x: Tensor, t: Tensor) -> Tensor:
            """The exact denoiser of constant fields of standard normal level."""
            gain = PROCESS.a(t) * 8 / (PROCESS.a(t) ** 2 * 8 + PROCESS.s(t) ** 2)
            return gain.to(x.dtype) * x.mean(-1, keepdim=True).expand_as(x)

        how: dict[str, Any] = dict(seeds=range(32), grid=uniform(20))
        read = alignment(lambda x, t: aligner(features(x, t), t), torch.full((32, 1, 8), 1.5))
        plain = sample(own, PROCESS, (32, 1, 8), **how)
        guided = sample(lacon(read, PROCESS, scale=4.0, until=0.3)(own), PROCESS, (32, 1, 8), **how)
        assert abs(float(plain.mean())) < 0.5
        assert abs(float(guided.mean()) - 1.5) < 0.2


@pytest.mark.parametrize("solver", [ddim(eta=1.0), adams(3), heun()], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "guide", [cfg, apg, partial(adaptive, process=PROCESS)], ids=["cfg", "apg", "adaptive"]
)
def test_seeds_and_solvers(guide: Any, solver: Any) -> None:
    """Sample i of a batch is the sample of a batch of one, with every guide that compares within a sample."""
    guided = guide(2.0, exact(WIDE))(exact(NARROW))
    how: dict[str, Any] = dict(solver=solver, grid=uniform(6))
    many = sample(guided, PROCESS, torch.zeros(3, 2).double(), seeds=[4, 5, 6], **how)
    one = sample(guided, PROCESS, torch.zeros(1, 2).double(), seeds=[5], **how)
    torch.testing.assert_close(many[1:2], one)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_scale_that_is_not_finite_is_refused(scale: float) -> None:
    zero: Denoiser = lambda x, t: x  # noqa: E731
    makers: list[Callable[[], Any]] = [
        lambda: cfg(scale, zero),
        lambda: cfg(torch.tensor([1.0, scale]), zero),
        lambda: autoguidance(scale, zero),
        lambda: pag(scale, zero),
        lambda: apg(scale, zero),
        lambda: apg(2.0, zero, radius=-scale),
        lambda: adaptive(scale, zero, PROCESS),
        lambda: linear(scale, zero, PROCESS, []),
        lambda: gradient(lambda x, t: x.sum(1), PROCESS, scale=scale),
        lambda: gradient_free(lambda x: x, torch.zeros(1).long(), scale=scale),
        lambda: lacon(lambda x, t: x.sum(1), PROCESS, scale=scale),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=r"finite|radius"):
            make()


def test_an_interval_outside_time_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        interval(cfg(2.0, exact(WIDE)), 0.5, 0.2)


def test_every_guide_is_listed() -> None:
    assert {"cfg", "apg", "autoguidance", "pag", "interval", "lacon"} <= set(GUIDES)
