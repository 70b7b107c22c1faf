"""Langevin sampling: annealed (Song and Ermon 2019), and as a corrector (Song et al. 2021).

Annealed steps are fixed, so they are a plan. The step of predictor-corrector sampling (2011.13456, algorithms
1 and 4) depends on the ratio of two norms, so that is no plan but a plain function.
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor

from diffkit.core.grid import Grid, check
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, first_noise, nodes
from diffkit.core.types import Denoiser, Draw


class Sampler(Protocol):
    """A method that is no table: from ``x`` at ``grid[0]`` to the end of ``grid``."""

    def __call__(self, denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any: ...


def annealed_langevin(step: float = 0.2, corrections: int = 100) -> Solver:
    """Annealed Langevin dynamics, Song and Ermon 2019 (1907.05600), algorithm 1.

    ``corrections`` steps x + step s^2/2 score + s sqrt(step) z at every time of the grid with noise, x/a kept
    from one to the next; at s = 0 one more call returns the prediction. ``step`` is their alpha_i/sigma_i^2, the
    same at all levels (epsilon/sigma_L^2: 2e-5/0.01^2, with 100 steps at each). Order 0: what it converges
    in is the number of corrections, up to a variance that is larger by at most 1/(1 - step/4) on a normal law.
    """
    if not 0 < step < 4 or corrections < 1:
        raise ValueError(f"annealed Langevin needs 0 < step < 4 and a correction, not {step}, {corrections}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, d, z = vectors("x d z")
        path = nodes(process, grid)
        if not path[0].regular:
            raise ValueError(
                "annealed Langevin needs signal and noise at its first level: begin below t = 1."
            )
        levels = [n for n in path if n.s > 0]
        for t, u in zip_longest(levels, levels[1:]):
            moved = x + (t.a * d - x) * (step / 2) + z * (t.s * math.sqrt(step))
            yield from (Step(t.t, at=x, carry=(moved,)) for _ in range(corrections - 1))
            yield Step(t.t, at=x, carry=(moved if u is None else moved * (u.a / t.a),))
        if path[-1].s == 0:
            yield Step(levels[-1].t, at=x, carry=(d,))

    return Solver("annealed_langevin", 0, steps)


def pc(snr: float = 0.5, corrections: int = 1) -> Sampler:
    """:func:`predictor_corrector` with its options, for :func:`diffkit.core.sample.sample`."""
    return partial(predictor_corrector, snr=snr, corrections=corrections)


def predictor_corrector(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    grid: Grid,
    *,
    draw: Draw,
    snr: float = 0.5,
    corrections: int = 1,
) -> Any:
    """From ``x`` at ``grid[0]`` to its end: at each time ``corrections`` Langevin steps, then a prediction.

    The predictor is Euler-Maruyama on the reverse SDE (reverse diffusion); the corrector's step is
    2 (snr |z|/|score|)^2, with norms averaged over the batch. The mean of the last step is returned.
    ``corrections`` + 1 calls a step. With an anchor work in z, with :func:`diffkit.core.predict.anchor`.
    """
    grid = check(grid)
    first_noise(process, grid)
    a, s, c = process.a(grid), process.s(grid), process.c(grid)
    dc = torch.func.jvp(process.c, (grid,), (torch.ones_like(grid),))[1]
    ds = torch.func.jvp(process.s, (grid[:-1],), (torch.ones_like(grid[:-1]),))[1]
    drift = dc / c
    power = 2 * s[:-1] * ds - 2 * drift[:-1] * s[:-1] ** 2  # g^2 of dn = (c'/c) n dt + g dw
    key = 0
    mean = x
    for k in range(len(grid) - 1):
        t = grid[k].to(x.device)

        def score(x: Tensor, t: Tensor = t, a: float = float(a[k]), s: float = float(s[k])) -> Tensor:
            return (a * denoise(x, t) - x) / s**2

        for _ in range(corrections):
            gradient, noise = score(x), draw(key, x)
            key += 1
            step = 2 * (snr * _norm(noise) / _norm(gradient)) ** 2
            x = x + step * gradient + (2 * step).sqrt() * noise
        gap = float(grid[k] - grid[k + 1])
        g2 = max(float(power[k]), 0.0)
        mean = x - gap * (float(drift[k]) * x - g2 * score(x))
        x = mean + (g2 * gap) ** 0.5 * draw(key, x)
        key += 1
    return mean


def _norm(value: Tensor) -> Tensor:
    return torch.linalg.vector_norm(value.flatten(1), dim=1).mean()
