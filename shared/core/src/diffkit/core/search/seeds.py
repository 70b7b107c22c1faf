"""Seeds that serve every input: golden seeds, and optimal boundary conditions of few-step samplers.

A sample is a function of its seed, so a seed is a start. Some are better than others over most inputs (Xu et
al. 2024, 2405.14828; for super-resolution Ma et al. 2023, 2305.15357). The best of many on few inputs is partly
luck, so the score to report is that on inputs it was not chosen on.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule
from diffkit.core.process import Gaussian
from diffkit.core.sample import sample
from diffkit.core.solvers import Sampler, Solver
from diffkit.core.types import Denoiser


class Ranked(NamedTuple):
    """A seed with its mean loss on the inputs that it was chosen on, and on those held out."""

    seed: int
    loss: float
    held_out: float


class Ranking(NamedTuple):
    """The best seeds, the best first, and what to hold them against."""

    best: list[Ranked]
    baseline: float
    """The mean loss, on the inputs held out, of as many seeds drawn at random."""

    @property
    def seeds(self) -> list[int]:
        """The numbers alone, for ``sample(..., seeds=...)``."""
        return [ranked.seed for ranked in self.best]

    @property
    def gain(self) -> float:
        """How much the best seeds lower the loss on inputs held out; 0 within noise if seeds do not matter."""
        return self.baseline - fmean(ranked.held_out for ranked in self.best)


def rank(
    loss: Callable[[int, Any], float],
    seeds: Sequence[int],
    selection: Sequence[Any],
    held_out: Sequence[Any],
    *,
    keep: int = 1,
    seed: int = 0,
) -> Ranking:
    """The ``keep`` seeds of the lowest mean loss on ``selection``, judged on ``held_out``.

    Args:
        loss: ``(seed, input) -> number``, lower is better; for a score of whole sets let an input be a set.
        seeds: the candidates.
        selection, held_out: inputs; they must not share any.
        seed: of the random seeds to compare with.

    Raises:
        ValueError: no candidates, no inputs, or ``keep`` beyond the candidates.
    """
    if not 1 <= keep <= len(seeds):
        raise ValueError(
            f"keep {keep} of {len(seeds)} seeds is not possible: give 1 to as many as there are."
        )
    if not selection or not held_out:
        raise ValueError("ranking seeds needs inputs to choose on and others, held out, to judge on.")
    scored = sorted((fmean(loss(s, one) for one in selection), k) for k, s in enumerate(seeds))

    def judge(s: int) -> float:
        return fmean(loss(s, one) for one in held_out)

    best = [Ranked(seeds[k], value, judge(seeds[k])) for value, k in scored[:keep]]
    others = torch.randperm(len(seeds), generator=torch.Generator().manual_seed(seed))[:keep]
    return Ranking(best, fmean(judge(seeds[k]) for k in others.tolist()))


class Reference(NamedTuple):
    """An input whose answer is known: its denoiser, what to restore, and the anchor of a bridge."""

    denoise: Denoiser
    x0: Tensor
    y: Tensor | None = None


def boundary(
    process: Gaussian,
    seeds: Sequence[int],
    selection: Sequence[Reference],
    held_out: Sequence[Reference],
    *,
    solver: Solver | Sampler | None = None,
    grid: Grid | Schedule | None = None,
    distance: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.mse_loss,
    keep: int = 1,
) -> Ranking:
    """Optimal boundary conditions: the starts whose restorations are closest to the truth, whatever the input.

    Args:
        process: of the denoisers.
        seeds: the candidate starts; the same seed is the same start for inputs of one shape.
        selection, held_out: inputs with their truths ``[batch, ...]``.
        solver, grid: as the starts will be used, see :func:`~diffkit.core.sample.sample`.
        distance: ``(restored, truth) -> scalar``; the paper's is LPIPS.
        keep: how many to keep.
    """

    @torch.no_grad()
    def loss(seed: int, one: Reference) -> float:
        alike = [seed] * len(one.x0)
        out = sample(one.denoise, process, one.x0, y=one.y, solver=solver, grid=grid, seeds=alike)
        return float(distance(out, one.x0))

    return rank(loss, seeds, selection, held_out, keep=keep)
