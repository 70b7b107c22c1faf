"""DPM-Solver with adaptive steps: Lu et al. 2022 (2206.00927), appendix C, DPM-Solver-12 and -23.

Each step has a result of its order and one of an order less from the same calls; their difference sets the
next step. The steps depend on the states, so this is no plan but a plain function.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from diffkit.core.grid import Grid, check
from diffkit.core.plan import integrate, tabulate, walk
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import node, nodes
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.solvers.singlestep import between, single_step
from diffkit.core.types import Denoiser, Draw


class Attempt(NamedTuple):
    """A step that was tried, from ``t`` to ``u``: its error in units of the tolerance, accepted if <= 1."""

    t: float
    u: float
    error: float
    calls: int


def dpm_adaptive(
    order: int = 3,
    *,
    first: float = 0.05,
    atol: float = 0.0078,
    rtol: float = 0.05,
    safety: float = 0.9,
    limit: int = 1000,
    watch: Callable[[Attempt], None] | None = None,
) -> Sampler:
    """:func:`adaptive` with its options, for :func:`diffkit.core.sample.sample`."""
    if order not in (2, 3):
        raise ValueError(f"dpm_adaptive pairs orders 1 and 2, or 2 and 3: order must be 2 or 3, not {order}.")
    if not (first > 0 and atol > 0 and rtol >= 0 and 0 < safety < 1):
        raise ValueError("dpm_adaptive needs first, atol > 0, rtol >= 0 and safety in (0, 1).")
    options = {"first": first, "atol": atol, "rtol": rtol, "safety": safety, "limit": limit, "watch": watch}
    return partial(adaptive, order=order, **options)


def adaptive(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    grid: Grid,
    *,
    draw: Draw,
    order: int,
    first: float,
    atol: float,
    rtol: float,
    safety: float,
    limit: int,
    watch: Callable[[Attempt], None] | None,
) -> Any:
    """From ``x`` at ``grid[0]`` to its end, all samples of the batch by the same steps.

    Of ``grid`` it takes the ends, and where lambda is infinite there, the time beside it, up to which a step
    is DDIM's. ``first`` is the first step in lambda; a step of error E, the largest over the batch of
    rms((high - low)/max(atol, rtol max(|low|, |previous low|))), is kept if E <= 1, and the next is
    ``safety`` E^(-1/order) as long. A step that is not kept leaves its first prediction to the next, where
    released code calls the network again.

    Raises:
        RuntimeError: after ``limit`` steps.
        FloatingPointError: if a state is not finite.
    """
    grid = check(grid)
    path = nodes(process, grid)
    inner = [n for n in path if n.regular]
    if len(inner) < 2:
        raise ValueError("adaptive steps need two times of finite lambda: give the grid more steps.")
    if not path[0].regular:
        x = integrate(denoise, x, ddim()(process, grid[:2]), draw=draw)
    t, end, h, previous = inner[0], inner[-1], first, x
    known: list[Tensor] = []  # the prediction at x, once it is made

    def call(point: Tensor, time: Tensor) -> Tensor:
        if point is not x:
            return denoise(point, time)
        if not known:
            known.append(denoise(point, time))
        return known[0]

    attempts = 0
    while t is not end:
        if attempts == limit:
            raise RuntimeError(f"{limit} adaptive steps did not reach the end: raise atol and rtol.")
        attempts += 1
        fresh = not known
        u = end if t.lam + h >= end.lam else node(process, float(process.time(t.lam + h)))
        inside = next(between(process, [(t, u)], order))
        plan = tabulate(single_step(process, t, inside, u, "noise", embedded=True), u.t)
        *_, frame = walk(call, x, plan)
        high, low = frame.memory[0], frame.memory[-1]
        scale = (rtol * low.abs().maximum(previous.abs())).clamp(min=atol)
        error = float(((high - low) / scale).flatten(1).square().mean(1).sqrt().max())
        if not math.isfinite(error):
            raise FloatingPointError("the states are not finite: the network or the start is at fault.")
        if watch is not None:
            watch(Attempt(t.t, u.t, error, order - 1 + fresh))
        if error <= 1:
            t, x, previous = u, high, low
            known.clear()
        h = safety * h * max(error, 1e-9) ** (-1 / order)
    return x if path[-1].regular else integrate(denoise, x, ddim()(process, grid[-2:]), draw=draw)
