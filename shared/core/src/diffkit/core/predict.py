r"""What a network outputs, and the one 2x2 solve that turns it into a denoiser.

A prediction target is F = p x0 + q eps + r y. With z = x_t - b y = a x0 + s eps, two equations give both
unknowns:

    x0 = (q z - s (F - r y)) / (a q - s p),      eps = (a (F - r y) - p z) / (a q - s p).

Targets are plain functions ``(process, t) -> (p, q, r)``. A coefficient that is the number 0.0 is known to
vanish, so the solve never divides by zero where it need not: x0 from an x0-target is F at any t.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser, Through, expand_as, float64

Coefficient: TypeAlias = Tensor | float
Target: TypeAlias = Callable[[Gaussian, Tensor], tuple[Coefficient, Coefficient, Coefficient]]
"""``(process, t) -> (p, q, r)`` of F = p x0 + q eps + r y, float64 and shaped as ``t``."""


def x0(process: Gaussian, t: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """Data prediction, F = x0."""
    return 1.0, 0.0, 0.0


def eps(process: Gaussian, t: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """Noise prediction, F = eps."""
    return 0.0, 1.0, 0.0


def score(process: Gaussian, t: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """The score of p(x_t | x0, y): F = -eps/s."""
    return 0.0, -1 / process.s(t), 0.0


def v(process: Gaussian, t: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """Salimans and Ho 2022 (2202.00512): F = a eps - s x0."""
    return -process.s(t), process.a(t), 0.0


def flow(process: Gaussian, t: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """The velocity dx_t/dt at fixed x0, y and eps: F = a' x0 + b' y + s' eps (Lipman et al. 2022)."""
    da, db, ds = process.rates(t)
    return da, ds, db


def residual(process: Gaussian, t: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
    """F = y - x0 (ResShift, RDDM)."""
    return -1.0, 0.0, 1.0


@dataclass(frozen=True)
class Preconditioned:
    """The unit-variance target of Karras et al. 2022 (2206.00364, table 1), for data of std ``sigma_data``.

    Their D = c_skip x + c_out F, with sigma = s/a, is the target p = s/(d m), q = -a d/m with d = sigma_data
    and m = sqrt(s^2 + a^2 d^2): finite at a = 0 too. :meth:`scale` is the input scaling c_in.
    """

    sigma_data: float = 0.5

    def __call__(self, process: Gaussian, t: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
        m = 1 / self.scale(process, t)
        return process.s(t) / (self.sigma_data * m), -process.a(t) * self.sigma_data / m, 0.0

    def scale(self, process: Gaussian, t: Tensor) -> Tensor:
        """c_in: 1/std of x_t (of z, where there is an anchor)."""
        return 1 / torch.hypot(process.s(t), process.a(t) * self.sigma_data)


TARGETS: dict[str, Target] = {f.__name__: f for f in (x0, eps, score, v, flow, residual)}


def _zero(value: Coefficient) -> bool:
    return isinstance(value, float) and value == 0.0


def _combine(terms: list[tuple[Coefficient, Tensor | None]], like: Tensor) -> Tensor:
    total = torch.zeros_like(like)
    for weight, value in terms:
        if value is not None and not _zero(weight):
            total = total + (expand_as(weight, like) if isinstance(weight, Tensor) else weight) * value
    return total


def truth(
    target: Target, process: Gaussian, data: Tensor, noise: Tensor, t: Tensor, *, y: Tensor | None = None
) -> Tensor:
    """F itself, ``p x0 + q eps + r y``: what a perfect network would be trained towards."""
    p, q, r = target(process, float64(t))
    return _combine([(p, data), (q, noise), (r, y)], data)


def to_data(
    target: Target, process: Gaussian, output: Tensor, x: Tensor, t: Tensor, *, y: Tensor | None = None
) -> Tensor:
    """x0 from a network's output F at x_t = ``x``, times ``t`` a scalar or the first axes of ``x``."""
    t = float64(t)
    p, q, r = target(process, t)
    output = output if y is None else _combine([(1.0, output), (-r, y)], output)
    if _zero(q):
        return output / (expand_as(p, output) if isinstance(p, Tensor) else p)
    a, s = process.a(t), process.s(t)
    z = x if y is None else _combine([(1.0, x), (-process.b(t), y)], x)
    det = a * q - s * p
    clean = s == 0  # x0 is x/a there, also of a target that is infinite
    return _combine([(torch.where(clean, 1 / a, q / det), z), (torch.where(clean, 0.0, -s / det), output)], x)


def to_noise(process: Gaussian, data: Tensor, x: Tensor, t: Tensor, *, y: Tensor | None = None) -> Tensor:
    """eps = (x - a x0 - b y)/s from a data prediction; infinite where s(t) = 0."""
    t = float64(t)
    rest = _combine([(1.0, x), (-process.a(t), data), (-process.b(t), y)], x)
    return rest / expand_as(process.s(t), x)


def network_input(target: Target, process: Gaussian, x: Tensor, t: Tensor) -> Tensor:
    """What a network for ``target`` is given of ``x``: scaled by c_in where the target is preconditioned."""
    scale = getattr(target, "scale", None)
    return x if scale is None else expand_as(scale(process, float64(t)), x) * x


def wrap(
    network: Callable[..., Tensor], process: Gaussian, target: Target = x0, *, y: Tensor | None = None
) -> Callable[..., Any]:
    """The denoiser E[x0 | x_t] of ``network(x, t)`` trained towards ``target``.

    Condition the network by closing over its arguments (``functools.partial``), or give the denoiser what the
    network takes after ``t``: guides evaluate ``denoise(x, t, c)`` at several conditions in one batch
    (:class:`diffkit.core.guide.Conditional`). A preconditioned target (one with a ``scale``) also scales the
    network's input. ``t`` reaches the network as ``[batch]``, or ``[batch, tokens]`` where the tokens have grids
    of their own.
    """

    def denoise(x: Any, t: Tensor, *condition: Any) -> Tensor:
        batch_t = torch.as_tensor(t, device=x.device).to(x.real.dtype)
        batch_t = batch_t.expand(x.shape[: max(batch_t.ndim, 1)])
        output = network(network_input(target, process, x, t), batch_t, *condition)
        return to_data(target, process, output, x, t, y=y)

    return denoise


def anchor(denoise: Denoiser, process: Gaussian, y: Tensor) -> Denoiser:
    """The denoiser in z = x - b(t) y, where the anchor is gone and any solver works unchanged."""

    def anchored(inner: Denoiser) -> Denoiser:
        return lambda z, t: inner(restored(process, z, y, t), t)

    return Through(anchored, denoise)


def restored(process: Any, z: Any, y: Any, t: Tensor) -> Any:
    """x = z + b(t) y; with -y in place of y, z of x. Without an anchor any state, as it is."""
    return z if y is None else z + expand_as(process.b(float64(t)), z) * y
