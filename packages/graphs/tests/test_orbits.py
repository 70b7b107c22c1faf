"""Orbits against the enumeration of all subgraphs."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from diffkit.graphs.orbits import orbits

GRAPHLETS = {
    "K2": ([(0, 1)], [0, 0]),
    "P3": ([(0, 1), (1, 2)], [1, 2, 1]),
    "K3": ([(0, 1), (1, 2), (0, 2)], [3, 3, 3]),
    "P4": ([(0, 1), (1, 2), (2, 3)], [4, 5, 5, 4]),
    "claw": ([(0, 1), (0, 2), (0, 3)], [7, 6, 6, 6]),
    "C4": ([(0, 1), (1, 2), (2, 3), (3, 0)], [8, 8, 8, 8]),
    "paw": ([(0, 1), (1, 2), (2, 3), (3, 1)], [9, 11, 10, 10]),
    "diamond": ([(0, 1), (1, 2), (2, 3), (3, 0), (1, 3)], [12, 13, 12, 13]),
    "K4": ([(0, 1), (1, 2), (2, 3), (3, 0), (1, 3), (0, 2)], [14, 14, 14, 14]),
}
"""By name: the edges, and the orbit of each node."""


def counted(graph: nx.Graph) -> np.ndarray:
    """The counts by definition."""
    found = np.zeros((len(graph), 15), int)
    for size in (2, 3, 4):
        for chosen in combinations(graph, size):
            part = graph.subgraph(chosen)
            for edges, orbit in GRAPHLETS.values():
                matcher = nx.isomorphism.GraphMatcher(part, nx.Graph(edges))
                if len(orbit) == size and matcher.is_isomorphic():
                    for node, role in matcher.mapping.items():
                        found[node, orbit[role]] += 1
                    break
    return found


@pytest.mark.parametrize("density", [0.3, 0.6, 0.9])
def test_orbits_of_random_graphs(density: float) -> None:
    graph = nx.gnp_random_graph(8, density, seed=1)
    assert np.array_equal(orbits(graph), counted(graph))


def test_every_orbit_is_seen() -> None:
    """By the graphs above, or the test would not know of a wrong one."""
    seen = [counted(nx.gnp_random_graph(8, density, seed=1)) for density in (0.3, 0.6, 0.9)]
    assert np.concatenate(seen).any(0).all()


def test_a_graph_without_edges() -> None:
    assert not orbits(nx.empty_graph(3)).any()
