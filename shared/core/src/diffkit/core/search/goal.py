"""What searches for a plan minimise: how far its ends are from those of a fine trajectory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from diffkit.core.grid import Grid
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import Gaussian
from diffkit.core.search.teacher import record
from diffkit.core.solvers import Solver
from diffkit.core.types import Denoiser, Draw

Score: TypeAlias = Callable[[Tensor], float]
"""Of a batch of end states ``[batch, ...]``; lower is better."""


@dataclass(frozen=True, eq=False)
class Goal:
    """How far plans end from the teacher, started at ``x``; or a score of where they end.

    A plan may start below the teacher, at a time t where x s(t)/s(start) is what
    :func:`~diffkit.core.sample.sample` draws; where there is an anchor, or no noise at the start, it may not.
    """

    denoise: Denoiser
    process: Gaussian
    x: Tensor
    start: Tensor
    draw: Draw
    truth: Tensor | None
    score: Score | None

    @classmethod
    def of(
        cls,
        denoise: Denoiser,
        process: Gaussian,
        x: Tensor,
        *,
        grid: Grid,
        teacher: Solver | None = None,
        draw: Draw | None = None,
        score: Score | None = None,
    ) -> "Goal":
        """The arguments are those of :func:`~diffkit.core.search.teacher.record`; a score needs no teacher."""
        draw, truth = draw or Seeds(range(len(x))), None
        if score is None:
            truth = record(denoise, process, x, grid=grid, solver=teacher, draw=draw).x[-1]
        return cls(denoise, process, x, grid[0], draw, truth, score)

    @property
    def lowers(self) -> bool:
        """Whether a plan may start below the teacher."""
        times = torch.stack([self.start / 2, self.start])
        return float(self.process.s(self.start)) > 0 and not bool(self.process.b(times).any())

    @torch.no_grad()
    def reach(self, plan: Plan) -> Tensor:
        """Where the plan ends."""
        x, first = self.x, plan.t[0]
        if first != self.start:
            if not self.lowers:
                raise ValueError(
                    f"the plan starts at {float(first):g} and the teacher at {float(self.start):g}."
                )
            x = x * float(self.process.s(first) / self.process.s(self.start))
        return integrate(self.denoise, x, plan, draw=self.draw)

    def errors(self, plan: Plan) -> Tensor:
        """The mean squared error from each start, float64 ``[batch]``; or the score, ``[1]``."""
        end = self.reach(plan)
        if self.truth is None or self.score is not None:
            return torch.tensor([self.score(end) if self.score else torch.inf], dtype=torch.float64)
        return (end - self.truth).flatten(1).square().mean(1).to("cpu", torch.float64)


def halves(errors: Tensor) -> tuple[float, float]:
    """The mean over the starts that a search sees, and over every second one, which it does not."""
    held_out = errors[1::2] if len(errors) > 1 else errors
    return float(errors[::2].mean()), float(held_out.mean())
