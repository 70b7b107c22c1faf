r"""Feynman-Kac correctors: Skreta et al. 2025 (2503.02819), sampling from products of powers of densities.

The target at t is pi(z) = prod p_i(z)^(a_i), in z = x - b y, of densities p_i with predictions D_i.
The score of pi alone does not draw from it, since powers and noising do not commute. In the clock lambda,
with A = sum a_i, eps_i = (z - a D_i)/s and E = sum_i a_i eps_i, any theta(lambda) makes

    dz = (dlog a/dlambda + theta (A - 1)) z dlambda - 2 s E dlambda + sqrt(2) s dW
    dlog w = (E.E - sum_i a_i eps_i.eps_i) dlambda + theta (A - 1)(n - z.E/s) dlambda - n (A - 1) dlog a

for z of n numbers exact, as the Fokker-Planck equations of pi and of z show. theta = 0 is the paper's choice;
but at the prior, where all eps_i are z/s, its weights scatter without end as lambda -> -inf, though nothing is
learnt there. theta = s^2/(s^2 + a^2 d^2) makes them constant there, and everywhere when normal data of deviation
d about zero is annealed: populations then live, and t = 1 is no exception even where a = 0.

A step is linear in z/s but for D = sum_i a_i D_i, which is extrapolated to the middle of the step: for one model
of power 1 SDE-DPM-Solver++(2M). Weights take the trapezoidal rule, and calls are one for each model and step.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, lam_uniform, resolve
from diffkit.core.guide import together
from diffkit.core.noise import NoiseLaw, normal
from diffkit.core.predict import restored
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, eps_at, nodes, weigh
from diffkit.core.steer.particles import Particles, Resampling, select, systematic
from diffkit.core.steer.swarm import Swarm, as_state, dot
from diffkit.core.types import Denoiser, begin


def fk_correct(
    models: Sequence[tuple[Denoiser, float]],
    process: Gaussian,
    like: Any,
    *,
    particles: int,
    sigma_data: float = 0.5,
    threshold: float = 0.5,
    resampling: Resampling = systematic,
    y: Tensor | None = None,
    grid: Grid | Schedule | None = None,
    seeds: Sequence[int] | None = None,
    law: NoiseLaw = normal,
) -> Particles:
    """Weighted samples of prod p_i(x)^(a_i), from the denoisers of the p_i.

    >>> fk_correct([(denoise, 2.0)], ...)                      # annealed: p^2
    >>> fk_correct([(first, 1.0), (second, 1.0)], ...)         # a product
    >>> fk_correct([(uncond, 1 - w), (cond, w)], ...)          # what classifier-free guidance of weight w means

    Args:
        models: denoisers and their powers, of positive sum; a pair of
            :class:`~diffkit.core.guide.Conditional` is one call.
        like: a state or shape ``[groups * particles, ...]``, the particles of a group side by side and under one
            condition, since they change places.
        sigma_data: the deviation d of the data (about zero), of the module's theta; any value is exact in the
            limit of many steps, a good one keeps weights even, and inf is the paper's SDE.
        threshold: resample a group when its effective sample size falls below this share.
        y: the anchor of a bridge, of the shape of the state.
        grid: 100 steps by default, equal in lambda as suits the weights; where it ends at t = 0 the last step
            returns D/A, and neither weighs nor resamples.
        seeds: one for each group; random by default.
        law: of the noise; ``log_z`` counts all n elements as free.

    ``log_z`` is the log of int prod p_i(x)^(a_i) dx.

    Raises:
        ValueError: for powers that are not finite or whose sum is not positive, a batch that the particles do
            not divide, or a grid or process along which lambda does not rise, differs by element, or without
            noise at its start.
        FloatingPointError: if the samples are not finite.
    """
    denoisers, powers = [begin(denoise) for denoise, _ in models], [power for _, power in models]
    total = sum(powers)
    if not (math.isfinite(total) and total > 0):
        raise ValueError(f"powers must be finite and of positive sum, not {powers}: the target has no mass.")
    if not sigma_data > 0:
        raise ValueError(f"sigma_data must be positive, not {sigma_data}.")
    times = resolve(lam_uniform(100) if grid is None else grid, process)
    path = _path(process, times)
    first = path[0] if path[0].regular else path[1]
    like = as_state(like)
    swarm = Swarm("a denoiser", like, particles, seeds, law, threshold, resampling)
    # log_z starts from the normal law that pi is at first, and from the map of z to x0.
    size = like[0].numel() * (2 if like.is_complex() else 1)
    constant = 0.5 * math.log(2 * math.pi * first.s**2) + math.log(path[-1].a / first.a)
    swarm.log_weights += size * ((1 - total) * constant - 0.5 * math.log(total))

    prior, clock = process.prior(like, y=y, t=times[0]), times.to(like.device)
    z = restored(process, prior.mean, None if y is None else -y, clock[0])
    z = z + swarm.draw(-1, like) * (path[0].s / total**0.5)
    past: Tensor | None = None
    old: Tensor | None = None
    h = tilt = 0.0
    for k, (t, u) in enumerate(pairwise(path)):
        data = together(denoisers, restored(process, z, y, clock[k]), clock[k])
        mean = weigh(powers, data)
        if not t.regular:  # next to a = 0 pi is normal, up to a_u^2
            z = mean * (u.a / total) + swarm.draw(k, z) * (u.s / total**0.5)
            continue
        here = _rates(powers, [eps_at(t, z, d) for d in data], z / t.s)
        if old is not None:
            swarm.weigh(h / 2 * _mix(old + here, tilt))
        if k < len(path) - 2:
            index = swarm.resample(k)
            z, mean, here, past = z[index], mean[index], here[:, index], select(past, index)
        if u.s == 0:
            z = mean / total
            break
        gap, h = h, u.lam - t.lam
        tilt = (total - 1) / (1 + sigma_data**2 * math.exp(t.lam + u.lam))
        ahead = mean if past is None else mean + (mean - past) * (h / (2 * gap))
        rate = 2 * total - 1 - tilt
        noise = swarm.draw(k, z) * (u.s * math.sqrt(2 * _rise(2 * rate, h)))
        z = z * (u.s / t.s * math.exp(-rate * h)) + ahead * (2 * u.a * _rise(rate + 1, h)) + noise
        past, old = mean, here
    if path[-1].s > 0 and old is not None:
        swarm.weigh(h * _mix(old, tilt))  # the end itself would cost a call
    return swarm.end(restored(process, z, y, clock[-1]), len(path))


def _path(process: Gaussian, times: Grid) -> list[Node]:
    if times.ndim > 1 or process.split() is not None:
        raise ValueError(
            "the weights need one noise level for all: give one row of times to a plain process."
        )
    path = nodes(process, times)
    if path[0].s == 0 or not all(u.lam > t.lam for t, u in pairwise(path)):
        raise ValueError("lambda must rise from a start with noise: begin the grid below this process' end.")
    if not any(node.regular for node in path):
        raise ValueError("the weights need a time with both signal and noise: give the grid more steps.")
    return path


def _rates(powers: Sequence[float], eps: Sequence[Tensor], w: Tensor) -> Tensor:
    """Of log w in lambda, at z/s = ``w``: what is without theta, and what goes with theta (A - 1); ``[2, batch]``."""
    both = weigh(powers, eps)
    own = dot(both, both) - weigh(powers, [dot(e, e) for e in eps])
    size = w[0].numel() * (2 if w.is_complex() else 1)
    return torch.stack([own, size - dot(w, both)])


def _mix(rates: Tensor, tilt: float) -> Tensor:
    return rates[0] + tilt * rates[1]


def _rise(rate: float, h: float) -> float:
    """int_0^h e^(-rate l) dl."""
    return -math.expm1(-rate * h) / rate if rate else h
