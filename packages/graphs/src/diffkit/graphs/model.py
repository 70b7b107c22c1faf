"""A graph transformer: from a noisy graph to the logits of its nodes' and its pairs' classes.

In the line of DiGress (Vignac et al. 2022, 2209.14734): nodes, pairs of nodes and the graph as a whole have features
of their own. Attention between nodes is biased and scaled by what their pair has, pairs learn from their nodes'
scores, the graph from the means of both, and tells both through FiLM (Perez et al. 2017, 1709.07871): a gain and a
shift of what was normalised. Ours is normalised first, as deep transformers are, and told of structure by
:mod:`diffkit.graphs.features`, and of how many edges of each kind a node has, of which a valence is made.

Everything is equivariant to the order of nodes, pairs are symmetric, and absent nodes change nothing. Pairs are
unordered, the diagonal counted: half as many features as DiGress has, and half the time.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffkit.graphs import features
from diffkit.graphs.graph import pair_mask


class Pairs(NamedTuple):
    """The unordered pairs of n nodes, P = n(n + 1)/2: their ``first`` and ``second`` nodes ``[P]``, and the pair ``at``
    each place ``[n, n]``."""

    first: Tensor
    second: Tensor
    at: Tensor

    @classmethod
    def of(cls, n: int, device: torch.device) -> "Pairs":
        first, second = torch.triu_indices(n, n, device=device).unbind()
        at = torch.empty(n, n, dtype=torch.long, device=device)
        at[first, second] = at[second, first] = torch.arange(len(first), device=device)
        return cls(first, second, at)

    def half(self, square: Tensor) -> Tensor:
        """``[batch, P, features]`` of what is ``[batch, n, n, features]``, and symmetric."""
        return square.flatten(1, 2).index_select(1, self.first * len(self.at) + self.second)

    def square(self, half: Tensor) -> Tensor:
        """And back."""
        return half[:, self.at]


class GraphTransformer(nn.Module):
    """``(nodes, edges, mask, t) -> (node logits, edge logits)``, see :class:`~diffkit.graphs.graph.Batch`.

    Args:
        node_classes, edge_classes: K and C, the absence of an edge counted.
        width: features of a node, and of the graph.
        pair_width: features of a pair; memory is the batch times n^2/2 times some of these.
        heads: of attention; they divide ``width``.
        layers: how deep.
        walks, squarings: of :func:`~diffkit.graphs.features.structure`.
    """

    def __init__(
        self,
        node_classes: int = 1,
        edge_classes: int = 2,
        width: int = 64,
        pair_width: int = 32,
        heads: int = 4,
        layers: int = 4,
        walks: int = 8,
        squarings: int = 3,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"the width {width} must be a multiple of the heads, {heads}.")
        self.arguments: dict[str, Any] = {
            "node_classes": node_classes,
            "edge_classes": edge_classes,
            "width": width,
            "pair_width": pair_width,
            "heads": heads,
            "layers": layers,
            "walks": walks,
            "squarings": squarings,
        }
        self.walks = {"walks": walks, "squarings": squarings}
        of_nodes, of_pairs, of_graph = features.sizes(**self.walks)
        kinds = edge_classes - 1 if edge_classes > 2 else 0  # of one kind they are the degree
        self.node_in = _mlp(node_classes + kinds + of_nodes, width, width)
        self.pair_in = _mlp(
            edge_classes + 1 + of_pairs, pair_width, pair_width
        )  # and whether it is the diagonal
        self.graph_in = _mlp(of_graph + 4, width, width)
        self.layers = nn.ModuleList([Layer(width, pair_width, heads) for _ in range(layers)])
        self.node_out = nn.Sequential(nn.LayerNorm(width), _mlp(width, width, node_classes))
        self.pair_out = nn.Sequential(nn.LayerNorm(pair_width), _mlp(pair_width, pair_width, edge_classes))

    @property
    def classes(self) -> tuple[int, int]:
        """K and C."""
        return self.arguments["node_classes"], self.arguments["edge_classes"]

    def forward(self, nodes: Tensor, edges: Tensor, mask: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[batch, n, K]`` and ``[batch, n, n, C]`` at times ``t`` ``[batch]``; zero for what is not there."""
        pairs = Pairs.of(mask.shape[1], mask.device)
        with torch.autocast(edges.device.type, enabled=False):  # counts of walks leave bfloat16
            known = features.structure(edges[..., 1:].sum(-1), mask, **self.walks)
        diagonal = (pairs.first == pairs.second).to(edges).expand(len(mask), -1)[..., None]
        clock = torch.stack([t, t.square(), torch.sin(math.pi * t), torch.cos(math.pi * t)], -1)
        bonds = edges[..., 1:].sum(2) if edges.shape[-1] > 2 else nodes[..., :0]
        x = self.node_in(torch.cat([nodes, bonds, known.nodes], -1))
        e = self.pair_in(torch.cat([pairs.half(edges), diagonal, pairs.half(known.pairs)], -1))
        y = self.graph_in(torch.cat([known.graph, clock.to(known.graph)], -1))
        for layer in self.layers:
            x, e, y = layer(x, e, y, mask, pairs)
        return self.node_out(x) * mask[..., None], pairs.square(self.pair_out(e)) * pair_mask(mask)[..., None]


