r"""Processes whose states lie on a manifold: Brownian motion, and geodesics to the prior.

Both keep the core's words. With s(t) the deviation, D a *point* that the denoiser returns, and log_x the tangent
at x of the geodesic to a point,

    score(x, t) = log_x(D)/s^2,        dx/ds = -log_x(D)/s        (the probability flow, or the flow's velocity),

which in R^n is the score (D - x)/s^2 of D = E[x0 | x], and there only is D a mean. A network of scores or of
velocities is made a denoiser by :meth:`Brownian.tweedie` and :meth:`Curved.point`. Since s^2 times the length of
a kernel's score is less than pi on SO(3) and on circles, and so is that of its mean over x0, D is a point of
which log_x gives the tangent back.

    x_u | x_t, D  =  exp_x((1 - kappa) log_x(D) + tau z)

with kappa = s_u^2/s_t^2 and tau^2 = s_u^2 (1 - kappa) for Brownian motion, kappa = s_u/s_t and tau = 0 along
geodesics: in R^n the posteriors of VE and of rectified flow, and on a manifold the geodesic random walk of the
reverse SDE (De Bortoli et al. 2022, 2202.02763), and Euler's method, in the limit of short steps.
"""

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from diffkit.core.manifold.base import Heated, Manifold
from diffkit.core.process import VE, Gaussian
from diffkit.core.types import expand_as, float64, normal_like

M = TypeVar("M", bound=Manifold)

_LEVEL = VE(0.1, math.pi)


class Walk(NamedTuple):
    """The law of exp_x(drift + std z), z a standard normal tangent at x."""

    manifold: Manifold
    x: Tensor
    drift: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """A point, of standard normal values of the shape of ``x``."""
        z = self.manifold.noise(self.x, noise)
        return self.manifold.exp(self.x, self.drift + expand_as(self.std, z) * z)


class Uniform(NamedTuple):
    """The law of :meth:`Manifold.prior`."""

    manifold: Manifold

    def sample(self, noise: Tensor) -> Tensor:
        """A point, of standard normal values of its shape."""
        return self.manifold.prior(noise)


