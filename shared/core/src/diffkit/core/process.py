r"""Gaussian processes between data and prior.

Every process of diffkit is three functions of time,

    x_t = a(t) x0 + b(t) y + s(t) eps,        t = 0 is data, t = 1 is prior,

and one more that says how the noise at two times is related. The marginals do not fix the joint law: with
n_t = s(t) eps_t and u < t,

    n_t = c(t)/c(u) n_u + independent noise   =>   corr(eps_t, eps_u) = rho(t, u) = c(t) s(u) / (c(u) s(t)).

c = a for Markov contractions (VP, OU processes, bridges), c = 1 for random walks (ResShift, RDDM). From it
follows the posterior that ancestral sampling needs,

    x_u | x_t, x0, y  ~  N(a_u x0 + b_u y + rho s_u eps_t,  s_u^2 (1 - rho^2)).

The anchor y vanishes in z = x - b(t) y, so a solver that is right for VP is right for every bridge.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from diffkit.core.types import expand_as, float64, normal_like


class Law(NamedTuple):
    """A normal law with independent components."""

    mean: Any
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``."""
        return self.mean + expand_as(self.std, noise) * noise


class Mismatch(NamedTuple):
    """What is left of the data at t = 1, which a sampler's start does not know."""

    signal: float
    """a(1), the share of x0 in the mean."""
    noise: float
    """s(1), the standard deviation of the noise."""
    ratio: float
    """a/s as t approaches 1: how many standard deviations a unit of data shifts the end state."""


class Process(Protocol):
    """What a sampler needs of any process; states are tensors or mappings of leaves."""

    def corrupt(self, x0: Any, t: Tensor, *, y: Any = None, noise: Any = None) -> Any: ...
    def posterior(self, x: Any, x0: Any, t: Tensor, u: Tensor, *, y: Any = None) -> Any: ...
    def prior(self, like: Any, *, y: Any = None, t: Tensor | float = 1.0) -> Any: ...


