r"""The communities of a graph, by a stochastic block model, and whether they are those of the set `sbm`.

A partition b of the nodes into blocks is as likely as (Côme and Latouche 2015, 1303.2962)

    p(A | b) p(b),   p(A | b) = product over r <= s of B(m_rs + 1, M_rs - m_rs + 1),

m_rs of the M_rs pairs of the blocks r and s being edges, with a uniform prior of every density. The prior of b is
uniform in the number of blocks, in their sizes, and then in who is where (Peixoto 2017, 1705.10225). The best partition
is sought by moving single nodes and merging blocks, from communities that modularity finds. SPECTRE (Martinkus et al.
2022, 2204.01613) lets graph-tool find the partition, by nearly the same likelihood: of 160 graphs, 60 of them rewired,
both call the same ones valid (graph-tool 2.45).
"""

from collections.abc import Sequence
from itertools import combinations

import networkx as nx
import numpy as np
from numpy.typing import NDArray

INSIDE, BETWEEN = 0.3, 0.005
"""Densities of the set, within a block and between two."""
BLOCKS, NODES = (2, 5), (20, 40)
"""How many blocks its graphs have, and how many nodes a block."""
MOST = 15
"""Communities that the search begins with at most; the nodes of all others are one more block."""
LIKE = 0.9
"""The mean p that a valid graph exceeds."""


def is_sbm(graph: nx.Graph) -> bool:
    """Whether the blocks are as many, as large and as dense as those of the set, by SPECTRE's rule.

    Densities are compared by (q - p)^2/(q (1 - q)), q being what is found, and the mean over all pairs of blocks of
    the share of a chi-squared distribution beyond it. As published that variance is of a single pair of nodes, so that
    it is a distance rather than a test, and refuses two blocks without an edge between them: nine tenths of the set's
    own graphs are valid.
    """
    from scipy.stats import chi2

    where = blocks(graph)
    sizes = np.bincount(where)
    if not (BLOCKS[0] <= len(sizes) <= BLOCKS[1] and NODES[0] <= sizes.min() and sizes.max() <= NODES[1]):
        return False
    _, edges, pairs = _counts(_adjacency(graph), where)
    found = edges / pairs
    wanted = np.where(np.eye(len(sizes), dtype=bool), INSIDE, BETWEEN)
    return bool(chi2.sf((found - wanted) ** 2 / (found * (1 - found) + 1e-6), 1).mean() > LIKE)


def blocks(graph: nx.Graph) -> NDArray[np.int64]:
    """The block 0, 1, ... of every node, in the graph's order, of the likeliest partition that is found (see above)."""
    adjacency = _adjacency(graph)
    place = {node: i for i, node in enumerate(graph)}
    where = np.zeros(len(graph), np.int64)
    found = sorted(nx.community.louvain_communities(graph, resolution=2, seed=0), key=len, reverse=True)
    for block, nodes in enumerate(found[:MOST]):
        where[[place[node] for node in nodes]] = block + (len(found) > MOST)
    return _search(adjacency, where)


def evidence(adjacency: NDArray[np.float64], where: NDArray[np.int64]) -> float:
    """ln p(A | b) p(b) of the partition ``where`` into blocks 0, 1, ..., none of them empty."""
    from scipy.special import betaln, gammaln

    sizes, edges, pairs = _counts(adjacency, where)
    n, count = len(where), len(sizes)
    once = np.triu_indices(count)
    ways = gammaln(n) - gammaln(count) - gammaln(n - count + 1)
    prior = gammaln(sizes + 1).sum() - gammaln(n + 1) - ways - np.log(n)
    return float(betaln(edges[once] + 1, (pairs - edges)[once] + 1).sum() + prior)


def _search(adjacency: NDArray[np.float64], where: NDArray[np.int64]) -> NDArray[np.int64]:
    """Move nodes and merge blocks while that helps."""
    value, nodes = evidence(adjacency, where), np.arange(len(where))
    while True:
        before = value
        for node in nodes:
            near = np.unique(where[adjacency[node] > 0])
            value, where = _best(adjacency, value, where, [(nodes == node, block) for block in near])
        for _ in range(where.max()):
            pairs = combinations(range(where.max() + 1), 2)
            value, where = _best(adjacency, value, where, [(where == one, other) for one, other in pairs])
        if value == before:
            return where


def _best(
    adjacency: NDArray[np.float64],
    value: float,
    where: NDArray[np.int64],
    moves: Sequence[tuple[NDArray[np.bool_], int]],
) -> tuple[float, NDArray[np.int64]]:
    """The likeliest partition of ``where`` and those with some nodes moved to a block; blocks left empty are gone."""
    kept = where
    for moved, block in moves:
        changed = np.unique(np.where(moved, block, where), return_inverse=True)[1]
        found = evidence(adjacency, changed)
        if found > value + 1e-9:  # not by rounding, or the search would not end
            value, kept = found, changed
    return value, kept


def _adjacency(graph: nx.Graph) -> NDArray[np.float64]:
    return nx.to_numpy_array(graph, weight=None)  # pyright: ignore[reportArgumentType]


def _counts(
    adjacency: NDArray[np.float64], where: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Nodes of each block, and the edges and the pairs of nodes of every two, each counted once."""
    of = np.eye(where.max() + 1)[where]
    sizes = of.sum(0)
    edges, pairs = of.T @ adjacency @ of, np.outer(sizes, sizes) - np.diag(sizes)
    half = np.where(np.eye(len(sizes), dtype=bool), 0.5, 1.0)
    return sizes.astype(np.int64), edges * half, pairs * half
