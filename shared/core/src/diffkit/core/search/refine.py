r"""Refinement: the times and weights of a table that reproduce a fine trajectory's ends best.

Whatever the method, a plan of K calls without noise on its way evaluates and returns

    x_k = w_k x_T + sum_{j < k} W_kj d_j,      d_j = D(x_j, t_j),      x_K the result,

so one small triangle of numbers holds every linear solver there is (:func:`unroll`, :func:`roll`). Two laws
leave it exact on a constant prediction: w_k = s(t_k)/s_T, and sum_j W_kj = a(t_k) - w_k a_T. What is free, K
times and K (K - 1)/2 weights, is fitted to the teacher's ends by least squares (Levenberg and Marquardt) over
differences of runs, so that the denoiser needs no gradient. So few numbers hardly overfit, if there are some
hundred values in the starts or more; where the flow parts between modes it takes some hundred starts.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, resolve, uniform
from diffkit.core.plan import Plan, Step, tabulate, vectors
from diffkit.core.process import Gaussian
from diffkit.core.search.goal import Goal, halves
from diffkit.core.search.olss import olss
from diffkit.core.search.s3 import fixed
from diffkit.core.solvers import Solver
from diffkit.core.solvers.base import weigh
from diffkit.core.types import Denoiser, Draw

_CLOSEST = 0.01  # of the logarithms of two times, so that each can move


def unroll(plan: Plan) -> Tensor:
    """The triangle of a plan of K rows, float64 ``[K + 1, 1 + 2 K]``: what it evaluates, and last its result,
    in terms of the start, the K predictions and the K noises.

    ValueError if its weights differ by element, or rows make no call.
    """
    count = len(plan.t)
    if plan.U.ndim > 2 or plan.nfe < count:
        raise ValueError("only plans of one weight for all elements and a call in every row can be unrolled.")
    memory = torch.zeros(plan.slots, 1 + 2 * count, dtype=torch.float64)
    memory[0, 0] = 1.0
    points: list[Tensor] = []
    for k in range(count):
        points.append(plan.U[k] @ memory)
        memory = plan.V[k] @ memory
        memory[:, 1 + k] += plan.B[k]
        memory[:, 1 + count + k] += plan.C[k]
    return torch.stack([*points, memory[0]])


def roll(t: Tensor, triangle: Tensor, end: float) -> Plan:
    """The plan of a triangle, which keeps in memory what a later row still reads; :func:`unroll` undoes it."""
    count = len(t)
    columns = triangle.any(0).nonzero().flatten().tolist()
    x, *kept, d, z = vectors(" ".join(["x", *(f"m{c}" for c in columns), "d", "z"]))

    def steps() -> Iterator[Step]:
        slots = dict(zip(columns, kept, strict=True))
        for k in range(count):
            now = {0: x} if k == 0 else {}
            now |= {1 + k: d, 1 + count + k: z}
            values = {c: now.get(c, slot) for c, slot in slots.items()}
            ahead = weigh([float(triangle[k + 1, c]) for c in values], list(values.values()))
            alive = triangle[k + 2 :].any(0)
            carry = [v if alive[c] else x * 0.0 for c, v in values.items()]
            yield Step(float(t[k]), at=x * float(triangle[0, 0]) if k == 0 else x, carry=(ahead, *carry))

    return tabulate(steps(), end)


def refine(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    budget: int,
    *,
    first: Plan | None = None,
    grid: Grid | Schedule | None = None,
    teacher: Solver | None = None,
    draw: Draw | None = None,
    exact: bool = True,
    iterations: int = 15,
) -> Plan:
    """A plan whose end states are closer to the teacher's than those of ``first``, or ``first`` itself.

    An iteration takes about budget^2/2 runs of the plan. Every second start is held out: of all iterates the
    one is returned that is best on these.

    Args:
        denoise, process, x, teacher, draw: see :func:`~diffkit.core.search.teacher.record`.
        budget: network calls.
        first: where to begin; by default two descents, from the plan of :func:`~diffkit.core.search.olss.olss`
            and from the best of the common solvers on the common grids.
        grid: of the teacher; the plan has its ends.
        exact: on a constant prediction, whatever the start. Without it some of the start may shine through,
            which where the flow parts between modes is closer to the teacher.
        iterations: of a descent, at most.

    Raises:
        ValueError: a ``first`` of another budget or another end, whose weights differ by element, or with
            rows that make no call.
    """
    times = resolve(uniform(100) if grid is None else grid, process)
    goal = Goal.of(denoise, process, x, grid=times, teacher=teacher, draw=draw)
    begins = [] if first is None else [first]
    if first is None:
        common = [genome.plan(process) for genome in fixed(process, budget, times)]
        begins.append(min(common, key=lambda plan: float(goal.errors(plan).mean())))
        begins.append(olss(denoise, process, x, budget, grid=times, teacher=teacher, draw=draw))
    elif (len(unroll(first)) - 1, float(first.end)) != (budget, float(times[-1])):
        raise ValueError(
            f"the first plan makes {len(first.t)} calls to t = {float(first.end):g}, and the search {budget} "
            f"to {float(times[-1]):g}: make them equal."
        )

    def residual(family: _Family, theta: Tensor) -> Tensor:
        assert goal.truth is not None
        gap = (goal.reach(family.plan(theta)) - goal.truth)[::2].flatten()
        return gap.to("cpu", torch.float64) / len(gap) ** 0.5

    def iterates() -> Iterator[Plan]:
        for begin in begins:
            family = _Family(goal, begin, exact)
            yield family.plan(family.theta) if exact and first is None else begin
            path = _descend(partial(residual, family), family.theta, torch.finfo(x.dtype).eps ** 0.4)
            yield from map(family.plan, islice(path, iterations))

    return min(iterates(), key=lambda plan: halves(goal.errors(plan))[1])


class _Family:
    """The plans around a first one that descend. Their coordinates: log log of the ratio of each time to the one
    before (less the end), and every row's weights of predictions but the newest. If ``exact``, the noise of
    every point has the process' deviation s, and its weights of predictions sum so that a constant is exact;
    else two more coordinates for each row say how far it is from that.
    """

    def __init__(self, goal: Goal, first: Plan, exact: bool):
        self.process, self.start, self.end = goal.process, goal.start, first.end
        self.t, self.triangle = first.t, unroll(first)
        self.held = 0 if goal.lowers else 1  # first times that stay
        count = len(first.t)
        self.source = 0 if float(goal.process.s(goal.start)) else 1 + count  # the start, or the noise there
        above = torch.cat([goal.start[None], first.t])[self.held : -1] - self.end
        ratios = (above / (first.t[self.held :] - self.end)).log().clamp(min=_CLOSEST)
        older = [self.triangle[k, 1:k] for k in range(2, count + 1)]
        self.theta = torch.cat([ratios.log(), *older])
        if not exact:
            off = (self.triangle - unroll(self.plan(self.theta)))[1:]
            self.theta = torch.cat([self.theta, off[:, self.source], off[:, 1 : 1 + count].sum(1)])

    def plan(self, theta: Tensor) -> Plan:
        """The member of these coordinates."""
        count, table, process = len(self.t), self.triangle.clone(), self.process
        ratios, weights, off = theta.tensor_split(
            [count - self.held, count - self.held + count * (count - 1) // 2]
        )
        ratios = ratios.clamp(-15.0, 2.0).exp().cumsum(0)
        t = torch.cat([self.t[: self.held], self.end + (self.start - self.end) * (-ratios).exp()])
        now = torch.cat([t, self.end[None]])
        spread = torch.cat([table[:, :1] * process.s(self.t[0]), table[:, 1 + count :]], 1).norm(dim=1)
        louder = _ratio(process.s(now), spread)
        table[:, 0] *= louder / _ratio(process.s(t[0]), process.s(self.t[0]))
        table[:, 1 + count :] *= louder[:, None]
        signal = process.a(self.start) * _ratio(process.s(t[0]), process.s(self.start))  # of the scaled start
        total = process.a(now) - table[:, 0] * signal
        if len(off):
            table[1:, self.source] += off[:count]
            total[1:] += off[count:]
        for k in range(1, count + 1):
            older, weights = weights[: k - 1], weights[k - 1 :]
            table[k, 1:k], table[k, k] = older, total[k] - older.sum()
        return roll(t, table, float(self.end))


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """``top``/``bottom``, and 1 where the latter is 0."""
    return torch.where(bottom == 0, 1.0, top / bottom)


def _descend(residual: Callable[[Tensor], Tensor], theta: Tensor, step: float) -> Iterator[Tensor]:
    """Levenberg and Marquardt: ever better points, until no damping lowers the square of the residual."""
    here, damping = residual(theta), 1e-3
    while len(theta):
        shifts = torch.eye(len(theta), dtype=torch.float64) * step
        slopes = torch.stack([(here - residual(theta - shift)) / step for shift in shifts])
        normal, pull = slopes @ slopes.T, slopes @ here
        while True:
            ridge = (damping * normal.diagonal() + 1e-12 * normal.diagonal().max()).clamp(min=1e-300)
            trial = theta - torch.linalg.solve(normal + ridge.diag(), pull)
            there = residual(trial)
            if bool(there.square().sum() < here.square().sum()):
                break
            damping *= 5.0
            if damping > 1e6:
                return
        theta, here, damping = trial, there, damping * 0.3
        yield theta
