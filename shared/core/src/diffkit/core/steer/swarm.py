"""The particles of one run: their noise and weights, and when they are resampled."""

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffkit.core.joint import Joint
from diffkit.core.noise import NoiseLaw, Seeds
from diffkit.core.predict import anchor, restored
from diffkit.core.steer.particles import Particles, Resampling, ess, flat, log_mean
from diffkit.core.types import Denoiser, each, float64, leaves


class Swarm:
    """Weights ``[groups, particles]`` of a batch shaped as ``like``; made for one run and changed by it.

    A group has one seed: its noise, its resampling and so its result are functions of that seed alone. Nothing
    here waits for the device: groups that need no resampling take the identity, and bad weights are found at
    the end. ``judge`` is the name of what gives the weights, for messages.
    """

    def __init__(
        self,
        judge: str,
        like: Any,
        particles: int,
        seeds: Sequence[int] | None,
        law: NoiseLaw | Mapping[str, NoiseLaw],
        threshold: float,
        resampling: Resampling,
    ):
        self._judge = judge
        first = leaves(like)[0]
        if particles < 1 or len(first) % particles:
            raise ValueError(
                f"{particles} particles do not divide a batch of {len(first)}: give groups times particles."
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold is a share of the particles in [0, 1], not {threshold}.")
        self.shape = (len(first) // particles, particles)
        chosen = [secrets.randbits(40) for _ in range(self.shape[0])] if seeds is None else list(seeds)
        if len(chosen) != self.shape[0]:
            raise ValueError(f"{len(chosen)} seeds for {self.shape[0]} groups: give one for each.")
        laws = (
            self._grouped(law) if callable(law) else {name: self._grouped(one) for name, one in law.items()}
        )
        self._noise, self._chance = Seeds(chosen, laws), Seeds(chosen)
        self._threshold, self._resampling = threshold, resampling
        self.log_weights = float64(torch.zeros(self.shape, device=first.device))
        self._ess: list[Tensor] = []

    def _grouped(self, law: NoiseLaw) -> NoiseLaw:
        return lambda noise: law(noise.flatten(0, 1)).unflatten(0, self.shape)

    def draw(self, step: int, like: Any) -> Any:
        """Noise for the batch, a :data:`~diffkit.core.types.Draw`."""
        noise = self._noise(step, each(lambda leaf: leaf.unflatten(0, self.shape), like))
        return each(lambda leaf: leaf.flatten(0, 1), noise)

    def values(self, values: Any, scale: float = 1.0) -> Tensor:
        """``scale`` times what the judge gave, in float64: one for each particle, finite or -inf."""
        count = self.log_weights.numel()
        if not isinstance(values, Tensor) or values.shape != (count,):
            found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{self._judge} must be a tensor of a value for each particle, {(count,)}, not {found}."
            )
        return scale * float64(values)

    def weigh(self, gain: Tensor) -> None:
        """Multiply the weights by exp(``gain``) ``[batch]``; a weight of zero stays zero."""
        dead = self.log_weights == -math.inf
        self.log_weights = torch.where(dead, -math.inf, self.log_weights + gain.detach().reshape(self.shape))

    def resample(self, step: int) -> Tensor:
        """The particles to go on with ``[batch]``, which have equal weights in the groups that were resampled."""
        self._ess.append(ess(self.log_weights))
        few = (self._ess[-1] < self._threshold * self.shape[1])[:, None]
        index = self._resampling(self.log_weights, self._uniform(step))
        index = torch.where(few, index, torch.arange(self.shape[1], device=index.device))
        self.log_weights = torch.where(few, log_mean(self.log_weights)[:, None], self.log_weights)
        return flat(index, self.log_weights)

    def _uniform(self, step: int) -> Tensor:
        """Uniform values for a row, of keys below the start's (-1), which rows never have."""
        return torch.special.ndtr(self._chance(-2 - step, self.log_weights))

    def end(self, x: Any, steps: int) -> Particles:
        """The result; ValueError for weights that say nothing, which stay so once they are."""
        if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves(x)):
            raise FloatingPointError(
                "steering gave values that are not finite: the network or the grid is at fault."
            )
        if not bool((self.log_weights < math.inf).all()):
            raise ValueError(
                f"{self._judge} gave NaN or infinity: it must be finite, or -inf for a weight of zero."
            )
        if bool((self.log_weights == -math.inf).all(1).any()):
            raise ValueError(
                f"every particle of a group has weight zero: {self._judge} must leave one alive."
            )
        history = torch.stack([*self._ess, ess(self.log_weights)])
        return Particles(x, self.log_weights, history, self._uniform(steps))


def as_state(like: Any) -> Any:
    """A state, of a state or a shape."""
    return torch.empty(like) if isinstance(like, (tuple, torch.Size)) else like


def anchored(denoise: Denoiser, process: Any, x: Any, y: Any, t: Tensor) -> tuple[Any, Denoiser]:
    """``x`` and its denoiser in z = x - b(t) y."""
    if y is None:
        return x, denoise
    if isinstance(process, Joint):
        raise ValueError("a joint process has no anchor yet: condition its network by closing over y.")
    return restored(process, x, -y, t), anchor(denoise, process, y)


def dot(p: Tensor, q: Tensor) -> Tensor:
    """The inner product of each sample ``[batch]``, of real numbers also where they are parts of complex ones."""
    wide = torch.promote_types(p.dtype, torch.float32)
    return float64((p.to(wide).conj() * q.to(wide)).real.flatten(1).sum(1))
