r"""Bridges: processes that end at, or around, an observation y (a noisy recording, a degraded image).

All are x_t = a x0 + b y + s eps of :mod:`diffkit.core.process`. Brownian bridges share one formula: with
v(t) the variance of a driftless diffusion, pinned at x0 and y,

    a = 1 - v(t)/v(1),   b = v(t)/v(1),   s^2 = v(t) (1 - v(t)/v(1)).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffkit.core.process import Gaussian, interpolate, sqrt_variance

_QUADRATURE = tuple(torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(64))


class _Pulled(Gaussian):
    """Processes with b = 1 - a: the mean moves from x0 to y."""

    def b(self, t: Tensor) -> Tensor:
        return 1 - self.a(t)


class _Pinned(_Pulled):
    """Brownian bridges of variance v(t): see the module's formula."""

    @abstractmethod
    def v(self, t: Tensor) -> Tensor:
        """The variance of the unpinned diffusion at t; v(0) = 0."""

    def share(self, t: Tensor) -> Tensor:
        """v(t)/v(1), exactly 1 at the end."""
        return torch.where(t == 1, 1.0, self.v(t) / self.v(torch.ones_like(t)))

    def a(self, t: Tensor) -> Tensor:
        return 1 - self.share(t)

    def b(self, t: Tensor) -> Tensor:
        return self.share(t)

    def s(self, t: Tensor) -> Tensor:
        return sqrt_variance(self.v(t) * (1 - self.share(t)))


@dataclass(frozen=True)
class BrownianBridge(_Pinned):
    """v = sigma^2 t: the bridge of constant diffusion (BBDM, Li et al. 2023, 2205.07680)."""

    sigma: float = 1.0

    def v(self, t: Tensor) -> Tensor:
        return self.sigma**2 * t


@dataclass(frozen=True)
class I2SB(_Pinned):
    """Image-to-image Schroedinger bridge, Liu et al. 2023 (2302.05872): a symmetric, quadratic beta.

    sqrt(beta) rises linearly from ``sqrt(beta_min)`` to ``sqrt(beta_max)`` over [0, 1] and is mirrored at 1/2
    (their n = 1000 intervals of 1e-4 and 0.3/1000, here in the limit). The released code counts each beta_t
    in both the forward and the backward variance; here v(1) - v(t) is exact.
    """

    beta_min: float = 0.1
    beta_max: float = 0.3

    def v(self, t: Tensor) -> Tensor:
        low, slope = math.sqrt(self.beta_min), math.sqrt(self.beta_max) - math.sqrt(self.beta_min)

        def rise(u: Tensor) -> Tensor:
            return ((low + slope * u) ** 3 - low**3) / (3 * slope) if slope else low**2 * u

        half = rise(torch.full_like(t, 0.5))
        return torch.where(t <= 0.5, rise(t), 2 * half - rise(1 - t))


@dataclass(frozen=True)
class SBVE(_Pinned):
    """Schroedinger bridge over a variance-exploding diffusion, g = sqrt(c) k^t (Jukic et al. 2024, 2407.16074).

    v = c (k^(2t) - 1)/(2 ln k). ``scale`` is their c.
    """

    k: float = 2.6
    scale: float = 0.4

    def v(self, t: Tensor) -> Tensor:
        rate = 2 * math.log(self.k)
        return self.scale * torch.expm1(rate * t) / rate


@dataclass(frozen=True)
class OUVE(_Pulled):
    """Ornstein-Uhlenbeck drift theta (y - x) with variance-exploding noise: SGMSE+ (Richter et al. 2023,
    2208.05830, eq. 3-6).

    a = e^(-theta t), s^2 = sigma_min^2 (r^(2t) - e^(-2 theta t)) ln r/(theta + ln r), r = sigma_max/sigma_min.
    At t = 1 it keeps a = 0.223 of x0, so its prior does not match.
    """

    theta: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5

    def a(self, t: Tensor) -> Tensor:
        return torch.exp(-self.theta * t)

    def s(self, t: Tensor) -> Tensor:
        log_r = math.log(self.sigma_max / self.sigma_min)
        rise = torch.expm1(2 * log_r * t) - torch.expm1(-2 * self.theta * t)
        return self.sigma_min * sqrt_variance(rise * log_r / (self.theta + log_r))


@dataclass(frozen=True)
class BBED(_Pulled):
    """Brownian bridge with exponential diffusion, dx = (y - x)/(1 - t) dt + sqrt(theta) k^t dw.

    Lay et al. 2023 (2302.14748). a = 1 - t and s^2 = (1 - t)^2 theta I(t), I = int_0^t k^(2u)/(1 - u)^2 du.
    With 1 - u = e^(-q) the integrand is smooth, and Gauss-Legendre in q is exact to rounding.
    """

    k: float = 2.6
    theta: float = 0.52

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def s(self, t: Tensor) -> Tensor:
        nodes, weights = (v.to(t) for v in _QUADRATURE)
        end = -torch.log1p(-t.clamp(max=1 - 1e-12))[..., None]
        q = end * (nodes + 1) / 2
        growth = torch.exp(2 * math.log(self.k) * -torch.expm1(-q) + q - 2 * end)
        return torch.where(t == 1, 0.0, sqrt_variance(self.theta * (end * weights / 2 * growth).sum(-1)))


