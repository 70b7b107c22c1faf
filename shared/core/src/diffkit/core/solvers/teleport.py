r"""Analytical teleportation: the Gaussian score has an exact flow, so the first steps need no network.

Wang and Vastola 2023 and 2024 (2303.02490, 2412.09726). For x0 ~ N(mu, sum_k l_k u_k u_k^T) the covariance of
z_t has eigenvalues a^2 l_k + s^2, and the probability flow stretches every direction by itself,

    z_u = a_u mu + sum_k sqrt((a_u^2 l_k + s_u^2)/(a_t^2 l_k + s_t^2)) u_k u_k^T (z_t - a_t mu).

Where noise dominates every law of data looks normal: against that of the same mean and covariance the score
is off by O(s^-3) of itself. So a sampler may jump there and walk on (*teleport*). The same formula says that
pictures are painted outline first: direction k has emerged once a^2 l_k exceeds s^2, the widest one first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.grid import Grid, below, check
from diffkit.core.plan import integrate
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, first_noise
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw, expand_as, float64


@dataclass(frozen=True, eq=False)
class GaussianScore:
    """A normal law of data: ``mean`` of the shape of a sample, orthonormal directions ``basis`` ``[k, dims]``
    over its flattened elements, their ``variances`` ``[k]``, and the variance ``rest`` of every other direction.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float = 0.0

    @classmethod
    def fit(cls, data: Tensor, rank: int | None = None) -> "GaussianScore":
        """Of ``data`` ``[count, ...]``, float64; the ``rank`` widest directions, all by default.

        ``rest`` is the mean variance of those left out: probabilistic PCA (Tipping and Bishop 1999).
        """
        flat = data.flatten(1).double()
        if len(flat) < 2:
            raise ValueError(f"a covariance needs at least two samples, not {len(flat)}.")
        mean = flat.mean(0)
        _, spread, basis = torch.linalg.svd(flat - mean, full_matrices=False)
        variances = spread.square() / (len(flat) - 1)
        rank = len(variances) if rank is None else rank
        left = flat.shape[1] - rank
        rest = float(variances[rank:].sum()) / left if left > 0 else 0.0
        return cls(mean.unflatten(0, data.shape[1:]), basis[:rank], variances[:rank], rest)

    def denoise(self, process: Gaussian, z: Tensor, t: Tensor | float) -> Tensor:
        """E[x0 | z_t] for this law, at times ``t`` (scalar or ``[batch]``): a denoiser."""
        t = float64(t)[..., None]
        a, s = process.a(t), process.s(t)
        mean = self.mean.to(z)
        return mean + self._scale(z - expand_as(a[..., 0], z) * mean, lambda v: a * v / (a**2 * v + s**2))

    def flow(self, process: Gaussian, z: Tensor, t: Tensor | float, u: Tensor | float) -> Tensor:
        """The state at ``u`` of the probability flow through ``z`` ``[batch, ...]`` at ``t``: exact."""
        t, u = float64(t), float64(u)
        here, there = ((process.a(v), process.s(v)) for v in (t, u))
        mean = self.mean.to(z)

        def stretch(variance: Tensor) -> Tensor:
            one, other = (a[..., None] ** 2 * variance + s[..., None] ** 2 for a, s in (here, there))
            return (other / one).sqrt()

        moved = self._scale(z - expand_as(here[0], z) * mean, stretch)
        return expand_as(there[0], z) * mean + moved

    def emergence(self, process: Gaussian, t: Tensor | float) -> Tensor:
        """How much of every direction ``[..., k]`` the flow's prediction at ``t`` shows already, of what it will
        show at t = 0: a sqrt(l/(a^2 l + s^2)), from 0 to 1."""
        t = float64(t)[..., None]
        a, s = process.a(t), process.s(t)
        return a * (self.variances / (a**2 * self.variances + s**2)).sqrt()

    def _scale(self, value: Tensor, factor: Callable[[Tensor], Tensor]) -> Tensor:
        """``value`` with every direction multiplied by ``factor`` of its variance."""
        variances = torch.cat([self.variances, self.variances.new_tensor([self.rest])])
        factors = factor(variances.to(value.device)).to(value)
        rest, flat, basis = factors[..., -1:], value.flatten(1), self.basis.to(value)
        return (rest * flat + ((flat @ basis.T) * (factors[..., :-1] - rest)) @ basis).reshape(value.shape)


def teleport(gaussian: GaussianScore, skip: float, solver: Solver | None = None) -> Sampler:
    """From the start of the grid to the time ``skip`` without a call, then ``solver`` (ddim by default) over
    the times of the grid below.

    Where to: the papers report EDM models unharmed to sigma = s/a of 10 to 20 of 80, for data of deviation 1/2.
    """

    def sampler(denoise: Denoiser, process: Gaussian, x: Tensor, grid: Grid, *, draw: Draw) -> Tensor:
        grid = check(grid)
        rest = below(grid, skip)
        first_noise(process, grid)
        x = gaussian.flow(process, x, grid[0], rest[0])
        return integrate(denoise, x, (solver or ddim())(process, rest), draw=draw)

    return sampler
