"""Noise laws, and draws keyed by seed and step.

Every law here is a map of independent standard normal values, all but one linear, so it is written as that map
and composes: ``lambda n: masked(mask)(symmetric()(n))``. A draw belongs to a sample and not to its batch:
sample i of a batch of eight is the sample of a batch of one with the same seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from diffkit.core.types import expand_as

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


def symmetric(mask: Tensor | None = None, *, channels: bool = False) -> NoiseLaw:
    """Symmetric noise of zero diagonal for adjacency matrices ``[batch, ..., nodes, nodes]`` (Jo et al. 2022).

    Each pair of nodes has one standard normal value; with ``channels``, one for each channel of a last axis,
    ``[batch, nodes, nodes, channels]``, as classes of edges need. ``mask`` ``[batch, nodes]`` zeroes absent nodes.
    """

    def law(noise: Tensor) -> Tensor:
        upper = (noise.movedim(-1, 1) if channels else noise).triu(1)
        square = upper + upper.mT
        if mask is not None:
            present = mask.to(noise.dtype).reshape(len(mask), *[1] * (noise.ndim - 3), -1)
            square = square * present[..., :, None] * present[..., None, :]
        return square.movedim(1, -1) if channels else square

    return law


def masked(mask: Tensor) -> NoiseLaw:
    """Normal noise where ``mask`` (broadcast to the noise) is true, and zero elsewhere."""
    return lambda noise: noise * mask.to(noise.dtype)


def heavy_tailed(dims: float = 128.0) -> NoiseLaw:
    r"""PFGM++ with D = ``dims`` augmented dimensions: Xu et al. 2023 (2302.04265).

    s times this noise has the density proportional to (R^2 + r^2)^(-(N + D)/2) at distance R, r = s sqrt(D),
    N being the values of a sample: their r = sigma sqrt(D), which carries every setting of EDM over. It is
    Student's t of D degrees of freedom; N(0, I) for D to infinity; of variance D/(D - 2), infinite at D <= 2.
    Use it in training, ``process.corrupt(x0, t, noise=law(values))``, and as ``law`` of
    :func:`~diffkit.core.sample.sample`, where deterministic solvers need no change: only the prior does.

    A draw keeps the direction of the normal values and takes the quantile of its radius to that of the new
    law, R^2/(r^2 + R^2) ~ Beta(N/2, D/2): a map of the normal values alone, so that seeds stay seeds. The
    quantile, one number for each sample, is found on the CPU. Released code clips it to [0.001, 0.999].
    """
    from scipy.special import betaincinv, gammainc, gammaincc

    if not dims > 0:
        raise ValueError(f"the augmented dimensions of heavy-tailed noise must be positive, not {dims}.")
    if math.isinf(dims):
        return normal

    def law(noise: Tensor) -> Tensor:
        half = noise[0].numel() / 2
        norm2 = noise.detach().flatten(1).double().square().sum(1).clamp(min=1e-300).cpu().numpy()
        inside = betaincinv(half, dims / 2, gammainc(half, norm2 / 2))
        outside = betaincinv(dims / 2, half, gammaincc(half, norm2 / 2))  # 1 - inside, without cancellation
        return noise * expand_as(torch.as_tensor((dims * inside / outside / norm2) ** 0.5), noise)

    return law


def coupled(noise: Tensor, data: Tensor) -> Tensor:
    """The samples of ``noise``, in the order that brings them nearest to ``data``: minibatch optimal transport.

    Pooladian et al. 2023 (2304.14772) and Tong et al. 2023 (2302.00482): the permutation of least total squared
    distance, by which paths cross less. Both ``[batch, ...]``; found on the CPU, in time batch^3. With a
    condition that says something of the data, couple within samples of one condition only: else the noise
    knows of the condition in training, and not in sampling.
    """
    from scipy.optimize import linear_sum_assignment

    if noise.shape != data.shape:
        raise ValueError(f"noise {tuple(noise.shape)} and data {tuple(data.shape)} must be of one shape.")
    cost = torch.cdist(data.detach().flatten(1).double(), noise.detach().flatten(1).double()).square()
    _, order = linear_sum_assignment(cost.cpu().numpy())
    return noise[torch.as_tensor(order, device=noise.device)]


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
        if like.is_complex():  # two real channels, each of the law
            parts = self._values(step, torch.view_as_real(like), index).unbind(-1)
            return torch.complex(law(parts[0]), law(parts[1])).to(like.dtype)
        return law(self._values(step, like, index)).to(like.dtype)

    def _values(self, step: int, like: Tensor, index: int) -> Tensor:
        """Standard normal values, at least in float32."""
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        generator = torch.Generator(like.device)
        noise = torch.empty(like.shape, dtype=dtype, device=like.device)
        for i, seed in enumerate(self.seeds):
            generator.manual_seed(key(seed + (index << 40), step))
            noise[i].normal_(generator=generator)
        return noise


@dataclass(frozen=True)
class Brownian:
    """A :data:`~diffkit.core.types.Draw` whose noise belongs to one path: the same on every grid.

    The linear part of the reverse SDE, in x divided by its own damping, is a Brownian motion W in the clock
    e^(2 eta lambda), so row k gets (W(u) - W(t))/sqrt(clock(u) - clock(t)). Refining a grid then refines one
    sample instead of drawing another. W is built by halving lambda's range (Levy's construction, as a tree
    keyed by node), and needs ``depth`` draws for each time.

    Args:
        draw: normal noise keyed by step, ``Seeds(seeds, law)``; also for the start.
        lam: lambda at the plan's times, ``process.lam(grid)``; one row of the plan for each step.
        eta: of ``dpmpp_sde``; tau^2 of ``sa``; 1 for ancestral ``ddim``.
        depth: lambda is rounded to 40/2^depth.

    ValueError if a step is shorter than that.
    """

    draw: Callable[[int, Tensor], Tensor]
    lam: Tensor
    eta: float = 1.0
    depth: int = 24

    def __call__(self, step: int, like: Tensor) -> Tensor:
        if step < 0:
            return self.draw(step, like)
        start, before = self._at(float(self.lam[step]), like)
        end, after = self._at(float(self.lam[step + 1]), like)
        if end <= start:
            raise ValueError(f"step {step} is too short for a path of depth {self.depth}: raise the depth.")
        return (after - before) / math.sqrt(end - start)

    def _at(self, lam: float, like: Tensor) -> tuple[float, Tensor]:
        """The clock nearest to ``lam``, and W there."""
        low, high = -20.0, 20.0
        left, right = self._clock(low), self._clock(high)
        here = math.sqrt(left) * self.draw(0, like)
        there = here + math.sqrt(right - left) * self.draw(1, like)
        node = 1
        for _ in range(self.depth):
            middle = (low + high) / 2
            clock = self._clock(middle)
            share = (clock - left) / (right - left)
            spread = math.sqrt((right - clock) * share)
            value = here + share * (there - here) + spread * self.draw(node + 1, like)
            node = 2 * node + (lam >= middle)
            if lam >= middle:
                low, left, here = middle, clock, value
            else:
                high, right, there = middle, clock, value
        return left, here

    def _clock(self, lam: float) -> float:
        return math.exp(2 * self.eta * lam)


@dataclass(frozen=True)
class Recorded:
    """A draw that plays back noise ``[steps, batch, ...]`` drawn before: for compiled loops and CUDA graphs."""

    noise: Any

    def __call__(self, step: int, like: Any) -> Any:
        return self.noise[step] if isinstance(like, Tensor) else {n: self.noise[n][step] for n in like}
