"""To and from the ``HeteroData`` of PyTorch Geometric (Fey and Lenssen 2019, 1903.02428), where it is installed.

Ids are kept in the list ``ids`` of a kind, each attribute as numbers of classes, -1 where it is missing, beside its
``NAME_classes``. Numeric features and other stores stay behind: the models here learn of relations alone.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffkit.graphs.hetero import MISSING, Hetero, Relation

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData  # pyright: ignore[reportMissingImports]


def to_pyg(graph: Hetero) -> "HeteroData":
    """The ``HeteroData`` of a graph. ValueError where torch_geometric is missing."""
    try:
        from torch_geometric.data import HeteroData  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("HeteroData needs torch_geometric: `pip install torch-geometric`.") from error
    data = HeteroData()
    for kind, ids in graph.nodes.items():
        data[kind].num_nodes = len(ids)
        data[kind].ids = list(ids)
        for name, words in graph.attributes.get(kind, {}).items():
            classes = sorted(set(words) - {MISSING})
            number = {MISSING: -1, **{word: i for i, word in enumerate(classes)}}
            data[kind][name] = torch.tensor([number[word] for word in words])
            data[kind][f"{name}_classes"] = classes
    for name, relation in graph.relations.items():
        data[relation.source, name, relation.target].edge_index = relation.edges
    return data


def from_pyg(data: Any) -> Hetero:
    """The graph of a ``HeteroData``: its edges, ids (by default 0, 1, ...), and integers ``[nodes]`` as attributes.

    A relation between several pairs of kinds becomes one for each, ``SOURCE.RELATION.TARGET``. ValueError as of
    :class:`~diffkit.graphs.hetero.Hetero`.
    """
    nodes: dict[str, list[str]] = {}
    attributes: dict[str, dict[str, list[str]]] = {}
    for kind in data.node_types:
        store = data[kind]
        count = int(store.num_nodes)
        nodes[kind] = [str(node) for node in store.get("ids", range(count))]
        attributes[kind] = {
            name: _words(value, store.get(f"{name}_classes"))
            for name, value in store.items()
            if isinstance(value, Tensor) and value.shape == (count,) and value.dtype == torch.int64
        }
    triples = list(data.edge_types)
    shared = [name for _, name, _ in triples]
    relations = {
        name if shared.count(name) == 1 else f"{source}.{name}.{target}": Relation(
            source, target, data[source, name, target].edge_index
        )
        for source, name, target in triples
    }
    return Hetero(nodes, relations, attributes)


def _words(value: Tensor, classes: list[str] | None) -> list[str]:
    return [MISSING if i < 0 else str(i) if classes is None else classes[i] for i in value.tolist()]
