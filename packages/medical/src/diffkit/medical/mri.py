r"""Multi-coil Cartesian MRI, y_c = mask F (S_c x) + noise, and what is done to k-space before any method.

The image x is complex, ``[batch, 1, height, width]``, its real and imaginary parts counting as two real channels;
k-space is ``[batch, coils, height, width]`` with frequency 0 at ``[height // 2, width // 2]``, as fastMRI stores it.
F is unitary, so noise has the same level in both. ``noise`` is the standard deviation of each part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.inverse.linear import Coils
from diffkit.core.inverse.operator import Operator, Weight, with_axes
from diffkit.core.noise import Seeds

_AXES = (-2, -1)


def fft(x: Tensor, axes: tuple[int, ...] = _AXES) -> Tensor:
    """The unitary Fourier transform of the last two ``axes``, or others, with the origin of each at half its size."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def ifft(y: Tensor, axes: tuple[int, ...] = _AXES) -> Tensor:
    """The inverse of :func:`fft`."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(y, axes), dim=axes, norm="ortho"), axes)


@dataclass(frozen=True, eq=False)
class Cartesian:
    """Single-coil sampling, y = mask F x. ``mask`` broadcasts with ``[height, width]``; true where measured."""

    mask: Tensor

    def A(self, x: Tensor) -> Tensor:
        if not x.is_complex():
            raise ValueError("MRI is of complex images: give x as a complex tensor, or use TwoChannel.")
        return self.mask.to(x.device) * fft(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return ifft(self.mask.to(y.device) * y)

    def spectral(self, weight: Weight, x: Tensor) -> Tensor:
        singular = self.mask.to(x.device, x.real.dtype).expand(x.shape[-2:])
        return ifft(weight(with_axes(singular, x)) * fft(x))


@dataclass(frozen=True, eq=False)
class Sense(Coils):
    """SENSE, y_c = mask F (S_c x): Pruessmann et al. 1999, for Cartesian sampling.

    Args:
        sampling: ``Cartesian(mask)``; the mask has the height and width of the maps, or 1.
        sensitivity: the maps S, complex ``[coils, height, width]`` or ``[batch, coils, height, width]``.

    ValueError for maps that are not complex, finite and of such a shape, or that the mask does not fit.
    """

    sampling: Cartesian

    def __post_init__(self) -> None:
        maps, mask = self.sensitivity, self.sampling.mask
        if not (maps.is_complex() and maps.ndim in (3, 4) and bool(torch.isfinite(maps).all())):
            raise ValueError(
                "maps must be complex, finite and [coils, height, width], or with a batch before; these are "
                f"{tuple(maps.shape)} {maps.dtype}."
            )
        plane = tuple(maps.shape[-2:])
        if any(n not in (1, full) for n, full in zip(mask.shape[::-1], plane[::-1], strict=False)):
            raise ValueError(
                f"the mask {tuple(mask.shape)} does not fit maps of {plane}: make both of one size."
            )

    def A(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[-2:] != self.sensitivity.shape[-2:]:
            raise ValueError(
                f"an image for maps of {tuple(self.sensitivity.shape)} is "
                f"{('batch', 1, *self.sensitivity.shape[-2:])}, not {tuple(x.shape)}."
            )
        return super().A(x)

    def measure(self, x: Tensor, *, noise: float, seeds: Sequence[int]) -> Tensor:
        """k-space of ``x`` with noise of its own for each sample where the mask is true, and 0 elsewhere."""
        y = self.A(x)
        return y + noise * self.sampling.mask.to(y.device) * Seeds(seeds)(0, y)


@dataclass(frozen=True, eq=False)
class TwoChannel:
    """An operator of complex images ``[batch, 1, ...]`` as one of their parts, real ``[batch, 2, ...]``.

    Measurements stay complex.
    """

    operator: Operator

    def A(self, x: Tensor) -> Tensor:
        return self.operator.A(to_complex(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return to_channels(self.operator.A_adjoint(y))


def to_channels(x: Tensor) -> Tensor:
    """Complex ``[batch, 1, ...]`` to its real and imaginary parts, ``[batch, 2, ...]``."""
    return torch.cat([x.real, x.imag], 1)


def to_complex(x: Tensor) -> Tensor:
    """The inverse of :func:`to_channels`; ValueError unless there are two channels."""
    if x.shape[1] != 2:
        raise ValueError(f"a complex image has two real channels, [batch, 2, ...]; this is {tuple(x.shape)}.")
    return torch.complex(x[:, :1], x[:, 1:])


def rss(images: Tensor) -> Tensor:
    """The root of the sum of squares over coils ``[..., coils, height, width]``, real, as one channel."""
    return torch.linalg.vector_norm(images, dim=-3, keepdim=True)


def noise_covariance(noise: Tensor) -> Tensor:
    """The covariance E[n n^H] of coils, ``[coils, coils]``, from a noise scan ``[coils, samples]``.

    ValueError for fewer samples than coils, whose covariance has no inverse.
    """
    coils, samples = noise.shape
    if samples < coils:
        raise ValueError(
            f"{samples} samples of noise cannot tell the covariance of {coils} coils: scan more."
        )
    return noise @ noise.mH / samples


def whiten(x: Tensor, covariance: Tensor) -> Tensor:
    """k-space or maps ``[..., coils, height, width]`` of virtual coils, whose noise is independent with ``noise`` 1.

    x is taken to sqrt(2) L^-1 x, ``covariance`` = L L^H (Pruessmann et al. 2001). k-space and maps go through the same
    map, unless the maps are estimated from whitened k-space. ValueError for a covariance that is not that of the coils,
    or not Hermitian and positive definite.
    """
    coils = x.shape[-3]
    if covariance.shape != (coils, coils):
        raise ValueError(f"the covariance is {tuple(covariance.shape)}, and there are {coils} coils.")
    factor, failed = torch.linalg.cholesky_ex(covariance.to(x))
    uneven = (covariance - covariance.mH).abs().max() > 1e-4 * covariance.abs().max()
    if bool(failed) or bool(uneven):
        raise ValueError("a noise covariance is Hermitian and positive definite: this one is not.")
    white = torch.linalg.solve_triangular(factor, x.flatten(-2), upper=False) * 2**0.5
    return white.unflatten(-1, x.shape[-2:])
