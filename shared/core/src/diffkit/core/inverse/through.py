r"""Guides that differentiate the network: DPS, PiGDM and Steered Diffusion.

With E[x0 | x, y] = D + (s^2/a) grad log p(y | x), and dD/dx = (a/s^2) cov(x0 | x) (Tweedie), they differ in what
they take for p(y | x). Gaussian x0 | x with covariance r^2 I gives PiGDM; a likelihood of the prediction alone,
as if it were sure, gives DPS. At a = 0, where x knows nothing of x0, nothing is added.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffkit.core.gradient import predict, slope
from diffkit.core.inverse.checks import finite, level, positive
from diffkit.core.inverse.krylov import norm
from diffkit.core.inverse.operator import Forward, Operator, residual, solve
from diffkit.core.inverse.steps import per_step
from diffkit.core.plan import Plan
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser, Guide, Through, expand_as, float64


def dps(
    operator: Forward,
    measurement: Tensor,
    process: Gaussian,
    *,
    scale: float = 1.0,
    plan: Plan | None = None,
) -> Guide:
    """Diffusion posterior sampling, Chung et al. 2023 (2209.14687): log p(y | x) = -scale abs(y - A D(x)).

    The norm is not squared, and of each sample alone. The guide is D - scale (s^2/a) grad abs(y - A D). The
    published algorithm 1 instead moves the state by -zeta grad after each ancestral step, whatever its length:
    with the ``plan`` that will run it, ``scale`` is that zeta (0.3 to 1 at 1000 steps), and
    ``ddim(1.0)`` makes it theirs. A row that gives D the weight w makes of zeta the scale zeta a/(w s^2).

    ``operator`` may be nonlinear. One backward pass a call. ValueError for a plan of several slots.
    """
    finite(scale, "scale")
    step = None if plan is None else per_step(plan)

    def guided(denoise: Denoiser) -> Denoiser:
        def function(x: Tensor, t: Tensor) -> Tensor:
            d, pull = predict(denoise, x, t)
            gradient = pull(slope(lambda d: norm(residual(operator, measurement, d)).flatten(), d))
            weight = scale * (_gain(process, t) if step is None else step(t))
            return d - expand_as(weight, d) * gradient

        return function

    return lambda denoise: Through(guided, denoise)


def steered(loss: Callable[[Tensor], Tensor], process: Gaussian, *, scale: float = 1.0) -> Guide:
    """Steered Diffusion, Nair et al. 2023 (2310.00224): D - scale s grad loss(D(x)), the gradient in x.

    ``loss`` maps x0 to ``[batch]``: a distance of features, say. For y = A x theirs is
    :func:`~diffkit.core.inverse.projection.ddnm`. Published: ``solver=travel(1, repeats)``, ancestral steps each
    made several times, renoised between with sqrt(beta) z, where released code has beta z.
    """
    finite(scale, "scale")

    def guided(denoise: Denoiser) -> Denoiser:
        def function(x: Tensor, t: Tensor) -> Tensor:
            d, pull = predict(denoise, x, t)
            return d - expand_as(scale * process.s(float64(t)), d) * pull(slope(loss, d))

        return function

    return lambda denoise: Through(guided, denoise)


def pigdm(
    operator: Operator,
    measurement: Tensor,
    process: Gaussian,
    *,
    noise: float = 0.0,
    spread: float = 1.0,
) -> Guide:
    """Pseudoinverse guidance, Song, Vahdat, Mardani and Kautz 2023 (ICLR); for flows Pokle et al. 2023 (2310.04432).

    x0 | x is taken for normal about D with covariance r^2 I, r^2 = s^2 d^2/(a^2 d^2 + s^2) and d = ``spread``, the
    standard deviation of the data (theirs: 1), so that

        D' = D + (s^2/a) (dD/dx)^H A^H (r^2 A A^H + noise^2)^-1 (y - A D).

    On normal data N(m, d^2 I) this is E[x0 | x, y]: any solver then samples the posterior, exactly.
    One backward pass a call.
    """
    variance, prior = level(noise) ** 2, positive(spread, "spread, the standard deviation of the data,") ** 2

    def guided(denoise: Denoiser) -> Denoiser:
        def function(x: Tensor, t: Tensor) -> Tensor:
            d, pull = predict(denoise, x, t)
            sure = (2 * process.lam(float64(t))).exp() + 1 / prior  # 1/r^2
            back = operator.A_adjoint(residual(operator, measurement, d))
            shift = pull(solve(operator, back, variance * sure if variance else 0.0))
            weight = process.a(float64(t)) + _gain(process, t) / prior  # s^2/(a r^2)
            return d + expand_as(weight, d) * shift

        return function

    return lambda denoise: Through(guided, denoise)


def _gain(process: Gaussian, t: Tensor) -> Tensor:
    """s^2/a, and 0 at a = 0."""
    a, s = process.a(float64(t)), process.s(float64(t))
    return torch.where(a > 0, s.square() / a, 0.0)
