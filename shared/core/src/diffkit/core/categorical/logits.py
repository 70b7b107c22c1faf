"""From a network's logits to a denoiser."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffkit.core.categorical.process import Categorical, count, wide
from diffkit.core.types import float64


def wrap(network: Callable[..., Tensor], process: Categorical) -> Callable[..., Any]:
    """The denoiser of a ``network(x, t)`` that returns logits ``[batch, ..., K]``.

    The softmax over the classes that x_t leaves possible: of a masked process no token becomes the mask, and one
    that is not masked stays (Sahoo et al. 2024, 2406.07524). ``t`` reaches the network as
    ``[batch]``, or ``[batch, tokens]``; further arguments of the denoiser are handed on, as conditions.
    """

    def denoise(x: Tensor, t: Tensor, *condition: Any) -> Tensor:
        t = torch.as_tensor(t, device=x.device)
        batch_t = t.to(x.dtype).expand(x.shape[: max(t.ndim, 1)])
        return log_softmax(process, network(x, batch_t, *condition), x, t).exp()

    return denoise


def log_softmax(process: Categorical, logits: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
    """log E[x0 | x_t] of logits, over the classes that x_t = ``x`` leaves possible, at least in float32."""
    count(logits, process.size)
    logits = logits.to(wide(logits.dtype))
    possible = process.possible(x.to(logits), float64(t))
    excluded = ~possible & possible.any(-1, keepdim=True)  # an element that does not exist excludes nothing
    return logits.masked_fill(excluded, torch.finfo(logits.dtype).min / 2).log_softmax(-1)
