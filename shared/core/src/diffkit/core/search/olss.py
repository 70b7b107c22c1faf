"""OLSS, the optimal linear subspace search: Duan et al. 2023 (2305.14677).

Each state of a few-step sampler is a linear combination of the start and of all predictions so far,

    x_{k+1} = w_x x_T + sum_{j <= k} w_j d_j,

with weights that are the least squares onto a fine trajectory at a path of its times. (The paper writes eps;
with the states in the span it is the same subspace.) The path is greedy under a bound on the error of a step
from {x_k, d_0 .. d_k}, and the bound is the smallest one whose path is short enough. Errors of a step count the
same wherever it is, though later steps shrink earlier errors; so equal steps of the grid are tried as well.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule
from diffkit.core.plan import Plan, Step, tabulate, vectors
from diffkit.core.process import Gaussian
from diffkit.core.search.teacher import Trajectory, even, jump, record
from diffkit.core.solvers import Solver, ddim
from diffkit.core.types import Denoiser, Draw

_CHUNK = 1 << 16  # elements of every state at a time in float64
_ROUNDS = 60
_RIDGES = (1e-6, 1e-3, 1.0)


def olss(
    denoise: Denoiser,
    process: Gaussian,
    x: Tensor,
    budget: int,
    *,
    grid: Grid | Schedule | None = None,
    teacher: Solver | None = None,
    draw: Draw | None = None,
    ridge: float | None = None,
    rollout: bool = True,
) -> Plan:
    """The plan of at most ``budget`` calls whose states are closest to a fine trajectory.

    Of two paths, and of some ridges where none is given, those are taken that are best on every second start,
    fitted to the others; the weights are then fitted to all.

    Args:
        denoise, process, x, grid, teacher, draw: see :func:`~diffkit.core.search.teacher.record`.
        budget: calls, from 1 to the steps of ``grid``.
        ridge: pulls a step's weights towards those of DDIM from the same state, in units of the squared size
            of each vector; with few or simple starts the weights are not determined, or fit these alone.
        rollout: fit each step to the predictions that the plan itself makes, and so correct the drift of its
            earlier steps; else, as in the paper, to those of the trajectory.

    Raises:
        ValueError: a budget that the grid does not have.
    """
    path = record(denoise, process, x, grid=grid, solver=teacher, draw=draw)
    equal = even(torch.arange(len(path.t)), budget).tolist()
    own = denoise if rollout else None

    def held_out(choice: tuple[list[int], float]) -> float:
        _, end = fit(own, process, path, *choice, rows=slice(None, None, 2))
        return float((end - path.x[-1])[1 if len(x) > 1 else 0 :: 2].double().square().mean())

    choices = product((bounded(path, budget), equal), _RIDGES if ridge is None else (ridge,))
    chosen, ridge = min(choices, key=held_out)
    weights, _ = fit(own, process, path, chosen, ridge)
    return tabulate(_steps(path, chosen, weights), float(path.t[-1]))


def bounded(path: Trajectory, budget: int) -> list[int]:
    """The greedy path of at most ``budget`` steps under the smallest bound, as indices of its times."""
    n = len(path.d)
    start = path.x[0] if path.noise is None else path.noise
    products = _gram([start, *path.x[1:], *path.d])  # x_i is vector i, and d_i is n + 1 + i

    def error(known: Sequence[int], target: int) -> float:
        basis = [known[-1], *(n + 1 + i for i in known)]
        inner = products[basis][:, basis]
        onto, size = products[basis, target], float(products[target, target])
        scale = inner.diagonal().clamp(min=1e-300).rsqrt()
        inner = inner * scale[:, None] * scale + 1e-12 * torch.eye(len(basis), dtype=torch.float64)
        return size - float((onto * scale) @ torch.linalg.solve(inner, onto * scale))

    def greedy(bound: float) -> list[int]:
        found = [0]
        while found[-1] < n and len(found) <= budget + 1:
            low, high = found[-1] + 1, n
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if error(found, middle) <= bound else (low, middle - 1)
            found.append(low)
        return found

    low, high = 0.0, float(products.diagonal().max())
    best = greedy(high)
    for _ in range(_ROUNDS):
        bound = (low + high) / 2
        found = greedy(bound)
        if found[-1] == n and len(found) <= budget + 1:
            high, best = bound, found
        else:
            low = bound
    return best


@torch.no_grad()
def fit(
    denoise: Denoiser | None,
    process: Gaussian,
    path: Trajectory,
    chosen: Sequence[int],
    ridge: float,
    rows: slice = slice(None),
) -> tuple[list[Tensor], Tensor]:
    """For each step the weights of the start and of the predictions so far, and where the plan ends.

    Predictions are those of the trajectory or, if ``denoise`` is given, of the plan; ``rows`` are the starts
    to fit to.
    """
    x, weights = path.x[0], list[Tensor]()
    basis = [x if path.noise is None else path.noise]
    here = torch.tensor([float(path.noise is None)], dtype=torch.float64)  # the state in terms of the basis
    for i, j in pairwise(chosen):
        basis.append(path.d[i] if denoise is None else denoise(x, path.t[i].to(x.device)))
        state, prediction, noise = jump(ddim(), process, path.t[[i, j]])
        guess = torch.cat([here * state, here.new_tensor([prediction])])
        guess[0] += noise
        here = _least_squares([b[rows] for b in basis], path.x[j][rows], guess, ridge)
        x = sum((b * w for b, w in zip(basis, here.tolist(), strict=True)), torch.zeros_like(x))
        weights.append(here)
    return weights, x


def _least_squares(basis: Sequence[Tensor], target: Tensor, guess: Tensor, ridge: float) -> Tensor:
    """The weights of least squared error, by QR in float64, drawn to ``guess``."""
    columns = torch.stack([b.flatten().to("cpu", torch.float64) for b in basis], 1)
    rest = target.flatten().to("cpu", torch.float64) - columns @ guess
    size = columns.norm(dim=0).clamp(min=1e-150)
    reduced = torch.linalg.qr(torch.cat([columns / size, rest[:, None]], 1), mode="r").R
    pull = torch.eye(len(guess), dtype=torch.float64) * ridge**0.5
    rows = torch.cat([reduced[:, :-1], pull])
    values = torch.cat([reduced[:, -1], rest.new_zeros(len(guess))])
    return guess + torch.linalg.lstsq(rows, values, driver="gelsy").solution / size


def _gram(vectors: Sequence[Tensor]) -> Tensor:
    """Mean products of all pairs, float64."""
    flat = [v.flatten() for v in vectors]
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for k in range(0, len(flat[0]), _CHUNK):
        part = torch.stack([v[k : k + _CHUNK].to("cpu", torch.float64) for v in flat])
        total += part @ part.T
    return total / len(flat[0])


def _steps(path: Trajectory, chosen: Sequence[int], weights: Sequence[Tensor]) -> Iterator[Step]:
    depth = len(weights) - 1
    x, start, *past, d, z = vectors(" ".join(["x", "start", *(f"d{i}" for i in range(depth)), "d", "z"]))
    for k, (i, w) in enumerate(zip(chosen[:-1], weights, strict=True)):
        first = (x if path.noise is None else z) if k == 0 else start
        known = [first, *past[:k], d]
        ahead = sum((v * w for v, w in zip(known[1:], w.tolist()[1:], strict=True)), first * float(w[0]))
        kept = [d if j == k else slot for j, slot in enumerate(past)]
        yield Step(float(path.t[i]), at=x, carry=(ahead, first, *kept))
