r"""DPM-Solver-v3: Zheng et al. 2023 (2310.13268).

With w = x/a the flow is dw/dlambda = D - w, in which only lambda appears: what follows holds for every Gaussian
process of the same data. Statistics of the model, l, s and b, functions of lambda and of the element, split it into

    dw/dlambda = -(l w + f),   f = (1 - l) w - D,   f = e^S (g + B),   S = int s,   B = int e^-S b,

so that what moves with w, and with f itself, is integrated exactly, and g, constant where f' = s f + b, is what
a polynomial through the past is for. From t to u, integrals beginning at t and L = int l,

    w_u = e^-L_u (w_t - int e^(L+S) (g + B) dlambda),   g_i = e^-S_i f_i - B_i.

(l, s, b) = (1, 0, 0) is DPM-Solver++, (0, -1, 0) DPM-Solver; for normal data the best ones make one step exact.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, Weight, integrate
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, weigh
from diffkit.core.solvers.multistep import Known, multistep
from diffkit.core.types import Denoiser, Draw

_NODES, _WEIGHTS = legendre.leggauss(8)
_POINTS, _SHARES = torch.as_tensor((_NODES + 1) / 2), torch.as_tensor(_WEIGHTS / 2)  # of a cell of width 1
# [i, j]: the integral up to point i of the polynomial that is 1 at point j and 0 at the others.
_RUNNING = torch.as_tensor(
    legendre.legval(_NODES, legendre.legint(np.linalg.inv(legendre.legvander(_NODES, 7)), lbnd=-1)).T / 2
)


@dataclass(frozen=True, eq=False)
class Statistics:
    """l, s and b ``[n, ...]`` at the rising values ``lam`` ``[n]`` of log(a/s), float64; linear between them,
    constant beyond.

    Beside ``n`` the shape is () for one number, or broadcasts over the state: ``[n, 1, channels, 1, 1]``.
    :func:`diffkit.core.search.statistics.estimate` measures them. ValueError if they do not fit together.
    """

    lam: Tensor
    l: Tensor  # noqa: E741
    s: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        if not (self.lam.ndim == 1 and self.l.shape == self.s.shape == self.b.shape):
            raise ValueError("statistics are one row of lam and l, s, b of one shape.")
        if len(self.lam) != len(self.l) or len(self.lam) < 2 or bool((self.lam.diff() <= 0).any()):
            raise ValueError("statistics need l, s and b at two or more rising values of lam.")
        for name in ("lam", "l", "s", "b"):
            value = getattr(self, name).to("cpu", torch.float64)
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"the statistics' {name} is not finite: estimate them anew.")
            object.__setattr__(self, name, value)

    def at(self, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(l, s, b), each ``[*lam.shape, ...]``."""
        high = torch.searchsorted(self.lam, lam).clamp(1, len(self.lam) - 1)
        low = high - 1
        share = ((lam - self.lam[low]) / (self.lam[high] - self.lam[low])).clamp(0, 1)
        share = share.reshape(share.shape + (1,) * (self.l.ndim - 1))
        l, s, b = (torch.lerp(v[low], v[high], share) for v in (self.l, self.s, self.b))  # noqa: E741
        return l, s, b


