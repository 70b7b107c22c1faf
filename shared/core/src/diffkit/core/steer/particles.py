"""Weighted particles: effective sample size, resampling, and what a steered run returns.

Weights are logarithms ``[groups, particles]``, and stay so: exp(10 reward) overflows. A group is a population of
its own; its mean weight estimates the constant that normalises the law it aims at, without bias (Del Moral 2004),
so a resampled group keeps that mean as the weight of all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from diffkit.core.types import each

Resampling: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(log_weights, uniform) -> index`` of the particles copied, all ``[groups, particles]``; uniform in [0, 1)."""


def ess(log_weights: Tensor) -> Tensor:
    """The effective sample size (sum w)^2/sum w^2 ``[groups]``: from 1, one particle counts, to all."""
    return (2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)).exp()


def systematic(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Equal steps through the cumulated weights from a random start, ``uniform[:, 0]``.

    A particle of weight w among K has floor(K w) or ceil(K w) copies, K w on average; neighbours stay in order.
    """
    count = log_weights.shape[1]
    return _at(log_weights, (torch.arange(count, device=uniform.device) + uniform[:, :1]) / count)


def multinomial(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Every copy drawn alone: K w copies on average, of variance K w (1 - w)."""
    return _at(log_weights, uniform)


def _at(log_weights: Tensor, points: Tensor) -> Tensor:
    """The particles ``[groups, n]`` at ``points`` of the cumulated weights; none of weight zero."""
    edges = log_weights.softmax(1).cumsum(1)
    whole = edges[:, -1:]
    inside = (points * whole).minimum(
        whole.nextafter(torch.zeros_like(whole))
    )  # a point may round to the end
    return torch.searchsorted(edges, inside, right=True).clamp(max=edges.shape[1] - 1)


def select(state: Any, index: Tensor) -> Any:
    """The samples ``index`` of a state or of its leaves; of nothing (an empty slot of memory), nothing."""
    return None if state is None else each(lambda leaf: leaf[index], state)


@dataclass(frozen=True, eq=False)
class Particles:
    """What steering ends with.

    ``x`` are the samples ``[groups * particles, ...]``, a group side by side, which count by their
    ``log_weights`` ``[groups, particles]``; ``ess`` ``[times, groups]`` is the effective sample size before each
    chance to resample, and at the end. ``uniform`` ``[groups, particles]`` are the numbers that choose.
    """

    x: Any
    log_weights: Tensor
    ess: Tensor
    uniform: Tensor

    @property
    def weights(self) -> Tensor:
        """Of each group they sum to 1: sum_i w_i f(x_i) is its estimate of E f(x)."""
        return self.log_weights.softmax(1)

    @property
    def log_z(self) -> Tensor:
        """The log of the mean weight ``[groups]``."""
        return log_mean(self.log_weights)

    def one(self) -> Any:
        """A sample of each group, by its weight: ``[groups, ...]``."""
        return select(self.x, flat(_at(self.log_weights, self.uniform[:, -1:]), self.log_weights))

    def resampled(self) -> Any:
        """Particles of equal weight, with copies: ``[groups * particles, ...]``."""
        return select(self.x, flat(systematic(self.log_weights, self.uniform), self.log_weights))


def log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])


def flat(index: Tensor, log_weights: Tensor) -> Tensor:
    """An index into groups as one into the batch."""
    groups, particles = log_weights.shape
    return (index + particles * torch.arange(groups, device=index.device)[:, None]).flatten()
