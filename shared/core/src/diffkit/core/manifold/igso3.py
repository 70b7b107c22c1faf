r"""The isotropic Gaussian on SO(3): the law of the rotation angle omega under Brownian motion.

Over the uniform law its density is (Nikolayev and Savyolova 1997; Leach et al. 2022; Yim et al. 2023, 2302.02277)

    p = sum_l (2l + 1) e^(-l (l + 1) sigma^2/2) sin((l + 1/2) omega)/sin(omega/2),

or by Poisson's summation formula, as exactly,

    p = sqrt(2 pi) e^(sigma^2/8)/sigma^3 sum_k (-1)^k (omega - 2 pi k) e^(-(omega - 2 pi k)^2/(2 sigma^2))/sin(omega/2),

whose first term is the closed form for small sigma. Ten terms of the first from sigma = 1 on, and three of the
second below, are right to rounding. sigma is the deviation in each direction, sqrt(2) of Leach's epsilon; its
squares add under composition. The angle's own density is p (1 - cos(omega))/pi.
"""

import math

import torch
from torch import Tensor

from diffkit.core.manifold.base import flare

_TERMS = 10  # the next is e^(-66) at sigma = 1
_CELLS = 512  # in steps of sigma/50: shares right to 2e-9


def kernel(omega: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """log p at angles in [0, pi], and (d log p/d omega)/omega, which is finite at 0; float64."""
    few, many = images(omega, sigma.clamp(max=1.0)), spectrum(omega, sigma.clamp(min=1.0))
    log, slope = (torch.where(sigma < 1, p, q) for p, q in zip(few, many, strict=True))
    return log, slope


def images(omega: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`kernel` by the second sum, k = -1, 0, 1: for sigma <= 1."""
    variance = sigma.square()
    safe = omega.clamp(min=3e-4)
    ratio, slope = torch.zeros_like(safe), torch.zeros_like(safe)
    for turn in (2 * math.pi, -2 * math.pi):
        term = -torch.exp(-turn * (turn / 2 - safe) / variance)
        ratio = ratio + term * (1 - turn / safe)
        slope = slope + term * (turn / safe.square() + (1 - turn / safe) * turn / variance)
    log = variance / 8 + 0.5 * math.log(2 * math.pi) - 3 * sigma.log() - omega.square() / (2 * variance)
    log = log - torch.log(0.5 * torch.sinc(omega / (2 * math.pi))) + torch.log1p(ratio)
    return log, slope / (safe * (1 + ratio)) - 1 / variance + flare(omega)


def spectrum(omega: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`kernel` by the first sum, with sin((l + 1/2) omega)/sin(omega/2) = 1 + 2 sum_j cos(j omega), j <= l."""
    p, slope, tail = torch.zeros_like(omega), torch.zeros_like(omega), torch.zeros_like(sigma)
    for degree in range(_TERMS, 0, -1):
        tail = tail + (2 * degree + 1) * torch.exp(-degree * (degree + 1) / 2 * sigma.square())
        p = p + 2 * tail * torch.cos(degree * omega)
        slope = slope - 2 * degree**2 * tail * torch.sinc(degree * omega / math.pi)
    p = p + 1 + tail
    return p.log(), slope / p


def quantile(share: Tensor, sigma: Tensor) -> Tensor:
    """The angles of which a ``share`` ``[..., n]`` in [0, 1] is smaller, at ``sigma`` ``[...]``.

    The distribution is summed over cells up to 10 sigma by the trapezium rule with its end correction, and
    solved as the cubic of each cell by bisection: a table for each sigma, on its device, that nothing keeps.
    """
    narrow = sigma.clamp(min=1e-4)[..., None]  # below, the angle over sigma has the law of this one
    width = (10 * narrow).clamp(max=math.pi) / _CELLS
    omega = width * torch.arange(_CELLS + 1, device=share.device, dtype=share.dtype)
    log, slope = kernel(omega, narrow)
    density = log.exp() * 2 * torch.sin(omega / 2).square() / math.pi
    change = density * slope * omega + log.exp() * torch.sin(omega) / math.pi
    rise = width / 2 * (density[..., 1:] + density[..., :-1]) - width.square() / 12 * change.diff()
    below = torch.cat([torch.zeros_like(width), rise.cumsum(-1)], -1)
    below, scale = below / below[..., -1:], width / below[..., -1:]
    cell = torch.searchsorted(below, share.contiguous(), right=True).clamp(1, _CELLS) - 1
    start, end = below.gather(-1, cell), below.gather(-1, cell + 1)
    first, last = (scale * density.gather(-1, cell + k) for k in (0, 1))
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(40):
        mid = (low + high) / 2
        value = start + mid * (
            first + mid * (3 * (end - start) - 2 * first - last + mid * (first + last - 2 * (end - start)))
        )
        low, high = torch.where(value < share, mid, low), torch.where(value < share, high, mid)
    return (cell + low) * width * (sigma[..., None] / narrow)
