"""Time grids: float64 tensors on the CPU that descend within [0, 1].

``uniform(20)`` is a tensor. A grid that depends on the process is a function of it, and is written the same
way where a grid is wanted: ``karras(20)``, ``lam_uniform(20)``. n steps have n + 1 times, the last mostly 0:
a step to 0 returns the prediction.

Each sample, or each token of it, may have a row of its own: ``[batch, steps + 1]`` or ``[batch, tokens,
steps + 1]``. A row may pause, that is repeat a time, while what it belongs to waits or is finished.

A network of N discrete steps calls its noisiest step N - 1 and its cleanest 0, which is not clean data:
index i is the time (i + 1)/N (:class:`~diffkit.core.process.Discrete`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from diffkit.core.process import Gaussian
from diffkit.core.types import lookup

Grid: TypeAlias = Tensor
"""Descending times in [0, 1], float64, ``[steps + 1]``, or rows of such (see the module)."""

Schedule: TypeAlias = Callable[[Gaussian], Grid]
"""A grid that depends on the process."""


def check(grid: Tensor) -> Grid:
    """``grid`` as float64 on the CPU; ValueError unless it descends within [0, 1], strictly if it is one row."""
    grid = torch.as_tensor(grid).detach().to("cpu", torch.float64)
    if grid.ndim not in (1, 2, 3) or grid.shape[-1] < 2 or grid.numel() == 0:
        raise ValueError(
            "a grid is one row of at least two times, or such rows [batch, times] or [batch, tokens, times], "
            f"not of shape {tuple(grid.shape)}."
        )
    if not bool(torch.isfinite(grid).all()) or float(grid.max()) > 1 or float(grid.min()) < 0:
        raise ValueError("a grid's times must lie in [0, 1]: 0 is data and 1 is the prior.")
    gaps = grid.diff()
    if grid.ndim == 1 and bool((gaps >= 0).any()):
        raise ValueError("a grid must strictly descend, from the prior (1) to the data (0).")
    if bool((gaps > 0).any()) or not bool(gaps.any()):
        raise ValueError("the rows of a grid must descend or pause, and one of them must move.")
    return grid


def resolve(grid: Grid | Schedule, process: Gaussian) -> Grid:
    """The checked grid of a tensor or a schedule, for ``process``."""
    if not isinstance(grid, Tensor) and process.split() is not None:
        raise ValueError(
            f"{type(process).__name__} has a noise level for each element: use a grid in time, as uniform."
        )
    return check(grid if isinstance(grid, Tensor) else grid(process))


def below(grid: Grid, start: float) -> Grid:
    """``start`` and the times of ``grid`` below it: what is left for a sampler that begins there."""
    if not float(grid[-1]) < start <= float(grid[0]):
        raise ValueError(f"{start} is not a time to start from on a grid from {grid[0]:g} to {grid[-1]:g}.")
    return torch.cat([grid.new_tensor([start]), grid[grid < start]])


def _steps(n: int, most: float = math.inf) -> int:
    if not 1 <= n <= most:
        raise ValueError(f"a grid needs at least one step{f' and at most {most}' * (n > 1)}, not {n}.")
    return n


def uniform(n: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """``n`` equal steps in time from ``start`` to ``end``."""
    return torch.linspace(start, end, _steps(n) + 1, dtype=torch.float64)


def power(n: int, exponent: float = 2.0, start: float = 1.0, end: float = 0.0) -> Grid:
    """``n`` steps that are equal in t^(1/exponent): above 1 they gather near the data; 2 is DDIM's quadratic."""
    if exponent <= 0:
        raise ValueError(f"the exponent of a grid must be positive, not {exponent}.")
    return uniform(n, start ** (1 / exponent), end ** (1 / exponent)) ** exponent


