"""Categorical processes that the laws are run on, and a small known law with its exact denoiser."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diffkit.core.categorical import Absorbing, Choice, Jumps, Marginal, Memoryless, Transition, Uniform

RARE = (0.6, 0.25, 0.1, 0.05)
NEIGHBOURS = ((0.2, 0.8, 0.0, 0.0), (0.3, 0.3, 0.4, 0.0), (0.0, 0.5, 0.2, 0.3), (0.1, 0.0, 0.6, 0.3))
"""Neither symmetric nor doubly stochastic."""

NOISES = [Uniform(4), Uniform(4, "cosine"), Marginal(RARE), Marginal((0.7, 0.3, 0.0, 0.0)), Absorbing(5)]
MATRICES = [Transition(NEIGHBOURS), Transition(NEIGHBOURS, "cosine")]
FLOWS = [
    Jumps(Uniform(4)),
    Jumps(Marginal(RARE), eta=5),
    Jumps(Absorbing(5), stochasticity=10),
    Jumps(Absorbing(5, "cosine"), eta=2, stochasticity=1),
]


def noise_of(process: object) -> Memoryless | Transition:
    """The process whose marginals they are."""
    return process.process if isinstance(process, Jumps) else process  # type: ignore[return-value]


def everything(size: int, elements: int = 3) -> Tensor:
    """All one-hot states ``[size^elements, elements, size]``."""
    index = torch.cartesian_prod(*[torch.arange(size)] * elements)
    return torch.eye(size, dtype=torch.float64)[index.reshape(-1, elements)]


class Table:
    """A law of three correlated variables of four classes, given as a table, over ``size`` classes."""

    def __init__(self, size: int = 4):
        generator = torch.Generator().manual_seed(3)
        logits = 1.5 * torch.randn(4, 4, 4, generator=generator, dtype=torch.float64)
        self.table = torch.zeros(size, size, size, dtype=torch.float64)
        self.table[:4, :4, :4] = logits.flatten().softmax(0).reshape(4, 4, 4)

    def denoise(self, process: object) -> Callable[[Tensor, Tensor], Tensor]:
        """E[x0 | x_t], by Bayes over all states."""
        noise = noise_of(process)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            reach = noise.backward(x.double(), torch.zeros_like(t), t)
            joint = torch.einsum("abc,sa,sb,sc->sabc", self.table, *reach.unbind(1))
            joint = joint / joint.sum((1, 2, 3), keepdim=True).clamp(min=1e-300)
            return torch.stack([joint.sum((2, 3)), joint.sum((1, 3)), joint.sum((1, 2))], 1).to(x.dtype)

        return denoise

    def distance(self, law: Tensor) -> float:
        """Total variation."""
        return float((law - self.table).abs().sum() / 2)


def sampler_law(
    process: object, denoise: Callable[[Tensor, Tensor], Tensor], grid: Tensor, size: int
) -> Tensor:
    """The exact law of what ancestral sampling returns, ``[size, size, size]``: no draw is made."""
    states = everything(size)
    law = (states * process.prior(states).probs).sum(-1).prod(-1)  # type: ignore[attr-defined]
    for t, u in pairwise(grid):
        step: Choice = process.posterior(states, denoise(states, t), t, u)  # type: ignore[attr-defined]
        law = torch.einsum("s,sa,sb,sc->abc", law, *step.probs.unbind(1)).flatten()
    return law.reshape(size, size, size)
