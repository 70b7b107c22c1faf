r"""Feynman-Kac steering by a reward on predictions: Singhal et al. 2025 (2501.06848).

Particles follow any stochastic solver. Their weights gather potentials G_k on the way, functions of the rewards
r_k = r(x0hat_k) of a particle's predictions so far, and resampling copies the promising. What is left at the end
is the potential exp(scale r(x0))/prod G_k, so that whatever the potentials, the target is p(x0) exp(scale r(x0)):

    difference  G_k = exp(scale (r_k - r_(k-1)))     the rewards telescope
    max         G_k = exp(scale max_(j<=k) r_j)
    sum         G_k = exp(scale sum_(j<=k) r_j)

The target is met exactly, in the limit of many particles, for the law that the solver itself draws from. Every
judged row adds a factor of the size of exp(scale r) to max and sum, which the end takes back: judge few.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, uniform
from diffkit.core.joint import Joint
from diffkit.core.noise import NoiseLaw, normal
from diffkit.core.plan import Frame, Plan
from diffkit.core.predict import restored
from diffkit.core.process import Gaussian
from diffkit.core.sample import follow, plan_for, start
from diffkit.core.solvers import Solver, ddim
from diffkit.core.steer.particles import Particles, Resampling, select, systematic
from diffkit.core.steer.swarm import Swarm, anchored, as_state
from diffkit.core.types import Denoiser, lookup

_FOLD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "difference": lambda past, value: value,
    "max": torch.maximum,
    "sum": torch.add,
}
_EMPTY = {"difference": 0.0, "max": -math.inf, "sum": 0.0}


def fk_steer(
    denoise: Denoiser,
    process: Gaussian | Joint,
    like: Any,
    reward: Callable[[Any], Tensor],
    *,
    particles: int,
    scale: float = 1.0,
    potential: Literal["difference", "max", "sum"] = "difference",
    rows: int | Container[int] = 1,
    threshold: float = 0.5,
    resampling: Resampling = systematic,
    y: Any = None,
    solver: Solver | None = None,
    grid: Grid | Schedule | None = None,
    plan: Plan | Mapping[str, Plan] | None = None,
    seeds: Sequence[int] | None = None,
    law: NoiseLaw | Mapping[str, NoiseLaw] = normal,
) -> Particles:
    """Weighted samples of p(x0) exp(scale r(x0)), by a solver that draws noise.

    Args:
        denoise: ``(x_t, t) -> E[x0 | x_t]`` of the whole batch. What a guide remembers of a sample (a momentum)
            stays in its place when the particles move: leave it off.
        like: a state or shape ``[groups * particles, ...]``, the particles of a group side by side and under one
            condition, since they change places.
        reward: of x0 or a prediction of it, ``[batch, ...]``, to ``[batch]``; -inf forbids, for good.
        scale: lambda; 10 in the paper, for rewards of order 1.
        potential: see the module.
        rows: of the plan whose predictions are judged: every so many, or these. ``range(5, 31, 5)`` of 100 is the
            paper's. The last is not, since the end is.
        threshold: resample a group when its effective sample size falls below this share; 1 at every judged
            row, 0 never. The paper's code then forgets the weights of groups that it leaves, a bias.
        solver: ``ddim(1.0)``, ancestral, by default.
        grid: 100 uniform steps by default.
        seeds: one for each group; random by default.
        y, plan, law: as in :func:`~diffkit.core.sample.sample`.

    Raises:
        ValueError: for a scale that is not finite, a batch that the particles do not divide, a reward of another
            shape, NaN or infinite, groups whose weights are all zero, and a plan that draws no noise: there
            the copies of a particle stay copies, and best of all is not to resample (``threshold=0``).
        FloatingPointError: if the samples are not finite.
    """
    if not math.isfinite(scale):
        raise ValueError(f"the scale of a reward must be finite, not {scale}.")
    fold = lookup(potential, _FOLD, "potential")
    if plan is not None and (solver is not None or grid is not None):
        raise ValueError("a plan is a solver on a grid already: give the plan, or solver and grid.")
    if isinstance(rows, int) and rows < 1:
        raise ValueError(f"rewards are taken every so many rows, at least 1, not {rows}.")
    if plan is None:
        plan = plan_for(solver or ddim(1.0), process, uniform(100) if grid is None else grid)
    tables = [plan] if isinstance(plan, Plan) else list(plan.values())
    if threshold and not any(table.noisy for table in tables):
        raise ValueError(
            "a plan without noise leaves copies of a particle alike: use a stochastic solver (ancestral, dpmpp_sde, "
            "sa), or threshold=0 to weigh alone."
        )
    if any(table.U.ndim > 2 and table.U.shape[2] > 1 for table in tables):
        raise ValueError("particles change places, so all must have one grid: give one row of times.")
    like = as_state(like)
    swarm = Swarm("the reward", like, particles, seeds, law, threshold, resampling)
    last = len(tables[0].t) - 1
    total = torch.full_like(swarm.log_weights.flatten(), _EMPTY[potential])
    spent = torch.zeros_like(total)

    def judge(x0: Any) -> Tensor:
        return swarm.values(reward(x0), scale).detach()

    def due(step: int) -> bool:
        return step % rows == 0 if isinstance(rows, int) else step in rows

    def between(frame: Frame) -> list[Any]:
        nonlocal total, spent
        if frame.x0 is None or frame.step == last or not due(frame.step):
            return frame.memory
        total = fold(total, judge(frame.x0))
        gain = total - spent if potential == "difference" else total
        swarm.weigh(gain)
        spent = spent + gain
        index = swarm.resample(frame.step)
        total, spent = total[index], spent[index]
        return [select(slot, index) for slot in frame.memory]

    x = start(process, like, swarm.draw, y=y, t=tables[0].t[0])
    z, denoise = anchored(denoise, process, x, y, tables[0].t[0])
    z = follow(denoise, process, z, plan, draw=swarm.draw, between=between)
    x0 = restored(process, z, y, tables[0].end)
    swarm.weigh(judge(x0) - spent)
    return swarm.end(x0, last + 1)
