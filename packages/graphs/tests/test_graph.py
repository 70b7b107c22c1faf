"""Graphs as tensors and back."""

from typing import Any

import networkx as nx
import pytest
import torch

from diffkit.graphs.graph import Classes, check, decode, encode


def molecule() -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from([(3, {"label": "O"}), (7, {"label": "C"}), (5, {"label": "C"})])
    graph.add_edges_from([(3, 5, {"label": 2}), (5, 7, {"label": 1})])
    return graph


def test_round_trip_with_labels() -> None:
    classes = Classes.of([molecule()])
    assert classes == Classes(("C", "O"), (1, 2))
    batch = encode([molecule()])
    assert batch.nodes[0].tolist() == [[0, 1], [1, 0], [1, 0]]  # in the order of the ids 3, 5, 7
    assert batch.edges[0].argmax(-1).tolist() == [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
    (back,) = decode(batch, classes)
    assert dict(back.nodes(data="label")) == {0: "O", 1: "C", 2: "C"}
    assert set(back.edges(data="label")) == {(0, 1, 2), (1, 2, 1)}


def test_what_does_not_exist_is_zero() -> None:
    graphs = [nx.path_graph(3), nx.complete_graph(5)]
    batch = encode(graphs)
    assert batch.mask.sum(1).tolist() == [3, 5]
    assert not batch.nodes[0, 3:].any()
    assert not batch.edges[0, 3:].any()
    assert not batch.edges.diagonal(dim1=1, dim2=2).any()
    assert torch.equal(batch.edges, batch.edges.transpose(1, 2))
    assert batch.edges[0].sum() == 6  # of three nodes
    assert batch.edges[0, ..., 1].sum() == 4
    assert [nx.utils.graphs_equal(a, b) for a, b in zip(decode(batch), graphs, strict=True)] == [True, True]


def bad(change: str) -> Any:
    graph = nx.path_graph(3)
    if change == "self-loop":
        graph.add_edge(1, 1)
    if change == "id":
        graph.add_edge(0, "a")
    if change == "node NaN":
        graph.nodes[1]["mass"] = float("nan")
    if change == "edge NaN":
        graph.edges[0, 1]["x"] = [1.0, float("nan")]
    return {"directed": nx.DiGraph(graph), "multi": nx.MultiGraph(graph)}.get(change, graph)


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (bad("directed"), "is directed"),
        (bad("multi"), "several edges"),
        (bad("self-loop"), "from node 1 to itself"),
        (bad("id"), "'a' whose id is no integer"),
        (bad("node NaN"), "node 1 has NaN for 'mass'"),
        (bad("edge NaN"), r"edge \(0, 1\) has NaN for 'x'"),
        (nx.Graph(), "has 0 nodes"),
        (nx.empty_graph(1), "has 1 nodes"),
    ],
)
def test_bad_graphs_get_one_sentence(graph: nx.Graph, says: str) -> None:
    with pytest.raises(ValueError, match=f"^here.*{says}"):
        check(graph, "here")


def test_bad_sets_of_graphs() -> None:
    with pytest.raises(ValueError, match="no graphs"):
        encode([])
    with pytest.raises(ValueError, match="graph 1 has 9 nodes; the model was built for at most 8"):
        encode([nx.path_graph(3), nx.path_graph(9)], largest=8)
    half = molecule()
    del half.nodes[5]["label"]
    with pytest.raises(ValueError, match="some nodes have a 'label' and others"):
        Classes.of([half])
    with pytest.raises(ValueError, match="node 3 has the label 'O'; known are C"):
        encode([molecule()], Classes(("C",), (1, 2)))
    molecule_of_floats = molecule()
    molecule_of_floats.edges[3, 5]["label"] = 1.5
    with pytest.raises(ValueError, match=r"one of the edges has 1\.5"):
        Classes.of([molecule_of_floats])
