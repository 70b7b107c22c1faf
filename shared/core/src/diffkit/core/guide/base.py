"""Several predictions at one point: what most guides need, in as few calls of the network as there can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffkit.core.types import Denoiser, each, leaves


@dataclass(frozen=True)
class Conditional:
    """``denoise(x, t, condition)`` at one condition; guides evaluate several of one ``denoise`` as one batch.

    ``condition`` is a tensor ``[batch, ...]`` or a mapping of them, of the state's batch.

    >>> denoise = wrap(network, process)  # of network(x, t, label)
    >>> guided = cfg(4.0, Conditional(denoise, none))(Conditional(denoise, label))
    """

    denoise: Callable[[Any, Tensor, Any], Any]
    condition: Any

    def __call__(self, x: Any, t: Tensor) -> Any:
        return self.denoise(x, t, self.condition)


def together(denoisers: Sequence[Denoiser], x: Any, t: Tensor) -> list[Any]:
    """The predictions of ``denoisers`` at ``x``, ``t``: one call for all conditions of one denoiser.

    ValueError if a condition is not of the state's batch.
    """
    predictions: list[Any] = [None] * len(denoisers)
    waiting = list(range(len(denoisers)))
    while waiting:
        first = denoisers[waiting[0]]
        group = [i for i in waiting if _shared(denoisers[i], first)]
        waiting = [i for i in waiting if i not in group]
        for i, prediction in zip(group, _batch([denoisers[i] for i in group], x, t), strict=True):
            predictions[i] = prediction
    return predictions


def _shared(one: Denoiser, other: Denoiser) -> bool:
    """Whether both are one function, perhaps at two conditions."""
    if isinstance(one, Conditional) and isinstance(other, Conditional):
        return one.denoise is other.denoise
    return one is other


def _batch(group: Sequence[Any], x: Any, t: Tensor) -> list[Any]:
    if len(group) == 1 or not isinstance(group[0], Conditional):
        return [group[0](x, t)] * len(group)
    size, n = len(leaves(x)[0]), len(group)
    for branch in group:
        if any(len(leaf) != size for leaf in leaves(branch.condition)):
            raise ValueError(f"a condition is not of the state's batch of {size}: give one for each sample.")
    many = each(lambda leaf: torch.cat([leaf] * n), x)
    times = torch.cat([t] * n) if t.ndim else t
    conditions = each(lambda *leaf: torch.cat(leaf), *(branch.condition for branch in group))
    out = group[0].denoise(many, times, conditions)
    return [each(lambda leaf, i=i: leaf[i * size : (i + 1) * size], out) for i in range(n)]
