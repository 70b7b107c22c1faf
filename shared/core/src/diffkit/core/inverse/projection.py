r"""Guides that move the prediction to the measurement and never differentiate the network.

All are D' = D + (A^H A + rho)^-1 A^H (y - A D), the minimiser of abs(y - A x)^2 + rho abs(x - D)^2, and differ
in rho and in how the system is solved:

* DDNM: rho = 0, exactly. The part of D in the range of A^H becomes that of the measurement.
* DDS: rho = 0 or a constant 1/gamma, by a few conjugate gradients from D.
* DiffPIR: rho = scale noise^2 a^2/s^2, which rises as the prediction becomes sure.

As guides they hand D' to a solver, which takes eps from it, eps = (x - a D')/s, as DiffPIR does. DDS and DDNM
keep the network's own eps: :func:`~diffkit.core.inverse.renoise.renoised` is their sampler.
"""

from torch import Tensor

from diffkit.core.inverse.checks import finite, level
from diffkit.core.inverse.krylov import conjugate_gradients
from diffkit.core.inverse.operator import Operator, correct, residual, solve
from diffkit.core.process import Gaussian
from diffkit.core.types import Guide, float64


def ddnm(operator: Operator, measurement: Tensor) -> Guide:
    """Range-null space projection D + A^+ (y - A D), Wang et al. 2023 (2212.00490), eq. 13, for exact measurements.

    The end of a run that returns its last prediction satisfies A x = y. This is also the linear form of Steered
    Diffusion (2310.00224), with ``ddim(1.0)``. Published: ``solver=renoised(ddnm(...), 0.85)`` on a denoiser
    without guide. Of their form for noisy measurements :func:`~diffkit.core.inverse.ddrm.ddrm` is the law in full.
    Without a decomposition A^+ takes conjugate gradients (:func:`~diffkit.core.inverse.operator.solve`).
    """
    return correct(
        lambda x0, t: x0 + solve(operator, operator.A_adjoint(residual(operator, measurement, x0)))
    )


def diffpir(
    operator: Operator,
    measurement: Tensor,
    process: Gaussian,
    *,
    noise: float,
    scale: float = 7.0,
    iterations: int = 100,
) -> Guide:
    """DiffPIR, Zhu et al. 2023 (2305.08995): the proximal point of D with rho = scale noise^2 a^2/s^2.

    ``scale`` is their lambda. It is :func:`~diffkit.core.inverse.through.pigdm` for r^2 = s^2/(scale a^2) and a
    network whose derivative agrees with it; at ``noise`` 0 it is :func:`ddnm`. Published: with ``renoise(eta)``,
    eta^2 their zeta; their code leaves the last step without guide. ``iterations`` are the most for an operator
    without decomposition, from D.
    """
    weight = finite(scale, "scale", low=0.0) * level(noise) ** 2

    def proximal(x0: Tensor, t: Tensor) -> Tensor:
        back = operator.A_adjoint(residual(operator, measurement, x0))
        ridge = weight * (2 * process.lam(float64(t))).exp() if weight else 0.0
        return x0 + solve(operator, back, ridge, iterations=iterations)

    return correct(proximal)


def dds(
    operator: Operator,
    measurement: Tensor,
    *,
    gamma: float | None = None,
    iterations: int = 5,
    tolerance: float = 1e-5,
) -> Guide:
    """Decomposed diffusion sampling, Chung et al. 2024 (2303.05754): a few conjugate gradients from D.

    On A^H A x = A^H y for exact measurements; with ``gamma`` on (1 + gamma A^H A) x = D + gamma A^H y. With as
    many iterations as A has distinct singular values the first is :func:`ddnm`. Each sample has its own step
    sizes, and stops where its residual has fallen to ``tolerance`` of that of D. Published: gamma 1 where there
    is noise, and ``solver=renoised(dds(...), 0.85)`` on a denoiser without guide. Released code treats the batch
    as one system, and for noisy MRI adds (1 + i) gamma A^H y.
    """
    if gamma is not None:
        finite(gamma, "gamma", low=0.0)
    ridge, gain = (0.0, 1.0) if gamma is None else (1.0, gamma)

    def nearer(x0: Tensor, t: Tensor) -> Tensor:
        back = gain * operator.A_adjoint(residual(operator, measurement, x0))
        return x0 + conjugate_gradients(
            lambda x: ridge * x + gain * operator.A_adjoint(operator.A(x)),
            back,
            iterations=iterations,
            tolerance=tolerance,
        )

    return correct(nearer)
