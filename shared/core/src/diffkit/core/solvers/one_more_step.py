"""One More Step: Hu et al. 2023 (2311.15744), a start that knows the mean of the data.

A process that keeps a_1 of x0 at t = 1 is sampled from noise that keeps none of it. A second network repairs
this: at signal-to-noise ratio 0 it predicts x0 from noise and condition alone, and x_1 is drawn from the
process' own law around it, a_1 x0 + s_1 z. It is trained by ``denoising_loss(network, ZeroTerminal(process),
x0, target=v, t=ones)``, where v = -x0, and wrapped to a denoiser of that process.
"""

from typing import Any

import torch

from diffkit.core.grid import Grid, check
from diffkit.core.plan import integrate
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, first_noise
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw

_KEY = -2  # of the draw that no row of a plan makes, nor the start


def one_more_step(first: Denoiser, solver: Solver | None = None, *, legacy: bool = False) -> Sampler:
    """``first`` (x0 at signal-to-noise ratio 0, from standard normal noise, at t = 1), then ``solver``.

    One call more than the solver, which defaults to :func:`~diffkit.core.solvers.ddim`. ``legacy`` scales z by
    the variance s_1^2 as the released pipeline does: 0.24 % too little noise with Stable Diffusion's table.
    """

    def sampler(denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        grid = check(grid)
        a, s = float(process.a(grid[0])), first_noise(process, grid)
        x0 = first(x / s, torch.ones((), dtype=grid.dtype, device=x.device))
        x = a * x0 + (s**2 if legacy else s) * draw(_KEY, x)
        return integrate(denoise, x, (solver or ddim())(process, grid), draw=draw)

    return sampler
