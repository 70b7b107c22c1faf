"""Zero terminal signal-to-noise ratio, and the step that starts from there."""

import pytest
import torch
from core_processes import name
from torch import Tensor

from diffkit.core.bridge import OUVE
from diffkit.core.grid import uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.predict import v, wrap
from diffkit.core.process import VE, VP, Cosine, Discrete, Gaussian, ZeroTerminal
from diffkit.core.solvers import adams
from diffkit.core.solvers.one_more_step import one_more_step
from diffkit.core.testing import check_correlation, check_marginal, check_order

MIXTURE = Mixture.reference()
SHORT = VP(0.1, 2.0)  # keeps a(1) = 0.59


def test_a_table_ends_at_zero_and_keeps_its_first_entry() -> None:
    """METHODS.md 1.21, on Stable Diffusion's table, against diffusers' own rescaling of it."""
    table = torch.arange(1, 1001, dtype=torch.float64) / 1000
    before, after = Discrete().a(table), ZeroTerminal(Discrete(), 1 / 1000).a(table)
    assert float(after[-1]) == 0
    assert float(after[0]) == pytest.approx(float(before[0]), abs=1e-12)
    beta = 1 - (after[1:] / after[:-1]) ** 2
    assert bool(((beta > 0) & (beta <= 1)).all())
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    theirs = ddim.rescale_zero_terminal_snr(
        torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    )
    torch.testing.assert_close(beta, theirs[1:], atol=1e-10, rtol=0)


@pytest.mark.parametrize("inner", [VP(), SHORT, Discrete()], ids=name)
def test_a_rescaled_process_obeys_the_laws(inner: Gaussian) -> None:
    p, t = ZeroTerminal(inner), torch.linspace(0, 1, 11, dtype=torch.float64)
    assert p.a(t)[[0, -1]].tolist() == [1.0, 0.0]
    assert p.terminal_mismatch().ratio < 1e-4
    torch.testing.assert_close(p.a(t) ** 2 + p.s(t) ** 2, inner.a(t) ** 2 + inner.s(t) ** 2)
    assert bool((p.lam(t).diff() < 0).all())
    check_marginal(p)
    check_correlation(p)
    check_order(adams(2), p)


def test_nothing_is_left_to_do_where_the_signal_ends() -> None:
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(ZeroTerminal(Cosine()).a(t), Cosine().a(t))
    torch.testing.assert_close(ZeroTerminal(Cosine()).s(t), Cosine().s(t))


@pytest.mark.parametrize("inner", [OUVE(), VE()], ids=name)
def test_processes_that_cannot_be_rescaled(inner: Gaussian) -> None:
    with pytest.raises(ValueError, match="cannot end at zero signal"):
        ZeroTerminal(inner)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        ZeroTerminal(VP(), 1.0)


@pytest.mark.parametrize(("legacy", "expected"), [(False, 0.775), (True, 0.565)])
def test_the_start_has_the_law_of_the_process(legacy: bool, expected: float) -> None:
    """With an oracle that returns data of mean .3 and deviation .5, at a^2 = .3: METHODS.md 1.21."""

    class Cut(Gaussian):
        def a(self, t: Tensor) -> Tensor:
            return (1 - 0.7 * t).sqrt()

        def s(self, t: Tensor) -> Tensor:
            return (0.7 * t).sqrt()

    count, seen = 100_000, list[Tensor]()
    x0 = 0.3 + 0.5 * torch.randn(count, 1, generator=torch.Generator().manual_seed(0)).double()
    oracle = wrap(lambda x, t: -x0, ZeroTerminal(Cut()), v)
    generator = torch.Generator().manual_seed(1)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return x

    sampler = one_more_step(oracle, legacy=legacy)
    draw = lambda k, like: torch.randn(like.shape, generator=generator, dtype=like.dtype)  # noqa: E731
    sampler(denoise, Cut(), torch.randn_like(x0), uniform(1), draw=draw)
    assert float(seen[0].mean()) == pytest.approx(0.3**0.5 * 0.3, abs=0.01)
    assert float(seen[0].var()) == pytest.approx(expected, rel=0.015)


def test_it_repairs_a_prior_that_does_not_match() -> None:
    """SHORT ends far from the noise that sampling starts from; a call more brings the mean back."""
    mean = float((MIXTURE.weights[:, None] * MIXTURE.means).sum())
    seeds = Seeds(range(4000))
    x = seeds(-1, torch.zeros(4000, 1).double()) * float(SHORT.s(torch.ones(())))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return MIXTURE.denoise(SHORT, x, t)

    plain = integrate(denoise, x, adams(2)(SHORT, uniform(20)))
    first = lambda x, t: MIXTURE.sample(4000, torch.Generator().manual_seed(3))  # noqa: E731
    better = one_more_step(first, adams(2))(denoise, SHORT, x, uniform(20), draw=seeds)
    assert abs(float(plain.mean()) - mean) > 0.07
    assert float(better.mean()) == pytest.approx(mean, abs=0.04)
    assert float(better.std()) == pytest.approx(float(MIXTURE.sample(100_000).std()), abs=0.03)
