r"""The score networks of GDSS (Jo et al. 2022, 2202.02514): graph convolutions over a real, noisy adjacency.

A convolution is S X W + b with S = D^(-1/2) A D^(-1/2) of the adjacency A with ones on its diagonal, D being its row
sums where they exceed 1. The nodes' network is a stack of them, of whose layers all features are read out. That of
the pairs begins with the powers A, A^2, ... as channels; in each layer every channel has convolutions of its own,
whose queries and keys give a new symmetric map by tanh of their products, averaged over heads, and a small network
of each pair mixes maps and channels into the next; all channels of all layers are read out.

Neither is told the time: how noisy a graph is shows in the graph. Both predict the noise, the score being -eps/s.
Everything is equivariant to the order of nodes, pairs are symmetric, and absent nodes change nothing.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class GDSS(nn.Module):
    """``(nodes, edges, mask) -> (noise of nodes, noise of edges)``, see :mod:`diffkit.graphs.gdss`.

    Args:
        features: F of a node.
        width: hidden features of nodes, of queries and of keys.
        depth: convolutions of the nodes' network.
        layers: of the pairs' network.
        powers, channels, last: channels of the pairs in the first layer, between layers, after the last.
        heads: they divide ``width``.
    """

    def __init__(
        self,
        features: int = 10,
        width: int = 32,
        depth: int = 3,
        layers: int = 5,
        powers: int = 2,
        channels: int = 8,
        last: int = 4,
        heads: int = 4,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"the width {width} must be a multiple of the heads, {heads}.")
        self.arguments: dict[str, Any] = {
            "features": features,
            "width": width,
            "depth": depth,
            "layers": layers,
            "powers": powers,
            "channels": channels,
            "last": last,
            "heads": heads,
        }
        self.nodes = NodeScore(features, width, depth)
        self.edges = PairScore(features, width, [powers, *[channels] * (layers - 1), last], heads)

    @property
    def features(self) -> int:
        """F."""
        return self.arguments["features"]

    def forward(self, nodes: Tensor, edges: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``[batch, n, F]`` and ``[batch, n, n, 1]`` the same; zero for what is not there."""
        A = edges[..., 0]
        return self.nodes(nodes, A, mask), self.edges(nodes, A, mask)[..., None]


class NodeScore(nn.Module):
    """ScoreNetworkX: convolutions over A, then a network of all their features."""

    def __init__(self, features: int, width: int, depth: int):
        super().__init__()
        sizes = [features, *[width] * depth]
        self.layers = nn.ModuleList([Convolution(1, *pair) for pair in pairwise(sizes)])
        self.out = _mlp(sum(sizes), 2 * sum(sizes), 2 * sum(sizes), features)

    def forward(self, x: Tensor, A: Tensor, mask: Tensor) -> Tensor:
        """Nodes ``[batch, n, F]``, adjacency ``[batch, n, n]``, mask ``[batch, n]``."""
        found, S = [x], _normalised(A[None])
        for layer in self.layers:
            found.append(layer(found[-1], S)[0].tanh())
        return self.out(torch.cat(found, -1)) * mask[..., None]


class PairScore(nn.Module):
    """ScoreNetworkA: attention over the channels of the adjacency, of which there are ``channels`` by layer."""

    def __init__(self, features: int, width: int, channels: list[int], heads: int):
        super().__init__()
        self.powers = channels[0]
        self.layers = nn.ModuleList(
            [
                ChannelAttention(width if i else features, width, *pair, heads)
                for i, pair in enumerate(pairwise(channels))
            ]
        )
        self.out = _mlp(sum(channels), 2 * sum(channels), 2 * sum(channels), 1)

    def forward(self, x: Tensor, A: Tensor, mask: Tensor) -> Tensor:
        """As :class:`NodeScore`, to ``[batch, n, n]``."""
        here = mask.to(x)[..., None]
        pairs, powers = here[:, :, None] * here[:, None], [A]
        while len(powers) < self.powers:
            powers.append(powers[-1] @ A)
        found = [torch.stack(powers, -1)]
        for layer in self.layers:
            x, e = layer(x, found[-1])
            x = x * here
            found.append(e * pairs)
        i, j = torch.triu_indices(A.shape[1], A.shape[1], 1, device=A.device)
        upper = torch.zeros_like(A)
        upper[:, i, j] = self.out(torch.cat([e[:, i, j] for e in found], -1))[..., 0].to(A)
        return (upper + upper.mT) * pairs[..., 0]


class ChannelAttention(nn.Module):
    """A layer of :class:`PairScore`, from ``channels`` to ``after`` of them."""

    def __init__(self, inputs: int, width: int, channels: int, after: int, heads: int):
        super().__init__()
        self.width, self.heads = width, heads
        self.project = Convolution(channels, inputs, width, parts=3)  # queries, keys and values
        hidden = 2 * max(channels, after)
        self.mix = _mlp(2 * channels, hidden, after)
        self.join = _mlp(channels * width, hidden, width)

    def forward(self, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes ``[batch, n, inputs]`` and symmetric pairs ``[batch, n, n, channels]``, absent ones not yet zero."""
        q, k, v = self.project(x, _normalised(e.movedim(-1, 0))).chunk(3, -1)
        q, k = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in (q, k))
        maps = (q @ k.mT).div_(math.sqrt(self.width)).tanh_().mean(2)
        maps = ((maps + maps.mT) / 2).movedim(0, -1)
        joined = self.join(v.movedim(0, 2).flatten(2))
        return joined.tanh(), 2 * self.mix(
            torch.cat([maps, e], -1)
        )  # theirs adds the transpose, which is equal


class Convolution(nn.Module):
    """S X W + b with weights of its own for each channel of S, and ``parts`` results side by side."""

    def __init__(self, channels: int, inputs: int, outputs: int, parts: int = 1):
        super().__init__()
        most = math.sqrt(6 / (inputs + outputs))  # Glorot's
        self.weight = nn.Parameter(torch.empty(channels, inputs, parts * outputs).uniform_(-most, most))
        self.bias = nn.Parameter(torch.zeros(channels, 1, parts * outputs))

    def forward(self, x: Tensor, S: Tensor) -> Tensor:
        """Of ``[batch, n, inputs]`` and ``[channels, batch, n, n]`` the ``[channels, batch, n, parts outputs]``."""
        near = (S @ x).flatten(1, 2)
        return torch.baddbmm(self.bias, near, self.weight).unflatten(1, x.shape[:2])


def _normalised(A: Tensor) -> Tensor:
    """D^(-1/2) A D^(-1/2) of ``[..., n, n]`` (see the module)."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    looped = A * (1 - eye) + eye
    root = looped.sum(-1).clamp(min=1).rsqrt()
    return root[..., :, None] * looped * root[..., None, :]


def _mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ELU between them."""
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ELU())]
    return nn.Sequential(*layers[:-1])
