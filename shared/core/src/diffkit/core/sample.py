"""Sampling in one call: the start from the prior, the plan, the loop."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, check, resolve, uniform
from diffkit.core.joint import Joint
from diffkit.core.noise import NoiseLaw, Seeds, normal
from diffkit.core.plan import Between, Plan, integrate
from diffkit.core.predict import anchor
from diffkit.core.process import Gaussian, Process
from diffkit.core.solvers import Sampler, Solver, ddim
from diffkit.core.types import Denoiser, Draw, begin, expand_as, leaves


def plan_for(solver: Solver, process: Gaussian | Joint, grid: Grid | Schedule) -> Plan | dict[str, Plan]:
    """The plan of a process, or one for each leaf of a joint process on the same times."""
    if isinstance(process, Joint):
        times = resolve(grid, next(iter(process.values())))
        return {name: solver(leaf, times) for name, leaf in process.items()}
    return solver(process, grid)


def start(process: Gaussian | Joint, like: Any, draw: Draw, *, y: Any = None, t: Tensor | float = 1.0) -> Any:
    """A draw of the prior at time ``t`` (a scalar, or the first axes of the state), shaped as ``like``."""
    noise = draw(-1, like)
    if isinstance(process, Joint):
        return {name: law.sample(noise[name]) for name, law in process.prior(like, y=y, t=t).items()}
    return process.prior(like, y=y, t=t).sample(noise)


def sample(
    denoise: Denoiser,
    process: Gaussian | Joint,
    like: Any,
    *,
    y: Any = None,
    solver: Solver | Sampler | None = None,
    grid: Grid | Schedule | None = None,
    plan: Plan | Mapping[str, Plan] | None = None,
    seeds: Sequence[int] | None = None,
    law: NoiseLaw | Mapping[str, NoiseLaw] = normal,
    between: Between | None = None,
) -> Any:
    """Draw x0 by integrating from the prior to the end of ``grid``, or of ``plan``.

    Args:
        denoise: ``(x_t, t) -> E[x0 | x_t]`` in x; see :func:`diffkit.core.predict.wrap`.
        process: what the denoiser was trained on.
        like: a state whose shape, dtype and device the samples take, or a shape ``(batch, ...)``.
        y: the anchor of a bridge, of the shape of ``like``.
        solver: :func:`~diffkit.core.solvers.ddim` by default; or a sampler that is no table.
        grid: 20 uniform steps by default; one that starts below 1 is a warm start from the anchor. Rows of
            it are for the samples, or for the tokens of each.
        plan: instead of both: a table, as a search finds it; one for each leaf of a joint process.
        seeds: one for each sample, which is a function of its own seed alone; random by default.
        law: of the noise.
        between: see :func:`~diffkit.core.plan.integrate`.

    Raises:
        ValueError: for a plan beside a solver or a grid, or rows that are not those of the state.
        FloatingPointError: if the result is not finite.
    """
    if plan is not None and (solver is not None or grid is not None):
        raise ValueError("a plan is a solver on a grid already: give the plan, or solver and grid.")
    if isinstance(like, (tuple, torch.Size)):
        like = torch.empty(like)
    first = leaves(like)[0]
    chosen = [secrets.randbits(40) for _ in range(len(first))] if seeds is None else list(seeds)
    draw = Seeds(chosen, law)
    leading = next(iter(process.values())) if isinstance(process, Joint) else process
    run: Callable[..., Any]
    if plan is None:
        times = resolve(uniform(20) if grid is None else grid, leading)
        run = partial(_run, solver or ddim(), process=process, grid=times, draw=draw, between=between)
        initial, end = times[..., 0], times[..., -1]
    else:
        run = partial(integrate, plan=plan, draw=draw, between=between)
        table = plan if isinstance(plan, Plan) else next(iter(plan.values()))
        initial, end = table.t[0], table.end
    if initial.shape != first.shape[: initial.ndim]:
        raise ValueError(
            f"the grid has rows for {tuple(initial.shape)} and the state is {tuple(first.shape)}: give a row for "
            "each sample, or for each token of each."
        )
    x = start(process, like, draw, y=y, t=initial)
    if y is None:
        out = run(denoise, x=x)
    elif isinstance(process, Joint):
        raise ValueError("a joint process has no anchor yet: condition its network by closing over y.")
    else:
        z = run(anchor(denoise, process, y), x=x - expand_as(process.b(initial), x) * y)
        out = z + expand_as(process.b(end), z) * y
    if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves(out)):
        raise FloatingPointError(
            "sampling gave values that are not finite: the network or the grid is at fault."
        )
    return out


def _run(
    solver: Solver | Sampler,
    denoise: Denoiser,
    *,
    process: Gaussian | Joint,
    x: Any,
    grid: Grid,
    draw: Draw,
    between: Between | None,
) -> Any:
    if isinstance(solver, Solver):
        return integrate(denoise, x, plan_for(solver, process, grid), draw=draw, between=between)
    if isinstance(process, Joint) or between is not None or grid.ndim > 1:
        raise ValueError(
            "joint processes, `between` and grids by sample need a solver with a plan, not a plain sampler."
        )
    return solver(begin(denoise), process, x, grid, draw=draw)


def ancestral(process: Process, denoise: Denoiser, x: Any, grid: Grid, *, draw: Draw, y: Any = None) -> Any:
    """Draw x_u from ``process.posterior`` at every step: for any process, linear or not.

    For Gaussian processes ``ddim(eta=1)`` is the same sampler as a plan.
    """
    times, denoise = check(grid).to(leaves(x)[0].device).unbind(-1), begin(denoise)
    for k, (t, u) in enumerate(pairwise(times)):
        law = process.posterior(x, denoise(x, t), t, u, y=y)
        noise = draw(k, x)
        x = law.sample(noise) if isinstance(x, Tensor) else {n: law[n].sample(noise[n]) for n in x}
    return x
