r"""Orthonormal maps: states as coefficients in which what is known of the data is diagonal.

An orthonormal map leaves standard normal noise and squared errors as they are, so a process, its loss and its
solvers work on coefficients as they do on values. Only the network sees values, by :func:`within`:

    c0 = dct.forward(x0)                                   # training
    loss = denoising_loss(within(dct, net), process, c0)

    out = sample(within(dct, denoise), process, like)      # sampling
    x0 = dct.inverse(out)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffkit.core.types import Denoiser, Through


class Basis(NamedTuple):
    """An orthonormal map of tensors to coefficients of their shape, and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    periods: Callable[[int], Tensor]
    """Of the coefficients along an axis of n values, in the extent of the axis; float64 ``[n]``."""

    def frequencies(self, shape: Sequence[int]) -> Tensor:
        """The length of each coefficient's vector of frequencies over the last axes ``shape``."""
        square = torch.zeros((), dtype=torch.float64)
        for n in shape:
            square = square[..., None] + self.periods(n).square()
        return square.sqrt()


def within(basis: Basis, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    """A network or denoiser ``(x, t) -> x`` of values as one of coefficients."""

    def changed(inner: Denoiser) -> Denoiser:
        return lambda c, t: basis.forward(inner(basis.inverse(c), t))

    return Through(changed, function)


def fourier(axes: int = 2) -> Basis:
    """The Fourier basis of real tensors over the last ``axes``: Hartley's, real and its own inverse.

    With F the unitary Fourier transform the coefficients are Re F - Im F; what treats f and -f alike, such as
    a spectrum, is diagonal in both.
    """

    def hartley(x: Tensor) -> Tensor:
        f = torch.fft.fftn(x, dim=tuple(range(-axes, 0)), norm="ortho")
        return f.real - f.imag

    return Basis(hartley, hartley, lambda n: torch.fft.fftfreq(n, 1 / n, dtype=torch.float64).abs())


def cosine(axes: int = 2) -> Basis:
    """The orthonormal DCT-II over the last ``axes``: Fourier's of the mirrored tensor, so that no edge wraps."""

    def along(step: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def all_axes(x: Tensor) -> Tensor:
            for axis in range(-axes, 0):
                x = step(x.movedim(axis, -1)).movedim(-1, axis)
            return x

        return all_axes

    return Basis(along(_dct), along(_idct), lambda n: torch.arange(n, dtype=torch.float64) / 2)


def _dct(x: Tensor) -> Tensor:
    """Along the last axis, by one FFT of the even values followed by the odd ones backwards (Makhoul 1980)."""
    v = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1), norm="ortho")
    return (v * _twiddle(x).conj()).real


def _idct(c: Tensor) -> Tensor:
    n = c.shape[-1]
    mirrored = torch.cat([torch.zeros_like(c[..., :1]), c[..., 1:].flip(-1)], -1)
    twiddle = _twiddle(c)
    v = torch.fft.ifft(torch.complex(c, -mirrored) * twiddle / twiddle.abs().square(), norm="ortho").real
    x = torch.empty_like(c)
    x[..., ::2], x[..., 1::2] = v[..., : -(-n // 2)], v[..., -(-n // 2) :].flip(-1)
    return x


def _twiddle(x: Tensor) -> Tensor:
    """sqrt(2) e^(i pi k/2n), 1 for k = 0: a quarter of a sample, and the norms of the cosines."""
    n = x.shape[-1]
    k = torch.arange(n, device=x.device, dtype=x.dtype)
    norm = torch.where(k == 0, torch.ones_like(k), math.sqrt(2))
    return torch.polar(norm, k * (math.pi / (2 * n)))


def power_law(f: Tensor, c1: float = 1.59, c2: float = 0.0086, m: float = 2.0) -> Tensor:
    """The variance c1/(c2 + f)^m of an image's coefficients at frequency ``f``; by default that of CIFAR-10.

    Das et al. 2023 (2306.00501), for the orthonormal Fourier basis.
    """
    return c1 / (c2 + f) ** m
