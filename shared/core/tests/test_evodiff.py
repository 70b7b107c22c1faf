"""EVODiff against its released code, its order, and where it is ahead of DPM-Solver++ and where not."""

import math

import pytest
import torch
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import Grid, karras, lam_uniform, power, resolve, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, VP, Cosine, Gaussian
from diffkit.core.solvers import Sampler, Solver, adams, ddim, dpmpp_2m
from diffkit.core.solvers.evodiff import evodiff
from diffkit.core.testing import flow

DRAW = Seeds([0])


def clusters(dims: int) -> Mixture:
    means = torch.randn(5, dims, generator=torch.Generator().manual_seed(0)).double()
    return Mixture(torch.full((5,), 0.2).double(), means, torch.full((5,), 0.3).double())


def run(method: Solver | Sampler, mixture: Mixture, process: Gaussian, x: Tensor, grid: Grid) -> Tensor:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return mixture.denoise(process, x, t)

    if isinstance(method, Solver):
        return integrate(denoise, x, method(process, grid))
    return method(denoise, process, x, grid, draw=DRAW)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (8, (-0.2735871025, -0.2079626458, -0.0550104365, 0.1245172394)),
        (30, (-0.2077254862, -0.1629809693, -0.0456295043, 0.1071792567)),
    ],
)
def test_golden_values_of_the_released_code(steps: int, expected: tuple[float, ...]) -> None:
    """Their EVODiff_edm, run on sigma 80 to 0.02, in its regimes of up to and above 20 steps."""
    p = EDM()
    roots = torch.linspace(80 ** (1 / 7), 0.02 ** (1 / 7), steps + 1, dtype=torch.float64)
    grid = (roots**7 / 80).clamp(max=1)
    x = 80 * torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(1, 3, 4, 4)
    out = evodiff(legacy=True)(
        lambda x, t: torch.tanh(x) * 0.7 / (1 + 80 * t), p, x, grid, draw=DRAW
    ).flatten()
    assert out[[0, 7, 20, 33]].tolist() == pytest.approx(expected, abs=1e-9)


def test_it_is_of_first_order_and_the_released_end_has_a_floor() -> None:
    """METHODS.md 1.15: slope 1, below DDIM at equal steps; the released last step does not converge."""
    p, mixture = VP(), Mixture.reference()
    z, truth = flow(p, mixture, (-1.5, 2.0))

    def error(method: Solver | Sampler, steps: int) -> float:
        out = run(method, mixture, p, z, resolve(lam_uniform(steps, -1.5, 2.0), p))
        return float((out - truth).square().mean().sqrt())

    ours = [error(evodiff(), n) for n in (10, 40, 80)]
    assert math.log2(ours[1] / ours[2]) > 0.9
    assert all(e < error(ddim(), n) for e, n in zip(ours, (10, 40, 80), strict=True))
    released = [error(evodiff(legacy=True), n) for n in (40, 80)]
    assert min(released) > 10 * ours[2]
    assert released[0] == pytest.approx(released[1], rel=0.05)


def test_ahead_of_dpmpp_on_equal_times_and_behind_on_equal_lambda() -> None:
    """At 10 calls, on five clusters in 64 dimensions."""
    p, mixture = Cosine(), clusters(64)
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)).double()
    truth = run(adams(3), mixture, p, x, power(300, 2.0))

    def error(method: Solver | Sampler, grid: Grid) -> float:
        return float((run(method, mixture, p, x, grid) - truth).square().mean().sqrt())

    assert error(evodiff(), uniform(10)) < 0.75 * error(dpmpp_2m(), uniform(10))
    even = resolve(karras(10, 0.05), p)
    assert error(evodiff(), even) > error(dpmpp_2m(), even)


@pytest.mark.parametrize("value", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4, 4)])
@pytest.mark.parametrize("process", [VP(), Cosine(), SBVE()], ids=repr)
def test_a_point_has_no_zero_over_zero(process: Gaussian, shape: tuple[int, ...], value: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    denoise = lambda x, t: torch.full_like(x, value)  # noqa: E731
    out = evodiff()(denoise, process, x, uniform(6), draw=Seeds([1, 2]))
    torch.testing.assert_close(out, torch.full_like(out, value), atol=1e-12, rtol=0)
    assert bool(
        evodiff(legacy=True)(denoise, process, x, uniform(6, 1, 0.1), draw=Seeds([1, 2])).isfinite().all()
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_one_call_a_step(legacy: bool) -> None:
    calls: list[float] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t))
        return torch.tanh(x)

    grid = uniform(7, 1.0, 0.1)
    evodiff(legacy)(denoise, VP(), torch.ones(1, 3).double(), grid, draw=DRAW)
    assert calls == grid[:-1].tolist()
