"""Graphs on disk."""

from pathlib import Path

import networkx as nx
import pytest

from diffkit.graphs.files import read, write


def same(a: nx.Graph, b: nx.Graph) -> bool:
    edges = [{(frozenset((u, v)), label) for u, v, label in graph.edges(data="label")} for graph in (a, b)]
    return dict(a.nodes(data="label")) == dict(b.nodes(data="label")) and edges[0] == edges[1]


def labelled() -> nx.Graph:
    graph = nx.cycle_graph(4)
    nx.set_node_attributes(graph, {n: "CN"[n % 2] for n in graph}, "label")
    nx.set_edge_attributes(graph, {e: 1 + e[0] % 2 for e in graph.edges}, "label")
    return graph


def test_many_graphs_in_one_file(tmp_path: Path) -> None:
    graphs = [labelled(), labelled()]
    found = read(write(tmp_path / "a.graphml", graphs))
    assert [same(a, b) for a, b in zip(found, graphs, strict=True)] == [True, True]
    plain = [nx.path_graph(3), nx.star_graph(70)]  # graph6 writes sizes above 62 otherwise
    for name in ("b.g6", "b.graphml"):
        found = read(write(tmp_path / name, plain))
        assert [same(a, b) for a, b in zip(found, plain, strict=True)] == [True, True]
    assert len(read(tmp_path)) == 6


def test_graphml_grows_with_the_graphs(tmp_path: Path) -> None:
    """networkx's writer would give each label as often as graphs follow."""
    text = write(tmp_path / "a.graphml", [labelled()] * 3).read_text()
    assert text.count("<data") == 3 * (4 + 4)
    mixed = [nx.Graph(), nx.Graph()]
    for graph, label in zip(mixed, ("N", 1), strict=True):
        graph.add_nodes_from([0, 1], label=label)
        graph.add_edge(0, 1, label=label)
    assert all(map(same, read(write(tmp_path / "b.graphml", mixed)), mixed))


def test_names_of_graphml_become_numbers(tmp_path: Path) -> None:
    nx.write_graphml_xml(nx.Graph([("anna", "bob"), ("bob", "carl")]), tmp_path / "a.graphml")
    (graph,) = read(tmp_path / "a.graphml")
    assert set(graph.edges) == {(0, 1), (1, 2)}


def test_an_edge_list(tmp_path: Path) -> None:
    file = tmp_path / "a.edges"
    file.write_text("# u v bond\n7 3 single\n\n3,5,double  # the last\n3 7 single\n")
    (graph,) = read(file)
    assert set(graph.edges(data="label")) == {(0, 2, "single"), (0, 1, "double")}


def test_a_tu_folder(tmp_path: Path) -> None:
    rows = {
        "A": ["1, 2", "2, 1", "3, 4", "4, 3", "4, 5", "5, 4"],
        "graph_indicator": ["1", "1", "2", "2", "2"],
        "node_labels": ["0", "1", "1", "1", "0"],
        "edge_labels": ["0", "0", "2", "2", "1", "1"],
        "graph_labels": ["1", "-1"],
    }
    for what, lines in rows.items():
        (tmp_path / f"TOY_{what}.txt").write_text("\n".join(lines) + "\n")
    first, second = read(tmp_path)
    assert list(first.edges(data="label")) == [(0, 1, 0)]
    assert list(second.edges(data="label")) == [(0, 1, 2), (1, 2, 1)]
    assert dict(second.nodes(data="label")) == {0: 1, 1: 1, 2: 0}
    assert [graph.graph["y"] for graph in (first, second)] == [1, -1]
    (tmp_path / "TOY_A.txt").write_text("1, 9\n")
    with pytest.raises(ValueError, match="damaged TU folder"):
        read(tmp_path)
    (tmp_path / "TOY_graph_indicator.txt").unlink()
    with pytest.raises(ValueError, match="lacks TOY_graph_indicator"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.edges", "0 1\n1 b\n", "line 2: an edge is two integers"),
        ("a.edges", "0 1\n1 2 x y\n", "line 2: an edge is two integers"),
        ("a.txt", "0 1\n0 1\n", "line 2: the edge 0 1 stands there twice"),
        ("a.csv", "0,1\n2,2\n", "from node 2 to itself"),
        ("a.edges", "# nothing\n", "has 0 nodes"),
        ("a.graphml", "<graphml", "cannot be read as graphml"),
        ("a.graphml", "<graphml/>", "holds no graph"),
        ("a.g6", "\x01\x02", "cannot be read as g6"),
        ("a.g6", "", "holds no graph"),
        ("a.pdf", "", "no format '.pdf'"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=says):
        read(tmp_path / name)


def test_graphml_that_is_not_simple(tmp_path: Path) -> None:
    nx.write_graphml_xml(nx.DiGraph([(0, 1)]), tmp_path / "directed.graphml")
    with pytest.raises(ValueError, match=r"directed\.graphml is directed"):
        read(tmp_path / "directed.graphml")
    nx.write_graphml_xml(nx.MultiGraph([(0, 1), (0, 1)]), tmp_path / "multi.graphml")
    with pytest.raises(ValueError, match="may have several edges"):
        read(tmp_path / "multi.graphml")


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nowhere.g6")
    with pytest.raises(ValueError, match="holds no graphs"):
        read(tmp_path)
    with pytest.raises(ValueError, match="graph6 has no place for labels"):
        write(tmp_path / "a.g6", [labelled()])
    assert not list(tmp_path.iterdir())
