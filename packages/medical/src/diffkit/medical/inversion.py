"""From an image to noise, to come back under another condition; what is not to change is held at every step.

A way gives the states that it came by. Held outside of a region while a solver leads back, they bring the image
there as it was, and the network sees the new with its true surroundings at every level of noise.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid
from diffkit.core.plan import Between, Frame, Step, tabulate, vectors, walk
from diffkit.core.process import Gaussian
from diffkit.core.solvers import Solver, bdia, ddim
from diffkit.core.solvers.base import eps_at, nodes, transfer
from diffkit.core.types import Denoiser, Draw

Memory = list[Any]
"""The slots of a solver."""

Way = Callable[[Denoiser, Gaussian, Tensor, Grid, Draw], tuple[Solver, list[Memory]]]
"""From an image to noise: ``(denoise, process, x, grid, draw)`` to the solver that leads back, and its memory at every
time of the grid, which descends to the image."""


def exact(
    denoise: Denoiser, process: Gaussian, x: Tensor, grid: Grid, draw: Draw
) -> tuple[Solver, list[Memory]]:
    """The inverse of BDIA's plan: the way back under the same denoiser ends at x."""
    solver = bdia()
    states = [frame.memory for frame in walk(denoise, x, solver(process, grid).inverse())]
    return solver, [*reversed(states), [x, torch.zeros_like(x)]]


def approximate(
    denoise: Denoiser, process: Gaussian, x: Tensor, grid: Grid, draw: Draw
) -> tuple[Solver, list[Memory]]:
    """DDIM upward (Song et al. 2021, 2010.02502, section 4.3), each step by the noise found at its end's level."""
    state, d, _ = vectors("x d z")
    path = nodes(process, grid.flip(0))
    steps = []
    for t, u in pairwise(path):
        there = state * (u.a / t.a)
        steps.append(Step(u.t, at=there, carry=(transfer(t, u, state, eps_at(u, there, d)),)))
    states = [frame.memory for frame in walk(denoise, x, tabulate(steps))]
    return ddim(), [*reversed(states), [x]]


def renoised(
    denoise: Denoiser, process: Gaussian, x: Tensor, grid: Grid, draw: Draw
) -> tuple[Solver, list[Memory]]:
    """PIE's own: the image with one draw of noise at every level."""
    noise = draw(0, x)
    return ddim(), [[process.corrupt(x, t, noise=noise)] for t in grid[:-1]] + [[x]]


WAYS: dict[str, Way] = {"exact": exact, "approximate": approximate, "renoise": renoised}
"""From an image to noise, by name."""


def hold(room: Tensor, states: list[Memory]) -> Between:
    """Keep ``states``, the memory at every time of a grid, as the room is 0, and what is new as it is 1."""

    def between(frame: Frame) -> Memory:
        return [
            torch.lerp(old, new, room) for new, old in zip(frame.memory, states[frame.step + 1], strict=True)
        ]

    return between
