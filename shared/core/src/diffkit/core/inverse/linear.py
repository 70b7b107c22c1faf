"""Linear operators: masks, block averages, blurs, Fourier sampling with coils, and any matrix."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from diffkit.core.inverse.operator import Operator, Weight, with_axes


@dataclass(frozen=True, eq=False)
class Mask:
    """Inpainting: y = mask x. ``mask`` broadcasts with the state; true, or 1, where it is known."""

    mask: Tensor

    def A(self, x: Tensor) -> Tensor:
        return _real(self.mask, x) * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def spectral(self, weight: Weight, x: Tensor) -> Tensor:
        return weight(with_axes(_real(self.mask, x).abs(), x)) * x


@dataclass(frozen=True)
class Average:
    """Superresolution: y is the mean of each ``factor`` x ``factor`` block of the last two axes.

    ValueError for a state whose axes are no multiples of the factor.
    """

    factor: int

    def A(self, x: Tensor) -> Tensor:
        f = self.factor
        if x.shape[-1] % f or x.shape[-2] % f:
            raise ValueError(
                f"blocks of {f} do not divide a state of {tuple(x.shape[-2:])}: crop or pad it, or change the factor."
            )
        return x.unflatten(-1, (-1, f)).unflatten(-3, (-1, f)).mean((-1, -3))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._spread(y) / self.factor**2

    def spectral(self, weight: Weight, x: Tensor) -> Tensor:
        """A A^H = I/factor^2, so that there are two singular values: 1/factor, and 0 for what is lost."""
        axes = x.real.new_ones((1,) * x.ndim)
        kept, lost = weight(axes / self.factor), weight(0 * axes)
        return lost * x + (kept - lost) * self._spread(self.A(x))

    def _spread(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


@dataclass(frozen=True, eq=False)
class Blur:
    """Circular convolution of the last two axes with ``kernel`` ``[height, width]``, centred at half its size.

    ValueError for a kernel that is larger than the state.
    """

    kernel: Tensor

    def A(self, x: Tensor) -> Tensor:
        return self._filter(self._transfer(x), x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._filter(self._transfer(y).conj(), y)

    def spectral(self, weight: Weight, x: Tensor) -> Tensor:
        return self._filter(weight(with_axes(self._transfer(x).abs(), x)), x)

    def _transfer(self, x: Tensor) -> Tensor:
        (h, w), (height, width) = self.kernel.shape, x.shape[-2:]
        if h > height or w > width:
            raise ValueError(
                f"a kernel of {(h, w)} is larger than a state of {(height, width)}: crop the kernel."
            )
        padded = torch.nn.functional.pad(_real(self.kernel, x), (0, width - w, 0, height - h))
        return torch.fft.fft2(padded.roll((-(h // 2), -(w // 2)), (0, 1)))

    @staticmethod
    def _filter(transfer: Tensor, x: Tensor) -> Tensor:
        out = torch.fft.ifft2(transfer * torch.fft.fft2(x))
        return out if x.is_complex() else out.real


@dataclass(frozen=True, eq=False)
class Fourier:
    """Single-coil MRI: y = mask F x, F the orthonormal Fourier transform of the last two axes of a complex state.

    ``mask`` broadcasts with the state, in the order of torch.fft: frequency 0 first (``ifftshift`` of a mask
    that has it in the middle). ValueError for a real state, whose adjoint would be another.
    """

    mask: Tensor

    def A(self, x: Tensor) -> Tensor:
        if not x.is_complex():
            raise ValueError("Fourier sampling is of complex states: give x as a complex tensor.")
        return _real(self.mask, x) * torch.fft.fft2(x, norm="ortho")

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(_real(self.mask, y) * y, norm="ortho")

    def spectral(self, weight: Weight, x: Tensor) -> Tensor:
        weights = weight(with_axes(_real(self.mask, x).abs(), x))
        return torch.fft.ifft2(weights * torch.fft.fft2(x))


@dataclass(frozen=True, eq=False)
class Coils:
    """Multi-coil MRI: ``sampling`` of S_c x for every coil c.

    The state is ``[batch, 1, height, width]``, ``sensitivity`` ``[coils, height, width]``, or with a batch before,
    and the measurement ``[batch, coils, height, width]``. Without a decomposition.
    """

    sampling: Operator
    sensitivity: Tensor

    def A(self, x: Tensor) -> Tensor:
        return self.sampling.A(self.sensitivity.to(x) * x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (self.sensitivity.to(y).conj() * self.sampling.A_adjoint(y)).sum(-3, keepdim=True)


@dataclass(frozen=True, eq=False)
class Matrix:
    """y = M x of the flattened state: ``matrix`` ``[rows, prod(shape)]``, states ``[batch, *shape]``.

    It is decomposed once, at the first need. ValueError if the matrix is not of the shape.
    """

    matrix: Tensor
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[1] != prod(self.shape):
            raise ValueError(
                f"a matrix of {tuple(self.matrix.shape)} does not act on states of {self.shape}: it needs "
                f"{prod(self.shape)} columns."
            )

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor]:
        """Singular values ``shape``, zeros included, and V^H."""
        _, singular, V = torch.linalg.svd(self.matrix, full_matrices=True)
        return torch.nn.functional.pad(singular, (0, len(V) - len(singular))).reshape(self.shape), V

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).mT

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y).conj()).unflatten(1, self.shape)

    def spectral(self, weight: Weight, x: Tensor) -> Tensor:
        singular, V = self._decomposition
        coefficients = (x.flatten(1) @ V.to(x).mT).reshape(x.shape)
        weighted = weight(with_axes(_real(singular, x), x)) * coefficients
        return (weighted.flatten(1) @ V.to(x).conj()).reshape(x.shape)


def _real(value: Tensor, like: Tensor) -> Tensor:
    """``value`` on the device of ``like``, in its real dtype."""
    return value.to(like.device, like.real.dtype)
