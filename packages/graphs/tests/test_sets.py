"""Sets by the generators of their papers."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import numpy as np
import pytest

from diffkit.graphs import files, sets


def test_a_graph_is_a_function_of_its_place() -> None:
    few, more = sets.generate("planar", 2), sets.generate("planar", 3)
    assert all(nx.utils.graphs_equal(a, b) for a, b in zip(few, more, strict=False))
    assert not nx.utils.graphs_equal(more[0], more[1])
    assert not nx.utils.graphs_equal(sets.generate("planar", 1, seed=1)[0], more[0])


def bridges(graph: nx.Graph) -> int:
    """What a graph of community-small has beyond its two communities, which it must have."""
    size = len(graph) // 2
    inside = nx.disjoint_union_all(nx.gnp_random_graph(size, 0.7, seed=i) for i in range(2))
    assert set(inside.edges) <= set(graph.edges)
    return graph.number_of_edges() - inside.number_of_edges()


def test_community_small() -> None:
    graphs = sets.generate("community_small")
    assert len(graphs) == 100
    assert {len(graph) for graph in graphs} == {12, 14, 16, 18, 20}
    assert {bridges(graph) for graph in graphs} <= set(range(1, 6))


def test_the_benchmark_has_the_same_communities(benchmark: Path) -> None:
    graphs = files.read(benchmark / "community_small.g6")
    assert {bridges(graph) for graph in graphs} == {1, 2, 3}
    assert all(sets.is_grid(graph) for graph in files.read(benchmark / "grid.g6")[:3])


def test_valid_graphs_of_their_sets() -> None:
    for name in ("planar", "grid"):
        assert all(sets.VALID[name](graph) for graph in sets.generate(name, 3))
    assert sets.is_grid(nx.grid_2d_graph(2, 5))
    for other in (nx.path_graph(6), nx.cycle_graph(6), nx.circular_ladder_graph(5), nx.complete_graph(5)):
        assert not sets.is_grid(other)
    wrong = nx.convert_node_labels_to_integers(nx.grid_2d_graph(4, 4))
    wrong.remove_edge(0, 1)
    wrong.add_edge(0, 15)  # as many nodes and edges
    assert not sets.is_grid(wrong)
    assert not sets.is_planar(nx.complete_graph(5))
    assert not sets.is_planar(nx.empty_graph(3))


def test_sbm() -> None:
    graph = sets.generate("sbm", 1)[0]
    assert 40 <= len(graph) <= 200
    inside = [d for _, d in graph.degree()]
    assert np.mean(inside) == pytest.approx(0.3 * 29 + 0.005 * (len(graph) - 30), rel=0.25)  # 3 deviations


PACKAGES = """Package: a
Version: 1
Depends: b (>= 2), c:any | d, a
Suggests: e
Description: of a
 Depends: nothing

Package: b
Recommends: c
"""


def test_debian_ego(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = sets.parse_packages(PACKAGES)
    assert {frozenset(edge) for edge in graph.edges} == {frozenset(e) for e in ("ab", "ac", "ae", "bc")}
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=PACKAGES))
    assert [len(graph) for graph in sets.generate("debian_ego", 1)] == [4]
    with pytest.raises(ValueError, match="apt knows only 1 packages"):
        sets.generate("debian_ego", 2)


def test_bad_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no set 'gird' \(did you mean 'grid'"):
        sets.generate("gird")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="needs apt-cache"):
        sets.generate("debian_ego")
