"""To and from the ``HeteroData`` of PyTorch Geometric (Fey and Lenssen 2019, 1903.02428), where it is installed.

Ids are kept in the list ``ids`` of a kind, each attribute as numbers of classes, -1 where it is missing, beside its
``NAME_classes``. Numeric features and other stores stay behind: the models here learn of relations alone.
"""

import pickle
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffkit.graphs.hetero import MISSING, Hetero, relate

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def _geometric() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it still compiles by torch.jit
            import torch_geometric.data
    except ImportError as error:
        raise ValueError("HeteroData needs torch_geometric: `pip install diffkit-graphs[pyg]`.") from error
    return torch_geometric.data


def load(path: str | Path) -> Hetero:
    """The graph of a ``HeteroData`` that ``torch.save`` wrote. Only its classes are unpickled, no code.

    ValueError where torch_geometric is missing, for a file that holds something else, and as of :func:`from_pyg`.
    """
    data = _geometric()
    stores = [getattr(data.storage, name) for name in ("BaseStorage", "NodeStorage", "EdgeStorage")]
    try:
        with torch.serialization.safe_globals([data.HeteroData, *stores]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is no HeteroData of tensors, words and lists that torch.save wrote."
        ) from error
    if not isinstance(found, data.HeteroData):
        raise ValueError(f"{path} holds no HeteroData but {type(found).__name__}.")
    return from_pyg(found)


def to_pyg(graph: Hetero) -> "HeteroData":
    """The ``HeteroData`` of a graph. ValueError where torch_geometric is missing."""
    data = _geometric().HeteroData()
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

    A pair that stands there twice counts once, a node with itself not at all. A relation between several pairs of kinds
    becomes one for each, ``SOURCE.RELATION.TARGET``. ValueError for a kind that does not say how many nodes it has, for
    edges that are no ``edge_index``, and as of :class:`~diffkit.graphs.hetero.Hetero`.
    """
    nodes: dict[str, list[str]] = {}
    attributes: dict[str, dict[str, list[str]]] = {}
    for kind in data.node_types:
        store = data[kind]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unable to accurately infer 'num_nodes'")
            count = store.num_nodes
        if count is None:
            raise ValueError(f"the kind {kind!r} does not say how many nodes it has: set its num_nodes.")
        nodes[kind] = [str(node) for node in store.get("ids", range(count))]
        attributes[kind] = {
            name: _words(value, store.get(f"{name}_classes"))
            for name, value in store.items()
            if isinstance(value, Tensor) and value.shape == (count,) and value.dtype == torch.int64
        }
    triples = list(data.edge_types)
    shared = [name for _, name, _ in triples]
    relations = {
        name if shared.count(name) == 1 else f"{source}.{name}.{target}": relate(
            source, target, _pairs(data[source, name, target], name)
        )
        for source, name, target in triples
    }
    return Hetero(nodes, relations, attributes)


def _pairs(store: Any, name: str) -> list[tuple[int, int]]:
    edges = store.get("edge_index")
    if not isinstance(edges, Tensor) or edges.ndim != 2 or len(edges) != 2 or edges.is_floating_point():
        raise ValueError(f"the relation {name!r} has no edge_index of integers [2, edges].")
    return list(zip(*edges.tolist(), strict=True))


def _words(value: Tensor, classes: list[str] | None) -> list[str]:
    return [MISSING if i < 0 else str(i) if classes is None else classes[i] for i in value.tolist()]
