"""Graphs on disk: GraphML, edge lists, graph6, molecules, and folders in the format of TU Dortmund.

A GraphML or graph6 file holds any number of graphs, an edge list one: a line for each edge, ``u v`` or ``u v label``,
by spaces or commas, ids being integers; ``#`` begins a comment. A TU folder (Morris et al. 2020, 2007.08663) has
``NAME_A.txt``, ``NAME_graph_indicator.txt``, and labels where there are any. SMILES and SDF are graphs by
:mod:`diffkit.graphs.molecules`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx

from diffkit.core.files import whole
from diffkit.core.types import lookup
from diffkit.graphs import molecules
from diffkit.graphs.graph import LABEL, Classes, check


def read(path: str | Path) -> list[nx.Graph]:
    """The graphs of a file or of all graph files in a folder, in the order of their names, ids from 0.

    ValueError, which names the file, for what is no graph file, is damaged, or holds a graph that
    :func:`~diffkit.graphs.graph.check` refuses.
    """
    path = Path(path)
    if path.is_dir():
        if list(path.glob("*_A.txt")):
            try:
                return _checked(read_tu(path), path)
            except (IndexError, UnicodeDecodeError) as error:
                raise ValueError(f"{path} is a damaged TU folder: its files do not fit together.") from error
        files = sorted(p for p in path.iterdir() if p.suffix in READERS and not p.name.startswith("."))
        if not files:
            raise ValueError(f"{path} holds no graphs: no {', '.join(READERS)} file, and no NAME_A.txt.")
        return [graph for file in files for graph in read(file)]
    if not path.is_file():
        raise ValueError(f"{path} does not exist.")
    reader = lookup(path.suffix, READERS, "format")
    try:
        return _checked(reader(path), path)
    except (nx.NetworkXError, ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}.") from error


def write(path: str | Path, graphs: Sequence[nx.Graph]) -> Path:
    """Write graphs to a file of :data:`WRITERS`, which appears whole.

    ValueError for labels in graph6, which has none, and for what is no molecule in SMILES and SDF.
    """
    path = Path(path)
    writer = lookup(path.suffix, WRITERS, "format")
    with whole(path) as beside:
        writer(beside, graphs)
    return path


def read_tu(folder: Path) -> list[nx.Graph]:
    """The graphs of a TU folder, with ``label`` of nodes and edges, and the class of each as ``graph.graph["y"]``."""
    name = next(folder.glob("*_A.txt")).name.removesuffix("_A.txt")

    def column(what: str) -> list[str]:
        file = folder / f"{name}_{what}.txt"
        return file.read_text().split("\n") if file.is_file() else []

    owner = [int(line) for line in column("graph_indicator") if line.strip()]
    if not owner:
        raise ValueError(f"{folder} lacks {name}_graph_indicator.txt, which says whose each node is.")
    graphs = [nx.Graph() for _ in range(max(owner))]
    for node, g in enumerate(owner):
        graphs[g - 1].add_node(node)
    for node, label in enumerate(line for line in column("node_labels") if line.strip()):
        graphs[owner[node] - 1].nodes[node][LABEL] = _label(label)
    kinds = [line for line in column("edge_labels") if line.strip()]
    for i, line in enumerate(line for line in column("A") if line.strip()):
        u, v = (int(word) - 1 for word in line.split(","))
        if owner[u] != owner[v]:
            raise IndexError(line)  # between two graphs
        graphs[owner[u] - 1].add_edge(u, v, **({LABEL: _label(kinds[i])} if kinds else {}))
    for graph, y in zip(graphs, (line for line in column("graph_labels") if line.strip()), strict=False):
        graph.graph["y"] = _label(y)
    return graphs


def _checked(graphs: list[nx.Graph], path: Path) -> list[nx.Graph]:
    """``graphs`` with ids from 0, in their order; ValueError for none or a bad one."""
    if not graphs:
        raise ValueError(f"{path} holds no graph.")
    for i, graph in enumerate(graphs):
        where = f"{path}, graph {i}" if len(graphs) > 1 else str(path)
        graphs[i] = nx.convert_node_labels_to_integers(graph)
        check(graphs[i], where)
    return graphs


def _read_graphml(path: Path) -> list[nx.Graph]:
    # Not nx.read_graphml, which reads the first graph of a file and makes several edges one.
    reader = nx.GraphMLReader(force_multigraph=False)
    return list(reader(path=path))


def _read_graph6(path: Path) -> list[nx.Graph]:
    found: Any = nx.read_graph6(path)
    return found if isinstance(found, list) else [found]


def _read_edges(path: Path) -> list[nx.Graph]:
    graph = nx.Graph()
    seen: set[tuple[int, int]] = set()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = re.split(r"[\s,]+", line.partition("#")[0].strip())
        if words == [""]:
            continue
        if len(words) not in (2, 3) or not all(re.fullmatch(r"-?\d+", word) for word in words[:2]):
            raise ValueError(
                f"{path}, line {number}: an edge is two integers, and maybe a label, not {line!r}."
            )
        u, v = int(words[0]), int(words[1])
        if (u, v) in seen:
            raise ValueError(f"{path}, line {number}: the edge {u} {v} stands there twice; list each once.")
        seen.add((u, v))
        graph.add_edge(u, v, **({LABEL: _label(words[2])} if len(words) == 3 else {}))
    ordered = nx.Graph()  # nodes in the order of their ids, whatever that of the edges
    ordered.add_nodes_from(sorted(graph))
    ordered.add_edges_from(graph.edges(data=True))
    return [ordered]


def _write_graphml(path: Path, graphs: Sequence[nx.Graph]) -> None:
    writer = nx.GraphMLWriter()
    for graph in graphs:
        writer.add_graph_element(graph)
        writer.attributes.clear()  # with each graph networkx adds those of all before it once more
    with open(path, "wb") as stream:
        writer.dump(stream)


def _write_graph6(path: Path, graphs: Sequence[nx.Graph]) -> None:
    if Classes.of(graphs) != Classes():
        raise ValueError("graph6 has no place for labels: write a .graphml file.")
    path.write_bytes(b"".join(nx.to_graph6_bytes(graph, header=False) for graph in graphs))


def _label(word: str) -> str | int:
    word = word.strip()
    return int(word) if re.fullmatch(r"-?\d+", word) else word


READERS: dict[str, Callable[[Path], list[nx.Graph]]] = {
    ".graphml": _read_graphml,
    ".g6": _read_graph6,
    ".edges": _read_edges,
    ".edgelist": _read_edges,
    ".csv": _read_edges,
    ".txt": _read_edges,
    ".smi": molecules.read_smiles,
    ".sdf": molecules.read_sdf,
}
"""By the suffix of a file."""

WRITERS: dict[str, Callable[[Path, Sequence[nx.Graph]], None]] = {
    ".graphml": _write_graphml,
    ".g6": _write_graph6,
    ".smi": molecules.write_smiles,
    ".sdf": molecules.write_sdf,
}

MOLECULES = (".smi", ".sdf")
"""Formats that hold nothing else, and need RDKit."""
