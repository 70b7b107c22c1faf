r"""DPM-OT: an optimal transport map from noise to half-noised data in place of the first steps.

Li et al. 2023 (2307.11308). Semi-discrete transport from the standard normal law to points y_i of mass w_i is
the gradient of a Brenier potential u(x) = max_i <x, y_i> + h_i: x goes to the y_i that attains it. The heights
minimise a convex energy whose gradient is P(argmax = i) - w_i, by Monte Carlo.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.grid import Grid, below, check
from diffkit.core.plan import integrate
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, first_noise
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw


@dataclass(frozen=True, eq=False)
class Transport:
    """The map from standard normal noise to ``targets`` ``[m, ...]`` with ``heights`` ``[m]``."""

    targets: Tensor
    heights: Tensor

    def cell(self, noise: Tensor) -> Tensor:
        """The index of the target of every ``noise`` ``[batch, ...]``."""
        targets, heights = self.targets.flatten(1).to(noise), self.heights.to(noise)
        return (noise.flatten(1) @ targets.T + heights).argmax(1)

    def __call__(self, noise: Tensor) -> Tensor:
        """The targets of ``noise``, of its shape and dtype."""
        return self.targets.to(noise)[self.cell(noise)]

    @classmethod
    def fit(
        cls,
        targets: Tensor,
        weights: Tensor | None = None,
        *,
        count: int = 4096,
        rate: float = 0.1,
        iterations: int = 1000,
        seed: int = 0,
    ) -> "Transport":
        """Heights by Adam from ``count`` fresh draws a step, at a ``rate`` that falls linearly to 0, averaged
        over the second half.

        ``weights`` ``[m]`` sum to 1; they are uniform by default. Take several draws for every target, and more
        ``iterations`` where targets nearly coincide. In place of the average the paper raises the draws and
        keeps the best of noisy steps. Its code draws sources uniformly on [0, 1] but noise from the normal
        law, which gives wrong masses: here both are normal.
        """
        flat = targets.flatten(1)
        heights = torch.zeros(len(flat), dtype=flat.dtype, device=flat.device)
        wanted = heights + 1 / len(flat) if weights is None else weights.to(heights)
        total = torch.zeros_like(heights)
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam([heights], rate)
        for k in range(iterations):
            source = torch.randn(count, flat.shape[1], generator=generator).to(flat)
            cells = torch.bincount(cls(flat, heights).cell(source), minlength=len(flat))
            heights.grad = cells / count - wanted
            optimizer.param_groups[0]["lr"] = rate * (1 - k / iterations)
            optimizer.step()
            total += heights * (2 * k >= iterations)
        return cls(targets, (total - total.mean()) / (iterations - iterations // 2))


def dpm_ot(transport: Transport, start: float, solver: Solver | None = None) -> Sampler:
    """Noise to the targets of ``transport``, states of time ``start``, then ``solver`` (ddim by default) over
    the times of the grid below.

    Make targets of data by ``process.corrupt(x0, start)``, or run a sampler to there. A deterministic solver
    gives one sample for each of them; a stochastic one draws anew around each.
    """

    def sampler(denoise: Denoiser, process: Gaussian, x: Tensor, grid: Grid, *, draw: Draw) -> Tensor:
        grid = check(grid)
        noise = x / first_noise(process, grid)
        return integrate(
            denoise, transport(noise), (solver or ddim())(process, below(grid, start)), draw=draw
        )

    return sampler
