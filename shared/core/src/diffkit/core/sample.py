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
from diffkit.core.plan import Between, Frame, Plan, integrate
from diffkit.core.predict import anchor, restored
from diffkit.core.process import Gaussian, Process
from diffkit.core.solvers import Sampler, Solver, ddim
from diffkit.core.types import Denoiser, Draw, begin, leaves


def plan_for(solver: Solver, process: Gaussian | Joint, grid: Grid | Schedule) -> Plan | dict[str, Plan]:
    """The plan of a process, or one for each Gaussian leaf of a joint process on the same times."""
    if isinstance(process, Joint):
        times = _resolve(grid, process)
        return {name: solver(leaf, times) for name, leaf in _split(process)[0].items()}
    return solver(process, grid)


def start(process: Process, like: Any, draw: Draw, *, y: Any = None, t: Tensor | float = 1.0) -> Any:
    """A draw of the prior at time ``t`` (a scalar, or the first axes of the state), shaped as ``like``."""
    noise = draw(-1, like)
    if isinstance(process, Joint):
        return {name: law.sample(noise[name]) for name, law in process.prior(like, y=y, t=t).items()}
    return process.prior(like, y=y, t=t).sample(noise)


def sample(
    denoise: Denoiser,
    process: Process,
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
        solver: :func:`~diffkit.core.solvers.ddim` by default; or a sampler that is no table. What is not Gaussian
            needs none: it is sampled by :func:`ancestral`, and beside Gaussian leaves by :func:`follow`.
        grid: 20 uniform steps by default; one that starts below 1 is a warm start from the anchor. Rows of
            it are for the samples, or for the tokens of each.
        plan: instead of both: a table, as a search finds it; one for each Gaussian leaf of a joint process.
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
    run: Callable[..., Any]
    if plan is None:
        times = _resolve(uniform(20) if grid is None else grid, process)
        run = partial(_run, solver, process=process, grid=times, draw=draw, between=between)
        initial, end = times[..., 0], times[..., -1]
    else:
        run = partial(follow, process=process, plan=plan, draw=draw, between=between)
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
    elif not isinstance(process, Gaussian):
        raise ValueError("only a Gaussian process has an anchor: condition the network by closing over y.")
    else:
        z = run(anchor(denoise, process, y), x=restored(process, x, -y, initial))
        out = restored(process, z, y, end)
    if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves(out)):
        raise FloatingPointError(
            "sampling gave values that are not finite: the network or the grid is at fault."
        )
    return out


def _split(process: Process) -> tuple[dict[str, Gaussian], dict[str, Process]]:
    """The leaves that follow a plan and the others; a process that is no joint one is its own leaf."""
    parts = process if isinstance(process, Joint) else {"": process}
    gaussian = {name: leaf for name, leaf in parts.items() if isinstance(leaf, Gaussian)}
    return gaussian, {name: leaf for name, leaf in parts.items() if name not in gaussian}


def _resolve(grid: Grid | Schedule, process: Process) -> Grid:
    gaussian, _ = _split(process)
    if gaussian:
        return resolve(grid, next(iter(gaussian.values())))
    if not isinstance(grid, Tensor):
        raise ValueError(f"{type(process).__name__} has no levels of noise: use a grid in time, as uniform.")
    return check(grid)


def _run(
    solver: Solver | Sampler | None,
    denoise: Denoiser,
    *,
    process: Any,
    x: Any,
    grid: Grid,
    draw: Draw,
    between: Between | None,
) -> Any:
    if not _split(process)[0]:
        if solver is not None:
            raise ValueError(f"{type(process).__name__} is sampled by its posterior: leave the solver out.")
        return ancestral(process, denoise, x, grid, draw=draw, between=between)
    solver = solver or ddim()
    if isinstance(solver, Solver):
        return follow(denoise, process, x, plan_for(solver, process, grid), draw=draw, between=between)
    if isinstance(process, Joint) or between is not None or grid.ndim > 1:
        raise ValueError(
            "joint processes, `between` and grids by sample need a solver with a plan, not a plain sampler."
        )
    return solver(begin(denoise), process, x, grid, draw=draw)


def follow(
    denoise: Denoiser,
    process: Process,
    x: Any,
    plan: Plan | Mapping[str, Plan],
    *,
    draw: Draw,
    between: Between | None = None,
) -> Any:
    """:func:`~diffkit.core.plan.integrate` of a joint process whose plan is of its Gaussian leaves only.

    After each row the other leaves are drawn from their posterior, given the same prediction, from the row's time to
    the next row's: one call of the network for all. ``between`` sees the memory with both. ValueError for a plan
    whose times rise (churn, restart), or fall without a call: a posterior needs a prediction, and no more noise.
    """
    _, others = _split(process)
    if not others:
        return integrate(denoise, x, plan, draw=draw, between=between)
    if isinstance(plan, Plan):
        raise ValueError("only Gaussian leaves follow a plan: give a mapping, with a plan for each of them.")
    first, inner = next(iter(plan.values())), begin(between)
    times = torch.cat([first.t, first.end.expand(first.t.shape[1:])[None]])
    falls = -times.reshape(len(times), -1).diff(dim=0)
    still = ~torch.tensor([row.calls for row in first.rows])
    if bool((falls < 0).any()) or bool(falls[still].any()):
        raise ValueError(f"the leaves {', '.join(others)} need a plan whose times fall, with a call at each.")
    moments = times.to(leaves(x)[0].device).unbind()

    def jump(frame: Frame) -> list[Any]:
        state, (t, u) = frame.memory[0], moments[frame.step : frame.step + 2]
        if frame.x0 is not None:
            noise = draw(frame.step, frame.x)
            laws = {n: leaf.posterior(frame.x[n], frame.x0[n], t, u) for n, leaf in others.items()}
            state = {**state, **{n: law.sample(noise[n]) for n, law in laws.items()}}
        memory = [state, *frame.memory[1:]]
        return memory if inner is None else inner(frame._replace(memory=memory))

    table = {**dict.fromkeys(others, _still(first)), **plan}
    return integrate(denoise, x, {n: table[n] for n in x}, draw=draw, between=jump)


def _still(plan: Plan) -> Plan:
    """A plan that leaves its state alone, beside the rows of ``plan``."""
    U, V = torch.zeros_like(plan.U), torch.zeros_like(plan.V)
    U[:, 0] = V[:, 0, 0] = 1
    return Plan(plan.t, U, V, torch.zeros_like(plan.B), torch.zeros_like(plan.C), plan.end)


def ancestral(
    process: Process,
    denoise: Denoiser,
    x: Any,
    grid: Grid,
    *,
    draw: Draw,
    y: Any = None,
    between: Between | None = None,
) -> Any:
    """Draw x_u from ``process.posterior`` at every step: for any process, linear or not.

    For Gaussian processes ``ddim(eta=1)`` is the same sampler as a plan. ``between`` sees the state as the only slot
    of memory.
    """
    grid, denoise, between = check(grid), begin(denoise), begin(between)
    times = grid.to(leaves(x)[0].device).unbind(-1)
    for k, (t, u) in enumerate(pairwise(times)):
        d = denoise(x, t)
        law, noise = process.posterior(x, d, t, u, y=y), draw(k, x)
        drawn = law.sample(noise) if isinstance(x, Tensor) else {n: law[n].sample(noise[n]) for n in x}
        frame = Frame(k, float(grid[..., k].max()), x, d, [drawn])
        x = drawn if between is None else between(frame)[0]
    return x
