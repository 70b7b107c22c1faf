"""Where the nodes of a heterogeneous graph stand in a table of embeddings, and its relations as edges of that table.

Scores are products, and so the same in both directions. Where a relation goes from a kind to itself each node of the
kind stands in the table twice, as what edges go from and as what they go to, as users and items do in a recommender.
Other relations within the kind join the two alike, a relation with another kind joins both, and one that the graph
does not have, :data:`ITSELF`, joins a node with itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.graphs.hetero import Hetero

ITSELF = "itself"
"""The name of the relation of a node that stands twice with itself."""


@dataclass(frozen=True)
class Views:
    """A table of ``count`` rows.

    Args:
        sources, targets: the rows of both ends of the relation that is to be predicted.
        edges: of every relation, as rows ``[2, edges]``.
    """

    count: int
    sources: slice
    targets: slice
    edges: Mapping[str, Tensor]


def views(graph: Hetero, source: str, target: str, *, doubled: bool = True) -> Views:
    """The table for a relation from one kind to another; ``doubled`` as the module says, for a kind with itself."""
    rows: dict[str, slice] = {}
    end = 0
    for kind, ids in graph.nodes.items():
        rows[kind] = slice(end, end + len(ids))
        end += len(ids)
    twice = source if doubled and source == target else None
    again = slice(end, end + len(graph.nodes[source])) if twice else rows[target]
    edges: dict[str, Tensor] = {}
    for name, relation in graph.relations.items():
        u, v = (
            relation.edges[0] + rows[relation.source].start,
            relation.edges[1] + rows[relation.target].start,
        )
        step = again.start - rows[source].start
        if twice and relation.source == relation.target == twice:
            v = v + step
        elif twice == relation.source:
            u, v = torch.cat([u, u + step]), torch.cat([v, v])
        elif twice == relation.target:
            u, v = torch.cat([u, u]), torch.cat([v, v + step])
        edges[name] = torch.stack([u, v])
    if twice:
        own = torch.arange(len(graph.nodes[twice]))
        edges[ITSELF] = torch.stack([own + rows[twice].start, own + again.start])
    return Views(max(end, again.stop), rows[source], again, edges)
