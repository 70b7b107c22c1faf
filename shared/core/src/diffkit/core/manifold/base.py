"""What processes and solvers need of a manifold, and the Euclidean one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.types import float64


class Manifold(ABC):
    """Points are tensors ``[batch, ..., *axes of a point]``; tangents have coordinates in which lengths are norms.

    Where a manifold says nothing else, a point and a tangent are vectors along the last axis.
    """

    @abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The point at the end of the geodesic from ``x`` along the tangent ``v``, of its length."""

    @abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The tangent at ``x`` of the shortest geodesic to ``y``: exp(x, log(x, y)) = y."""

    @abstractmethod
    def pull(self, x: Tensor, way: Tensor, v: Tensor) -> Tensor:
        """The derivative of log_x at the point exp(x, way) along ``v``, a tangent there; ``v`` at way = 0."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The point nearest to any tensor of the shape of a point."""

    @abstractmethod
    def noise(self, x: Tensor, values: Tensor) -> Tensor:
        """The standard normal tangent at ``x`` of standard normal values of its shape, by orthogonal projection.

        So the noise of a rotated world is the rotated noise.
        """

    @abstractmethod
    def prior(self, values: Tensor) -> Tensor:
        """The point of standard normal values: uniform on a compact manifold."""

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """The length of the shortest geodesic, ``[batch, ...]``."""
        return torch.linalg.vector_norm(self.log(x, y), dim=-1)

    def check(self, x: Tensor) -> Tensor:
        """``x``; ValueError if it does not lie on the manifold. Reads one number back from the device."""
        gap = float((self.project(x) - x).abs().max())
        if not gap <= 1e-3:
            raise ValueError(
                f"points are off {type(self).__name__} by {gap:.2g}: take project(x) of them first."
            )
        return x


@dataclass(frozen=True)
class Euclidean(Manifold):
    """R^n: vectors ``[..., n]``, for leaves beside curved ones. Its :meth:`prior` is the standard normal law."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def pull(self, x: Tensor, way: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return x

    def noise(self, x: Tensor, values: Tensor) -> Tensor:
        return values

    def prior(self, values: Tensor) -> Tensor:
        return values


class Heated(Manifold):
    """A compact manifold whose heat kernel is known: the law of Brownian motion at variance sigma^2 a direction."""

    origin: Tensor
    """Some point."""

    @abstractmethod
    def diffuse(self, x0: Tensor, sigma: Tensor, values: Tensor) -> Tensor:
        """A draw of the kernel around ``x0``: a map of standard normal values of its shape."""

    @abstractmethod
    def log_prob(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """Log of the kernel's density over the uniform law's, ``[batch, ...]``. ValueError unless sigma > 0."""

    @abstractmethod
    def score(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """The gradient of :meth:`log_prob` at ``x``, a tangent."""


def positive(sigma: Tensor | float) -> Tensor:
    """``sigma`` in float64; ValueError unless it is positive."""
    sigma = float64(sigma)
    if not bool((sigma > 0).all()):
        raise ValueError(f"the sigma of a kernel must be positive, not {float(sigma.min()):g}.")
    return sigma


def sinc(square: Tensor) -> Tensor:
    """sin(r)/r of r^2, with its derivatives at 0."""
    near = square < 1e-2
    root = torch.where(near, 1.0, square).sqrt()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    return torch.where(near, series, root.sin() / root)


def arc(square: Tensor, cos: Tensor) -> Tensor:
    """The angle in [0, pi] over its sine, of sin^2 and cos, with its derivatives at 0."""
    near = (square < 1e-6) & (cos > 0)
    tangent2 = torch.where(near, square / torch.where(near, cos, 1.0).square(), 0.0)
    series = (1 - tangent2 / 3 * (1 - 3 * tangent2 / 5)) / torch.where(near, cos, 1.0)
    root = torch.where(near, 1.0, square).clamp(min=torch.finfo(square.dtype).tiny).sqrt()
    return torch.where(near, series, torch.atan2(root, cos) / root)


def flare(angle: Tensor) -> Tensor:
    """(1 - (angle/2) cot(angle/2))/angle^2, 1/12 at 0: how geodesics part on a sphere or among rotations."""
    near = angle < 0.1
    far = torch.where(near, 1.0, angle)
    square = angle.square()
    series = 1 / 12 + square / 720 * (1 + square / 42 * (1 + square / 40))
    return torch.where(near, series, (1 / far - 0.5 / torch.tan(far / 2)) / far)
