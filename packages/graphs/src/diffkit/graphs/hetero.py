"""Graphs of several kinds of nodes and relations, as places of nodes and lists of edges.

A node belongs to a kind and has an id that is unique within it. A relation has a name of its own and goes from one kind
to one, maybe the same. Attributes are words, such as a class; the empty word is one that is missing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from diffkit.core.types import lookup

MISSING = ""
"""An attribute that is not known."""


@dataclass(frozen=True, eq=False)
class Relation:
    """Edges from nodes of the kind ``source`` to nodes of the kind ``target``.

    ``edges`` are places in the two kinds, int64 ``[2, edges]``, each pair once.
    """

    source: str
    target: str
    edges: Tensor

    def reversed(self) -> "Relation":
        """From ``target`` to ``source``."""
        return Relation(self.target, self.source, self.edges.flip(0))


@dataclass(frozen=True, eq=False)
class Hetero:
    """A heterogeneous graph (see the module).

    Args:
        nodes: the ids of each kind.
        relations: by name.
        attributes: of each kind, by name, a word for each node.

    ValueError for ids that stand twice, relations of kinds that are not there or with edges out of range, and
    attributes of another length than their kind.
    """

    nodes: Mapping[str, list[str]]
    relations: Mapping[str, Relation]
    attributes: Mapping[str, Mapping[str, list[str]]] = field(
        default_factory=dict[str, Mapping[str, list[str]]]
    )

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("the graph has no nodes.")
        for kind, ids in self.nodes.items():
            if len(self.places[kind]) != len(ids):
                twice = next(node for node, count in Counter(ids).items() if count > 1)
                raise ValueError(f"the {kind} {twice!r} stands there twice; an id is unique within its kind.")
        for name, relation in self.relations.items():
            kinds = [lookup(kind, self.nodes, "kind") for kind in (relation.source, relation.target)]
            most = torch.tensor([len(ids) for ids in kinds])[:, None]
            if bool(((relation.edges < 0) | (relation.edges >= most)).any()):
                raise ValueError(f"the relation {name!r} has an edge to a node that is not there.")
        for kind, columns in self.attributes.items():
            for name, words in columns.items():
                if len(words) != len(lookup(kind, self.nodes, "kind")):
                    raise ValueError(
                        f"{kind} has {len(self.nodes[kind])} nodes and {len(words)} of {name!r}."
                    )

    @cached_property
    def places(self) -> dict[str, dict[str, int]]:
        """The place of each id, by kind."""
        return {kind: {node: i for i, node in enumerate(ids)} for kind, ids in self.nodes.items()}

    def relation(self, name: str) -> Relation:
        """A relation by name; ValueError, which names those that exist, for an unknown one, and for an empty one."""
        if not self.relations:
            raise ValueError("the graph has no relations.")
        found = lookup(name, self.relations, "relation")
        if not found.edges.shape[1]:
            raise ValueError(f"the relation {name!r} has no edges.")
        return found

    def attribute(self, kind: str, name: str) -> list[str]:
        """A word for each node of ``kind``; ValueError for an unknown kind or attribute."""
        lookup(kind, self.nodes, "kind")
        return lookup(name, self.attributes.get(kind, {}), f"attribute of {kind}")

    def replace(self, relations: Mapping[str, Tensor]) -> "Hetero":
        """The graph with other edges in some of its relations."""
        changed = {
            name: Relation(self.relations[name].source, self.relations[name].target, edges)
            for name, edges in relations.items()
        }
        return Hetero(self.nodes, {**self.relations, **changed}, self.attributes)


def only(name: str | None, table: Mapping[str, object], kind: str) -> str:
    """``name``, or the only one of ``table``. ValueError, which names all of a ``kind``, where there are several, and
    where there is none.
    """
    if name is None and len(table) > 1:
        raise ValueError(f"say which {kind} is meant: there are {', '.join(table)}.")
    if name is None and not table:
        raise ValueError(f"the graph has no {kind}.")
    return next(iter(table)) if name is None else name


def relate(source: str, target: str, pairs: Iterable[tuple[int, int]]) -> Relation:
    """A relation of pairs of places; a pair that stands there twice counts once, a node with itself not at all."""
    kept = dict.fromkeys(pair for pair in pairs if source != target or pair[0] != pair[1])
    edges = torch.tensor(list(kept), dtype=torch.int64).reshape(-1, 2).T.contiguous()
    return Relation(source, target, edges)


def typed(
    nodes: Iterable[tuple[str, str, Mapping[str, str]]],
    edges: Iterable[tuple[tuple[str, str], str, tuple[str, str]]],
) -> Hetero:
    """A graph of ``(kind, id, attributes)`` and of ``((kind, id), relation, (kind, id))``.

    Edges count as in :func:`relate`. A relation between several pairs of kinds becomes one for each,
    ``SOURCE.RELATION.TARGET``. ValueError for an edge to a node that is not there.
    """
    rows: dict[str, dict[str, Mapping[str, str]]] = {}
    for kind, node, attributes in nodes:
        rows.setdefault(kind, {})[node] = attributes
    ids = {kind: list(of) for kind, of in rows.items()}
    places = {(kind, node): i for kind, of in ids.items() for i, node in enumerate(of)}
    found: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for source, name, target in edges:
        for end in (source, target):
            if end not in places:
                raise ValueError(f"an edge of {name!r} has the {end[0]} {end[1]!r}, which is not there.")
        found.setdefault((source[0], name, target[0]), []).append((places[source], places[target]))
    shared = Counter(name for _, name, _ in found)
    relations = {
        name if shared[name] == 1 else f"{source}.{name}.{target}": relate(source, target, pairs)
        for (source, name, target), pairs in found.items()
    }
    names = {kind: dict.fromkeys(key for row in of.values() for key in row) for kind, of in rows.items()}
    attributes = {
        kind: {name: [row.get(name, MISSING) for row in rows[kind].values()] for name in keys}
        for kind, keys in names.items()
        if keys
    }
    return Hetero(ids, relations, attributes)
