r"""EVODiff: entropy-aware variance-optimised sampling, Li et al. 2025 (2509.26096).

In data prediction, with h = a_u/s_u - a_t/s_t and the Euler (DDIM) step e, a step probes and corrects,

    x_p = e + s_u h/(2 r) D1,   m_u = D(x_p, u),   x_u = e + s_u h/(2 zeta) B,

where D1 = m_t - r1 m_prev and D2 = m_u - r2 m_t are balanced differences and B mixes them. The coefficients
are ratios of inner products of predictions, so this is no plan but a plain function. m_u is also the next
step's m_t: one call a step. It is a tuned heuristic, of first order.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from diffkit.core.grid import Grid, check
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, ddim_step, nodes
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw


def evodiff(legacy: bool = False) -> Sampler:
    """One call a step; the first step and the last are Euler steps.

    At few calls it is ahead of dpmpp_2m on equal steps in time, where that overshoots, and behind it on grids
    that suit dpmpp_2m (in lambda, or Karras'), as in the tests.

    ``legacy`` ends as the released code does, on (1 - sqrt(s_t s_u)) e + s_u h/2 (m_t - r m_prev). That is not
    consistent: it is harmless only where s_t s_u is tiny. A grid that ends at s = 0 has no such step.
    """
    return partial(_evodiff, legacy=legacy)


def _evodiff(
    denoise: Denoiser, process: Gaussian, x: Tensor, grid: Grid, *, draw: Draw, legacy: bool
) -> Tensor:
    grid = check(grid)
    path, times = nodes(process, grid), grid.to(x.device)
    before: Node | None = None
    m, old = denoise(x, times[0]), x
    for k, (t, u) in enumerate(pairwise(path)):
        euler = ddim_step(process, t, u, x, m, draw(k, x) if t.s == 0 else torch.zeros_like(x))
        known = before is not None and before.regular and t.regular and u.regular
        if k == len(path) - 2:
            return _released_end(t, u, euler, m, old) if legacy and known else euler
        if before is not None and known:
            place = (u.t + path[-1].t) / (path[0].t + path[-1].t)
            weight = 0.5 * (1 - place**2)
            x, ahead = _correct(denoise, times[k + 1], euler, before, t, u, weight, m, old, len(path) > 21)
        else:
            x, ahead = euler, denoise(euler, times[k + 1])
        before, old, m = t, m, ahead
    return x


def _correct(
    denoise: Denoiser,
    time: Tensor,
    euler: Tensor,
    before: Node,
    t: Node,
    u: Node,
    weight: float,
    m: Tensor,
    old: Tensor,
    long: bool,
) -> tuple[Tensor, Tensor]:
    """The state at ``u`` and the prediction at the probe; ``long`` is the regime of more than 20 steps."""
    ratio = u.s / t.s
    h = u.a / u.s - t.a / t.s
    r = (t.lam - before.lam) / (u.lam - t.lam)
    balance = (1 - weight) * (ratio * before.s / t.s) ** 0.5
    r1 = balance + weight * _project(m, old)
    first = m - r1 * old
    reach = (u.s * h / 2) / (torch.sigmoid(0.25 * r1.abs()) * r).clamp(0.25 * r, 1.5 * r)
    ahead = denoise(euler + reach * first, time)
    second = ahead - (balance + weight * _project(ahead, m)) * m
    backward, forward = first / r, second * r
    eta = 0.5 * torch.sigmoid(0.5 * _project(forward + backward, forward - backward).abs())
    mix = (1 - eta) * forward - eta * backward
    logit = (_project(reach * (first - mix), first) / (h * u.s)).abs() - 0.5
    if long:
        change = (m - old) / h
        logit = -logit * torch.sigmoid(_project(m, change) * (2 - ratio**2))
    return euler + (u.s * h / 2) / torch.sigmoid(logit) * mix, ahead


def _released_end(t: Node, u: Node, euler: Tensor, m: Tensor, old: Tensor) -> Tensor:
    ratio, h = u.s / t.s, u.a / u.s - t.a / t.s
    share = 1 - 0.5 * (ratio if ratio < 0.5 else ratio - 0.5) ** 0.5
    return (1 - (t.s * u.s) ** 0.5) * euler + (u.s * h / 2) * (m - share * old)


def _project(one: Tensor, other: Tensor) -> Tensor:
    """<one, other>/|other|^2 within [-2, 2], for each sample and channel; 0 where ``other`` vanishes."""
    axes = tuple(range(2 if one.ndim > 2 else 1, one.ndim))
    square = other.square().sum(axes, keepdim=True)
    cross = (one * other).sum(axes, keepdim=True)
    return torch.where(square > 0, cross / square, 0.0).clamp(-2, 2)