@dataclass(frozen=True)
class Affine:
    """A sampler that is a table with a constant term: the last slot of its plan's memory is one.

    ValueError for a grid with rows, or a process that differs by element: it has elements of its own.
    """

    solver: Solver

    def __call__(self, denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        if grid.ndim != 1 or process.split() is not None:
            raise ValueError(f"{self.solver.name} needs one grid, and one process, for all elements.")
        plan = self.solver(process, grid)
        memory = [x, *[None] * (plan.slots - 2), torch.ones_like(x)]
        return integrate(denoise, x, plan, draw=draw, memory=memory)


def dpm_v3(
    statistics: Statistics,
    order: int = 3,
    corrector: bool = True,
    lower_order_final: bool = False,
    pseudo: tuple[bool, bool] = (False, False),
) -> Affine:
    """DPM-Solver-v3 of ``order`` 1 to 3, self-started, at one call a step.

    Args:
        statistics: of the model, see :func:`diffkit.core.search.statistics.estimate`.
        order: of the predictor; the corrector adds one. The paper takes 3, and 2 with guidance.
        corrector: correct every step but the last, re-using f of the predicted point, which history keeps.
        lower_order_final: no more values than steps are left (the paper's default): of second order.
        pseudo: for predictor and corrector, take divided differences for the derivatives of g at t, as the
            paper does for few steps (corrector alone, or both at five): second order.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"dpm_v3 has orders 1 to 3, not {order}.")

    def model(t: Node, point: Lin, d: Lin) -> Lin:
        l, _, _ = statistics.at(torch.tensor(t.lam, dtype=torch.float64))  # noqa: E741
        return point * _weight((1 - l) / t.a) - d

    def advance(t: Node, u: Node, x: Lin, known: Known) -> Lin:
        known = sorted(known, key=lambda pair: pair[0] is not t)  # the differences begin at t
        at = [n.lam for n, _ in known]
        keep, weights, constant = _integrals(statistics, u.lam, at, pseudo[u.lam in at])
        one = Lin(tuple(float(i == len(x.weights) - 3) for i in range(len(x.weights))))  # the last of memory
        return u.a * weigh([keep / t.a, constant, *weights], [x, one, *(f for _, f in known)])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        return multistep(
            process,
            grid,
            order,
            advance,
            corrector=corrector,
            lower_order_final=lower_order_final,
            model=model,
            extra="one",
        )

    predicts = min(order, 2) if pseudo[0] else order
    corrects = min(2 if pseudo[1] else order + 1, predicts + 1)
    return Affine(Solver("dpm_v3", corrects if corrector else predicts, steps))


def _weight(value: Tensor) -> Weight:
    return float(value) if value.ndim == 0 else value


def _integrals(
    statistics: Statistics, end: float, at: list[float], pseudo: bool
) -> tuple[Weight, list[Weight], Weight]:
    """The weights of w_t, of f at the lambdas ``at``, of which t is the first, and of one, in w at ``end``.

    With Newton's polynomial through g the integrals of its terms are shared out by its divided differences.
    """
    kinks = statistics.lam[(statistics.lam > min(at)) & (statistics.lam < end)]
    edges = torch.cat([torch.tensor([*at, end], dtype=torch.float64), kinks]).unique()
    ones = (1,) * (statistics.l.ndim - 1)
    width = edges.diff().reshape(-1, 1, *ones)
    points = edges[:-1, None] + edges.diff()[:, None] * _POINTS
    here = int(torch.searchsorted(edges, at[0]))
    share = _SHARES.reshape(-1, *ones)

    def integral(values: Tensor) -> tuple[Tensor, Tensor]:
        """From t, at the points and at the edges."""
        cells = values * width
        sums = (cells * share).sum(1)
        until = torch.cat([torch.zeros_like(sums[:1]), sums.cumsum(0)])
        until = until - until[here]
        return until[:-1, None] + torch.einsum("ij,cj...->ci...", _RUNNING, cells), until

    l, s, b = statistics.at(points)  # noqa: E741
    (L, L_edge), (S, S_edge) = integral(l), integral(s)
    B, B_edge = integral(b * (-S).exp())
    measure = ((L + S - L_edge[-1]).exp() * width * share)[here:]
    tau = (points[here:] - at[0]).reshape(*points[here:].shape, *ones)
    offsets = [lam - at[0] for lam in at]
    weights = [torch.zeros_like(measure[0, 0]) for _ in at]
    term = torch.ones_like(tau)
    for i in range(len(at)):
        whole = (measure * term).sum((0, 1))
        for j in range(i + 1):
            gaps = [offsets[j] - offsets[m] for m in range(i + 1) if m != j]
            weights[j] = weights[j] + whole / math.prod(gaps)
        term = term * (tau if pseudo else tau - offsets[i])
    node = [int(torch.searchsorted(edges, lam)) for lam in at]
    constant = sum(
        (w * B_edge[n] for w, n in zip(weights, node, strict=True)), -(measure * B[here:]).sum((0, 1))
    )
    shares = [_weight(-w * (-S_edge[n]).exp()) for w, n in zip(weights, node, strict=True)]
    return _weight((-L_edge[-1]).exp()), shares, _weight(constant)
