r"""Shortest path diffusion: each coefficient of an orthonormal basis diffuses at the rate of its own variance.

Data whose coefficients are independent normal values of variance v (a power law over frequency, for images;
:mod:`diffkit.core.basis`) have the marginal N(0, V(t)), V = a^2 v + s^2. The length of the path from N(0, v) to
N(0, 1) in Fisher's metric, int (V'/V)^2/2 dt, is least where V'/V is constant: V = v^tau with tau = 1 - t, so

    a^2 = (1 - v^tau)/(1 - v),      s^2 = (v^tau - v)/(1 - v).

Das et al. 2023 (2306.00501). Where v = 1 the limits are tau and t. Frequencies of little variance drown first,
which blurs, and those of variance above 1 lose their excess. Each has its short steps elsewhere, so the grid is
one in time that gathers at both ends, ``beta(n, 0.4, 0.4)``.

>>> f = fourier().frequencies((32, 32))
>>> process = ShortestPath(power_law(f)[None, None])    # or of data: fourier().forward(x).square().mean(0, True)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diffkit.core.process import Gaussian, sqrt_variance


@dataclass(frozen=True, eq=False)
class ShortestPath(Gaussian):
    """The shortest path of coefficients of variance ``variance``.

    A number is a process like any other. A tensor (or nested lists of numbers, which a checkpoint can store)
    holds the variance of each coefficient, and broadcasts over the state from the left, its batch axis 1: of
    an image ``[1, 1, height, width]`` or ``[1, channels, height, width]``. A plan of it has weights by
    coefficient, and takes time to tabulate for each distinct variance.
    ValueError if a variance is not positive and finite.
    """

    variance: Tensor | Sequence[Any] | float

    def __post_init__(self) -> None:
        if not bool(self.log_variance.isfinite().all()):
            raise ValueError("the variances of a shortest path must be positive and finite.")

    @cached_property
    def log_variance(self) -> Tensor:
        """float64, on the CPU."""
        return torch.as_tensor(self.variance, dtype=torch.float64).cpu().log()

    def _aligned(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``t`` with axes for the elements behind its own, and log v."""
        log_v = self.log_variance.to(t)
        return t.reshape(t.shape + (1,) * max(log_v.ndim - t.ndim, 0)), log_v

    def a(self, t: Tensor) -> Tensor:
        t, log_v = self._aligned(t)
        share = torch.where(log_v == 0, 1 - t, torch.expm1((1 - t) * log_v) / torch.expm1(log_v))
        return sqrt_variance(share)

    def s(self, t: Tensor) -> Tensor:
        t, log_v = self._aligned(t)
        share = torch.where(log_v == 0, t, torch.expm1(t * log_v) / torch.expm1(log_v))
        return sqrt_variance(share * torch.exp((1 - t) * log_v))

    def split(self) -> tuple[Sequence[Gaussian], Tensor] | None:
        if self.log_variance.ndim == 0:
            return None
        distinct, index = self.log_variance.unique(return_inverse=True)
        return [ShortestPath(float(v)) for v in distinct.exp()], index