@dataclass(frozen=True)
class Interpolant(Gaussian):
    """Two-sided linear stochastic interpolant, x_t = (1 - t) x0 + t y + gamma(t) eps.

    Albergo et al. 2023 (2303.08797). ``gamma`` is sqrt(scale t (1 - t)), scale t (1 - t) or scale sin^2(pi t).
    Only the first is a Brownian bridge, whose end tells nothing of x0 but y. With the other two a/s does not
    vanish at t = 1, so that a sampler which knows y cannot start there exactly (:meth:`terminal_mismatch`),
    and with the sine it even rises again: use its flow from a ``t`` below the middle.
    """

    gamma: Literal["sqrt", "quadratic", "sine"] = "sqrt"
    scale: float = 1.0

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def b(self, t: Tensor) -> Tensor:
        return t.clone()

    def s(self, t: Tensor) -> Tensor:
        if self.gamma == "sqrt":
            return sqrt_variance(self.scale * t * (1 - t))
        if self.gamma == "quadratic":
            return self.scale * t * (1 - t)
        return torch.where(t == 1, 0.0, self.scale * torch.sin(math.pi * t) ** 2)


@dataclass(frozen=True)
class IRSDE(_Pulled):
    """Mean-reverting SDE, dx = theta (y - x) dt + sigma dw, sigma^2 = 2 level^2 theta (Luo et al. 2023,
    2301.11699).

    a = e^(-Theta), s = level sqrt(1 - a^2). theta_i is their cosine schedule of ``steps`` steps, with Theta
    scaled so that a(1) = ``end``; between steps Theta is linear. ``level`` is max_sigma/255: 10/255 for
    deraining, 50/255 in DA-CLIP.
    """

    level: float = 10 / 255
    steps: int = 100
    end: float = 0.005

    @cached_property
    def integral(self) -> Tensor:
        """Theta at 0, 1/steps, ..., 1, float64; theta_0 is left out so that Theta(0) = 0."""
        grid = torch.arange(self.steps + 3, dtype=torch.float64) / (self.steps + 2)
        curve = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        theta = 1 - (curve / curve[0])[1:-1]
        total = torch.cumsum(theta, 0) - theta[0]
        return total * (-math.log(self.end) / total[-1])

    def a(self, t: Tensor) -> Tensor:
        return torch.exp(-interpolate(t, self.integral))

    def s(self, t: Tensor) -> Tensor:
        return self.level * sqrt_variance(-torch.expm1(-2 * interpolate(t, self.integral)))


class _Walk(_Pulled):
    """Bridges whose noise is a random walk: it adds up and does not contract."""

    def c(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class ResShift(_Walk):
    """x_t = x0 + eta (y - x0) + kappa sqrt(eta) eps (Yue et al. 2023, 2307.12348, eq. 1 and 10).

    sqrt(eta) rises geometrically from min(min_noise/kappa, min_noise) at step 1 to ``end`` at ``steps``, with
    exponent ((k - 1)/(steps - 1))^power, and linearly from 0 before step 1; t = k/steps.
    """

    steps: int = 15
    kappa: float = 2.0
    power: float = 0.3
    min_noise: float = 0.04
    end: float = 0.99

    def root(self, t: Tensor) -> Tensor:
        """sqrt(eta)."""
        first = min(self.min_noise / self.kappa, self.min_noise)
        k = t * self.steps
        rise = ((k - 1).clamp(min=0) / (self.steps - 1)) ** self.power
        return torch.where(k < 1, first * k, first * (self.end / first) ** rise)

    def a(self, t: Tensor) -> Tensor:
        return 1 - self.root(t) ** 2

    def s(self, t: Tensor) -> Tensor:
        return self.kappa * self.root(t)


@dataclass(frozen=True)
class RDDM(_Walk):
    """Residual denoising, x_t = x0 + alpha_bar (y - x0) + beta_bar eps (Liu et al. 2024, 2308.13712, eq. 7).

    The steps alpha fall and the steps beta^2 rise linearly; ``noise`` is the sum of beta^2 (0.01 for
    restoration, 1 for generation). With t = k/steps their cumulated sums are the polynomials below.
    """

    steps: int = 1000
    noise: float = 0.01

    def b(self, t: Tensor) -> Tensor:
        return t * (2 * self.steps + 1 - self.steps * t) / (self.steps + 1)

    def a(self, t: Tensor) -> Tensor:
        return torch.where(t == 1, 0.0, 1 - self.b(t))

    def s(self, t: Tensor) -> Tensor:
        return sqrt_variance(self.noise * t * (self.steps * t + 1) / (self.steps + 1))


@dataclass(frozen=True)
class Resfusion(Gaussian):
    """x_t = m x0 + (1 - m)(y - x0) + sqrt(1 - m^2) eps with m = sqrt(alpha_bar) (Shi et al. 2023, 2311.14900).

    The schedule is DDPM's linear one scaled to ``steps`` and cut where m = 1/2, so that the end,
    y/2 + sqrt(3)/2 eps, does not depend on x0. The cut falls inside a step: 12 steps leave 5, the last one
    shorter. The noise contracts with m and not with a = 2m - 1.
    """

    steps: int = 12
    beta_start: float = 1e-4
    beta_end: float = 2e-2

    @cached_property
    def log_m(self) -> Tensor:
        """log sqrt(alpha_bar) at the steps that are left, the last at log(1/2)."""
        beta = (
            torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
            * 1000
            / self.steps
        )
        log_m = 0.5 * torch.log1p(-beta.clamp(max=0.999)).cumsum(0)
        kept = log_m[log_m > math.log(0.5)]
        return torch.cat(
            [torch.zeros(1, dtype=torch.float64), kept, torch.full((1,), math.log(0.5)).double()]
        )

    def c(self, t: Tensor) -> Tensor:
        return torch.where(t == 1, 0.5, interpolate(t, self.log_m).exp())

    def a(self, t: Tensor) -> Tensor:
        return 2 * self.c(t) - 1

    def b(self, t: Tensor) -> Tensor:
        return 1 - self.c(t)

    def s(self, t: Tensor) -> Tensor:
        return sqrt_variance(-torch.expm1(2 * self.c(t).log()))
