"""What auxiliary relations say of a target relation: diffusion between two embeddings of a node.

The idea is DiffGraph's (Li et al. 2025, 2501.02313): LightGCN gives each node one embedding by the target relation, h,
and one by the auxiliary relations, g; a diffusion takes g to h, and what arrives is added to h. Here it is a process of
the core. A bridge has x0 = h and y = g, and starts from g itself. A process without anchor starts from noise, and g is
a condition. Both are learnt by the denoising loss at all times, h and g being fixed, while the ranking of edges learns
through what is sampled from g.

The released code does otherwise: it adds noise to g, of a variance between 1e-4 and 1e-4 + 1e-7, and samples by the
mean of DDPM's posterior, whose weight on the prediction is 5e-6 at all of its 200 steps but the last, where it is 1. So
it is one call of a multilayer perceptron on g: `apps/bench/relations.py` measures that.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffkit.core.bridge import BrownianBridge
from diffkit.core.grid import uniform
from diffkit.core.plan import integrate
from diffkit.core.predict import anchor, wrap
from diffkit.core.process import Gaussian
from diffkit.core.solvers import ddim
from diffkit.core.train import denoising_loss
from diffkit.graphs.lightgcn import LightGCN


class Denoising(nn.Module):
    """The clean embedding of nodes: the one by auxiliary relations, g, and what the noisy one says beside it.

    A new network says nothing, so that training begins at g as it is.
    """

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * width + 4, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, g: Tensor) -> Tensor:
        """``[nodes, width]`` of ``x`` and ``g`` of that shape and ``t`` ``[nodes]``."""
        clock = torch.stack([t, t.square(), torch.sin(math.pi * t), torch.cos(math.pi * t)], -1)
        return g + self.layers(torch.cat([x, g, clock], -1))


class Translation(nn.Module):
    """From embeddings by auxiliary relations to those by the target relation, both of unit size.

    Args:
        width: of embeddings.
        process: a bridge, or a process that ends in noise.
        calls: of the network for a sample, 1 or more.
    """

    def __init__(self, width: int, process: Gaussian | None = None, calls: int = 4):
        super().__init__()
        self.process: Gaussian = BrownianBridge() if process is None else process
        self.network = Denoising(width)
        self.plan = ddim()(self.process, uniform(calls))
        self.bridge = float(self.process.b(torch.ones(1, dtype=torch.float64))) == 1

    def loss(self, h: Tensor, g: Tensor) -> Tensor:
        """The denoising loss of data ``h`` beside ``g``, ``[nodes, width]``."""
        y = g if self.bridge else None
        return denoising_loss(lambda x, t: self.network(x, t, g), self.process, h, y=y)

    def forward(self, g: Tensor, noise: Tensor) -> Tensor:
        """A sample for each node, of deviates ``noise``, both ``[nodes, width]``."""
        y = g if self.bridge else None
        denoise = wrap(lambda x, t: self.network(x, t, g), self.process, y=y)
        x = self.process.prior(g, y=y).sample(noise)
        if y is not None:  # in x - b y, whose b is 1 at the start and 0 at the end
            denoise, x = anchor(denoise, self.process, y), x - y
        return integrate(denoise, x, self.plan, draw=lambda step, like: noise)


class Untouched(nn.Module):
    """In place of a translation: the embedding by auxiliary relations as it is, which ranking alone teaches."""

    def forward(self, g: Tensor, noise: Tensor) -> Tensor:
        return g

    def loss(self, h: Tensor, g: Tensor) -> Tensor:
        """None."""
        return h.new_zeros(())


class LatentDiffusion(nn.Module):
    """An encoder (see :mod:`diffkit.graphs.lightgcn`): LightGCN by the target relation, and a translation of the rest.

    Args:
        graphs: edges by relation, first of the whole graph, then without each fold.
        target: the relation that is to be predicted; all others are auxiliary.
        count: rows of the table.
        width, layers: of LightGCN.
        translation: by default a :class:`Translation` by a Brownian bridge.
        weight: of the denoising loss.
        seed: of the noise that samples start from, one draw for each row.

    ValueError where there is no other relation.
    """

    noise: Tensor

    def __init__(
        self,
        graphs: Sequence[Mapping[str, Tensor]],
        target: str,
        count: int,
        *,
        width: int = 64,
        layers: int = 3,
        translation: nn.Module | None = None,
        weight: float = 0.1,
        seed: int = 0,
    ):
        super().__init__()
        if len(graphs[0]) == 1:
            raise ValueError(f"{target!r} is the only relation, and others are to tell of it: use lightgcn.")
        self.own = LightGCN([[edges[target]] for edges in graphs], count, width, layers)
        others = [[e for name, e in edges.items() if name != target] for edges in graphs]
        self.auxiliary = LightGCN(others, count, width, layers)
        self.auxiliary.table = self.own.table
        self.translation: Any = Translation(width) if translation is None else translation
        self.weight = weight
        noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("noise", noise, persistent=False)

    def forward(self, rows: Tensor, graph: int = 0) -> tuple[Tensor, Tensor]:
        """Embeddings ``[rows, width]`` by the target relation and, translated, by the others; the denoising loss.

        What the translation is to find in training is the embedding of the whole graph.
        """
        h, g = self.own.whole(graph), self.auxiliary.whole(graph)
        with torch.no_grad():
            x0 = self.own.whole() if graph else h
            size, other = (x.square().mean().sqrt().clamp(min=1e-12) for x in (x0, g))
        h, g, x0 = h[rows], g[rows] / other, x0[rows].detach() / size
        found = self.translation(g, torch.randn_like(g) if self.training else self.noise[rows])
        loss = self.translation.loss(x0, g.detach()) if self.training else h.new_zeros(())
        return h + size * found, self.weight * loss
