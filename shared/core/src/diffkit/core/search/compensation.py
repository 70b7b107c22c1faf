r"""DC-Solver's search for its ratios: Zhao et al. 2024 (2409.03755).

A ratio of :func:`~diffkit.core.solvers.unipc.unipc` moves the newest prediction of a step in time. Step by step
each is set so that the next point, where the network will look, is nearest to the truth. That point is quadratic
in the ratio and its squared error quartic, so that the minimum is a root of a cubic, and searching costs no call.
The releases descend, by 40 iterations of AdamW, on the corrected state instead. That takes a call for each, and
on the reference mixture (5, 8 and 10 calls over two ranges of lambda) left the larger error at the end in five
cases of six.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, resolve, uniform
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import Gaussian
from diffkit.core.search.teacher import even, record
from diffkit.core.solvers.base import Solver, weigh
from diffkit.core.solvers.unipc import unipc
from diffkit.core.types import Denoiser, Draw


@torch.no_grad()
def compensate(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    grid: Grid | Schedule,
    *,
    solver: Callable[..., Solver] = unipc,
    reference: Sequence[Tensor] | None = None,
    draw: Draw | None = None,
) -> list[float]:
    """The ratios with which ``solver(ratios=...)`` follows the truth best on ``grid``, from 0 to 2.

    Args:
        denoise, process, x, draw: see :func:`~diffkit.core.search.teacher.record`.
        grid: what the ratios are for: one row of times.
        solver: :func:`~diffkit.core.solvers.unipc.unipc`, or a ``partial`` of it.
        reference: the true states at the times of ``grid``, its start and end included; by default of
            :func:`~diffkit.core.search.teacher.record`, with every step divided in 50.

    A ratio is 1 where no other is better: for the first two steps always. Each is best for what the ones
    before lead to, so the error of each step falls, and that at the end need not. ValueError if ``reference``
    does not fit the grid.
    """
    times = resolve(grid, process)
    if times.ndim != 1:
        raise ValueError("ratios are searched for one grid: give one row of times.")
    draw = draw or Seeds(range(len(x)))
    if reference is None:
        fine = torch.cat(
            [torch.linspace(t, u, 51, dtype=torch.float64)[:-1] for t, u in pairwise(times.tolist())]
        )
        path = record(denoise, process, x, grid=torch.cat([fine, times[-1:]]), draw=draw)
        reference = path.x[::50]
    steps = len(times) - 1
    if len(reference) != steps + 1:
        raise ValueError(
            f"{len(reference)} reference states for a grid of {steps + 1} times: give one for each."
        )
    ratios, memory, point = [1.0] * steps, [x], x
    for k in range(steps):
        d = denoise(point, times[k].to(x.device))

        def after(ratio: float, k: int = k, d: Tensor = d, slots: list[Tensor] = memory) -> list[Tensor]:
            """The next point, and memory."""
            plan = solver(ratios=[*ratios[:k], ratio, *ratios[k + 1 :]])(process, times)
            begin = slots if k else None
            slots = integrate(lambda x, t: d, x, plan[k : k + 1], draw=draw, memory=begin, full=True)
            if k + 1 == steps:
                return [slots[0], *slots]
            used = [i for i, weight in enumerate(plan.U[k + 1].tolist()) if weight]
            return [weigh(plan.U[k + 1, used].tolist(), [slots[i] for i in used]), *slots]

        if k > 1:
            ratios[k] = _best(*(after(r)[0] - reference[k + 1] for r in (0.0, 1.0, 2.0)))
        point, *memory = after(ratios[k])
    return ratios


def compensated(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    budget: int,
    *,
    grid: Grid | Schedule | None = None,
    draw: Draw | None = None,
) -> Plan:
    """DC-Solver in ``budget`` equal steps of ``grid`` (100 uniform ones), with ratios of :func:`compensate`.

    ValueError for a budget that the grid does not have.
    """
    times = even(resolve(uniform(100) if grid is None else grid, process), budget)
    return unipc(ratios=compensate(denoise, process, x, times, draw=draw))(process, times)


def _best(zero: Tensor, one: Tensor, two: Tensor) -> float:
    """The ratio in [0, 2] of the least square error, given the errors at 0, 1 and 2; 1 if none is better."""
    bend = (zero - 2 * one + two) / 2
    errors = torch.stack([zero, one - zero - bend, bend]).flatten(1).double()
    gram = (errors @ errors.T).tolist()  # of the coefficients of r^0, r^1, r^2
    quartic = np.polynomial.Polynomial(
        [sum(gram[i][n - i] for i in range(3) if 0 <= n - i < 3) for n in range(5)]
    )
    turns = [
        float(root.real) for root in quartic.deriv().roots() if abs(root.imag) < 1e-9 and 0 < root.real < 2
    ]
    return min([1.0, 0.0, 2.0, *turns], key=lambda r: float(quartic(r)))


@dataclass(frozen=True, eq=False)
class Regression:
    """Cascade polynomial regression: ratios of any number of calls and guidance scale, without a search.

    Quadratic in step/calls, with coefficients quadratic in guidance/12, with coefficients quadratic in calls/50:
    ``weights`` ``[3, 3, 3]`` of the powers of these, in the order calls, guidance, step.
    """

    weights: Tensor

    @classmethod
    def fit(cls, measured: Mapping[tuple[int, float], Sequence[float]]) -> "Regression":
        """By least squares on the ratios found for (calls, guidance scale); 1 of the first two steps is left out.

        ValueError if they do not determine the 27 weights.
        """
        rows = [
            (n, w, k + 1, r) for (n, w), ratios in measured.items() for k, r in enumerate(ratios) if k > 1
        ]
        table = torch.stack([_powers(*row[:3]) for row in rows]) if rows else torch.zeros(1, 27)
        if int(torch.linalg.matrix_rank(table)) < 27:
            raise ValueError(
                "a regression needs ratios of three numbers of calls, from 5, with three guidance scales each."
            )
        found = torch.tensor([row[3] for row in rows], dtype=torch.float64)
        return cls(torch.linalg.lstsq(table, found[:, None]).solution.reshape(3, 3, 3))

    def __call__(self, calls: int, guidance: float) -> list[float]:
        """The ratios of ``calls`` steps."""
        steps = range(3, calls + 1)
        return [1.0] * min(calls, 2) + [
            float(_powers(calls, guidance, k) @ self.weights.flatten()) for k in steps
        ]


def _powers(calls: int, guidance: float, step: int) -> Tensor:
    """The 27 products of powers 0 to 2 of calls/50, guidance/12 and step/calls."""
    n, w, k = (
        torch.tensor([1.0, v, v * v], dtype=torch.float64) for v in (calls / 50, guidance / 12, step / calls)
    )
    return torch.einsum("i,j,k->ijk", n, w, k).flatten()
