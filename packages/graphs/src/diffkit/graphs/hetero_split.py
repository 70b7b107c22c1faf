"""Held-out edges of a relation, and what may be learnt from without seeing them.

An edge and its reverse are one and fall on one side, so that a symmetric relation does not tell its own test. Nor may
another relation: where a held-out edge joins two nodes, no edge of any relation joins them in training, in either
direction. An inverse relation (a hyponym for a hypernym) would give the answer away; Dettmers et al. 2017 (1707.01476)
found that it did in the usual sets.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.graphs.hetero import Hetero, Relation


class Fold(NamedTuple):
    """Some edges ``[2, edges]`` of one relation, and the graph without the pairs that they join."""

    graph: Hetero
    edges: Tensor


class EdgeSplit(NamedTuple):
    """Edges ``[2, edges]`` of one relation, and the graph without the pairs that those held out join."""

    graph: Hetero
    train: Tensor
    valid: Tensor
    test: Tensor


def split_edges(
    graph: Hetero, name: str, *, valid: float = 0.1, test: float = 0.1, seed: int = 0
) -> EdgeSplit:
    """Hold out shares of the edges of the relation ``name``, at random.

    ValueError for an unknown or empty relation, or for shares that leave nothing to learn from.
    """
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise ValueError(f"the shares held out must be of [0, 1), not {valid} and {test}.")
    edges, keys, place = _shuffled(graph, name, seed)
    in_test, in_train = place < test, place >= test + valid
    if not in_train.any():
        raise ValueError(f"the relation {name!r} has too few edges to hold some out: lower the shares.")
    rest = _without(graph, name, keys[~in_train])
    return EdgeSplit(rest, edges[:, in_train], edges[:, ~in_test & ~in_train], edges[:, in_test])


def folds(graph: Hetero, name: str, count: int = 5, *, seed: int = 0) -> list[Fold]:
    """The edges of ``name`` in ``count`` parts of equal size, or in one each where they are fewer."""
    edges, keys, place = _shuffled(graph, name, seed)
    part = (place * min(count, len(keys.unique()))).long()
    return [
        Fold(_without(graph, name, keys[part == i]), edges[:, part == i]) for i in range(int(part.max()) + 1)
    ]


def _shuffled(graph: Hetero, name: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The edges of a relation, what pairs they join, and the place in [0, 1) of each pair in a random order."""
    relation = graph.relation(name)
    keys = _pairs(graph, relation, relation)
    pairs, which = keys.unique(return_inverse=True)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    return relation.edges, keys, order[which].double() / len(pairs)


def _without(graph: Hetero, name: str, keys: Tensor) -> Hetero:
    """No relation joins the pairs ``keys`` of those that ``name`` could join."""
    of = graph.relations[name]
    kept = {
        other: found.edges[:, ~torch.isin(_pairs(graph, found, of), keys)]
        for other, found in graph.relations.items()
        if (found.source, found.target) in ((of.source, of.target), (of.target, of.source))
    }
    return graph.replace(kept)


def _pairs(graph: Hetero, relation: Relation, of: Relation) -> Tensor:
    """A number for the two ends of each edge, that is the same in both directions; kinds are those of ``of``."""
    u, v = relation.edges if relation.source == of.source else relation.edges.flip(0)
    if of.source == of.target:
        u, v = torch.minimum(u, v), torch.maximum(u, v)
    return u * len(graph.nodes[of.target]) + v
