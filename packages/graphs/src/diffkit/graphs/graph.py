"""Graphs as one-hot tensors, from NetworkX and back.

A batch is padded to its largest graph. Nodes are one-hot ``[batch, n, K]``, pairs of nodes one-hot ``[batch, n, n,
C]``, of which class 0 is the absence of an edge. What does not exist, an absent node, its pairs and the diagonal, is
a row of zeros, as the categorical processes of the core have it. The class of a node or an edge is its attribute
``label``; graphs without labels have one class of nodes and two of pairs.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import networkx as nx
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

LABEL = "label"
"""The attribute that holds the class of a node or an edge."""


@dataclass(frozen=True)
class Classes:
    """The labels of nodes, and of edges; empty where there are none. Labels are strings or integers."""

    nodes: Sequence[str | int] = ()
    edges: Sequence[str | int] = ()

    @classmethod
    def of(cls, graphs: Iterable[nx.Graph]) -> "Classes":
        """Those of ``graphs``, sorted. ValueError if some nodes, or some edges, have a label and others have none."""
        graphs = list(graphs)
        return cls(
            _labels("nodes", (data for graph in graphs for _, data in graph.nodes(data=True))),
            _labels("edges", (data for graph in graphs for *_, data in graph.edges(data=True))),
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """K and C."""
        return max(len(self.nodes), 1), 1 + max(len(self.edges), 1)


class Batch(NamedTuple):
    """Graphs of a batch (see the module)."""

    nodes: Tensor
    """One-hot ``[batch, n, K]``, float32."""
    edges: Tensor
    """One-hot ``[batch, n, n, C]``, float32, symmetric."""
    mask: Tensor
    """Which nodes exist, bool ``[batch, n]``."""


class Indexed(NamedTuple):
    """One graph, as the classes of its nodes ``[n]`` and of its pairs ``[n, n]``, uint8."""

    nodes: Tensor
    pairs: Tensor


def check(graph: nx.Graph, name: str = "the graph") -> None:
    """ValueError, with ``name``, unless ``graph`` is simple and undirected with two nodes or more, whose ids are
    integers, and no attribute is NaN.
    """
    if graph.is_directed():
        raise ValueError(f"{name} is directed; make it undirected first, with `graph.to_undirected()`.")
    if graph.is_multigraph():
        raise ValueError(
            f"{name} may have several edges between two nodes; make it simple with `nx.Graph(graph)`."
        )
    if len(graph) < 2:
        raise ValueError(f"{name} has {len(graph)} nodes; a graph needs at least two.")
    if (loop := next(nx.selfloop_edges(graph), None)) is not None:
        raise ValueError(f"{name} has an edge from node {loop[0]!r} to itself; remove self-loops.")
    if (odd := next((node for node in graph if not isinstance(node, Integral)), None)) is not None:
        raise ValueError(
            f"{name} has a node {odd!r} whose id is no integer; use `nx.convert_node_labels_to_integers(graph)`."
        )
    parts: list[tuple[str, Any, dict[str, Any]]] = [("node", *item) for item in graph.nodes(data=True)]
    parts += [("edge", (u, v), data) for u, v, data in graph.edges(data=True)]
    for kind, where, data in parts:
        for key, value in data.items():
            if any(math.isnan(v) for v in _numbers(value)):
                raise ValueError(
                    f"{name}: {kind} {where} has NaN for {key!r}; fill it in or drop the attribute."
                )


def index(graph: nx.Graph, classes: Classes, name: str = "the graph") -> Indexed:
    """The classes of a graph's nodes, in the order of their ids, and of its pairs.

    ValueError as :func:`check`, and for a label that ``classes`` does not have.
    """
    check(graph, name)
    order = sorted(graph)
    place = {node: i for i, node in enumerate(order)}
    number = [{label: i for i, label in enumerate(labels)} for labels in (classes.nodes, classes.edges)]
    nodes = torch.zeros(len(order), dtype=torch.uint8)
    pairs = torch.zeros(len(order), len(order), dtype=torch.uint8)
    if classes.nodes:
        for node, label in graph.nodes(data=LABEL):
            nodes[place[node]] = _find(label, number[0], f"{name}: node {node}")
    for u, v, label in graph.edges(data=LABEL):
        kind = 1 + _find(label, number[1], f"{name}: edge {(u, v)}") if classes.edges else 1
        pairs[place[u], place[v]] = pairs[place[v], place[u]] = kind
    return Indexed(nodes, pairs)


def collate(graphs: Sequence[Indexed], classes: Classes) -> Batch:
    """A batch of indexed graphs, padded to the largest of them."""
    most = max(len(graph.nodes) for graph in graphs)
    gaps = [most - len(graph.nodes) for graph in graphs]
    nodes = torch.stack([pad(graph.nodes, (0, gap)) for graph, gap in zip(graphs, gaps, strict=True)])
    pairs = torch.stack([pad(graph.pairs, (0, gap, 0, gap)) for graph, gap in zip(graphs, gaps, strict=True)])
    mask = sizes_mask(torch.tensor([len(graph.nodes) for graph in graphs]), most)
    K, C = classes.sizes
    hot = one_hot(nodes.long(), K).float() * mask[..., None]
    return Batch(hot, one_hot(pairs.long(), C).float() * pair_mask(mask)[..., None], mask)


def encode(graphs: Sequence[nx.Graph], classes: Classes | None = None, largest: int | None = None) -> Batch:
    """A batch of NetworkX graphs, of their own ``classes`` by default.

    ValueError for none, for a graph of more than ``largest`` nodes, or one that :func:`index` refuses.
    """
    if not graphs:
        raise ValueError("there are no graphs: give at least one.")
    found = Classes.of(graphs) if classes is None else classes
    for i, graph in enumerate(graphs):
        if largest is not None and len(graph) > largest:
            raise ValueError(f"graph {i} has {len(graph)} nodes; the model was built for at most {largest}.")
    return collate([index(graph, found, f"graph {i}") for i, graph in enumerate(graphs)], found)


def decode(batch: Batch, classes: Classes | None = None) -> list[nx.Graph]:
    """The NetworkX graphs of a batch, nodes counted from 0; with the labels of ``classes``, where it has any.

    Of each pair the entry above the diagonal counts.
    """
    classes = classes or Classes()
    kinds, pairs = batch.nodes.argmax(-1).tolist(), batch.edges.argmax(-1).cpu()
    graphs: list[nx.Graph] = []
    for i, size in enumerate(batch.mask.sum(1).tolist()):
        graph = nx.Graph()
        graph.add_nodes_from(range(size))
        if classes.nodes:
            nx.set_node_attributes(graph, {n: classes.nodes[kinds[i][n]] for n in range(size)}, LABEL)
        upper = pairs[i, :size, :size].triu(1)
        for u, v in upper.nonzero().tolist():
            data = {LABEL: classes.edges[int(upper[u, v]) - 1]} if classes.edges else {}
            graph.add_edge(u, v, **data)
        graphs.append(graph)
    return graphs


def sizes_mask(sizes: Tensor, most: int) -> Tensor:
    """Which of ``most`` nodes exist in graphs of ``sizes`` ``[batch]``: bool ``[batch, most]``."""
    return torch.arange(most, device=sizes.device) < sizes[:, None]


def pair_mask(mask: Tensor) -> Tensor:
    """Which pairs of nodes exist, the diagonal being none: bool ``[batch, n, n]``."""
    eye = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask[:, :, None] & mask[:, None, :] & ~eye


def _labels(kind: str, items: Iterable[dict[str, Any]]) -> tuple[str | int, ...]:
    found = {data.get(LABEL) for data in items}
    if found <= {None}:
        return ()
    if None in found:
        raise ValueError(f"some {kind} have a {LABEL!r} and others have none; give all of them one, or none.")
    if odd := [label for label in found if not isinstance(label, str | int)]:
        raise ValueError(f"labels are strings or integers; one of the {kind} has {odd[0]!r}.")
    return tuple(sorted(found, key=lambda label: (isinstance(label, str), label)))  # type: ignore[arg-type, return-value]


def _find(label: Any, numbers: dict[str | int, int], where: str) -> int:
    if label not in numbers:
        raise ValueError(f"{where} has the {LABEL} {label!r}; known are {', '.join(map(str, numbers))}.")
    return numbers[label]


def _numbers(value: Any) -> list[float]:
    """The numbers in an attribute: itself, or those of a list or an array."""
    flat = value.ravel().tolist() if hasattr(value, "ravel") else value
    return [v for v in (flat if isinstance(flat, list | tuple) else [flat]) if isinstance(v, float)]
