"""Noise laws, and draws keyed by seed and step.

Every law here is a linear map of independent standard normal values, so it is written as that map and
composes: ``lambda n: masked(mask)(symmetric()(n))``. A draw belongs to a sample and not to its batch:
sample i of a batch of eight is the sample of a batch of one with the same seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

NoiseLaw: TypeAlias = Callable[[Tensor], Tensor]
"""Maps independent standard normal values ``[batch, ...]`` to noise of the law, of the same shape."""

_MASK = (1 << 64) - 1


def normal(noise: Tensor) -> Tensor:
    """The standard normal law: the map is the identity."""
    return noise


def centred(mask: Tensor | None = None) -> NoiseLaw:
    """Normal noise of zero centre of mass over the nodes: ``[batch, nodes, dims]`` (Hoogeboom et al. 2022).

    ``mask`` ``[batch, nodes]`` is true where a node exists; the other rows are zero.
    """

    def law(noise: Tensor) -> Tensor:
        if mask is None:
            return noise - noise.mean(-2, keepdim=True)
        present = mask.to(noise.dtype)[..., None]
        noise = noise * present
        return (noise - noise.sum(-2, keepdim=True) / present.sum(-2, keepdim=True).clamp(min=1)) * present

    return law


def symmetric(mask: Tensor | None = None) -> NoiseLaw:
    """Symmetric noise of zero diagonal for adjacency matrices ``[batch, ..., nodes, nodes]`` (Jo et al. 2022).

    Each pair of nodes has one standard normal value. ``mask`` ``[batch, nodes]`` zeroes absent nodes; it
    applies to ``[batch, nodes, nodes]``.
    """

    def law(noise: Tensor) -> Tensor:
        upper = noise.triu(1)
        noise = upper + upper.mT
        if mask is None:
            return noise
        present = mask.to(noise.dtype)
        return noise * present[:, :, None] * present[:, None, :]

    return law


def masked(mask: Tensor) -> NoiseLaw:
    """Normal noise where ``mask`` (broadcast to the noise) is true, and zero elsewhere."""
    return lambda noise: noise * mask.to(noise.dtype)


def key(seed: int, step: int) -> int:
    """A 63-bit generator seed for (seed, step), by two rounds of splitmix64 (Steele et al. 2014)."""
    value = (seed * 0x9E3779B97F4A7C15 + step + 1) & _MASK
    for _ in range(2):
        value = (value + 0x9E3779B97F4A7C15) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        value ^= value >> 31
    return value >> 1


@dataclass(frozen=True)
class Seeds:
    """A :data:`~diffkit.core.types.Draw`: noise for each sample from its own seed and the step.

    Args:
        seeds: one integer for each sample of the batch.
        law: the noise law, or one for each leaf of a joint state.

    Values are drawn in at least float32 on the state's device; a CPU and a GPU draw different values.
    """

    seeds: Sequence[int]
    law: NoiseLaw | Mapping[str, NoiseLaw] = normal

    def __call__(self, step: int, like: Any) -> Any:
        if isinstance(like, Tensor):
            law = self.law if callable(self.law) else normal
            return self._leaf(step, like, law, 0)
        return {
            name: self._leaf(step, leaf, self.law if callable(self.law) else self.law[name], index)
            for index, (name, leaf) in enumerate(like.items())
        }

    def _leaf(self, step: int, like: Tensor, law: NoiseLaw, index: int) -> Tensor:
        if len(self.seeds) != like.shape[0]:
            raise ValueError(
                f"{len(self.seeds)} seeds for a batch of {like.shape[0]}: give one for each sample."
            )
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        generator = torch.Generator(like.device)
        noise = torch.empty(like.shape, dtype=dtype, device=like.device)
        for i, seed in enumerate(self.seeds):
            generator.manual_seed(key(seed + (index << 40), step))
            noise[i].normal_(generator=generator)
        return law(noise).to(like.dtype)


@dataclass(frozen=True)
class Recorded:
    """A draw that plays back noise ``[steps, batch, ...]`` drawn before: for compiled loops and CUDA graphs."""

    noise: Any

    def __call__(self, step: int, like: Any) -> Any:
        return self.noise[step] if isinstance(like, Tensor) else {n: self.noise[n][step] for n in like}
