"""Time-shift sampling against exposure bias: Li et al. 2023 (2305.15583).

A sampler's state is not the x_t that the network was trained on; the time whose x_t it resembles most is
another one. Over the elements of a sample, z_t has variance a^2 v0 + s^2 with v0 that of x0, which in many
dimensions is nearly a constant. So the network is evaluated at the time in a window around t whose variance is
the state's own, and its eps is used as if it belonged to t.
"""

from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, check
from diffkit.core.plan import integrate
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw, expand_as, float64


def time_shift(
    solver: Solver | None = None,
    *,
    window: float = 0.03,
    cutoff: float = 0.3,
    data_variance: float = 0.0,
    levels: int = 1000,
) -> Sampler:
    """``solver`` (:func:`~diffkit.core.solvers.ddim` by default) with every prediction but the first at a
    shifted time.

    Args:
        window: the width of the window around t, in time: the paper's w/1000.
        cutoff: at times up to it nothing is shifted: the paper's t_c/1000.
        data_variance: v0, the variance of x0 over the elements of a sample; the paper takes 0, which is right
            only where noise dominates, and hence its cutoff.
        levels: times searched in [0, 1]: the steps that the network was trained on.

    Of the two meanings in the released code this is the paper's: coefficients stay on the grid.
    """
    if not 0 <= window <= 1 or not 0 <= cutoff <= 1:
        raise ValueError(f"window and cutoff are times in [0, 1], not {window} and {cutoff}.")

    def sampler(denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        grid = check(grid)
        start, half = float(grid[0]), round(window * levels / 2)

        def shifted(x: Any, t: Tensor) -> Tensor:
            offsets = torch.arange(-half, half + 1, dtype=t.dtype, device=t.device) / levels
            times = (t[..., None] + offsets).clamp(1 / levels, 1)
            variance = process.a(times).square() * data_variance + process.s(times).square()
            own = float64(x.flatten(1).var(1))
            nearest = (variance - own[:, None]).square().argmin(1)
            closest = times.expand(len(x), -1).gather(1, nearest[:, None])[:, 0]
            moved = torch.where((t > cutoff) & (t < start), closest, t)
            keep = process.s(t) / process.s(moved)  # x0 = (x - s_t eps)/a_t, eps of the network at ``moved``
            of_x = torch.where(moved == t, 0.0, (1 - keep) / process.a(t))
            of_d = torch.where(moved == t, 1.0, keep * process.a(moved) / process.a(t))
            return expand_as(of_x, x) * x + expand_as(of_d, x) * denoise(x, moved)

        return integrate(shifted, x, (solver or ddim())(process, grid), draw=draw)

    return sampler
