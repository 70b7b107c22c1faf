"""Heterogeneous graphs on disk: a folder of tables, GraphML or NetworkX with a ``kind``, and PyTorch Geometric's.

The folder has a table for each kind of nodes and each relation, of columns between tabs under a line of names:

    nodes/package.tsv      id, and a column for each attribute; an empty cell is a value that is missing
    edges/depends.tsv      the kinds of both ends, such as `package` and `package`; below, the ids

In GraphML, and in NetworkX, nodes and edges have the attribute ``kind``; edges of a graph without directions go from
the node that stands first. Nodes without a kind are of the kind `node`, edges without one of the relation `edge`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx

from diffkit.core.files import whole_folder
from diffkit.graphs import pyg
from diffkit.graphs.hetero import Hetero, Relation, relate, typed

KIND = "kind"
"""The attribute of nodes and edges in NetworkX."""


def read(path: str | Path) -> Hetero:
    """The graph of a folder, a .graphml or a .pt file; ValueError, which names the file, for what is damaged."""
    path = Path(path)
    if (path / "nodes").is_dir():
        return _read_folder(path)
    if path.is_dir():
        raise ValueError(f"{path} holds no graph of several kinds: it has no folder `nodes`.")
    if not path.is_file():
        raise ValueError(f"{path} does not exist.")
    if path.suffix == ".pt":
        return pyg.load(path)
    if path.suffix != ".graphml":
        raise ValueError(f"{path} is neither a folder with `nodes` and `edges` nor a .graphml or .pt file.")
    try:
        return from_networkx(nx.read_graphml(path, force_multigraph=True))
    except (nx.NetworkXError, ParseError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {str(error).rstrip('.')}.") from error


def write(folder: str | Path, graph: Hetero) -> Path:
    """Write the folder of a graph, which appears whole. ValueError for a word with a tab or a new line, and for a
    kind or a relation whose name is not one of a file.
    """
    folder = Path(folder)
    if odd := next((name for name in (*graph.nodes, *graph.relations) if "/" in name), None):
        raise ValueError(f"{odd!r} cannot name a file: call the kind or the relation otherwise.")
    with whole_folder(folder) as beside:
        for part in ("nodes", "edges"):
            (beside / part).mkdir()
        for kind, ids in graph.nodes.items():
            columns = graph.attributes.get(kind, {})
            rows = zip(ids, *columns.values(), strict=True)
            write_table(beside / "nodes" / f"{kind}.tsv", ["id", *columns], rows)
        for name, relation in graph.relations.items():
            source, target = graph.nodes[relation.source], graph.nodes[relation.target]
            pairs = ((source[i], target[j]) for i, j in relation.edges.T.tolist())
            write_table(beside / "edges" / f"{name}.tsv", [relation.source, relation.target], pairs)
    return folder


def from_networkx(graph: nx.Graph) -> Hetero:
    """A graph whose nodes and edges have a ``kind``; other attributes of nodes become words. ValueError for none."""

    def kind(node: Any) -> tuple[str, str]:
        return str(graph.nodes[node].get(KIND, "node")), str(node)

    return typed(
        (
            (*kind(node), {key: str(value) for key, value in data.items() if key != KIND})
            for node, data in graph.nodes(data=True)
        ),
        ((kind(u), str(data.get(KIND, "edge")), kind(v)) for u, v, data in graph.edges(data=True)),
    )


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Words between tabs under the names of their columns. ValueError for a word with a tab or a new line."""
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        for row in (columns, *rows):
            if any(mark in word for word in row for mark in "\t\r\n"):
                raise ValueError(
                    f"{path.name}: a word has a tab or a new line in {row}; tables cannot hold it."
                )
            stream.write("\t".join(row) + "\n")


def _read_folder(folder: Path) -> Hetero:
    nodes: dict[str, list[str]] = {}
    attributes: dict[str, dict[str, list[str]]] = {}
    for path in sorted((folder / "nodes").glob("*.tsv")):
        header, rows = _read(path)
        if header[0] != "id":
            raise ValueError(f"{path}: the first column must be named `id`, not {header[0]!r}.")
        columns = (
            dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
        )
        nodes[path.stem] = list(columns.pop("id"))
        if columns:
            attributes[path.stem] = {name: list(words) for name, words in columns.items()}
    try:
        bare = Hetero(nodes, {})
        relations = dict(_relations(folder, bare.places))
        return Hetero(nodes, relations, attributes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _relations(folder: Path, places: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, Relation]]:
    for path in sorted((folder / "edges").glob("*.tsv")):
        header, rows = _read(path)
        if len(header) != 2 or any(kind not in places for kind in header):
            raise ValueError(
                f"{path.name} begins with two kinds of {', '.join(places)}, not with {', '.join(header)}."
            )
        for line, row in enumerate(rows, 2):
            for kind, word in zip(header, row, strict=True):
                if word not in places[kind]:
                    raise ValueError(f"{path.name}, line {line}: there is no {kind} {word!r}.")
        source, target = (places[kind] for kind in header)
        yield path.stem, relate(header[0], header[1], ((source[u], target[v]) for u, v in rows))


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8.") from error
    header, *rows = [line.split("\t") for line in lines]
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {line}: {len(row)} columns, where the header has {len(header)}.")
    return header, rows
