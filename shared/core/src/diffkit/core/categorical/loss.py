r"""Losses of categorical denoisers, in nats.

With q the posterior of a process and D the denoiser, -log p(x0) of the sampler on a grid is at most

    KL(q(x_1 | x0) | prior) + sum over steps of E KL(q(x_u | x_t, x0) | q(x_u | x_t, D(x_t))),

of which the last step, to u = 0, is the reconstruction -log p(x0 | x_t) (Austin et al. 2021, 2107.03006).
In the limit of many steps a masked process leaves the cross-entropy of its masked elements, weighted by the rate
at which they are unmasked (Sahoo et al. 2024, 2406.07524),

    integral over t of -alpha'(t)/(1 - alpha(t)) E sum over masked elements of -log D(x_t)[x0].

Elements that do not exist (rows of zeros in x0) count nothing. A ``mask`` ``[batch, ...]`` over the elements, of
any weights, says which count: of an adjacency matrix those above the diagonal, or each edge counts twice.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffkit.core.categorical.d3pm import Absorbing
from diffkit.core.categorical.flow import Jumps
from diffkit.core.categorical.logits import log_softmax
from diffkit.core.categorical.process import Categorical, Choice, wide
from diffkit.core.types import Denoiser, Draw, float64


def cross_entropy(
    logits: Tensor, x0: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """-log of the probability of x0, averaged over the elements that exist: a scalar, and all that training needs.

    ``logits`` and one-hot ``x0`` ``[batch, ..., K]``; ``weight`` ``[K]`` of the classes, for rare ones.
    """
    _same(logits, x0)
    nats = -(x0 if weight is None else x0 * weight.to(x0)) * logits.to(wide(logits.dtype)).log_softmax(-1)
    return _sum(nats.sum(-1), mask).sum() / _sum(x0.sum(-1), mask).sum().clamp(min=1)


def masked_bound(
    process: Absorbing, logits: Tensor, x0: Tensor, x: Tensor, t: Tensor, *, mask: Tensor | None = None
) -> Tensor:
    """The bound on -log p(x0) in continuous time from one ``x`` = x_t: nats ``[batch]``, unbiased for t ~ U(0, 1).

    ``t`` in (0, 1], a scalar or ``[batch]``. Elements that are not masked are known and count nothing.
    """
    _same(logits, x0)
    t = float64(t)
    alpha, slope = torch.func.jvp(process.alpha, (t,), (torch.ones_like(t),))[:2]
    nats = -(x0 * log_softmax(process, logits, x, t)).sum(-1)
    return (-slope / (1 - alpha)).to(nats) * _sum(nats, mask)


def step_bound(
    process: Categorical | Jumps,
    p: Tensor,
    x0: Tensor,
    x: Tensor,
    t: Tensor | float,
    u: Tensor | float,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """KL between the posteriors at ``u`` of x0 and of the denoiser's ``p``, given x_t = ``x``: nats ``[batch]``.

    For one step in training, ``u`` = t - 1/n. Finite: a class that ``p`` rules out wrongly costs 46 nats.
    """
    _same(p, x0)
    return _sum(_kl(process.posterior(x, x0, t, u), process.posterior(x, p, t, u)), mask)


def bound(
    process: Categorical | Jumps,
    denoise: Denoiser,
    x0: Tensor,
    grid: Tensor,
    *,
    draw: Draw,
    mask: Tensor | None = None,
) -> Tensor:
    """The bound on -log p(x0) of the sampler on ``grid``, with one draw of x_t at each time: nats ``[batch]``.

    One call of the denoiser for each step. ValueError unless the grid descends from 1 to 0.
    """
    grid = grid.to(x0.device, torch.float64)
    if grid.ndim != 1 or bool((grid.diff() >= 0).any()) or float(grid[0]) != 1 or float(grid[-1]) != 0:
        raise ValueError("the bound is that of a whole run: its grid is one row that descends from 1 to 0.")
    nats = _sum(_kl(process.marginal(x0, grid[0]), process.prior(x0)), mask)
    for k, (t, u) in enumerate(pairwise(grid)):
        x = process.corrupt(x0, t, noise=draw(k, x0))
        nats = nats + step_bound(process, denoise(x, t), x0, x, t, u, mask=mask)
    return nats


def bits(nats: Tensor, x0: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Nats ``[batch]`` as bits for each element that exists."""
    return nats / (_sum(x0.sum(-1), mask) * math.log(2)).to(nats)


def _kl(q: Choice, p: Choice) -> Tensor:
    """KL(q | p) of each element."""
    tiny = torch.finfo(p.probs.dtype).tiny
    return (torch.xlogy(q.probs, q.probs) - torch.xlogy(q.probs, p.probs.clamp(min=tiny))).sum(-1)


def _sum(value: Tensor, mask: Tensor | None) -> Tensor:
    """The sum over the elements that count, ``[batch]``."""
    value = value if mask is None else value * mask.to(value)
    return value.reshape(len(value), -1).sum(1)


def _same(p: Tensor, x0: Tensor) -> None:
    if p.shape != x0.shape:
        raise ValueError(
            f"predictions {tuple(p.shape)} and x0 {tuple(x0.shape)} must be of one shape, classes last."
        )