def beta(n: int, a: float = 0.6, b: float = 0.6) -> Grid:
    """``n`` steps at the quantiles of a beta distribution: equal shapes below 1 gather at both ends.

    Lee et al. 2024 (2407.12173, Beta sampling), who take quantiles of time; diffusers takes them of sigma.
    """
    from scipy.special import betaincinv

    if a <= 0 or b <= 0:
        raise ValueError(f"the shapes of a beta distribution must be positive, not {a} and {b}.")
    return torch.as_tensor(betaincinv(a, b, uniform(n).numpy()))


def shift(t: Tensor, mu: float) -> Tensor:
    """mu t/(1 + (mu - 1) t): times moved towards the prior, where more pixels need more noise to be hidden.

    Esser et al. 2024 (2403.03206, eq. 23), who take mu = sqrt(pixels/pixels in training), also in training.
    It lowers lambda of a rectified flow by log(mu). Flux writes e^m for mu: :func:`flux_shift`.
    """
    if mu <= 0:
        raise ValueError(f"the shift of a grid must be positive, not {mu}.")
    return mu * t / (1 + (mu - 1) * t)


def shifted(n: int, mu: float = 3.0) -> Grid:
    """``n`` equal steps in time under :func:`shift`: 3 is SD3's at 1024 x 1024 (2403.03206)."""
    return shift(uniform(n), mu)


def flux_shift(
    tokens: int, low: tuple[int, float] = (256, 0.5), high: tuple[int, float] = (4096, 1.15)
) -> float:
    """The mu of Flux for an image of ``tokens``: log(mu) is linear through two points (tokens, log(mu))."""
    return math.exp(low[1] + (high[1] - low[1]) * (tokens - low[0]) / (high[0] - low[0]))


def trailing(n: int, steps: int = 1000) -> Grid:
    """``n`` of a network's ``steps`` in equal steps from its noisiest, then 0: :func:`uniform`, rounded.

    Lin et al. 2023 (2305.08891), who show that sampling must start at the noisiest step, as :func:`leading`
    does not, and that few steps are best spent so.
    """
    return _discrete(steps - torch.arange(_steps(n, steps), dtype=torch.float64) * steps / n - 1, steps)


