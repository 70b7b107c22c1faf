r"""The neighbourhood subgraph pairwise distance kernel, of graphs with labels (Costa and De Grave 2010).

A neighbourhood of radius r is what lies around a node up to r edges away: the labels and degrees of the nodes, and the
labels of the edges, at each distance. Features count pairs of neighbourhoods of the same radius, r <= 4, whose roots
stand d <= 4 apart, and the second of each pair alone; normalised for each r and d, and then as a whole. With the linear
kernel of unit vectors phi the squared discrepancy of two sets is

    |mean phi(x) - mean phi(y)|^2.

That is EDeN's vectorizer of complexity 4, on which the tables of GDSS (Jo et al. 2022, 2202.02514) stand, but for its
hashes of 16 bits: here no two features fall together.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import networkx as nx

from diffkit.graphs.graph import LABEL

Feature: TypeAlias = tuple[object, ...]


def features(graph: nx.Graph, radius: int = 4, distance: int = 4) -> dict[Feature, float]:
    """phi of a graph, as its entries that are not zero; its norm is one."""
    away = dict(nx.all_pairs_shortest_path_length(graph, max(radius, distance)))
    around = {node: _shells(graph, away[node], radius) for node in graph}
    blocks: dict[tuple[int, int], Counter[Feature]] = defaultdict(Counter)
    for u in graph:
        for v, d in away[u].items():
            for r in range(min(len(around[u]), len(around[v])) if d <= distance else 0):
                blocks[r, d].update([(r, d, *sorted((around[u][r], around[v][r]))), (r, d, around[v][r])])
    found: dict[Feature, float] = {}
    for counts in blocks.values():
        norm = (len(blocks) * sum(n * n for n in counts.values())) ** 0.5
        found |= {feature: n / norm for feature, n in counts.items()}
    return found


def mean(graphs: Sequence[nx.Graph]) -> dict[Feature, float]:
    """The mean of phi over graphs, as its entries that are not zero. ValueError where there are none."""
    if not len(graphs):
        raise ValueError("a comparison needs graphs on both sides; one of them is empty.")
    found: defaultdict[Feature, float] = defaultdict(float)
    for graph in graphs:
        for feature, value in features(graph).items():
            found[feature] += value / len(graphs)
    return found


def apart(x: Mapping[Feature, float], y: Mapping[Feature, float]) -> float:
    """|x - y|^2 of two :func:`mean` of phi."""
    every = dict.fromkeys((*x, *y))  # not a set, whose order, and so the rounding, is another in each process
    return sum((x.get(feature, 0.0) - y.get(feature, 0.0)) ** 2 for feature in every)


def nspdk(x: Sequence[nx.Graph], y: Sequence[nx.Graph]) -> float:
    """The squared discrepancy of two sets of graphs. ValueError where either is empty."""
    return apart(mean(x), mean(y))


def _shells(graph: nx.Graph, away: dict[int, int], radius: int) -> list[str]:
    """The neighbourhoods of a root, of radius 0 and on, up to the farthest node; ``away`` are the distances to it."""
    nodes: defaultdict[int, list[str]] = defaultdict(list)
    edges: defaultdict[int, list[str]] = defaultdict(list)
    for node, d in away.items():
        nodes[d].append(f"{graph.nodes[node].get(LABEL)} {graph.degree[node]}")
    for u, v, label in graph.edges(away, data=LABEL):
        if u in away and v in away:
            edges[min(away[u], away[v])].append(str(label))
    found = [f"{sorted(nodes[0])}"]
    for d in range(1, min(radius, max(nodes)) + 1):
        found.append(f"{found[-1]}{sorted(edges[d - 1])}{sorted(nodes[d])}")
    return found
