r"""Pseudo-numerical methods: Liu et al. 2022 (2202.09778), and iPNDM of Zhang and Chen 2023 (2204.13902).

The weights of Adams-Bashforth on equal steps combine past noise predictions, and the combination is carried
on as if it were constant, by a DDIM step. The weights know nothing of the grid, which should be uniform in
time, and nothing of how rho = s/a bends over a step: whatever the weights, convergence is of second order
(:func:`~diffkit.core.solvers.deis.deis` integrates exactly and reaches the order of its weights). The last
step, to s = 0, is like the others, for no prediction is needed there: with few steps much is gained by it.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.adams import lagrange_integrals
from diffkit.core.solvers.base import Node, Solver, ddim_step, eps_at, linked, node, nodes, transfer, weigh
from diffkit.core.solvers.multistep import Known, multistep
from diffkit.core.solvers.runge_kutta import RULES, Rule, stages


@cache
def adams_bashforth(order: int) -> tuple[float, ...]:
    """The weights of the newest ``order`` slopes on equal steps: 1; 3/2, -1/2; 23/12, -16/12, 5/12; ..."""
    return tuple(lagrange_integrals(1.0, [-float(j) for j in range(order)], rate=0.0))


def _started(name: str, order: int, rule: Rule, starts: int) -> Solver:
    """Adams-Bashforth up to ``order``, its first ``starts`` steps by a Runge-Kutta ``rule`` in time."""
    stage = [f"k{i}" for i in range(len(rule.weights))]
    names = " ".join(["x", *stage, *(f"e{i}" for i in range(order - 1)), "d", "z"])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, *memory, d, z = vectors(names)
        kept, past = memory[: len(stage)], memory[len(stage) :]
        idle = [0.0 * x] * len(kept)
        known = 0  # how many noise predictions are in memory
        for t, u in pairwise(nodes(process, grid)):
            if not (linked(t, u) and (u.regular or known >= starts)):
                yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z), *idle, *past))
                continue
            eps = eps_at(t, x, d)
            shifted = [eps, *past][: order - 1]
            if known < starts:
                inside = [node(process, t.t + c * (u.t - t.t)) if c < 1 else u for c in rule.times]
                for at, carry in stages(rule, [t, *inside, u], x, kept, d):
                    yield Step(at.t, at=x, carry=(*carry, *(shifted if at is t else past)))
            else:
                reach = min(order, known + 1)
                mean = weigh(adams_bashforth(reach), [eps, *past][:reach])
                yield Step(t.t, at=x, carry=(transfer(t, u, x, mean), *idle, *shifted))
            known += 1

    return Solver(name, min(order, 2), steps)


def pndm(order: int = 4) -> Solver:
    """F-PNDM (``order`` 4) or S-PNDM (2): n + 9 or n + 1 calls for n steps.

    They start with three steps of a Runge-Kutta rule of fourth order, whose midpoints are halfway in time,
    or one of Heun's. Both converge at order 2.
    """
    if order not in (2, 4):
        raise ValueError(f"pndm is F-PNDM, order 4, or S-PNDM, order 2, not {order}.")
    return _started("pndm", 4, RULES["rk4"], 3) if order == 4 else _started("pndm", 2, RULES["heun2"], 1)


def plms() -> Solver:
    """PNDM as Stable Diffusion runs it: one step of Heun's, then weights of order 2, 3 and 4; n + 1 calls."""
    return _started("plms", 4, RULES["heun2"], 1)


def ipndm(order: int = 4) -> Solver:
    """Weights of order 1 to ``order`` <= 4 as history grows; one call a step. Order 1 is DDIM."""
    if order not in (1, 2, 3, 4):
        raise ValueError(f"ipndm has orders 1 to 4, not {order}.")

    def advance(t: Node, u: Node, x: Lin, known: Known) -> Lin:
        return transfer(t, u, x, weigh(adams_bashforth(len(known)), [eps for _, eps in known]))

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        return multistep(process, grid, order, advance, model=eps_at, linked=linked)

    return Solver("ipndm", min(order, 2), steps)
