"""Graphs of several kinds: in memory, on disk, and of other libraries."""

from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch_geometric import data

from diffkit.graphs import hetero_files
from diffkit.graphs.hetero import Hetero, Relation, only, relate, typed
from diffkit.graphs.pyg import from_pyg, to_pyg


def library() -> Hetero:
    """Two authors, three books, who wrote what, and which book cites which."""
    nodes = [("author", name, {}) for name in ("ada", "bob")]
    nodes += [
        ("book", name, {"genre": genre}) for name, genre in zip("xyz", ("poem", "", "play"), strict=True)
    ]
    edges = [(("author", "ada"), "wrote", ("book", "x")), (("author", "bob"), "wrote", ("book", "z"))]
    edges += [(("book", u), "cites", ("book", v)) for u, v in ("yx", "zx", "zx", "xx")]
    return typed(nodes, edges)


def same(a: Hetero, b: Hetero) -> bool:
    def edges(graph: Hetero) -> dict[str, set[tuple[str, str]]]:
        return {
            name: {(graph.nodes[r.source][u], graph.nodes[r.target][v]) for u, v in r.edges.T.tolist()}
            for name, r in graph.relations.items()
        }

    def words(graph: Hetero) -> dict[str, Any]:
        return {
            kind: {
                name: dict(zip(graph.nodes[kind], column, strict=True)) for name, column in columns.items()
            }
            for kind, columns in graph.attributes.items()
            if columns
        }

    ends = [{name: (r.source, r.target) for name, r in g.relations.items()} for g in (a, b)]
    kinds = [{kind: set(ids) for kind, ids in g.nodes.items()} for g in (a, b)]
    return (edges(a), words(a), ends[0], kinds[0]) == (edges(b), words(b), ends[1], kinds[1])


def test_edges_count_once_and_loops_do_not() -> None:
    graph = library()
    assert graph.relations["cites"].edges.tolist() == [[1, 2], [0, 0]]
    assert graph.attribute("book", "genre") == ["poem", "", "play"]


def test_a_relation_of_several_pairs_of_kinds() -> None:
    nodes = [("a", "1", {}), ("b", "1", {})]
    graph = typed(nodes, [(("a", "1"), "to", ("b", "1")), (("b", "1"), "to", ("a", "1"))])
    assert set(graph.relations) == {"a.to.b", "b.to.a"}


def test_a_folder_keeps_the_graph(tmp_path: Path) -> None:
    folder = hetero_files.write(tmp_path / "graph", library())
    assert (folder / "nodes/book.tsv").read_text() == "id\tgenre\nx\tpoem\ny\t\nz\tplay\n"
    assert (folder / "edges/cites.tsv").read_text() == "book\tbook\ny\tx\nz\tx\n"
    assert same(hetero_files.read(folder), library())


@pytest.mark.parametrize("kind", [nx.DiGraph, nx.MultiDiGraph, nx.Graph])
def test_graphml_with_kinds(tmp_path: Path, kind: type[nx.Graph]) -> None:
    graph = kind()
    for name in ("ada", "bob"):
        graph.add_node(name, kind="author")
    for name, genre in (("x", {"genre": "poem"}), ("y", {}), ("z", {"genre": "play"})):
        graph.add_node(name, kind="book", **genre)
    graph.add_edge("ada", "x", kind="wrote")
    graph.add_edge("bob", "z", kind="wrote")
    graph.add_edge("y", "x", kind="cites")
    graph.add_edge("z", "x", kind="cites")
    if not graph.is_directed():  # an edge without directions goes from the node that stands first
        wanted = {("x", "y"), ("x", "z")}
        r = hetero_files.from_networkx(graph).relations["cites"]
        ids = hetero_files.from_networkx(graph).nodes["book"]
        assert {(ids[u], ids[v]) for u, v in r.edges.T.tolist()} == wanted
        return
    assert same(hetero_files.from_networkx(graph), library())
    nx.write_graphml_xml(graph, tmp_path / "a.graphml")
    assert same(hetero_files.read(tmp_path / "a.graphml"), library())


def test_networkx_without_kinds() -> None:
    graph = hetero_files.from_networkx(nx.path_graph(3))
    assert graph.nodes == {"node": ["0", "1", "2"]}
    assert graph.relations["edge"].edges.tolist() == [[0, 1], [1, 2]]


def test_hetero_data_keeps_the_graph() -> None:
    graph = library()
    found = to_pyg(graph)
    assert isinstance(found, data.HeteroData)
    assert found["book"].genre.tolist() == [1, -1, 0]
    assert found["author", "wrote", "book"].edge_index.tolist() == [[0, 1], [0, 2]]
    assert same(from_pyg(found), graph)
    bare = data.HeteroData()
    bare["a"].num_nodes, bare["b"].x = 2, torch.zeros(3, 5)
    bare["b"].y = torch.tensor([1, -1, 0])
    bare["a", "to", "b"].edge_index = torch.tensor([[0, 1], [2, 2]])
    bare["b", "to", "a"].edge_index = torch.tensor([[0], [1]])
    read = from_pyg(bare)
    assert (read.nodes["b"], read.attribute("b", "y")) == (["0", "1", "2"], ["1", "", "0"])
    assert set(read.relations) == {"a.to.b", "b.to.a"}