@dataclass(frozen=True)
class Curved(ABC, Generic[M]):
    """A process on ``manifold``; see the module. ValueError where an anchor is given: there is none."""

    manifold: M

    @abstractmethod
    def s(self, t: Tensor) -> Tensor:
        """The deviation, or the share of the way to the prior; s(0) = 0."""

    @abstractmethod
    def corrupt(self, x0: Tensor, t: Tensor, *, y: Any = None, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t given x0 at ``t``: a scalar, or the first axes of ``x0``; from normal values of its shape."""

    @abstractmethod
    def posterior(
        self, x: Tensor, x0: Tensor, t: Tensor | float, u: Tensor | float, *, y: Any = None
    ) -> Walk:
        """The step from ``x`` at t to u <= t towards the denoiser's point ``x0``, for ``ancestral``."""

    def prior(self, like: Tensor, *, y: Any = None, t: Tensor | float = 1.0) -> Uniform:
        """The law that sampling starts from: uniform on a compact manifold."""
        _no_anchor(y)
        return Uniform(self.manifold)

    def rate(self, t: Tensor) -> Tensor:
        """d log s/dt."""
        t = float64(t)
        return torch.func.jvp(self.s, (t,), (torch.ones_like(t),))[1] / self.s(t)

    def velocity(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """dx/dt, a tangent, at t > 0 for a denoiser's point ``x0``; for data, what a flow's network learns.

        Chen and Lipman 2023 (2302.03660), with the geodesic distance.
        """
        toward = self.manifold.log(x, x0)
        return -expand_as(self.rate(t), toward) * toward

    def point(self, x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """The denoiser's point of a velocity."""
        return self.manifold.exp(x, -velocity / expand_as(self.rate(t), velocity))


@dataclass(frozen=True)
class Geodesic(Curved[Manifold]):
    """x_t = exp_x0(t log_x0(x1)), x1 from the prior: flow matching (Chen and Lipman 2023, 2302.03660).

    On :class:`Euclidean` it is rectified flow.
    """

    def s(self, t: Tensor) -> Tensor:
        return t.clone()

    def corrupt(self, x0: Tensor, t: Tensor, *, y: Any = None, noise: Tensor | None = None) -> Tensor:
        _no_anchor(y)
        self.manifold.check(x0)
        end = self.manifold.prior(normal_like(x0) if noise is None else noise)
        way = self.manifold.log(x0, end)
        return self.manifold.exp(x0, expand_as(float64(t), way) * way)

    def posterior(
        self, x: Tensor, x0: Tensor, t: Tensor | float, u: Tensor | float, *, y: Any = None
    ) -> Walk:
        _no_anchor(y)
        way = self.manifold.log(x, x0)
        share = 1 - float64(u) / float64(t)
        return Walk(self.manifold, x, expand_as(share, way) * way, torch.zeros_like(share))


@dataclass(frozen=True)
class Brownian(Curved[Heated]):
    """Brownian motion of the deviation of ``level``: IGSO3 on SO(3), the wrapped normal law on angles.

    ``level`` has a = 1, and ends where the kernel is nearly uniform, at 3 for rotations and pi for angles
    (2206.01729): :meth:`prior` warns where it does not. Protein frames are often trained up to 1.5 (2302.02277),
    where the density at x0 still is twice the uniform one. The walk is that of De Bortoli et al. 2022 (2202.02763).

    ValueError for a level with a signal that fades, or without noise.
    """

    level: Gaussian = _LEVEL

    def __post_init__(self) -> None:
        end = torch.ones((), dtype=torch.float64)
        if float(self.level.a(end)) != 1 or not float(self.level.s(end)) > 0:
            raise ValueError(
                f"Brownian motion needs a level of a = 1 with noise, as VE or EDM, not {self.level}."
            )

    def s(self, t: Tensor) -> Tensor:
        return self.level.s(t)

    def corrupt(self, x0: Tensor, t: Tensor, *, y: Any = None, noise: Tensor | None = None) -> Tensor:
        _no_anchor(y)
        values = normal_like(x0) if noise is None else noise
        return self.manifold.diffuse(self.manifold.check(x0), self.s(float64(t)), values)

    def posterior(
        self, x: Tensor, x0: Tensor, t: Tensor | float, u: Tensor | float, *, y: Any = None
    ) -> Walk:
        _no_anchor(y)
        way = self.manifold.log(x, x0)
        s_t, s_u = self.s(float64(t)), self.s(float64(u))
        share = 1 - (s_u / s_t).square()
        return Walk(self.manifold, x, expand_as(share, way) * way, s_u * share.sqrt())

    def prior(self, like: Tensor, *, y: Any = None, t: Tensor | float = 1.0) -> Uniform:
        """The uniform law. Warns if the kernel at ``t`` exceeds it by more than a tenth at its peak."""
        origin, sigma = self.manifold.origin, self.s(float64(t)).max()
        excess = float(self.manifold.log_prob(origin, origin, sigma).expm1())
        if excess > 0.1:
            warnings.warn(
                f"at t = {float(torch.as_tensor(t).max()):g} the kernel's peak is {1 + excess:.3g} times the uniform "
                "density that sampling starts from: raise the level's end.",
                stacklevel=2,
            )
        return super().prior(like, y=y, t=t)

    def score(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The gradient of log p(x_t | x0), a tangent: what a network of scores learns."""
        return self.manifold.score(x, x0, self.s(float64(t)))

    def tweedie(self, x: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """The denoiser's point exp_x(s^2 score); of the score of a predicted x0, or of a network of scores."""
        return self.manifold.exp(x, expand_as(self.s(float64(t)).square(), score) * score)


def _no_anchor(y: Any) -> None:
    if y is not None:
        raise ValueError("a process on a manifold has no anchor: condition the network by closing over y.")