class Gaussian(ABC):
    """x_t = a(t) x0 + b(t) y + s(t) eps. Subclasses give ``a`` and ``s``, bridges ``b`` too.

    The three functions map a float64 tensor of times in [0, 1], of any shape, to coefficients of its shape;
    of a process that differs by element (:meth:`split`) to that and the axes of the elements.
    """

    @abstractmethod
    def a(self, t: Tensor) -> Tensor:
        """The coefficient of the data x0; a(0) = 1."""

    @abstractmethod
    def s(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise; s(0) = 0."""

    def b(self, t: Tensor) -> Tensor:
        """The coefficient of the anchor y; 0 where there is none."""
        return torch.zeros_like(t)

    def c(self, t: Tensor) -> Tensor:
        """The contraction of the noise over time; ``a`` unless the process says otherwise."""
        return self.a(t)

    def split(self) -> tuple[Sequence["Gaussian"], Tensor] | None:
        """The distinct processes of one that differs by element, and which of them each element has.

        The second is an integer tensor that broadcasts over the state from the left, its batch axis 1. None
        for a process that is the same for all elements.
        """
        return None

    def rho(self, t: Tensor | float, u: Tensor | float) -> Tensor:
        """corr(eps_t, eps_u) for u <= t, in [0, 1].

        At u = 0 and at a bridge's end, where s(t) = 0, no noise is shared: rho = 0.
        """
        t, u = float64(t), float64(u)
        ratio = self.c(t) * self.s(u) / (self.c(u) * self.s(t))
        return torch.where(torch.isfinite(ratio), ratio, 0.0).clamp(0.0, 1.0)

    def lam(self, t: Tensor | float) -> Tensor:
        """Half the log signal-to-noise ratio, log(a/s); infinite where s = 0, and -inf where a = 0."""
        t = float64(t)
        a, s = self.a(t), self.s(t)
        lam = a.log() - s.log()
        return torch.where((a == 0) & (s == 0), -torch.inf, lam)  # a bridge's end: noise without scale

    def time(self, lam: Tensor | float) -> Tensor:
        """The inverse of :meth:`lam` by bisection to rounding, float64."""
        lam = float64(lam)
        low, high = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(64):
            mid = (low + high) / 2
            cleaner = self.lam(mid) > lam
            low, high = torch.where(cleaner, mid, low), torch.where(cleaner, high, mid)
        return (low + high) / 2

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a', b', s') at ``t``, by forward-mode differentiation."""
        t = float64(t)
        one = torch.ones_like(t)
        da, db, ds = (torch.func.jvp(fn, (t,), (one,))[1] for fn in (self.a, self.b, self.s))
        return da, db, ds

    def corrupt(
        self, x0: Tensor, t: Tensor, *, y: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """A draw of x_t given x0 ``[batch, ...]`` (and y, of its shape) at ``t``: a scalar, or its first axes.

        ``noise`` defaults to fresh standard normal values.
        """
        return self.marginal(x0, t, y=y).sample(normal_like(x0) if noise is None else noise)

    def marginal(self, x0: Tensor, t: Tensor | float, *, y: Tensor | None = None) -> Law:
        """The law of x_t given x0 and y."""
        t = float64(t)
        mean = expand_as(self.a(t), x0) * x0
        if y is not None:
            mean = mean + expand_as(self.b(t), x0) * y
        return Law(mean, self.s(t))

    def posterior(
        self, x: Tensor, x0: Tensor, t: Tensor | float, u: Tensor | float, *, y: Tensor | None = None
    ) -> Law:
        """The law of x_u given x_t = ``x``, x0 and y, for u <= t (see the module's derivation)."""
        t, u = float64(t), float64(u)
        here, there = self.marginal(x0, t, y=y), self.marginal(x0, u, y=y)
        rho, s_u = self.rho(t, u), self.s(u)
        held = (here.std == s_u).to(s_u)  # 0 = 0: u is t, and x_u is x_t
        weight = torch.where(here.std > 0, rho * s_u / here.std, held)
        mean = there.mean + expand_as(weight, x) * (x - here.mean)
        return Law(mean, s_u * (1 - rho**2).sqrt())

    def prior(self, like: Tensor, *, y: Tensor | None = None, t: Tensor | float = 1.0) -> Law:
        """The law that sampling starts from: that of x_1 with the anchor in place of the unknown x0.

        Warns when x_1 still depends on x0 (:meth:`terminal_mismatch`). A ``t`` below 1 is a warm start.
        """
        start = float64(t)
        mismatch = self.terminal_mismatch()
        if bool((start == 1).any()) and mismatch.ratio > 0.1:
            warnings.warn(
                f"{type(self).__name__} keeps {mismatch.signal:.3g} of x0 at t = 1 beside noise of "
                f"{mismatch.noise:.3g}: sampling starts from a law that is not the end of this process.",
                stacklevel=2,
            )
        mean = torch.zeros_like(like) if y is None else expand_as(self.a(start) + self.b(start), y) * y
        return Law(mean, self.s(start))

    def terminal_mismatch(self) -> Mismatch:
        """What the end state still knows of x0: 0 for a process whose prior is exact; of the worst element."""
        times = torch.tensor([1 - 1e-6, 1.0], dtype=torch.float64)
        (near, a), (spread, s) = self.a(times).reshape(2, -1), self.s(times).reshape(2, -1)
        ratio = torch.where(spread > 0, near.abs() / spread, torch.inf)
        worst = ratio.argmax()
        return Mismatch(float(a[worst]), float(s[worst]), float(ratio[worst]))


@dataclass(frozen=True)
class VP(Gaussian):
    """Variance preserving: a = exp(-(beta_min t + (beta_max - beta_min) t^2/2)/2), s^2 = 1 - a^2.

    Song et al. 2021 (2011.13456), eq. 29-33; DDPM's linear schedule in continuous time.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_a(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2)

    def a(self, t: Tensor) -> Tensor:
        return self.log_a(t).exp()

    def s(self, t: Tensor) -> Tensor:
        return sqrt_variance(-torch.expm1(2 * self.log_a(t)))


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-variance preserving: a of VP, s = 1 - a^2. Song et al. 2021 (2011.13456), eq. 29."""

    def s(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_a(t))


@dataclass(frozen=True)
class Cosine(Gaussian):
    """Variance preserving on a quarter circle: a = cos(pi t/2), s = sin(pi t/2).

    Nichol and Dhariwal 2021 (2102.09672), without their offset and cut.
    """

    def a(self, t: Tensor) -> Tensor:
        return torch.where(t == 1, 0.0, torch.cos(0.5 * math.pi * t))

    def s(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)


@dataclass(frozen=True)
class VE(Gaussian):
    """Variance exploding: a = 1, s^2 = sigma_min^2 (r^(2t) - 1), r = sigma_max/sigma_min.

    The exact solution of Song et al. 2021 (2011.13456), eq. 30, from x0 at t = 0; released code drops the -1, and so
    adds sigma_min^2 to every variance.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def a(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def s(self, t: Tensor) -> Tensor:
        return self.sigma_min * sqrt_variance(torch.expm1(2 * t * math.log(self.sigma_max / self.sigma_min)))


@dataclass(frozen=True)
class EDM(Gaussian):
    """a = 1, s = sigma_max t: Karras et al. 2022 (2206.00364), with time scaled to [0, 1]."""

    sigma_max: float = 80.0

    def a(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def s(self, t: Tensor) -> Tensor:
        return self.sigma_max * t


@dataclass(frozen=True)
class RectifiedFlow(Gaussian):
    """a = 1 - t, s = t: rectified flow (Liu et al. 2022, 2209.03003), conditional OT (Lipman et al., 2210.02747)."""

    def a(self, t: Tensor) -> Tensor:
        return 1 - t

    def s(self, t: Tensor) -> Tensor:
        return t.clone()


@dataclass(frozen=True)
class Discrete(Gaussian):
    """The variance-preserving process of a network of ``steps`` discrete steps, index i at t = (i + 1)/steps.

    a^2 is the product of 1 - beta, log a linear between steps and a(0) = 1. beta rises from ``first`` to
    ``last``, linearly (DDPM) or with a linear root ("scaled": Stable Diffusion, of the default values), or is
    cut from the cosine of Nichol and Dhariwal (2102.09672) at 0.999. A network of indices is called at
    ``steps * t - 1``, rounded where it must be an integer. ValueError for an unknown schedule.
    """

    schedule: Literal["linear", "scaled", "cosine"] = "scaled"
    steps: int = 1000
    first: float = 0.00085
    last: float = 0.012

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "scaled", "cosine"):
            raise ValueError(f"no schedule {self.schedule!r}; the schedules are linear, scaled, cosine.")

    @cached_property
    def log_a(self) -> Tensor:
        """log a at 0, 1/steps, ..., 1, float64."""
        if self.schedule == "cosine":
            t = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
            bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        else:
            power = 2 if self.schedule == "scaled" else 1
            low, high = self.first ** (1 / power), self.last ** (1 / power)
            beta = torch.linspace(low, high, self.steps, dtype=torch.float64) ** power
        return torch.cat([torch.zeros(1), 0.5 * torch.log1p(-beta).cumsum(0)])

    def a(self, t: Tensor) -> Tensor:
        return interpolate(t, self.log_a).exp()

    def s(self, t: Tensor) -> Tensor:
        return sqrt_variance(-torch.expm1(2 * interpolate(t, self.log_a)))


@dataclass(frozen=True)
class ZeroTerminal(Gaussian):
    """Another process without an anchor, rescaled so that nothing of x0 is left at t = 1 (Lin et al. 2023,
    2305.08891).

    a' = (a - a(1)) a(k)/(a(k) - a(1)) from the time k = ``kept`` on, which stays as it was like all before it:
    0, or a discrete process' first step (theirs: 1/1000). s'^2 = a^2 + s^2 - a'^2 keeps the variance of unit
    data; on a variance-preserving process it is 1 - a'^2. A network learns it with a target that says something
    at a = 0 (x0 or v, not eps), and samples on a grid from t = 1.
    ValueError if the process has an anchor or does not take from its data, or for a time outside [0, 1).
    """

    process: Gaussian
    kept: float = 0.0

    def __post_init__(self) -> None:
        middle, end = torch.tensor([0.5, 1.0], dtype=torch.float64)
        if float(self.process.b(middle)) != 0 or float(self.process.a(end)) == 1:
            raise ValueError(
                f"{self.process} cannot end at zero signal: rescale a process whose a falls, without anchor."
            )
        if not 0 <= self.kept < 1:
            raise ValueError(f"the time that is kept must lie in [0, 1), not {self.kept}.")

    def a(self, t: Tensor) -> Tensor:
        a, first, last = (self.process.a(v) for v in (t, torch.full_like(t, self.kept), torch.ones_like(t)))
        return torch.where(t < self.kept, a, (a - last) * (first / (first - last)))

    def s(self, t: Tensor) -> Tensor:
        whole = self.process.a(t).square() + self.process.s(t).square()
        return sqrt_variance(whole - self.a(t).square())


def sqrt_variance(value: Tensor) -> Tensor:
    """sqrt of a variance that rounding may have left a hair below zero."""
    return value.clamp(min=0).sqrt()


def interpolate(t: Tensor, values: Tensor) -> Tensor:
    """Piecewise-linear through ``values`` at 0, 1/n, ..., 1: a discrete schedule as a function of time."""
    n = len(values) - 1
    values = values.to(t)
    index = (t * n).floor().clamp(0, n - 1)
    weight = t * n - index
    i = index.long()
    return values[i] * (1 - weight) + values[i + 1] * weight
