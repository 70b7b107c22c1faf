"""Rotations SO(3), with the isotropic Gaussian of :mod:`~diffkit.core.manifold.igso3` for Brownian motion."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.manifold.base import Heated, arc, flare, positive, sinc
from diffkit.core.manifold.igso3 import kernel, quantile
from diffkit.core.types import expand_as, float64


@dataclass(frozen=True)
class SO3(Heated):
    """Rotation matrices ``[..., 3, 3]``; tangents are rotation vectors ``[..., 3]`` (axis times angle, radians).

    They are in the frame of the point, exp(R, v) = R expm(v^), so that rotating the world leaves them as they are.
    At a distance of pi two geodesics are shortest; :meth:`log` takes one.
    """

    origin = torch.eye(3)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        turned = x @ matrix(v)
        return 1.5 * turned - 0.5 * turned @ (turned.mT @ turned)  # Newton's step: rounding does not add up

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return vector(x.mT @ y)

    def pull(self, x: Tensor, way: Tensor, v: Tensor) -> Tensor:
        """The inverse of the right Jacobian."""
        across = torch.linalg.cross(way, v)
        bend = flare(torch.linalg.vector_norm(way, dim=-1, keepdim=True))
        return v + across / 2 + bend * torch.linalg.cross(way, across)

    def project(self, x: Tensor) -> Tensor:
        """By singular values (Levinson et al. 2020, 2006.14616)."""
        u, _, v = torch.linalg.svd(x)
        sign = torch.linalg.det(u @ v)[..., None, None]
        return torch.cat([u[..., :2], u[..., 2:] * sign], -1) @ v

    def noise(self, x: Tensor, values: Tensor) -> Tensor:
        local = x.mT @ values
        return _axial(local - local.mT) / math.sqrt(2)

    def prior(self, values: Tensor) -> Tensor:
        return self.project(values)

    def diffuse(self, x0: Tensor, sigma: Tensor, values: Tensor) -> Tensor:
        """The axis of a normal tangent, and the angle at the quantile of its length, chi of three degrees."""
        v = self.noise(x0, values)
        length, sigma = float64(torch.linalg.vector_norm(v, dim=-1)), float64(sigma).to(v.device)
        share = torch.special.gammainc(torch.full_like(length, 1.5), length.square() / 2)
        omega = quantile(share.reshape(*sigma.shape, -1), sigma).reshape(length.shape)
        return self.exp(x0, v * (omega / length.clamp(min=1e-30)).to(v)[..., None])

    def log_prob(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        omega = float64(self.distance(x0, x))
        return kernel(omega, expand_as(positive(sigma), omega))[0].to(x)

    def score(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        v = self.log(x, x0)
        omega = float64(torch.linalg.vector_norm(v, dim=-1))
        return -v * kernel(omega, expand_as(float64(sigma), omega))[1].to(v)[..., None]


def matrix(v: Tensor) -> Tensor:
    """The rotation about ``v`` ``[..., 3]`` by its length: Rodrigues' formula."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    square = v.square().sum(-1)[..., None, None]
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    return eye + sinc(square) * cross + 0.5 * sinc(square / 4).square() * cross @ cross


def vector(rotation: Tensor) -> Tensor:
    """The rotation vector ``[..., 3]``, of length at most pi, of a matrix; the inverse of :func:`matrix`.

    By the quaternion, from the largest column of 4 q q^T (Shepperd 1978): to rounding also near 0 and pi.
    """
    a, b, c = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    x, y, z = _axial(rotation - rotation.mT).unbind(-1)
    p, q, r = (
        rotation[..., 2, 1] + rotation[..., 1, 2],
        rotation[..., 0, 2] + rotation[..., 2, 0],
        rotation[..., 1, 0] + rotation[..., 0, 1],
    )
    rows = [1 + a + b + c, x, y, z, x, 1 + a - b - c, r, q, y, r, 1 - a + b - c, p, z, q, p, 1 - a - b + c]
    outer = torch.stack(rows, -1).unflatten(-1, (4, 4))
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    column = outer.take_along_dim(best, -2).squeeze(-2)
    unit = column / torch.linalg.vector_norm(column, dim=-1, keepdim=True)
    unit = torch.where(unit[..., :1] < 0, -unit, unit)
    axis = unit[..., 1:]
    return 2 * arc(axis.square().sum(-1), unit[..., 0])[..., None] * axis


def _axial(skew: Tensor) -> Tensor:
    """The vector w of a skew matrix w^."""
    return torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)
