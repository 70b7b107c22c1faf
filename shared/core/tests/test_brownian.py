"""Noise that belongs to one path: independent increments, and samples that do not depend on the grid."""

import pytest
import torch
from torch import Tensor

from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Brownian, Seeds, centred
from diffkit.core.plan import integrate
from diffkit.core.process import VP
from diffkit.core.sample import start
from diffkit.core.solvers import Solver, ddim, dpmpp_sde
from diffkit.core.solvers.sa import sa

MIXTURE, P = Mixture.reference(), VP()
SEEDS = Seeds(range(8))


def grid(steps: int) -> Tensor:
    return lam_uniform(steps, -2.0, 2.0)(P)


def test_increments_are_standard_and_independent() -> None:
    count = 20_000
    draw = Brownian(Seeds([3]), P.lam(grid(3)))
    noise = torch.stack([draw(k, torch.zeros(1, count, dtype=torch.float64))[0] for k in range(3)])
    torch.testing.assert_close(torch.cov(noise), torch.eye(3, dtype=torch.float64), atol=0.04, rtol=0)
    assert torch.equal(noise[1], draw(1, torch.zeros(1, count, dtype=torch.float64))[0])


@pytest.mark.parametrize(
    ("solver", "eta"),
    [(dpmpp_sde(1), 1.0), (ddim(1.0), 1.0), (dpmpp_sde(1, 0.5), 0.5), (sa(1, 0, 0.5), 0.25)],
)
def test_a_sample_of_a_point_does_not_depend_on_the_grid(solver: Solver, eta: float) -> None:
    """With x0 = c nothing but the noise moves; drawn by row it would differ by its own size."""
    x = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ends = [
        integrate(lambda x, t: torch.full_like(x, 0.3), x, solver(P, g), draw=Brownian(SEEDS, P.lam(g), eta))
        for g in (grid(3), grid(7))
    ]
    torch.testing.assert_close(*ends, atol=1e-5, rtol=0)


def test_refining_the_grid_refines_the_sample() -> None:
    """Strong convergence, where noise by row gives another sample each time."""
    x = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(steps: int, path: bool) -> Tensor:
        times = grid(steps)
        draw = Brownian(SEEDS, P.lam(times)) if path else SEEDS
        return integrate(lambda x, t: MIXTURE.denoise(P, x, t), x, dpmpp_sde(2)(P, times), draw=draw)

    finest = run(96, True)
    coarse, fine = (float((run(n, True) - finest).abs().mean()) for n in (12, 48))
    assert fine < coarse / 3
    assert coarse < float((run(96, False) - finest).abs().mean()) / 3


def test_the_start_and_the_law_are_those_of_the_draw() -> None:
    like, draw = torch.zeros(1, 5, 3, dtype=torch.float64), Seeds([4], centred())
    path = Brownian(draw, P.lam(uniform(4)))  # from t = 1, to an infinite lambda
    assert torch.equal(start(P, like, path), start(P, like, draw))
    assert float(path(2, like).mean(1).abs().max()) < 1e-12


def test_a_step_below_the_resolution() -> None:
    draw = Brownian(SEEDS, torch.tensor([0.1, 0.1 + 1e-9]))
    with pytest.raises(ValueError, match="raise the depth"):
        draw(0, torch.zeros(8, 1))
