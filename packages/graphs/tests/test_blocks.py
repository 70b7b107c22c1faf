"""Communities by a stochastic block model, and what the set of such graphs counts as valid."""

from itertools import combinations, product

import networkx as nx
import numpy as np
import pytest

from diffkit.graphs import sets
from diffkit.graphs.blocks import blocks, evidence, is_sbm


def planted(sizes: list[int], inside: float, between: float, seed: int = 0) -> nx.Graph:
    chances = [[inside if i == j else between for j in range(len(sizes))] for i in range(len(sizes))]
    return nx.Graph(nx.stochastic_block_model(sizes, chances, seed=seed))


def test_the_evidence_is_a_probability() -> None:
    """Of all graphs of four nodes with all partitions into numbered blocks: they sum to one."""
    pairs = list(combinations(range(4), 2))
    total = 0.0
    for where in product(range(4), repeat=4):
        if set(where) != set(range(max(where) + 1)):
            continue
        for there in product((0.0, 1.0), repeat=len(pairs)):
            adjacency = np.zeros((4, 4))
            for (u, v), edge in zip(pairs, there, strict=True):
                adjacency[u, v] = adjacency[v, u] = edge
            total += np.exp(evidence(adjacency, np.array(where)))
    assert total == pytest.approx(1, rel=1e-9)


def test_planted_blocks_are_found() -> None:
    sizes = [30, 22, 36]
    graph = planted(sizes, 0.3, 0.005)
    order = np.random.default_rng(0).permutation(len(graph))
    shuffled = nx.empty_graph(len(graph))
    shuffled.add_edges_from((order[u], order[v]) for u, v in graph.edges)
    found = blocks(shuffled)[order]  # of the nodes as they were planted
    assert [len(set(part)) for part in np.split(found, np.cumsum(sizes)[:-1])] == [1, 1, 1]
    assert len(set(found)) == 3
    assert len(set(blocks(nx.gnp_random_graph(60, 0.3, seed=0)))) == 1


def test_no_better_partition_is_one_move_away() -> None:
    graph = sets.generate("sbm", 1)[0]
    adjacency, where = nx.to_numpy_array(graph), blocks(graph)
    best = evidence(adjacency, where)
    for node, block in product(range(0, len(graph), 7), range(where.max() + 1)):
        other = where.copy()
        other[node] = block
        assert evidence(adjacency, other) <= best + 1e-6


def test_valid() -> None:
    graphs = sets.generate("sbm", 10)
    assert np.mean([is_sbm(graph) for graph in graphs]) >= 0.7
    for other in (
        planted([30], 0.3, 0),  # one block
        planted([30, 50], 0.3, 0.005),  # a large one
        planted([30, 10], 0.3, 0.005),  # a small one
        planted([30, 30], 0.7, 0.005),  # dense ones
        planted([30, 30], 0.3, 0.05),  # too many edges between them
        planted([20] * 6, 0.3, 0.005),  # too many of them
        nx.empty_graph(50),
        nx.path_graph(60),
    ):
        assert not is_sbm(other)
