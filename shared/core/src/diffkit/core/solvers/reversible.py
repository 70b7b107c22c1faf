r"""Methods whose plan has an exact inverse (:meth:`diffkit.core.plan.Plan.inverse`).

Both keep, beside the state, how far their second state lies from it. That slot is zero where only one state is
known, at either end, so a plan starts from noise or, inverted, from data without more ado; the round trip
is exact for any start.
"""

from collections.abc import Iterator
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, ddim_step, eps_at, nodes, transfer


def bdia(gamma: float = 1.0) -> Solver:
    """Bi-directional integration approximation, Zhang et al. 2023 (2307.10829), one call a step.

    x_{i-1} = gamma (x_{i+1} - Phi_{i -> i+1}) + Phi_{i -> i-1} with the DDIM steps Phi from x_i; the first step
    is DDIM. ``gamma`` = 1 is the leap-frog, of second order where steps change smoothly; below 1 the order is
    1 (they take 0.5 for 10 steps), and at 0 it is DDIM, which has no inverse. Its inverse multiplies
    rounding by gamma^-1 at every step.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], not {gamma}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, gap, d, z = vectors("x gap d z")  # gap: the last state less (a_last/a) x
        path = nodes(process, grid)
        for k, (t, u) in enumerate(pairwise(path)):
            ahead = ddim_step(process, t, u, x, d, z)
            if k == 0:
                ahead = ahead + gap
            elif path[k - 1].s > 0:  # a bridge's end has nothing to remember
                last = path[k - 1]
                ahead = ahead + (x * (last.a / t.a) + gap - ddim_step(process, t, last, x, d, z)) * gamma
            yield Step(t.t, at=x, carry=(ahead, x - ahead * (t.a / u.a)))

    return Solver("bdia", 2 if gamma == 1 else 1, steps)


def _coupled(t: Node, u: Node, own: Lin, other: Lin, d: Lin) -> Lin:
    """From t to u by the eps of the other state, whose prediction is d."""
    if t.a == 0:  # the data form, since the paper's multiplies by a_u/a_t
        return own * (u.s / t.s) + d * u.a
    return transfer(t, u, own, eps_at(t, other, d))


def edict(p: float = 0.93) -> Solver:
    """Coupled transformations, Wallace et al. 2022 (2211.12446): two calls a step, first order.

    Two states x and y step in turns, each by the eps found at the other, and are mixed: x = p x + (1 - p) y,
    then y = p y + (1 - p) x. Which of them goes first alternates. ``p`` below 1 holds them together; the
    inverse multiplies their distance by 1/p^2 at every step. The second to go finds its eps at a state that has
    already left t, so few large steps from a small a(1) go wrong: they take 50.
    """
    if not 0 < p <= 1:
        raise ValueError(f"p must lie in (0, 1], not {p}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, gap, d, z = vectors("x gap d z")
        y = x + gap
        for k, (t, u) in enumerate(pairwise(nodes(process, grid))):
            if t.s == 0:
                yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z), gap))
                continue
            one, two = _coupled(t, u, x, y, d), _coupled(t, u, y, x, d)
            if k % 2:
                yield Step(t.t, at=x, carry=(x, two - x))
                two = y
            else:
                yield Step(t.t, at=y, carry=(one, y - one))
                one = x
            one = one * p + two * (1 - p)
            two = two * p + one * (1 - p)
            yield Step(t.t, at=y if k % 2 else x, carry=(one, two - one))

    return Solver("edict", 1, steps)
