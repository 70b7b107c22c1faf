"""Gaussian mixtures, whose denoiser is known in closed form: the ground truth of every law."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.process import Gaussian
from diffkit.core.types import float64


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of isotropic normals over ``dims`` components.

    ``weights`` ``[k]``, ``means`` ``[k, dims]`` and ``stds`` ``[k]``; float64.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    @classmethod
    def reference(cls) -> "Mixture":
        """The one-dimensional mixture of the golden table: weights .3, .7; means -1, .8; stds .5, .4."""
        values = ([0.3, 0.7], [[-1.0], [0.8]], [0.5, 0.4])
        return cls(*(torch.tensor(v, dtype=torch.float64) for v in values))

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``[count, dims]`` draws."""
        index = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[index] + self.stds[index, None] * noise

    def _components(self, process: Gaussian, z: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Log of weight times density ``[batch, k]``, z - a m ``[batch, k, dims]``, variances, a ``[batch, 1]``."""
        t = float64(t).expand(len(z))
        a, s = process.a(t).to(z)[:, None], process.s(t).to(z)[:, None]
        means, stds, weights = (v.to(z) for v in (self.means, self.stds, self.weights))
        variance = (a * stds).square() + s.square()
        gap = z[:, None, :] - a[..., None] * means
        scale = z.shape[1] * (2 * torch.pi * variance).log()
        return weights.log() - 0.5 * (gap.square().sum(-1) / variance + scale), gap, variance, a

    def log_prob(self, process: Gaussian, z: Tensor, t: Tensor | float) -> Tensor:
        """log p of z_t = x_t - b y, ``[batch]``."""
        return self._components(process, z, torch.as_tensor(t))[0].logsumexp(-1)

    def denoise(self, process: Gaussian, z: Tensor, t: Tensor) -> Tensor:
        """E[x0 | z_t] ``[batch, dims]``: sum_k r_k (m_k + a s_k^2/(a^2 s_k^2 + s^2) (z - a m_k))."""
        log, gap, variance, a = self._components(process, z, torch.as_tensor(t))
        share = log.softmax(-1)[..., None]
        stds, means = self.stds.to(z), self.means.to(z)
        shrink = (a * stds.square() / variance)[..., None]
        return (share * (means + shrink * gap)).sum(1)
