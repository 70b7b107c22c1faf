"""Time grids: float64 tensors on the CPU that descend within [0, 1].

``uniform(20)`` is a tensor. A grid that depends on the process is a function of it, and is written the same
way where a grid is wanted: ``karras(20)``, ``lam_uniform(20)``. n steps have n + 1 times.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from diffkit.core.process import Gaussian

Grid: TypeAlias = Tensor
"""Descending times in [0, 1], float64, ``[steps + 1]``."""

Schedule: TypeAlias = Callable[[Gaussian], Grid]
"""A grid that depends on the process."""


def check(grid: Tensor) -> Grid:
    """``grid`` as float64 on the CPU; ValueError unless it strictly descends within [0, 1]."""
    grid = torch.as_tensor(grid).detach().to("cpu", torch.float64)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a grid is one row of at least two times, not of shape {tuple(grid.shape)}.")
    if not bool(torch.isfinite(grid).all()) or float(grid.max()) > 1 or float(grid.min()) < 0:
        raise ValueError("a grid's times must lie in [0, 1]: 0 is data and 1 is the prior.")
    if bool((grid.diff() >= 0).any()):
        raise ValueError("a grid must strictly descend, from the prior (1) to the data (0).")
    return grid


def resolve(grid: Grid | Schedule, process: Gaussian) -> Grid:
    """The checked grid of a tensor or a schedule, for ``process``."""
    return check(grid if isinstance(grid, Tensor) else grid(process))


def _steps(n: int) -> int:
    if n < 1:
        raise ValueError(f"a grid needs at least one step, not {n}.")
    return n


def uniform(n: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """``n`` equal steps in time from ``start`` to ``end``."""
    return torch.linspace(start, end, _steps(n) + 1, dtype=torch.float64)


def power(n: int, exponent: float, start: float = 1.0, end: float = 0.0) -> Grid:
    """``n`` steps that are equal in t^(1/exponent): above 1 they gather near the data."""
    if exponent <= 0:
        raise ValueError(f"the exponent of a grid must be positive, not {exponent}.")
    return uniform(n, start ** (1 / exponent), end ** (1 / exponent)) ** exponent


def karras(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """Karras et al. 2022 (2206.00364), eq. 5: sigma = s/a equal in sigma^(1/rho), then one step to 0.

    ``n`` counts the steps, the last to 0 included: their n. Levels beyond the process' own are cut to it.
    """

    def schedule(process: Gaussian) -> Grid:
        ramp = torch.linspace(0, 1, _steps(n), dtype=torch.float64)
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        sigma = (high + ramp * (low - high)) ** rho
        time = process.time(-sigma.log())
        return torch.cat([time, torch.zeros(1, dtype=torch.float64)])

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
