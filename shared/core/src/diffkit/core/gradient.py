"""Gradients of the samples of a batch, of a loss and through a denoiser; also where none are kept."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffkit.core.types import Denoiser


def slope(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of each sample's ``loss`` ``[batch]`` in ``x``; ValueError for a loss of another shape."""
    with torch.inference_mode(False), torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        value = loss(point)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"a loss has one value for each sample, {(len(x),)}; this one has {tuple(value.shape)}."
            )
        return torch.autograd.grad(value.sum(), point)[0]


def predict(denoise: Denoiser, x: Tensor, t: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The prediction D(x, t), and v -> (dD/dx)^H v, which may be asked once.

    ValueError for a denoiser that keeps no gradients.
    """
    with torch.inference_mode(False), torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        d = denoise(point, t)
    if not d.requires_grad:
        raise ValueError(
            "the denoiser keeps no gradients, and this guide differentiates it: leave out no_grad inside it."
        )

    def pull(v: Tensor) -> Tensor:
        return torch.autograd.grad(d, point, v)[0]

    return d.detach(), pull
