"""The unit sphere in n dimensions, for flows: its heat kernel has no short exact form, and is left out."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.manifold.base import Manifold, arc, flare, sinc


@dataclass(frozen=True)
class Sphere(Manifold):
    """Unit vectors ``[..., n]``; tangents are the vectors orthogonal to the point.

    Between antipodes all directions are shortest; :meth:`log` takes that of the axis furthest from both.
    """

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        square = v.square().sum(-1, keepdim=True)
        return self.project((1 - square / 2 * sinc(square / 4).square()) * x + sinc(square) * v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        cos = (x * y).sum(-1, keepdim=True)
        across = y - cos * x
        square = across.square().sum(-1, keepdim=True)
        opposite = (cos < 0) & (square < (16 * torch.finfo(x.dtype).eps) ** 2)
        axis = torch.zeros_like(x).scatter(-1, x.abs().argmin(-1, keepdim=True), 1.0)
        return torch.where(opposite, math.pi * self.project(self.noise(x, axis)), arc(square, cos) * across)

    def pull(self, x: Tensor, way: Tensor, v: Tensor) -> Tensor:
        angle = torch.linalg.vector_norm(way, dim=-1, keepdim=True)
        out = (x * v).sum(-1, keepdim=True)
        return (v - out * (x + 4 * flare(2 * angle) * way)) / sinc(angle.square())

    def project(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    def noise(self, x: Tensor, values: Tensor) -> Tensor:
        return values - (x * values).sum(-1, keepdim=True) * x

    def prior(self, values: Tensor) -> Tensor:
        return self.project(values)
