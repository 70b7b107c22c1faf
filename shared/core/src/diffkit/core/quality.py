"""Quality against network calls: how far each sampler ends from many steps of the same denoiser.

A domain makes :class:`Problem` s of a checkpoint and inputs; everything else is the same for all of them.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffkit.core.files import whole
from diffkit.core.grid import GRIDS, Grid, Schedule, resolve, uniform
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan
from diffkit.core.predict import anchor
from diffkit.core.process import Gaussian
from diffkit.core.sample import sample, start
from diffkit.core.saved import named
from diffkit.core.solvers import Solver, adams
from diffkit.core.types import Denoiser, expand_as, lookup

OWN = "own"
"""The name of a problem's own grid."""

REFERENCE = 100
"""Steps of the reference."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A denoiser and the inputs to judge it on.

    Args:
        denoise: ``(x_t, t) -> E[x0 | x_t]`` in x, with the conditions of all inputs closed over.
        process: of the denoiser.
        like: ``[batch, ...]``, whose shape, dtype and device the samples take.
        seeds: of the noise, one for each input; problems to choose on and to judge by must not share any.
        y: the anchor of a bridge.
        grid: ``steps -> grid``, as the checkpoint is sampled by default.
        score: of samples ``[batch, ...]``: the domain's own metrics by name, averaged over the batch.
        checkpoint: the folder of the weights.
        share: axes of the state, from 1, that have no fixed length or meaning and so share their statistics.
    """

    denoise: Denoiser
    process: Gaussian
    like: Tensor
    seeds: Sequence[int]
    y: Tensor | None = None
    grid: Callable[[int], Grid | Schedule] = uniform
    score: Callable[[Tensor], Mapping[str, float]] | None = None
    checkpoint: Path | None = None
    share: Sequence[int] = ()

    @torch.no_grad()
    def sample(self, **method: Any) -> Tensor:
        """Samples by a plan, or by a solver on a grid; see :func:`~diffkit.core.sample.sample`."""
        return sample(self.denoise, self.process, self.like, y=self.y, seeds=self.seeds, **method)

    def reference(self, steps: int = REFERENCE) -> Tensor:
        """What many steps of a third-order method end at."""
        return self.sample(solver=adams(3), grid=self.grid(steps))

    def centred(self, t: float) -> tuple[Denoiser, Tensor]:
        """The denoiser and the starts at time ``t`` in z = x - b y, as a search takes them."""
        x = start(self.process, self.like, Seeds(self.seeds), y=self.y, t=t)
        if self.y is None:
            return self.denoise, x
        shift = self.process.b(torch.tensor(t, dtype=torch.float64))
        return anchor(self.denoise, self.process, self.y), x - expand_as(shift, x) * self.y


class Point(NamedTuple):
    """One plan, measured."""

    method: str
    calls: int
    error: float
    """Root mean square distance from the reference, over the root mean square of the reference."""
    scores: dict[str, float]
    """The domain's metrics."""


class Run(NamedTuple):
    """A way to sample: the calls that it should take, and what to give to :meth:`Problem.sample`."""

    calls: int
    how: Mapping[str, Any]


def planned(plan: Plan) -> Run:
    """The run of a plan."""
    return Run(plan.nfe, {"plan": plan})


def fixed(problem: Problem, solver: str, grid: str, budgets: Iterable[int]) -> list[Run]:
    """The runs of a solver on a grid, both by name: for each budget as many steps as it has calls for.

    A sampler that is no table takes what it takes, and is given as many steps as the budget has calls.
    ValueError for an unknown name, or a solver that has no plan for any budget.
    """
    make = named(solver, problem.checkpoint)
    times = problem.grid if grid == OWN else lookup(grid, {OWN: uniform, **GRIDS}, "grid")
    runs: dict[int, Run] = {}
    reason = "."
    for budget in budgets:
        for steps in range(budget, 0, -1):
            try:
                path = resolve(times(steps), problem.process)
                run = planned(make(problem.process, path)) if isinstance(make, Solver) else None
            except ValueError as error:  # some grids have a few numbers of steps only
                reason = f": {error}"
                continue
            run = run or Run(steps, {"solver": make, "grid": path})
            if run.calls <= budget:
                runs[run.calls] = run
                break
    if not runs:
        raise ValueError(f"{solver} on {grid} has no plan of so few calls{reason}")
    return [runs[calls] for calls in sorted(runs)]


