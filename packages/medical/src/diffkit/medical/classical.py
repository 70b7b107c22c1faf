r"""Reconstruction without learning, to compare with in the same run.

All take an operator with ``A`` and ``A_adjoint``, and treat each sample of a batch alone; images are real or complex,
``[batch, channels, height, width]``, and a channel is by itself. Weights are in the units of the objective,

    1/2 abs(y - A x)^2 + weight R(x),

so that they scale as the images do. Norms of operators are found by power iteration where they are needed.
"""

import torch
from torch import Tensor

from diffkit.core.inverse.krylov import conjugate_gradients, norm
from diffkit.core.inverse.operator import Operator
from diffkit.core.noise import Seeds
from diffkit.medical.ct import Projector
from diffkit.medical.wavelet import compose, decompose, depth


def zero_filled(operator: Operator, y: Tensor) -> Tensor:
    """A^H y: of MRI the coils' images, put together as if what was not measured were 0."""
    return operator.A_adjoint(y)


def cg_sense(operator: Operator, y: Tensor, *, ridge: float = 0.0, iterations: int = 30) -> Tensor:
    """Least squares with R = abs(x)^2/2 of weight ``ridge``, by conjugate gradients: Pruessmann et al. 2001."""
    return conjugate_gradients(
        lambda x: operator.A_adjoint(operator.A(x)) + ridge * x, operator.A_adjoint(y), iterations=iterations
    )


def l1_wavelet(
    operator: Operator, y: Tensor, *, weight: float, iterations: int = 100, seed: int = 0
) -> Tensor:
    """R the sum of the magnitudes of wavelet coefficients (Lustig et al. 2007), by FISTA (Beck and Teboulle 2009).

    Each iteration shifts the wavelets at random, as if they were redundant. The coarsest coefficients are free.
    ValueError for odd sizes.
    """
    x = momentum = operator.A_adjoint(y)
    step = 1 / largest(operator, x).square()
    levels = depth(x.shape)
    shifts = torch.randint(0, 1 << levels, (iterations, 2), generator=torch.Generator().manual_seed(seed))
    coarse = tuple(slice(n >> levels) for n in x.shape[-2:])
    t = 1.0
    for shift in shifts.tolist():
        descent = momentum - step * operator.A_adjoint(operator.A(momentum) - y)
        c = decompose(descent.roll(shift, (-2, -1)), levels)
        thin = shrink(c, weight * step)
        thin[..., coarse[0], coarse[1]] = c[..., coarse[0], coarse[1]]
        last, x = x, compose(thin, levels).roll([-s for s in shift], (-2, -1))
        t, before = (1 + (1 + 4 * t**2) ** 0.5) / 2, t
        momentum = x + (before - 1) / t * (x - last)
    return x


def tv(
    operator: Operator, y: Tensor, *, weight: float, iterations: int = 300, positive: bool = False
) -> Tensor:
    """R the isotropic total variation, sum of sqrt(abs(dx/dr)^2 + abs(dx/dc)^2): Rudin, Osher and Fatemi 1992.

    By the primal-dual method of Chambolle and Pock 2011, algorithm 1, on A of unit norm, with data and gradient as
    duals. ``positive`` keeps real images from falling below 0.
    """
    x = torch.zeros_like(operator.A_adjoint(y))
    scale = largest(operator, x)
    y, limit = y / scale, weight / scale.square()
    over, p, q = x, torch.zeros_like(y), torch.zeros_like(_gradient(x))
    # abs(K)^2 <= 1 + 8; duals are as small as noise and weight are beside the image, so that they take smaller steps
    tau, sigma = _RATIO / 3, 1 / (3 * _RATIO)
    for _ in range(iterations):
        p = (p + sigma * (operator.A(over) / scale - y)) / (1 + sigma)
        q = q + sigma * _gradient(over)
        q = q / (torch.linalg.vector_norm(q, dim=0) / limit).clamp(min=1)
        last, x = x, x - tau * (operator.A_adjoint(p) / scale + _gradient_adjoint(q))
        x = x.clamp(min=0) if positive else x
        over = 2 * x - last
    return x


_RATIO = 16.0
"""sqrt(tau/sigma): that of the least objective among 2, 4, ..., 32 for CT of 20 views after 300 iterations, and among
1, 4, 16, 64 for MRI at 4x after 200."""


def sart(
    projector: Projector, y: Tensor, *, sweeps: int = 20, relaxation: float = 1.0, positive: bool = True
) -> Tensor:
    """Simultaneous algebraic reconstruction (Andersen and Kak 1984): a correction for each view, 0 < relaxation < 2.

    x += relaxation (A_v^T (y_v - A_v x)/row sums)/column sums, views in the golden section of the arc, so that
    neighbours do not follow each other. ``positive`` keeps x from falling below 0.
    """
    projector.check_sinogram(y)
    x = y.new_zeros(len(y), 1, *projector.shape)
    parts: list[tuple[int, Projector, Tensor, Tensor]] = []
    for k in sorted(range(y.shape[2]), key=lambda k: k * _GOLDEN % 1):
        part = projector.view(k)
        rows, columns = part.A(torch.ones_like(x[:1])), part.A_adjoint(torch.ones_like(y[:1, :, :1]))
        parts.append((k, part, _inverse(rows), relaxation * _inverse(columns)))
    for _ in range(sweeps):
        for k, part, rows, columns in parts:
            x = x + columns * part.A_adjoint(rows * (y[:, :, k, None] - part.A(x)))
            x = x.clamp(min=0) if positive else x
    return x


_GOLDEN = (5**0.5 - 1) / 2


def _inverse(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1 / x, 0.0)


def _gradient(x: Tensor) -> Tensor:
    """Differences to the next row and column, 0 at the ends: ``[2, *x.shape]``."""
    pad = torch.nn.functional.pad
    return torch.stack([pad(x.diff(dim=-2), (0, 0, 0, 1)), pad(x.diff(dim=-1), (0, 1))])


def _gradient_adjoint(q: Tensor) -> Tensor:
    rows, columns = q[0, ..., :-1, :], q[1, ..., :-1]
    pad = torch.nn.functional.pad
    return pad(rows, (0, 0, 1, 0)) - pad(rows, (0, 0, 0, 1)) + pad(columns, (1, 0)) - pad(columns, (0, 1))


def shrink(x: Tensor, threshold: Tensor | float) -> Tensor:
    """x with its magnitude lowered by ``threshold``, or 0: real or complex soft thresholding."""
    size = x.abs()
    return x * ((size - threshold).clamp(min=0) / size.clamp(min=torch.finfo(size.dtype).tiny))


def largest(operator: Operator, like: Tensor, iterations: int = 20) -> Tensor:
    """The largest singular value for each sample, ``[batch, 1, ...]``, by power iteration.

    That ends a little low, and steps must not be too long: the value is raised by 2 %.
    """
    x = Seeds([0] * len(like))(0, like)
    for _ in range(iterations):
        x = operator.A_adjoint(operator.A(x))
        x = x / norm(x)
    return 1.02 * norm(operator.A(x)).reshape(-1, *[1] * (like.ndim - 1))
