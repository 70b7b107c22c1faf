"""Priors of slices: an unconditional diffusion model whose denoiser serves every reconstruction.

States are in units of the modality (:data:`UNITS`): the magnitude of an MR slice with its brightest tissue near
1, or CT as (HU + 1000)/1000 - 1, so that air is -1 and water 0. A complex image is two channels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffkit.core import predict
from diffkit.core.checkpoint import load_weights, locate
from diffkit.core.process import Gaussian
from diffkit.core.train import Task, denoising_loss
from diffkit.core.train.loss import uniform_times
from diffkit.core.types import Denoiser


def denoiser(network: nn.Module, process: Gaussian, sigma_data: float, *, complex: bool) -> Denoiser:
    """E[x0 | x_t] of slices ``[batch, 1, height, width]``, complex or real; reflected to sides the network takes."""
    wrapped = predict.wrap(network, process, predict.Preconditioned(sigma_data))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        channels = torch.view_as_real(x[:, 0]).movedim(-1, 1) if complex else x
        out = wrapped(channels, t)
        return torch.view_as_complex(out.movedim(1, -1).contiguous())[:, None] if complex else out

    return denoise


class PriorTask(Task):
    """The denoising loss of EDM's unit target on planes ``[batch, channels, height, width]``.

    Args:
        network: ``(x, t) -> F``.
        process: from slices to noise.
        sigma_data: the standard deviation of a channel.
        t_min: the smallest time trained at.
        init: a checkpoint, by name or folder, whose weights training starts from.
        options: of :class:`~diffkit.core.train.Task`.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Gaussian,
        *,
        sigma_data: float = 0.25,
        t_min: float = 0.002,
        init: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: int = 200,
    ) -> None:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  four times faster on CPUs
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        if init is not None:
            load_weights(locate(init, Path(__file__).parent / "pretrained"), network)
            network.train()
        self.process, self.sigma_data, self.t_min = process, sigma_data, t_min

    def loss(self, batch: Any) -> dict[str, Tensor]:
        t = uniform_times(len(batch), like=batch, low=self.t_min)
        target = predict.Preconditioned(self.sigma_data)
        return {"loss": denoising_loss(self.network, self.process, batch, target=target, t=t)}
