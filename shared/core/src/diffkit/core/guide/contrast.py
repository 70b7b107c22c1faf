r"""Guidance by contrast: away from a reference that is worse in the way that matters.

    D = D_c + sum_k g_k (D_c - D_k)

The reference is unconditional (classifier-free guidance), a weaker model (autoguidance), or the same model with
its attention taken away (PAG). A prediction is affine in x0 at a fixed point, so this is the same method for
eps, v and the score. Contrasts of one denoiser add up, in any order: all are taken to its own prediction D_c,
not to a guided one, and all references that are one network at several conditions are one batch.

A scale w is 1 for D_c itself and 0 for the reference; other conventions have w - 1.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffkit.core.guide.base import together
from diffkit.core.types import Denoiser, Guide, begin, each, expand_as


@dataclass(frozen=True)
class Contrast:
    """A denoiser and the references to which it is contrasted; see the module."""

    denoise: Denoiser
    references: tuple[Denoiser, ...] = ()
    gains: tuple[float | Tensor, ...] = ()
    rescale: float = 0.0

    def __call__(self, x: Any, t: Tensor) -> Any:
        return each(self._combine, *together((self.denoise, *self.references), x, t))

    def _combine(self, own: Tensor, *references: Tensor) -> Tensor:
        out = own
        for gain, reference in zip(self.gains, references, strict=True):
            weight = expand_as(gain, own) if isinstance(gain, Tensor) else gain
            out = out + weight * (own - reference)
        if self.rescale:
            axes = tuple(range(1, own.ndim))
            ratio = own.std(axes, keepdim=True) / out.std(axes, keepdim=True)
            out = out * (1 - self.rescale + self.rescale * ratio)
        return out

    def begin(self) -> "Contrast":
        return replace(
            self, denoise=begin(self.denoise), references=tuple(begin(part) for part in self.references)
        )


def contrast(gain: float | Tensor, reference: Denoiser, *, rescale: float = 0.0) -> Guide:
    """D + gain (D - D_reference): what the guides of this module are.

    Args:
        gain: 0 for the denoiser itself; a number, or one for each sample ``[batch]``.
        reference: the prediction to go away from.
        rescale: how far, in [0, 1], the standard deviation of each sample's prediction is brought back to that
            of D (Lin et al. 2023, 2305.08891, section 3.4; here of x0).

    ValueError for a gain that is not finite, or another ``rescale``.
    """
    finite = bool(torch.isfinite(gain).all()) if isinstance(gain, Tensor) else math.isfinite(gain)
    if not finite or not 0 <= rescale <= 1:
        raise ValueError(
            f"guidance needs a finite scale, and a rescale in [0, 1], not {gain + 1} and {rescale}."
        )

    def guide(denoise: Denoiser) -> Denoiser:
        if isinstance(gain, float | int) and gain == 0:
            return denoise
        base = denoise if isinstance(denoise, Contrast) else Contrast(denoise)
        gains, references = (*base.gains, gain), (*base.references, reference)
        return Contrast(base.denoise, references, gains, max(base.rescale, rescale))

    return guide


def cfg(guidance_scale: float | Tensor, uncond: Denoiser, *, rescale: float = 0.0) -> Guide:
    """Classifier-free guidance, Ho and Salimans 2022 (2207.12598): D_u + w (D_c - D_u).

    Their own w is ``guidance_scale - 1``. At 1 it is the conditional denoiser, without another call. The law of
    the samples is not that of p_c^w p_u^(1 - w): see :mod:`diffkit.core.steer` for the correction. ``rescale``
    as in :func:`contrast`.
    """
    return contrast(guidance_scale - 1, uncond, rescale=rescale)


def autoguidance(guidance_scale: float | Tensor, weak: Denoiser) -> Guide:
    """Karras et al. 2024 (2406.02507): D_bad + w (D_good - D_bad), for a smaller or less trained ``weak`` model.

    Both are given the same condition. Their best w: 2.1 for EDM2-S, 2.05 for XXL, 1.7 at 64x64.
    """
    return contrast(guidance_scale - 1, weak)


def pag(scale: float | Tensor, perturbed: Denoiser) -> Guide:
    """Perturbed-attention guidance, Ahn et al. 2024 (2403.17377): D + s (D - D_p).

    ``perturbed`` is the denoiser of :func:`diffkit.core.guide.identity_attention`. ``scale`` is the paper's, of
    which 3 is usual (5 for Stable Diffusion without other guidance); the release's is one more. With ``cfg`` the
    two add up, as in the paper.
    """
    return contrast(scale, perturbed)
