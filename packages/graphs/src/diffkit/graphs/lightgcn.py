"""Embeddings of nodes by relations: LightGCN, and a relational GCN.

An encoder owns a table of embeddings, a row for each place of :class:`~diffkit.graphs.views.Views`, and gives what some
rows become, and a loss of its own. It knows the graph several times: first whole, and then without the edges of each
fold, so that what an edge is predicted from in training does not hold the edge.

LightGCN (He et al. 2020, 2002.02126) has no weights and no nonlinearity: with A the symmetric adjacency and D its
degrees, E_l = D^(-1/2) A D^(-1/2) E_(l-1), and the result is the mean of E_0 to E_L. The relational GCN (Schlichtkrull
et al. 2017, 1703.06103) has a matrix for each relation and direction, and takes means over neighbours.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

DROPPED = 0.5
"""The share of the rows of LightGCN's table that a step of training does without."""


def adjacency(edges: Iterable[Tensor], count: int) -> Tensor:
    """The sum over relations of D^(-1/2) A D^(-1/2), A being symmetric and 0 or 1: sparse ``[count, count]``."""
    parts: list[Tensor] = []
    for pairs in edges:
        both = torch.cat([pairs, pairs.flip(0)], 1)
        u, v = both.unique(dim=1) if both.shape[1] else both
        degree = torch.zeros(count).index_add(0, u, torch.ones(len(u)))
        values = (degree[u] * degree[v]).rsqrt()
        parts.append(
            torch.sparse_coo_tensor(torch.stack([u, v]), values, (count, count), check_invariants=True)
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return sum(parts[1:], parts[0]).coalesce().to_sparse_csr()


class _Spread(torch.autograd.Function):
    """A symmetric sparse matrix times a dense one, whose gradient is the same product."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, ctx.matrix @ grad.contiguous()


def propagate(matrix: Tensor, x: Tensor, layers: int) -> Tensor:
    """The mean of x, A x, ..., A^layers x."""
    total = x
    for _ in range(layers):
        x = _Spread.apply(matrix, x)
        total = total + x
    return total / (layers + 1)


def table(count: int, width: int, deviation: float) -> nn.Parameter:
    """Rows as training begins."""
    return nn.Parameter(deviation * torch.randn(count, width))


class Fixed(nn.Module):
    """Tensors that are neither learnt nor saved, and go where their module goes."""

    def __init__(self, *tensors: Tensor):
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"tensor{i}", tensor, persistent=False)

    def __iter__(self) -> Iterator[Tensor]:
        return self.buffers()


class LightGCN(nn.Module):
    """Of ``graphs``, each the edges of one relation, or of several that are summed."""

    def __init__(self, graphs: Sequence[Iterable[Tensor]], count: int, width: int = 64, layers: int = 3):
        super().__init__()
        self.layers = layers
        self.table = table(count, width, 0.01)  # a row that nothing teaches says next to nothing
        self.matrices = Fixed(*(adjacency(edges, count) for edges in graphs))

    def forward(self, rows: Tensor, graph: int = 0) -> tuple[Tensor, Tensor]:
        """``[rows, width]``, and no loss."""
        return self.whole(graph)[rows], self.table.new_zeros(())

    def whole(self, graph: int = 0) -> Tensor:
        """Of all rows, ``[count, width]``."""
        kept = dropout(torch.ones_like(self.table[:, :1]), DROPPED, self.training)
        return propagate(list(self.matrices)[graph], kept * self.table, self.layers)


class RelationalGCN(nn.Module):
    """h' = relu(h W + sum over relations and directions of the mean of h W_r over neighbours), ``layers`` times."""

    def __init__(self, graphs: Sequence[Mapping[str, Tensor]], count: int, width: int = 64, layers: int = 3):
        super().__init__()
        self.table = table(count, width, 0.1)
        self.graphs = nn.ModuleList(
            nn.ModuleList(_mean(way, count) for e in edges.values() for way in (e, e.flip(0)))
            for edges in graphs
        )
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2 * len(graphs[0]) + 1))
            for _ in range(layers)
        )

    def forward(self, rows: Tensor, graph: int = 0) -> tuple[Tensor, Tensor]:
        """``[rows, width]``, and no loss."""
        h: Tensor = self.table
        for depth, (own, *others) in enumerate(self.layers):  # type: ignore[misc]
            x = own(h)
            for linear, (u, v, share) in zip(others, self.graphs[graph], strict=True):  # type: ignore[arg-type]
                x.index_add_(0, v, linear(h[u]) * share)
            h = x if depth == len(self.layers) - 1 else x.relu()
        return h[rows], h.new_zeros(())


def _mean(edges: Tensor, count: int) -> Fixed:
    """Both ends of edges, and one over how many go where each goes."""
    u, v = edges
    return Fixed(u, v, 1 / torch.zeros(count).index_add(0, v, torch.ones(len(v)))[v, None])