def leading(n: int, steps: int = 1000, offset: int = 0) -> Grid:
    """Every ``steps // n``-th step of a network from ``offset`` up, then 0: DDPM's and DDIM's.

    It starts below the noisiest step, from which the prior was learnt. Stable Diffusion has ``offset`` 1.
    """
    return _discrete(torch.arange(n - 1, -1, -1) * (steps // _steps(n, steps)) + offset, steps)


def linspace(n: int, steps: int = 1000) -> Grid:
    """``n`` of a network's ``steps``, equally far from the noisiest to the cleanest, then 0: iDDPM's."""
    return _discrete(torch.linspace(steps - 1, 0, _steps(n, steps), dtype=torch.float64), steps)


def _discrete(index: Tensor, steps: int) -> Grid:
    return torch.cat([(index.double().round() + 1) / steps, torch.zeros(1)])


def levels(sigma: Tensor | Sequence[float]) -> Schedule:
    """Times of noise levels sigma = s/a that fall, 0 and infinity among them; of a process that has them."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    return lambda process: torch.where(sigma == 0, 0.0, process.time(-sigma.log()))


def _reached(process: Gaussian, low: float, high: float) -> tuple[float, float]:
    """Two noise levels, cut to what the process has between its ends."""
    if not 0 <= low < high:
        raise ValueError(f"the noise levels of a grid must be positive and rise, not {low} and {high}.")
    most = math.exp(-float(process.lam(1.0)))
    return min(low, most), min(high, most)


def karras(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """Karras et al. 2022 (2206.00364), eq. 5: sigma = s/a equal in sigma^(1/rho), then one step to 0.

    ``n`` counts the steps, the last to 0 included: their n. Levels beyond the process' own are cut to it.
    """

    def schedule(process: Gaussian) -> Grid:
        low, high = (sigma ** (1 / rho) for sigma in _reached(process, sigma_min, sigma_max))
        ramp = torch.linspace(high, low, _steps(n), dtype=torch.float64) ** rho
        return levels(torch.cat([ramp, torch.zeros(1)]))(process)

    return schedule


def exponential(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """sigma equal in log(sigma), then one step to 0: :func:`karras` for large rho.

    All but the last step are those of :func:`lam_uniform` between -log(sigma_max) and -log(sigma_min).
    """

    def schedule(process: Gaussian) -> Grid:
        low, high = (math.log(sigma) for sigma in _reached(process, sigma_min, sigma_max))
        ramp = torch.linspace(high, low, _steps(n), dtype=torch.float64).exp()
        return levels(torch.cat([ramp, torch.zeros(1)]))(process)

    return schedule


def lam_uniform(n: int, start: float | None = None, end: float | None = None) -> Schedule:
    """Equal steps in lambda = log(a/s) between two values of it.

    They default to lambda at t = 0.9999 and t = 0.0001; lambda itself is infinite at the ends.
    """

    def schedule(process: Gaussian) -> Grid:
        first = float(process.lam(0.9999)) if start is None else start
        last = float(process.lam(0.0001)) if end is None else end
        return process.time(torch.linspace(first, last, _steps(n) + 1, dtype=torch.float64))

    return schedule


def kl_optimal(n: int, sigma_max: float = math.inf, sigma_data: float = 1.0) -> Schedule:
    """Equal steps in arctan(sigma/sigma_data) down to 0: the best for normal data of that deviation.

    Sabour et al. 2024 (2404.14507), theorem 3.1. DDIM multiplies such data by the cosine of each step in the
    angle beside the true factor, so of all grids equal steps have the least error. On :class:`Cosine` and
    unit data it is :func:`uniform`.
    """

    def schedule(process: Gaussian) -> Grid:
        _, high = _reached(process, 0.0, sigma_max)
        angle = torch.linspace(math.atan(high / sigma_data), 0, _steps(n) + 1, dtype=torch.float64)
        return levels(sigma_data * angle.tan())(process)

    return schedule


AYS: dict[str, tuple[float, ...]] = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
}
"""The noise levels of Align Your Steps, Sabour et al. 2024 (2404.14507), table 3."""


def ays(n: int, model: str = "sd15") -> Schedule:
    """Align Your Steps (2404.14507): the published levels of a ``model`` of :data:`AYS`, log-linear between.

    The last of them is replaced by 0, as in every release (the paper stops there).
    """
    table = lookup(model, AYS, "AYS model")
    at = np.interp(np.linspace(0, 1, _steps(n) + 1), np.linspace(0, 1, len(table)), np.log(table))
    return levels([*np.exp(at[:-1]).tolist(), 0.0])


def few_steps(n: Literal[5, 6, 8] = 8, steps: int = 1000) -> Schedule:
    """The grids of "Hyperparameters are all you need" (2510.02390) for Stable Diffusion in 5, 6 or 8 calls.

    From the first level of a Karras grid to its seventh of 8 (rho = 5; of 12 its tenth, rho = 7, for 8 calls),
    equal in index^(1/1.2). It stops short of 0: a latent's decoder removes the rest of the noise.
    """
    if n not in (5, 6, 8):
        raise ValueError(f"the published grids have 5, 6 or 8 steps, not {n}.")
    points, rho, last = (12, 7.0, 9) if n == 8 else (8, 5.0, 6)

    def schedule(process: Gaussian) -> Grid:
        index = karras(points, 0.0291672, 14.61464, rho)(process) * steps - 1
        return (power(n, 1.2, float(index[0]), float(index[last])) + 1) / steps

    return schedule


GRIDS: dict[str, Callable[..., Grid | Schedule]] = {
    grid.__name__: grid
    for grid in (
        uniform,
        power,
        beta,
        shifted,
        trailing,
        leading,
        linspace,
        karras,
        exponential,
        lam_uniform,
        kl_optimal,
        ays,
        few_steps,
    )
}
"""Every grid by its name on a command line; all take the number of steps first."""
