r"""The loop of linear multistep methods: predict, evaluate, correct, at one call a step.

A method says how a model of the flow, known at some nodes, takes the state from t to u. The predictor knows
it at past nodes. The corrector then also knows it at u, evaluated at the predicted point; that value is what
history keeps, so that correcting costs no call. The last point is not corrected, since that would cost one,
nor is a step from an infinite lambda, which no past value can improve.
"""

from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import TypeAlias

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, ddim_step, nodes

Known: TypeAlias = list[tuple[Node, Lin]]
"""The model at its nodes, the newest first."""


def multistep(
    process: Gaussian,
    grid: Grid,
    order: int,
    advance: Callable[[Node, Node, Lin, Known], Lin],
    *,
    corrector: bool = False,
    skip: Collection[int] = (),
    lower_order_final: bool = False,
    model: Callable[[Node, Lin, Lin], Lin] | None = None,
    amend: Callable[[int, Known], Lin] | None = None,
    linked: Callable[[Node, Node], bool] = lambda t, u: t.regular and u.regular,
    extra: str = "",
) -> Iterator[Step]:
    """Rows of a method of ``order`` past values, self-started.

    Args:
        advance: ``(t, u, x, known) -> x_u`` between finite lambdas; ``known`` has the value at t.
        corrector: correct every step but those in ``skip``, counted from 0, the last, and one from an infinite lambda.
        lower_order_final: no more values than steps are left.
        model: what is expanded, ``(node, point, d)``; the prediction d itself if None.
        amend: replaces the newest value in step k, ``(k, known)``, for what follows it (DC-Solver).
        linked: whether ``advance`` can take a step; where not it is DDIM's.
        extra: names of further slots of memory, which stay as they are.
    """
    depth = max(order if corrector else order - 1, 2 if amend else 0)
    names = [f"m{i + 1}" for i in range(depth)]
    x, *memory, d, z = vectors(" ".join(["x", *names, extra, "d", "z"]))
    past, fixed = memory[:depth], memory[depth:]
    path = nodes(process, grid)
    history: list[Node] = []  # nodes of the values in memory, newest first

    def step(t: Node, u: Node, x: Lin, known: Known, data: Lin) -> Lin:
        if not linked(t, u):
            return ddim_step(process, t, u, x, data, z)
        return advance(t, u, x, [(n, m) for n, m in known if n.regular])

    reach, corrected = order, False
    for k, (t, u) in enumerate(pairwise(path)):
        old = list(zip(history, past, strict=False))
        at = step(path[k - 1], t, x, old[:reach], past[0]) if corrected else x
        value = model(t, at, d) if model and t.regular else d
        here = step(path[k - 1], t, x, [(t, value), *old[:reach]], past[0]) if corrected else x
        data = d
        if amend:
            data = value = amend(k, [(t, value), *old])
        left = len(path) - 1 - k
        reach = min(order, left) if lower_order_final else order
        corrected = corrector and left > 1 and k not in skip and t.regular
        ahead = here if corrected else step(t, u, here, [(t, value), *old][:reach], data)
        yield Step(t.t, at=at, carry=(ahead, *[value, *past][:depth], *fixed))
        history = [t, *history][:depth]
