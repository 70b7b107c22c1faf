"""What a search imitates: a fine trajectory of the same denoiser, recorded at every time of a grid.

States and denoisers of a search are in z = x - b(t) y, like those of :func:`~diffkit.core.plan.integrate`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, resolve, uniform
from diffkit.core.noise import Seeds
from diffkit.core.plan import walk
from diffkit.core.process import Gaussian
from diffkit.core.solvers import Solver, adams
from diffkit.core.types import Denoiser, Draw


class Trajectory(NamedTuple):
    """A recorded run over the times ``t`` ``[n + 1]``."""

    t: Grid
    x: list[Tensor]
    """The state at every time; the last is the end."""
    d: list[Tensor]
    """The prediction at every time but the last."""
    noise: Tensor | None
    """What the first step drew: at a bridge's end the state is the anchor, and noise takes its place."""


@torch.no_grad()
def record(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    *,
    grid: Grid | Schedule | None = None,
    solver: Solver | None = None,
    draw: Draw | None = None,
) -> Trajectory:
    """Run ``solver`` (default: :func:`~diffkit.core.solvers.adams` of order 3) from ``x`` over ``grid``.

    Args:
        denoise: ``(z, t) -> E[x0 | z_t]``; see :func:`diffkit.core.predict.anchor` for a bridge.
        process: of the denoiser.
        x: starts ``[batch, ...]`` at the first time of the grid.
        grid: the candidate times of a search; 100 uniform steps by default.
        draw: the noise with which a bridge's end is left; by default of the seeds 0, 1, ...

    Raises:
        ValueError: the solver draws noise on its way, and so has no one trajectory.
        FloatingPointError: the trajectory is not finite.
    """
    times = resolve(uniform(100) if grid is None else grid, process)
    draw = draw or Seeds(range(len(x)))
    plan = (solver or adams(3))(process, times)
    if any(row.noisy for row in plan.rows[1:]):
        raise ValueError(
            "a search needs a teacher without noise on its way: use ddim or adams, not an SDE's."
        )
    where = {t: k for k, t in enumerate(times.tolist())}
    states, predictions = [x] * len(times), [x] * (len(times) - 1)
    for frame in walk(denoise, x, plan, draw=draw):
        if (
            k := where.get(frame.t)
        ) is not None:  # of several calls at one time the last is at the state itself
            states[k], predictions[k] = frame.x, frame.x0
        states[-1] = frame.memory[0]
    if not bool(torch.isfinite(states[-1]).all()):
        raise FloatingPointError(
            "the teacher's trajectory is not finite: the network or the grid is at fault."
        )
    return Trajectory(times, states, predictions, draw(0, x) if plan.rows[0].noisy else None)


def even(times: Tensor, budget: int) -> Tensor:
    """``budget`` + 1 entries of ``times`` at equal distances; ValueError if it has fewer."""
    last = len(times) - 1
    if not 1 <= budget <= last:
        raise ValueError(f"a grid of {last} steps has no path of {budget}: change the budget.")
    return times[[round(k * last / budget) for k in range(budget + 1)]]


def jump(rule: Solver, process: Gaussian, pair: Grid) -> tuple[float, float, float]:
    """The weights of state, prediction and noise of one step of ``rule`` between the two times of ``pair``.

    ValueError if it takes more than one call.
    """
    steps = list(rule.steps(process, pair))
    if len(steps) != 1:
        raise ValueError(f"a jump is one call, and a step of {rule.name} takes {len(steps)}: use ddim.")
    weights = [float(w) for w in steps[0].carry[0].weights]
    return weights[0], weights[-2], weights[-1]
