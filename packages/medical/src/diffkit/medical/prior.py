"""Priors of slices: an unconditional diffusion model whose denoiser serves every reconstruction.

States are in units of the modality: the magnitude of an MR slice with its brightest tissue near 1, or CT as HU/1000,
so that air is -1 and water 0. A complex image is two channels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffkit.core import predict
from diffkit.core.process import Gaussian
from diffkit.core.train import Task, denoising_loss
from diffkit.core.train.loss import uniform_times
from diffkit.medical.model import continued
from diffkit.medical.mri import to_channels, to_complex

EMBEDDED = Path(__file__).parent / "pretrained"
"""The checkpoints inside the wheel."""


def denoiser(
    network: nn.Module, process: Gaussian, sigma_data: float, *, complex: bool
) -> Callable[..., Tensor]:
    """E[x0 | x_t] of slices ``[batch, 1, height, width]``, complex or real; its condition, if any, is the network's.

    Sides that the network does not take (its ``multiple``) are continued by reflection, and cut again.
    """
    wrapped = predict.wrap(network, process, predict.Preconditioned(sigma_data))

    def denoise(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        channels = to_channels(x) if complex else x
        out = wrapped(continued(channels, network), t, *condition)[..., :height, :width]
        return to_complex(out) if complex else out

    return denoise


class PriorTask(Task):
    """The denoising loss of EDM's unit target on planes ``[batch, channels, height, width]``.

    Args:
        network: ``(x, t) -> F``.
        process: from slices to noise.
        sigma_data: the standard deviation of a channel.
        t_min: the smallest time trained at.
        focus: times are t_min + (1 - t_min) u^focus of uniform u: above 1 more of them lie near the data, where a
            reconstruction is decided.
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
        focus: float = 2.0,
        init: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: int = 200,
    ) -> None:
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        self.start_from(init, EMBEDDED)
        self.process, self.sigma_data, self.t_min, self.focus = process, sigma_data, t_min, focus

    def loss(self, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.denoising(self.network, batch)}

    def denoising(self, network: Callable[[Tensor, Tensor], Tensor], x0: Tensor) -> Tensor:
        """The loss of ``network``, which may know a condition, on planes ``x0``."""
        t = self.t_min + (1 - self.t_min) * uniform_times(len(x0), like=x0) ** self.focus
        target = predict.Preconditioned(self.sigma_data)
        return denoising_loss(network, self.process, x0, target=target, t=t)
