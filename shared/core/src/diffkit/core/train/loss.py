"""The denoising loss and its weights.

    L = E_t w(t) |F_net(x_t, t) - F(x0, eps, y, t)|^2,   x_t = a x0 + b y + s eps.

For a fixed target every weight gives the same minimiser at each t; the weight chooses which times matter.
Weights are written in terms of the signal-to-noise ratio a^2/s^2 of data prediction and converted to the
target at hand, so a min-SNR run means the same for x0, eps and v (a mistake that scripts repeat).
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from diffkit.core import predict
from diffkit.core.process import Gaussian
from diffkit.core.types import expand_as, float64, normal_like

Weight: TypeAlias = Callable[[Gaussian, Tensor], Tensor]
"""``(process, t) -> w``: the weight on |x0_net - x0|^2, float64, of the shape of ``t``."""


def snr(process: Gaussian, t: Tensor) -> Tensor:
    """a^2/s^2: the eps loss of DDPM seen from x0."""
    return (process.a(t) / process.s(t)).square()


def snr_plus_one(process: Gaussian, t: Tensor) -> Tensor:
    """1 + a^2/s^2: the v loss seen from x0 (Salimans and Ho 2022)."""
    return 1 + snr(process, t)


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) of Hang et al. 2023 (2303.09556)."""
    return lambda process, t: snr(process, t).clamp(max=gamma)


def uniform_times(count: int, *, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """``count`` stratified times in (low, high): one in each of ``count`` equal strata, in random order."""
    order = torch.randperm(count, device=like.device)
    return low + (high - low) * (order + torch.rand(count, device=like.device)) / count


def mean_per_sample(value: Tensor) -> Tensor:
    """The mean over all axes but the batch."""
    return value.flatten(1).mean(1)


def denoising_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    process: Gaussian,
    x0: Tensor,
    *,
    target: predict.Target = predict.x0,
    y: Tensor | None = None,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    weight: Weight | None = None,
) -> Tensor:
    """The weighted denoising loss, averaged over the batch and all components: a scalar.

    Args:
        network: ``(x_t, t) -> F``, before any conversion to a denoiser; condition it by closing over.
        x0, y: data, and the anchor of a bridge, ``[batch, ...]``.
        target: what ``network`` predicts.
        t: times ``[batch]``, or more of the first axes of ``x0``; stratified uniform on (0, 1) by default.
        noise: shaped as ``x0``; fresh standard normal values by default. Of a law it is ``law(values)``, and
            with optimal-transport pairs :func:`coupled(values, x0) <diffkit.core.noise.coupled>`.
        weight: on the x0 error; None weighs the error in the target's own space with 1.
    """
    t = uniform_times(x0.shape[0], like=x0) if t is None else t
    noise = normal_like(x0) if noise is None else noise
    x = process.corrupt(x0, t, y=y, noise=noise)
    output = network(predict.network_input(target, process, x, t), t.to(x.dtype))
    if weight is None:
        error = output - predict.truth(target, process, x0, noise, t, y=y)
        return mean_per_sample(error.square()).mean()
    error = predict.to_data(target, process, output, x, t, y=y) - x0
    return (expand_as(weight(process, float64(t)), x0) * error.square()).mean()
