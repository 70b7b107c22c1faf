"""LaCon, Liu et al. 2023 (2305.11520): a condition that the network was never trained on, through its features.

A small aligner learns to read the condition (edges, a mask, a palette) from the features of a frozen network at
a noisy state. In sampling the state is moved to where the aligner reads the condition that is asked for.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffkit.core.gradient import slope
from diffkit.core.guide.interval import interval
from diffkit.core.predict import to_noise
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser, Guide, Through, expand_as, float64


class Features(nn.Module):
    """The outputs of a network's ``layers`` at one call, brought to one size and concatenated over channels.

    ``network(x, t)`` is called in full; its layers give ``[batch, channels, ...]`` with as many axes as ``x``.
    The network's parameters are not part of this module. ValueError for an unknown layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]):
        super().__init__()
        modules = dict(network.named_modules())
        if missing := [name for name in layers if name not in modules]:
            raise ValueError(
                f"the network has no layer {missing[0]!r}; it has {', '.join(n for n in modules if n)}."
            )
        self._network = (network,)  # in a tuple: not registered, so not trained and not saved
        self._layers = tuple(modules[name] for name in layers)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found.append(output)

        hooks = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            self._network[0](x, t)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([F.interpolate(part, x.shape[2:]) for part in found], 1)


class Aligner(nn.Module):
    """``(features [batch, in, ...], t [batch])`` to a condition ``[batch, out, ...]``, at each place by itself.

    Three layers with the time's cosines, as in LaCon. Train it on noisy data with :func:`alignment`.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 128, waves: int = 16):
        super().__init__()
        self.waves = waves
        self.layers = nn.Sequential(
            nn.Linear(inputs + waves, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, outputs),
        )

    def forward(self, features: Tensor, t: Tensor) -> Tensor:
        places = features.movedim(1, -1)
        waves = torch.cos(t.to(features)[:, None] * torch.arange(self.waves).to(features) * math.pi)
        waves = waves.reshape(len(waves), *(1,) * (places.ndim - 2), -1).expand(*places.shape[:-1], -1)
        return self.layers(torch.cat([places, waves], -1)).movedim(-1, 1)


def alignment(
    read: Callable[[Tensor, Tensor], Tensor], condition: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """``(x_t, t) -> |read(x_t, t) - condition|^2``, the mean over a sample's elements ``[batch]``.

    ``read`` is ``lambda x, t: aligner(features(x, t), t)``: the loss to train the aligner with, at x_t of data
    whose condition is known, and to guide with.
    """

    def loss(x: Tensor, t: Tensor) -> Tensor:
        return (read(x, t.to(x.dtype).expand(len(x))) - condition).square().flatten(1).mean(1)

    return loss


def lacon(
    loss: Callable[[Tensor, Tensor], Tensor], process: Gaussian, *, scale: float = 2.0, until: float = 0.5
) -> Guide:
    """Move each prediction of the noise along the slope of ``loss``, by ``scale`` times |eps - x_t|.

    Args:
        loss: ``(x_t, t) -> [batch]``, as of :func:`alignment`; differentiated in x_t.
        process: of the denoiser.
        scale: theirs is 2 to 2.5.
        until: guides while t >= ``until`` (theirs 0.5 to 0.8): structure is set early.

    eps gains +scale |eps - x_t| g/|g|, g the loss's gradient: x0 falls with eps, and so the loss falls. Norms
    are each sample's; the release takes them over the batch. ValueError for a scale that is not finite.
    """
    if not math.isfinite(scale):
        raise ValueError(f"a guidance scale must be finite, not {scale}.")

    def guided(denoise: Denoiser) -> Denoiser:
        def function(x: Tensor, t: Tensor) -> Tensor:
            d = denoise(x, t)
            gradient = slope(lambda x: loss(x, t), x)
            axes = tuple(range(1, x.ndim))
            reach = (to_noise(process, d, x, t) - x).square().sum(axes, keepdim=True).sqrt()
            norm = gradient.square().sum(axes, keepdim=True).sqrt()
            a, s = process.a(float64(t)), process.s(float64(t))
            gain = torch.where(a > 0, scale * s / a, 0.0)
            return d - expand_as(gain, x) * torch.where(norm > 0, reach / norm, 0.0) * gradient

        return function

    return interval(lambda denoise: Through(guided, denoise), until)
