r"""Runge-Kutta along geodesics: the flow of processes on manifolds and their products.

A step takes its rule in normal coordinates around its start x, y = log_x(p), where the flow is an equation in a
vector space, dy/dt = Dlog_x(p) v(p), so that every rule keeps its order on every manifold. Chen and Lipman 2023
(2302.03660) take Euler's rule.
"""

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor

from diffkit.core.grid import Grid, check
from diffkit.core.manifold import Curved
from diffkit.core.solvers.base import weigh
from diffkit.core.solvers.runge_kutta import RULES
from diffkit.core.types import Denoiser, begin, each, leaves, lookup


def geodesic(
    denoise: Denoiser,
    process: Curved[Any] | Mapping[str, Curved[Any]],
    x: Any,
    grid: Grid,
    *,
    rule: str = "heun2",
) -> Any:
    """From ``x`` at ``grid[0]`` to its end along the process' velocity at the point ``denoise(x, t)``.

    ``x`` is a state, or leaves each on the manifold of its own process. ``rule`` is one of
    :data:`~diffkit.core.solvers.runge_kutta.RULES`, with as many calls a step as it has stages; a step to t = 0
    returns the prediction. Nothing is drawn.

    ValueError for an unknown rule, a state off its manifold, or a grid with rows.
    """
    stages, grid = lookup(rule, RULES, "Runge-Kutta rule"), check(grid)
    if grid.ndim > 1:
        raise ValueError("geodesics are followed on one row of times for all samples.")
    each(lambda x, process: process.manifold.check(x), x, process)
    denoise, device = begin(denoise), leaves(x)[0].device
    for start, end in pairwise(grid):
        if end == 0:
            return denoise(x, start.to(device))
        point, time, slopes = x, start, list[Any]()
        way = each(lambda x, process: process.manifold.log(x, x), x, process)  # zero, shaped as a tangent
        for share, weights in zip([*stages.times, 1.0], stages.weights, strict=True):
            toward = denoise(point, time.to(device))
            slopes.append(each(partial(_slope, time), x, way, point, toward, process))
            spans = [float(end - start) * weight for weight in weights]
            way = each(lambda *slopes, spans=spans: weigh(spans, slopes), *slopes)
            point = each(lambda x, way, process: process.manifold.exp(x, way), x, way, process)
            time = start + share * (end - start)
        x = point
    return x


def _slope(t: Tensor, x: Tensor, way: Tensor, point: Tensor, toward: Tensor, process: Curved[Any]) -> Tensor:
    """The velocity at ``point`` = exp_x(way), in normal coordinates around ``x``."""
    return process.manifold.pull(x, way, process.velocity(point, toward, t))