class Layer(nn.Module):
    """One layer: nodes attend, pairs learn from scores, the graph from means."""

    def __init__(self, width: int, pair_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.node_film, self.pair_film = FiLM(width, width), FiLM(pair_width, width)
        self.query = nn.Linear(width, 3 * width)
        self.bias = nn.Linear(pair_width, 2 * heads)
        self.gather = nn.Linear(pair_width, width)
        self.attended = nn.Linear(width, width)
        self.node_mlp = nn.Sequential(nn.LayerNorm(width), _mlp(width, 2 * width, width))
        self.ends = nn.Linear(width, pair_width)
        self.scores = nn.Linear(heads, pair_width)
        self.pair_mlp = nn.Sequential(nn.LayerNorm(pair_width), _mlp(pair_width, 2 * pair_width, pair_width))
        self.graph_mlp = nn.Sequential(
            nn.LayerNorm(2 * width + pair_width), _mlp(2 * width + pair_width, width, width)
        )

    def forward(
        self, x: Tensor, e: Tensor, y: Tensor, mask: Tensor, pairs: Pairs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of nodes ``[batch, n, width]``, of pairs ``[batch, P, pair_width]``, of graphs ``[batch, width]``."""
        here = mask[..., None].to(x.dtype)
        count = here.sum(1)
        h, p = self.node_film(x, y), self.pair_film(e, y)
        q, k, v = self.query(h).unflatten(-1, (3, self.heads, -1)).unbind(2)
        raw = torch.einsum("bihd,bjhd->bijh", q, k) / math.sqrt(q.shape[-1])
        gain, shift = pairs.square(self.bias(p)).chunk(2, -1)
        scores = (raw * (1 + gain) + shift).masked_fill(~mask[:, None, :, None], -1e4)
        mixed = torch.einsum("bijh,bjhd->bihd", scores.softmax(2), v).flatten(2)
        near = (pairs.square(p) * here[:, None]).sum(2) / count[:, None]
        x = x + self.attended(mixed) + self.gather(near)
        x = x + self.node_mlp(x)
        ends = self.ends(h)
        e = e + self.scores(pairs.half(raw + raw.transpose(1, 2)))
        e = e + ends.index_select(1, pairs.first) + ends.index_select(1, pairs.second)
        e = e + self.pair_mlp(e)
        means = (x * here).sum(1) / count, (near * here).sum(1) / count
        return x, e, y + self.graph_mlp(torch.cat([y, *means], -1))


class FiLM(nn.Module):
    """A layer norm whose gain and shift the graph's features give."""

    def __init__(self, width: int, of: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.affine = nn.Linear(of, 2 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain, shift = self.affine(functional.silu(y)).chunk(2, -1)
        lead = (len(x),) + (1,) * (x.ndim - 2) + (-1,)
        return self.norm(x) * (1 + gain.reshape(lead)) + shift.reshape(lead)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
