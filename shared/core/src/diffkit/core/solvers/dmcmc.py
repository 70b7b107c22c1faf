r"""Denoising MCMC: a chain over data and noise levels at once, denoised where it is nearly clean.

Kim and Ye 2022 (2209.14593), denoising Langevin-Gibbs. In w = z/a = x0 + sigma eps, sigma = s/a, the chain

    w <- w + eta/2 score(w, sigma) + sqrt(eta) z,      sigma <- p(sigma | w)

has the law p(sigma) p(w | sigma). It stays near the data, crosses between modes at high levels, and from low
ones a few calls denoise it. Its Langevin step is discretised, so the law is off by O(eta).
"""

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor

from diffkit.core.grid import Grid, check, uniform
from diffkit.core.plan import Plan, integrate, stack
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver
from diffkit.core.solvers.ddim import ddim
from diffkit.core.types import Denoiser, Draw, expand_as


def denoising_mcmc(
    denoise: Denoiser,
    process: Gaussian,
    x0: Tensor,
    levels: Grid,
    posterior: Callable[[Tensor], Tensor],
    *,
    draw: Draw,
    step: float,
    weights: Tensor | None = None,
    moves: int = 10,
    solver: Solver | None = None,
    schedule: Callable[[float], Grid] = lambda t: uniform(4, t),
    log_prob: Callable[[Tensor, Tensor], Tensor] | None = None,
    legacy: bool = False,
) -> Iterator[Tensor]:
    """Samples of one chain for each ``x0`` ``[chains, ...]``, without end: ``[chains, ...]`` every ``moves``.

    Args:
        x0: where the chains begin, at random levels: data, or samples of any sampler.
        levels: the times visited, descending; s > 0 and a > 0.
        posterior: w ``[chains, ...]`` -> logits ``[chains, levels]`` of p(level | w) were all levels equally
            likely, from a classifier (:func:`level_loss`) or :func:`bayes`.
        step: eta; stable below 4 times the least variance of w that the chain meets.
        weights: p(sigma) ``[levels]``, uniform by default; more on low levels makes denoising cheaper.
        moves: calls between samples, which denoise the last state of each block.
        solver: denoises on ``schedule(t)`` from a level's time t; ddim in 4 steps by default.
        log_prob: ``(z, t) -> log p(z_t)`` ``[chains]``, for a Metropolis test that removes the O(eta), at two
            calls a move.
        legacy: as released: the likeliest level in place of a draw, and of each block the state of the lowest
            level. Both bias the law where w does not determine sigma, as in few dimensions.
    """
    times = check(levels)
    a, s = process.a(times), process.s(times)
    if not bool(((a > 0) & (s > 0)).all()):
        raise ValueError("the levels of a chain need data and noise: keep their times inside (0, 1).")
    if step <= 0 or moves < 1:
        raise ValueError(f"a chain needs a positive step and at least one move, not {step} and {moves}.")
    solver = solver or ddim()
    plans = stack([solver(process, schedule(t)) for t in times.tolist()], (len(times),))
    prior = torch.ones_like(times) / len(times) if weights is None else weights
    times, a, sigma, prior = (v.to(x0.device) for v in (times, a, s / a, prior))
    keys = count()

    def noise(like: Tensor) -> Tensor:
        return draw(next(keys), like)

    def pick(shares: Tensor) -> Tensor:
        return (shares.cumsum(1) < torch.special.ndtr(noise(shares[:, :1]))).sum(1).clamp(max=len(times) - 1)

    def drift(w: Tensor, level: Tensor) -> Tensor:
        d = denoise(expand_as(a[level], w) * w, times[level])
        return (step / 2) * (d - w) / expand_as(sigma[level] ** 2, w)

    def langevin(w: Tensor, level: Tensor) -> Tensor:
        ahead = w + drift(w, level)
        moved = ahead + step**0.5 * noise(w)
        if log_prob is None:
            return moved
        back = moved + drift(moved, level)
        odds = ((moved - ahead).square() - (w - back).square()).flatten(1).sum(1) / (2 * step)
        for v, sign in ((moved, 1), (w, -1)):
            odds = odds + sign * log_prob(expand_as(a[level], v) * v, times[level])
        accepted = torch.special.log_ndtr(noise(w.flatten(1)[:, :1])[:, 0]) < odds
        return torch.where(_over(accepted, w), moved, w)

    def chain() -> Iterator[Tensor]:
        level = pick(prior.to(x0).expand(len(x0), -1))
        w = x0 + expand_as(sigma[level], x0) * noise(x0)
        while True:
            lowest, chosen = torch.full_like(level, -1), w
            for _ in range(moves):
                w = langevin(w, level)
                logits = posterior(w) + prior.log().to(w)
                level = logits.argmax(1) if legacy else pick(logits.softmax(1))
                keep = level > lowest if legacy else level >= 0
                chosen, lowest = torch.where(_over(keep, w), w, chosen), torch.where(keep, level, lowest)
            z = expand_as(a[lowest], w) * chosen
            yield integrate(denoise, z, _pick(plans, lowest.cpu()), draw=lambda _, like: noise(like))

    return chain()


def bayes(
    log_prob: Callable[[Tensor, Tensor], Tensor], process: Gaussian, levels: Grid
) -> Callable[[Tensor], Tensor]:
    """The exact posterior of levels from ``log_prob(z, t)``, for :func:`denoising_mcmc`: log p(w | sigma)."""

    def posterior(w: Tensor) -> Tensor:
        columns: list[Tensor] = []
        for t in levels.to(w.device):
            a = process.a(t).to(w)
            columns.append(log_prob(a * w, t) + w[0].numel() * a.log())
        return torch.stack(columns, 1)

    return posterior


def level_loss(classifier: Callable[[Tensor], Tensor], process: Gaussian, x0: Tensor, levels: Grid) -> Tensor:
    """The cross-entropy of ``classifier`` (w -> logits ``[batch, levels]``) on ``x0`` at random levels: a scalar.

    Its minimiser is the posterior of :func:`denoising_mcmc`.
    """
    level = torch.randint(len(levels), (len(x0),), device=x0.device)
    t = levels.to(x0.device)[level]
    w = process.corrupt(x0, t) / expand_as(process.a(t), x0)
    return torch.nn.functional.cross_entropy(classifier(w), level)


def _over(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.reshape(-1, *[1] * (like.ndim - 1))


def _pick(plans: Plan, index: Tensor) -> Plan:
    """For each sample the plan of its own level."""
    tables = (v[..., index] for v in (plans.U, plans.V, plans.B, plans.C))
    return Plan(plans.t[..., index] if plans.t.ndim > 1 else plans.t, *tables, end=plans.end)
