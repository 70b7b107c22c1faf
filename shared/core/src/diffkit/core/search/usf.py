r"""The unified sampling framework: Liu et al. 2023 (2312.07243). A solver that chooses anew at every step.

A step starts from the newest state or from an older one (as single-step methods do), expands x0 or eps in
lambda, and may correct. With m the prediction, tau = (lambda - lambda_t)/h and c_k = h^k m^(k)/k! from the
polynomial through some predictions, data form reads

    x_u = s_u/s_t x_t + a_u sum_{k < order} r_k c_k I_k,      I_k = int_0^h e^(l - h) (l/h)^k dl,

and noise form is its mirror image, h < 0 with a and s exchanged. The relaxation r_1 = 1 + O(h) is what tells
apart methods that agree to second order; r_k = 1 otherwise. DDIM, DPM-Solver, DPM-Solver++(2M, 3M) and UniPC
are choices of it.

A first step that is spared its call by x0 = 0 is a grid that starts lower. (The release hands its noise form
x for x/s there.) Left out are the statistics of DPM-Solver-v3 as a third prediction, which belong to one
checkpoint, starts from the mean x0, and the corrector that calls the network again: the release compares a
mapping with the word for it, so that it never ran.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.adams import lagrange_integrals
from diffkit.core.solvers.base import Node, Solver, ddim_step, nodes, weigh

Relaxation: TypeAlias = float | Literal["bh1", "bh2", "exp", "-exp"]
"""r_1: 1 + c h for a number c; UniPC's B(h); 1 + (e^g - 1)/2 and 1 - (e^g - 1)/2, g = -h in data form."""


@dataclass(frozen=True)
class Taylor:
    """An expansion of ``order`` 1 to 4 (the number of its terms), as far as there are predictions.

    Args:
        order: of the step; 2 at most with a relaxation.
        relax: r_1. "bh2" is the weight of DPM-Solver and of DPM-Solver++(2M).
        points: how many predictions give the derivatives; by default as many as the terms.
    """

    order: int = 2
    relax: Relaxation = 0.0
    points: int = 0

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"an expansion has order 1 to 4, not {self.order}.")
        if self.points and not self.order <= self.points <= 5:
            raise ValueError(f"{self.points} points do not give {self.order} terms: use as many, up to 5.")
        if not isinstance(self.relax, int | float) and self.relax not in ("bh1", "bh2", "exp", "-exp"):
            raise ValueError(f"no relaxation {self.relax!r}: use a number, 'bh1', 'bh2', 'exp' or '-exp'.")

    @property
    def nodes(self) -> int:
        """How many predictions it wants."""
        return self.points or self.order

    def weights(self, h: float, at: Sequence[float]) -> Sequence[float]:
        """Of the predictions at ``at`` (lambda from the start) over a step ``h``; both negated in noise form."""
        exact = np.asarray(lagrange_integrals(h, at))
        order = min(self.order, len(at))
        if order == len(at) and (order == 1 or self.relax == 0):
            return exact.tolist()
        powers = np.vander(np.asarray(at) / h, increasing=True)
        moments = exact @ powers  # I_k
        factors = (np.arange(len(at)) < order).astype(float)
        if order > 1:
            factors[1] = self._relaxation(h, moments)
        return np.linalg.solve(powers.T, factors * moments).tolist()

    def _relaxation(self, h: float, moments: np.ndarray) -> float:
        if self.relax == "bh1":
            return h / (2 * moments[1])
        if self.relax == "bh2":
            return moments[0] / (2 * moments[1])
        if isinstance(self.relax, str):
            return 1 + 0.5 * np.expm1(-h) * (-1 if self.relax == "-exp" else 1)
        return 1 + self.relax * abs(h)


@dataclass(frozen=True)
class Choice:
    """What a step does.

    Args:
        predict: the expansion that leads to the next point.
        correct: the one that repeats the step with the prediction at that point, which is no call more; None
            for none. Never at the last step, nor from or to an infinite lambda.
        noise: expand eps and not x0.
        back: start from the state of so many calls ago.
    """

    predict: Taylor = Taylor()
    correct: Taylor | None = None
    noise: bool = False
    back: int = 0

    @property
    def order(self) -> int:
        """Of convergence, if all steps were like it."""
        orders = [t.order if t.relax == 0 else min(t.order, 2) for t in (self.predict, self.correct) if t]
        return min(orders[0] + 1, orders[1]) if self.correct else orders[0]

    @property
    def depth(self) -> int:
        """How many past points it reads."""
        if self.correct is None:
            return max(self.predict.nodes - 1, self.back)
        return max(self.predict.nodes, self.correct.nodes - 1, self.back + 1)


class _Point(NamedTuple):
    """A node with the state there, and the predictions of x0 and eps."""

    node: Node
    state: Lin
    data: Lin
    noise: Lin


def usf(*choices: Choice) -> Solver:
    """The solver of one choice for each step, the last choice for all further ones."""
    if not choices:
        raise ValueError("a solver needs at least one choice.")
    depth = max(choice.depth for choice in choices)
    kept = [any(c.back or c.correct for c in choices), True, any(c.noise for c in choices)]  # of a point

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, *memory, d, z = vectors(" ".join(["x", *(f"m{i}" for i in range(3 * depth)), "d", "z"]))
        slots = [memory[3 * i : 3 * i + 3] for i in range(depth)]
        path, arrive, nothing = nodes(process, grid), x, x * 0.0
        last: Choice | None = None
        for k, (t, u) in enumerate(pairwise(path)):
            choice = choices[min(k, len(choices) - 1)]
            past = [_Point(n, *slot) for n, slot in zip(reversed(path[:k]), slots, strict=False)]
            at = here = arrive
            if last and last.correct:
                at = _advance(process, last.predict, last, past, t, z)
                new = _point(t, at, at, d)
                here = _advance(process, last.correct, last, past, t, z, [new])
            known = [_point(t, at, here, d), *past]
            corrected = choice.correct is not None and t.regular and u.regular and k < len(path) - 2
            ahead = nothing if corrected else _advance(process, choice.predict, choice, known, u, z)
            carry = [slot if keep else nothing for p in known for keep, slot in zip(kept, p[1:], strict=True)]
            carry += [nothing] * (3 * depth)
            yield Step(t.t, at=at, carry=(ahead, *carry[: 3 * depth]))
            arrive, last = x, choice if corrected else None

    return Solver("usf", min(choice.order for choice in choices), steps)


def _point(t: Node, at: Lin, state: Lin, d: Lin) -> _Point:
    return _Point(t, state, d, (at - d * t.a) / t.s if t.s else d * 0.0)


def _advance(
    process: Gaussian,
    taylor: Taylor,
    choice: Choice,
    past: Sequence[_Point],
    u: Node,
    z: Lin,
    ahead: Sequence[_Point] = (),
) -> Lin:
    """From a past point, the newest first, to u; ``ahead`` are further predictions, at u."""
    start = past[min(choice.back, len(past) - 1)]
    if not start.node.regular:
        start = past[0]
    t = start.node
    if not (t.regular and u.regular):
        return ddim_step(process, t, u, start.state, start.data, z)
    points = [*ahead, *(p for p in past if p.node.regular)][: taylor.nodes]
    sign, scale = (-1, u.s) if choice.noise else (1, u.a)
    weights = taylor.weights(sign * (u.lam - t.lam), [sign * (p.node.lam - t.lam) for p in points])
    keep = u.a / t.a if choice.noise else u.s / t.s
    models = [p.noise if choice.noise else p.data for p in points]
    return weigh([keep, *(scale * w for w in weights)], [start.state, *models])