def test_a_file_of_pytorch_geometric(tmp_path: Path) -> None:
    path = tmp_path / "library.pt"
    torch.save(to_pyg(library()), path)
    assert same(hetero_files.read(path), library())
    held = data.HeteroData()
    held["a"].num_nodes = 2
    held["a", "to", "a"].edge_index = torch.tensor([[0, 0, 1, 0], [1, 1, 1, 5]])
    torch.save(held, path)
    with pytest.raises(ValueError, match="an edge to a node that is not there"):
        hetero_files.read(path)
    held["a", "to", "a"].edge_index = torch.tensor([[0, 0, 1], [1, 1, 1]])
    torch.save(held, path)
    assert hetero_files.read(path).relations["to"].edges.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ([1, 2], "holds no HeteroData but list"),
        (Path("x"), "no HeteroData of tensors, words and lists"),
        ({"a": {"x": 1.0}}, "'a' does not say how many nodes"),
        (
            {"a": {"num_nodes": 2}, ("a", "to", "a"): {"edge_index": torch.zeros(2, 3)}},
            "no edge_index of integers",
        ),
    ],
)
def test_other_files_of_torch(tmp_path: Path, thing: object, says: str) -> None:
    torch.save(data.HeteroData(thing) if isinstance(thing, dict) else thing, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=says):
        hetero_files.read(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="no HeteroData of tensors"):
        hetero_files.read(tmp_path / "x.pt")


def test_what_needs_no_name() -> None:
    assert only(None, {"book": 1}, "kind") == "book"
    assert only("book", {"book": 1, "author": 2}, "kind") == "book"
    with pytest.raises(ValueError, match="say which kind is meant: there are book, author"):
        only(None, {"book": 1, "author": 2}, "kind")
    with pytest.raises(ValueError, match="the graph has no kind"):
        only(None, {}, "kind")


def test_without_torch_geometric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_geometric.data", None)
    with pytest.raises(ValueError, match=r"pip install diffkit-graphs\[pyg\]"):
        to_pyg(library())


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("nodes/book.tsv", "name\nx\n", "first column must be named `id`"),
        ("nodes/book.tsv", "id\tgenre\nx\n", "line 2: 1 columns, where the header has 2"),
        ("nodes/book.tsv", "id\nx\nx\n", "the book 'x' stands there twice"),
        ("nodes/book.tsv", "", "first column must be named `id`, not ''"),
        ("edges/cites.tsv", "book\tfilm\nx\ty\n", "two kinds of author, book, not with book, film"),
        ("edges/cites.tsv", "book\tbook\nx\tq\n", "cites.tsv, line 2: there is no book 'q'"),
    ],
)
def test_damaged_folders_get_one_sentence(tmp_path: Path, file: str, text: str, says: str) -> None:
    folder = hetero_files.write(tmp_path / "graph", library())
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=says):
        hetero_files.read(folder)
    (folder / file).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        hetero_files.read(folder)


def test_bad_places(tmp_path: Path) -> None:
    (tmp_path / "a.graphml").write_text("<graphml")
    for name, says in {
        "nowhere": "does not exist",
        "": "it has no folder `nodes`",
        "a.graphml": "cannot be read",
    }.items():
        with pytest.raises(ValueError, match=says):
            hetero_files.read(tmp_path / name)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"neither a folder with `nodes` and `edges` nor a \.graphml"):
        hetero_files.read(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="a tab or a new line"):
        hetero_files.write(tmp_path / "b", Hetero({"a": ["x\ty"]}, {}))
    with pytest.raises(ValueError, match="'a/b' cannot name a file"):
        hetero_files.write(tmp_path / "b", Hetero({"a/b": ["x"]}, {}))
    assert not (tmp_path / "b").exists()


def test_bad_graphs() -> None:
    edge = Relation("a", "a", torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="has no nodes"):
        Hetero({}, {})
    with pytest.raises(ValueError, match="the relation 'r' has an edge to a node that is not there"):
        Hetero({"a": ["x"]}, {"r": edge})
    with pytest.raises(ValueError, match="no kind 'b'"):
        Hetero({"a": ["x"]}, {"r": relate("a", "b", [])})
    with pytest.raises(ValueError, match="a has 2 nodes and 1 of 'c'"):
        Hetero({"a": ["x", "y"]}, {}, {"a": {"c": ["u"]}})
    with pytest.raises(ValueError, match="has the a '2', which is not there"):
        typed([("a", "1", {})], [(("a", "1"), "r", ("a", "2"))])
    graph = library()
    with pytest.raises(ValueError, match=r"no relation 'writes' .*the relations are wrote, cites"):
        graph.relation("writes")
    with pytest.raises(ValueError, match="the relation 'r' has no edges"):
        Hetero({"a": ["x"]}, {"r": relate("a", "a", [(0, 0)])}).relation("r")
    with pytest.raises(ValueError, match="has no relations"):
        Hetero({"a": ["x"]}, {}).relation("r")
    with pytest.raises(ValueError, match="no attribute of book 'kind'"):
        graph.attribute("book", "kind")
