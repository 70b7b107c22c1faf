"""Time shift: the base sampler where it must be, the right time otherwise, and less error of a trained network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffkit.core.bridge import SBVE
from diffkit.core.grid import uniform
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.predict import v, wrap
from diffkit.core.process import VP, Cosine, Gaussian
from diffkit.core.sample import sample
from diffkit.core.solvers import Solver, ddim, dpmpp_2m
from diffkit.core.solvers.time_shift import time_shift
from diffkit.core.train.loss import denoising_loss
from diffkit.core.types import Denoiser

DRAW = Seeds([0])


def asked(process: Gaussian, x: Tensor, grid: Tensor, **options: Any) -> list[Tensor]:
    """The times at which the network is asked."""
    times: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return torch.zeros_like(x)

    time_shift(**options)(denoise, process, x, grid, draw=DRAW)
    return times


@pytest.mark.parametrize("options", [{"window": 0.0}, {"cutoff": 1.0}])
@pytest.mark.parametrize("solver", [ddim(), dpmpp_2m()], ids=lambda s: s.name)
@pytest.mark.parametrize("process", [VP(), Cosine()], ids=repr)
def test_without_a_window_it_is_the_base_bit_for_bit(
    process: Gaussian, solver: Solver, options: dict[str, Any]
) -> None:
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).double()
    denoise = lambda x, t: torch.tanh(x)  # noqa: E731
    out = time_shift(solver, **options)(denoise, process, x, uniform(6), draw=DRAW)
    assert torch.equal(out, integrate(denoise, x, solver(process, uniform(6))))


@pytest.mark.parametrize("c", [0.95, 1.0, 1.05])
@pytest.mark.parametrize("t", [0.35, 0.42])
def test_the_time_is_that_of_the_state_s_variance(c: float, t: float) -> None:
    """METHODS.md 1.13: noise s_t z in many dimensions stays where it is; c times it moves to the time whose
    variance is c^2 s_t^2. With a denoiser of 0, DDIM's first step keeps a state that multiple of s_t z."""
    p, grid = VP(), torch.tensor([0.5, t, 0.31]).double()
    noise = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0)).double()
    moved = asked(p, c * p.s(grid[0]) * noise, grid, window=0.2)[1]
    torch.testing.assert_close(p.s(moved) / p.s(grid[1]), torch.full_like(moved, c), atol=0.004, rtol=0)


def test_the_first_call_and_those_below_the_cutoff_are_not_shifted() -> None:
    x = 3 * torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).double()
    times = asked(VP(), x, uniform(5), cutoff=0.5)
    shifts = [float((own - t).abs().max()) for own, t in zip(times, uniform(5)[:-1], strict=True)]
    assert shifts[0] == shifts[3] == shifts[4] == 0
    assert shifts[1] == pytest.approx(0.015)  # half of a window of 0.03
    assert shifts[2] == pytest.approx(0.015)


def test_anchors_and_seeds() -> None:
    """In z the anchor's variance does not count; a sample depends on its own state alone."""
    y = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))

    def run(y: Tensor, seeds: list[int]) -> Tensor:
        return sample(
            lambda x, t: torch.tanh(x), SBVE(), y, y=y, solver=time_shift(), grid=uniform(5, 0.9), seeds=seeds
        )

    both, one = run(y, [1, 2]), run(y[1:], [2])
    torch.testing.assert_close(both[1:], one)


@pytest.fixture(scope="module")
def pictures() -> Callable[[int], Tensor]:
    """Pictures of a bump of random place, width and sign, 8 x 8, whose elements have a variance of 0.16."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")

    def make(count: int) -> Tensor:
        place, width, sign = (torch.rand(count, n, 1, generator=generator) for n in (2, 1, 1))
        far = (rows - 0.5 - 6 * place[:, :1]) ** 2 + (columns - 0.5 - 6 * place[:, 1:]) ** 2
        return (torch.where(sign < 0.5, 1.5, -1.5) * torch.exp(-far / 2 / (1 + 1.5 * width) ** 2)).flatten(1)

    return make


@pytest.fixture(scope="module")
def trained(pictures: Callable[[int], Tensor]) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Linear(96, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 64)
        )
        frequency = torch.exp(torch.linspace(0, 5, 16))

        def network(x: Tensor, t: Tensor) -> Tensor:
            angle = t[:, None] * frequency
            return layers(torch.cat([x, angle.sin(), angle.cos()], 1))

        optimizer = torch.optim.Adam(layers.parameters(), 2e-3)
        for k in range(400):
            loss = denoising_loss(network, VP(), pictures(128), target=v)
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - k / 400)
            optimizer.step()
    layers.requires_grad_(False)
    return wrap(network, VP(), v)


@pytest.mark.parametrize(
    ("options", "gain"),
    [({"window": 0.1}, 0.05), ({"window": 0.1, "cutoff": 0.05, "data_variance": 0.16}, 0.1)],
    ids=["as published", "with the variance of data"],
)
def test_it_lowers_the_exposure_bias_of_a_trained_network(
    trained: Denoiser, pictures: Callable[[int], Tensor], options: dict[str, Any], gain: float
) -> None:
    """The energy distance of DDIM's samples to data, at 10 calls."""
    generator = torch.Generator().manual_seed(1)
    real, x = pictures(1000), torch.randn(1000, 64, generator=generator)

    def distance(out: Tensor) -> float:
        within = sum(float(torch.cdist(v, v).sum()) for v in (out, real)) / (1000 * 999)
        return 2 * float(torch.cdist(out, real).mean()) - within

    grid = uniform(10, 1.0, 1e-3)
    plain = distance(integrate(trained, x, ddim()(VP(), grid)))
    better = distance(time_shift(**options)(trained, VP(), x, grid, draw=DRAW))
    assert better < (1 - gain) * plain


@pytest.mark.parametrize("options", [{"window": -0.1}, {"cutoff": 550.0}])
def test_times_are_not_indices(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"times in \[0, 1\]"):
        time_shift(**options)