def measure(
    problems: Sequence[Problem],
    runs: Mapping[str, Sequence[Run]],
    *,
    steps: int = REFERENCE,
    advance: Callable[[str, int], None] = lambda name, calls: None,
) -> list[Point]:
    """Every run over all problems.

    Args:
        problems: of one process.
        runs: by the name of their method; see :func:`fixed`.
        steps: of the reference.
        advance: called with a name and the calls of a problem that were done just now.

    Raises:
        FloatingPointError: the denoiser gives values that are not finite.
    """
    truths: list[Tensor] = []
    for problem in problems:
        truths.append(problem.reference(steps))
        advance("reference", steps)
    size = math.sqrt(sum(float(truth.double().square().sum()) for truth in truths)) or 1.0
    inputs = sum(map(len, truths))
    points: list[Point] = []
    for name, run in ((name, run) for name, own in runs.items() for run in own):
        gap, calls, scores = 0.0, 0, dict[str, float]()
        for problem, truth in zip(problems, truths, strict=True):
            counter = _Counter(problem.denoise)
            found = replace(problem, denoise=counter).sample(**run.how)
            calls = max(calls, counter.calls)
            gap += float((found - truth).double().square().sum())
            for metric, value in (problem.score(found) if problem.score else {}).items():
                scores[metric] = scores.get(metric, 0.0) + value * len(truth) / inputs
            advance(name, run.calls)
        points.append(Point(name, calls, math.sqrt(gap) / size, scores))
    return points


@dataclass
class _Counter:
    denoise: Denoiser
    calls: int = 0

    def __call__(self, x: Any, t: Tensor) -> Any:
        self.calls += 1
        return self.denoise(x, t)


def table(points: Sequence[Point]) -> str:
    """Markdown: a table of the error, and one for each metric; a row is a method and a column a number of calls.

    The least error of each column is bold.
    """
    calls = sorted({point.calls for point in points})
    least = {n: min(point.error for point in points if point.calls == n) for n in calls}

    def cell(point: Point | None, metric: str) -> str:
        if point is None:
            return ""
        if metric != "error":
            return f"{point.scores[metric]:.3f}" if metric in point.scores else ""
        bold = "**" if point.error == least[point.calls] else ""
        return f"{bold}{point.error:.3g}{bold}"

    lines: list[str] = []
    for metric in _metrics(points):
        lines += [
            f"| {metric} at calls | " + " | ".join(map(str, calls)) + " |",
            "|---" * (len(calls) + 1) + "|",
        ]
        for name in dict.fromkeys(point.method for point in points):
            row = {point.calls: point for point in points if point.method == name}
            lines.append(f"| {name} | " + " | ".join(cell(row.get(n), metric) for n in calls) + " |")
        lines.append("")
    return "\n".join(lines)


def record(points: Sequence[Point], path: Path, **about: Any) -> None:
    """Write the points as JSON, with whatever else is to be said ``about`` them; whole or not at all."""
    values = {**about, "points": [point._asdict() for point in points]}
    with whole(path) as beside:
        beside.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def picture(points: Sequence[Point], path: Path, title: str = "") -> None:
    """Draw the error and each metric against the calls, as PNG, whole or not at all.

    ValueError where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("the picture needs matplotlib: pip install matplotlib.") from error
    metrics = _metrics(points)
    figure = Figure(figsize=(4.5 * len(metrics) + 2.5, 4.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    calls = sorted({point.calls for point in points})
    names = list(dict.fromkeys(point.method for point in points))
    for axis, metric in zip(panels, metrics, strict=True):
        for k, name in enumerate(names):
            own = [p for p in points if p.method == name and (metric == "error" or metric in p.scores)]
            values = [p.error if metric == "error" else p.scores[metric] for p in own]
            style = {"color": f"C{k % 10}", "linestyle": ("-", "--", ":")[k // 10 % 3]}
            marker = {"marker": "o", "markersize": 4} if len(own) > 1 else {"marker": "*", "markersize": 11}
            axis.plot([p.calls for p in own], values, label=name, **style, **marker)
        axis.set_xscale("log")
        axis.set_xticks(calls, labels=list(map(str, calls)))
        axis.minorticks_off()
        axis.set_xlabel("network calls")
        axis.set_title("error to many steps" if metric == "error" else metric, loc="left", fontsize=10)
        axis.grid(alpha=0.3)
    panels[0].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    with whole(path) as beside:
        figure.savefig(beside, format="png")


def _metrics(points: Sequence[Point]) -> list[str]:
    return ["error", *dict.fromkeys(metric for point in points for metric in point.scores)]
