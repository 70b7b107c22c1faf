"""Adaptive projected guidance (APG), Sadat et al. 2024 (2410.02416): high scales without oversaturation."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffkit.core.guide.base import together
from diffkit.core.types import Denoiser, Guide, begin, each, float64


@dataclass(frozen=True)
class Projected:
    """A denoiser under :func:`apg`; ``running`` is the run's momentum, empty at its start."""

    denoise: Denoiser
    uncond: Denoiser
    gain: float
    parallel: float
    momentum: float
    radius: float
    running: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, x: Any, t: Tensor) -> Any:
        own, uncond = together((self.denoise, self.uncond), x, t)
        update = each(torch.sub, own, uncond)
        if self.momentum:
            if "mean" in self.running:
                update = each(lambda new, old: new + self.momentum * old, update, self.running["mean"])
            self.running["mean"] = update
        return each(self._combine, own, update)

    def _combine(self, own: Tensor, update: Tensor) -> Tensor:
        axes = tuple(range(1, own.ndim))
        direction, update64 = float64(own), float64(update)
        norm = update64.square().sum(axes, keepdim=True).sqrt()
        update64 = update64 * (self.radius / norm).clamp(max=1) if math.isfinite(self.radius) else update64
        square = direction.square().sum(axes, keepdim=True)
        along = (update64 * direction).sum(axes, keepdim=True) / square
        kept = update64 - (1 - self.parallel) * torch.where(square > 0, along, 0.0) * direction
        return (direction + self.gain * kept).to(own.dtype)

    def begin(self) -> "Projected":
        return replace(self, denoise=begin(self.denoise), uncond=begin(self.uncond), running={})


def apg(
    guidance_scale: float,
    uncond: Denoiser,
    *,
    parallel: float = 0.0,
    momentum: float = -0.5,
    radius: float = math.inf,
) -> Guide:
    """D_c + (w - 1) (U' + parallel U''), with U'' the part of the update U along D_c and U' the rest.

    Args:
        guidance_scale: w, 1 for the conditional denoiser.
        uncond: the denoiser to go away from.
        parallel: the paper's eta, how much of the part along D_c is kept; with 1, no momentum and no radius,
            this is :func:`~diffkit.core.guide.cfg`.
        momentum: the paper's beta: U = D_c - D_u + beta times the U of the call before, negative against
            oscillation. It starts anew with each run, and counts calls: two of each step of Heun's.
        radius: the paper's r, the largest norm of a sample's U (over all but the batch axis); it depends on the
            data: 2.5 for EDM2's and 15 for Stable Diffusion XL's latents.

    The projection belongs to x0; in eps or v it is another method. diffusers' default starts from D_u, which
    is less by the whole parallel part where ``parallel`` is 0. ValueError for values that are not finite.
    """
    if not all(map(math.isfinite, (guidance_scale, parallel, momentum))) or not radius > 0:
        raise ValueError(
            "apg needs a finite scale, parallel and momentum and a positive radius, not "
            f"{guidance_scale}, {parallel}, {momentum} and {radius}."
        )
    if guidance_scale == 1:
        return lambda denoise: denoise
    return lambda denoise: Projected(denoise, uncond, guidance_scale - 1, parallel, momentum, radius)
