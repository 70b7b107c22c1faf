r"""Twisted sequential Monte Carlo, TDS: Wu et al. 2023 (2306.17775), sampling from p(x0) p(y | x0).

The twist psi_t(x) = p(y | D(x, t)) stands for p(y | x_t), which nobody knows. Its gradient bends the proposal,

    D' = D + (s^2/a) grad_x log psi_t,      x_u ~ posterior(x_t, D'),

and weights undo what it got wrong: with the posterior's standard deviation tau, the coefficient c of x0 in its
mean, the noise xi that was drawn and v = c (D' - D)/tau,

    log w += log psi_u(x_u) - log psi_t(x_t) - v.xi - v.v/2,

the last two terms being the log of p(x_u | x_t) over the proposal's density. With psi_0 the likelihood the
product telescopes, and the target is exact for ancestral sampling's own law, whatever the twist. Without
weights this is guidance by a gradient, as in DPS, and is biased.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, resolve, uniform
from diffkit.core.noise import normal
from diffkit.core.predict import restored
from diffkit.core.process import Gaussian
from diffkit.core.sample import start
from diffkit.core.solvers import ddim
from diffkit.core.steer.particles import Particles, Resampling, systematic
from diffkit.core.steer.swarm import Swarm, anchored, as_state, dot
from diffkit.core.types import Denoiser, begin


def twisted(
    denoise: Denoiser,
    process: Gaussian,
    like: Any,
    log_likelihood: Callable[[Tensor, Tensor], Tensor],
    *,
    particles: int,
    threshold: float = 0.5,
    resampling: Resampling = systematic,
    y: Tensor | None = None,
    grid: Grid | Schedule | None = None,
    seeds: Sequence[int] | None = None,
) -> Particles:
    """Weighted samples of p(x0) p(y | x0), with the gradient of the likelihood in the proposal.

    Args:
        denoise: differentiable; each step costs its call and a backward pass.
        like: a state or shape ``[groups * particles, ...]``, the particles of a group side by side and under one
            condition, since they change places.
        log_likelihood: ``(x0, t) -> [batch]``, differentiable in x0; -inf forbids, for good. At t = 0 it is
            log p(y | x0). At t > 0, where x0 is a prediction, any twist is allowed, and a good one knows what
            the prediction does not: without the variance of A x0 given x_t beside that of the measurement
            (about s^2/(a^2 + s^2) A A^T for unit data), precise measurements leave few particles of weight.
        threshold: resample a group when its effective sample size falls below this share.
        y: the anchor of a bridge, of the shape of the state.
        grid: 100 uniform steps by default.
        seeds: one for each group; random by default. The noise is normal.

    ``log_z`` estimates the log-evidence log p(y).

    Raises:
        ValueError: for a batch that the particles do not divide, grids of more than one row, or a likelihood of
            another shape, NaN or infinite, or without a gradient.
        FloatingPointError: if the samples are not finite.
    """
    times = resolve(uniform(100) if grid is None else grid, process)
    if times.ndim > 1 or process.split() is not None:
        raise ValueError("particles change places, so all must have one noise level: give one row of times.")
    plan, like = ddim(1.0)(process, times), as_state(like)
    swarm = Swarm("log_likelihood", like, particles, seeds, normal, threshold, resampling)
    clock = times.to(like.device)
    x = start(process, like, swarm.draw, y=y, t=clock[0])
    z, denoise = anchored(begin(denoise), process, x, y, clock[0])
    a, s = process.a(plan.t), process.s(plan.t)
    slopes = torch.where(a > 0, s.square() / a, 0.0)  # at a = 0 a prediction does not depend on x
    table = torch.stack([plan.V[:, 0, 0], plan.B[:, 0], plan.C[:, 0], slopes], 1).tolist()
    spent: Tensor | float = 0.0
    for k, (keep, gain, spread, slope) in enumerate(table):
        d, value, pull = _look(denoise, log_likelihood, swarm, z, clock[k])
        swarm.weigh(value - spent)
        if spread == 0:  # the step to data draws nothing, so the proposal is the process' own
            z, spent = z * keep + d * gain, value
            continue
        index = swarm.resample(k)
        z, d, value, pull = z[index], d[index], value[index], pull[index]
        noise, v = swarm.draw(k, z), pull * (gain * slope / spread)
        spent = value + dot(v, noise) + dot(v, v) / 2
        z = z * keep + d * gain + (noise + v) * spread
    x0 = restored(process, z, y, clock[-1])
    swarm.weigh(swarm.values(log_likelihood(x0, torch.zeros_like(clock[-1]))) - spent)
    return swarm.end(x0, len(table))


def _look(
    denoise: Denoiser, twist: Callable[[Tensor, Tensor], Tensor], swarm: Swarm, z: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The prediction, the log of its twist ``[batch]``, and that one's gradient in ``z``."""
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        d = denoise(point, t)
        value = swarm.values(twist(d, t))
        if not value.requires_grad:
            raise ValueError("log_likelihood has no gradient in x: neither it nor the denoiser may detach.")
        (pull,) = torch.autograd.grad(value.sum(), point, materialize_grads=True)
    alive = value.detach().isfinite().reshape(-1, *[1] * (z.ndim - 1))
    return d.detach(), value.detach(), torch.where(alive, pull, 0.0)
