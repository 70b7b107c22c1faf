"""The torus of angles, with the wrapped normal law for Brownian motion (Jing et al. 2022, 2206.01729)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.manifold.base import Heated, positive
from diffkit.core.types import expand_as, float64

_TURNS = 10
_WIDEST = 6.5
"""sigma up to which 2 * 10 + 1 turns are right to rounding; there the law is uniform to 2 e^(-sigma^2/2) = 1e-9."""


@dataclass(frozen=True)
class Torus(Heated):
    """Angles ``[..., n]`` in radians, each on its own circle; those given back lie in [-pi, pi)."""

    origin = torch.zeros(1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.project(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.project(y - x)

    def pull(self, x: Tensor, way: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return torch.remainder(x + math.pi, 2 * math.pi) - math.pi

    def noise(self, x: Tensor, values: Tensor) -> Tensor:
        return values

    def prior(self, values: Tensor) -> Tensor:
        return math.pi * (2 * torch.special.ndtr(values) - 1)

    def check(self, x: Tensor) -> Tensor:
        """``x``: every finite number is an angle."""
        super().check(self.project(x))
        return x

    def diffuse(self, x0: Tensor, sigma: Tensor, values: Tensor) -> Tensor:
        return self.project(x0 + expand_as(sigma, x0) * values)

    def log_prob(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        gap, sigma = _turns(self.log(x0, x), positive(sigma))
        log = (
            (-0.5 * (gap / sigma).square()).logsumexp(-1) + 0.5 * math.log(2 * math.pi) - sigma[..., 0].log()
        )
        return log.sum(-1).to(x)

    def score(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        gap, sigma = _turns(self.log(x0, x), float64(sigma))
        share = (-0.5 * (gap / sigma).square()).softmax(-1)
        return -((share * gap).sum(-1) / sigma[..., 0].square()).to(x)


def _turns(gap: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The gap and its images ``[..., n, turns]``, and sigma ready to divide them, in float64."""
    gap = float64(gap)
    turns = 2 * math.pi * torch.arange(-_TURNS, _TURNS + 1, dtype=gap.dtype, device=gap.device)
    return gap[..., None] + turns, expand_as(sigma.clamp(max=_WIDEST), gap)[..., None]
