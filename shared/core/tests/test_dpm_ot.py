"""The semi-discrete map: masses, monotonicity, and samples that keep apart what the data keeps apart."""

import pytest
import torch
from torch import Tensor

from diffkit.core.grid import uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import VP
from diffkit.core.solvers import ddim
from diffkit.core.solvers.dpm_ot import Transport, dpm_ot


def masses(transport: Transport, count: int = 1_000_000) -> Tensor:
    noise = torch.randn(count, *transport.targets.shape[1:], generator=torch.Generator().manual_seed(9))
    return torch.bincount(transport.cell(noise), minlength=len(transport.targets)) / count


@pytest.mark.parametrize("weighted", [False, True])
def test_every_cell_has_its_mass(weighted: bool) -> None:
    """METHODS.md 1.18: 20 random targets in the plane, every mass within 1e-3."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(20, 2, generator=generator)
    weights = torch.rand(20, generator=generator) + 0.2 if weighted else torch.ones(20)
    weights = weights / weights.sum()
    transport = Transport.fit(targets, weights if weighted else None)
    assert float((masses(transport) - weights).abs().max()) < 1e-3
    assert float((masses(Transport(targets, torch.zeros(20))) - weights).abs().max()) > 0.02


def test_the_map_is_the_gradient_of_a_convex_function() -> None:
    """Cyclically monotone: swapping two images never shortens the way."""
    targets = torch.randn(20, 2, 2, generator=torch.Generator().manual_seed(1))
    transport = Transport.fit(targets, iterations=200)
    x = torch.randn(2, 1000, 2, 2, generator=torch.Generator().manual_seed(2))
    y = transport(x[0]), transport(x[1])
    assert bool((((x[0] - x[1]) * (y[0] - y[1])).flatten(1).sum(1) >= -1e-6).all())
    assert y[0].shape == x[0].shape


def test_one_target_makes_a_constant_map() -> None:
    target = torch.full((1, 3), 0.7)
    out = Transport.fit(target, iterations=3)(torch.randn(5, 3).double())
    assert torch.equal(out, target.double().expand(5, 3))


def test_samples_at_few_calls_do_not_mix_modes() -> None:
    """Two far clusters in 8 dimensions: of 5 calls DDIM leaves samples between them, the expressway fewer.

    It starts from 100 noised data at t = 0.4 and walks on by the same solver at the same number of calls.
    """
    p, generator = VP(), torch.Generator().manual_seed(0)
    means = torch.tensor([[-0.6], [0.6]]).double().expand(2, 8)
    mixture = Mixture(torch.tensor([0.3, 0.7]).double(), means, torch.tensor([0.2, 0.2]).double())
    noise = torch.randn(100, 8, generator=generator).double()
    latents = p.corrupt(mixture.sample(100, generator), torch.tensor(0.4), noise=noise)
    x = torch.randn(4000, 8, generator=generator).double()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return mixture.denoise(p, x, t)

    def between(out: Tensor) -> float:
        return float((out.mean(1).abs() < 0.4).double().mean())

    plain = integrate(denoise, x, ddim()(p, uniform(5)))
    grid = torch.cat([torch.ones(1).double(), uniform(5, 0.4)])
    quick = dpm_ot(Transport.fit(latents, iterations=400), 0.4)(denoise, p, x, grid, draw=Seeds([0]))
    assert between(plain) > 2 * between(quick)
    assert float((quick.mean(1) < 0).double().mean()) == pytest.approx(0.3, abs=0.1)
