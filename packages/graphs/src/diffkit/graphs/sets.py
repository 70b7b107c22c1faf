"""Benchmark graphs by the generators of their papers; a graph is a function of the seed and its place in the set.

Community-small, of Niu et al. 2020 (2003.00638) in the version of GDSS (Jo et al. 2022, 2202.02514): in every graph
of one size both communities are the same two graphs, of seeds 0 and 1, and only the bridges differ, so that a
perfect sampler repeats itself. Planar and SBM graphs are those of SPECTRE (Martinkus et al. 2022, 2204.01613).
"""

from collections.abc import Callable
from itertools import combinations

import networkx as nx
import numpy as np

from diffkit.core.types import lookup
from diffkit.graphs import archive
from diffkit.graphs.blocks import is_sbm
from diffkit.graphs.molecules import is_molecule

DEBIAN_SIZES = (4, 18)
"""Nodes of the ego graphs of Debian's packages: those of ego-small."""


def generate(name: str, count: int | None = None, seed: int = 0) -> list[nx.Graph]:
    """The first ``count`` graphs of a set of :data:`SETS`, by default as many as its paper has.

    ValueError for an unknown set, or where apt is missing for ``debian_ego``.
    """
    maker, usual = lookup(name, SETS, "set")
    return maker(usual if count is None else count, seed)


def _each(one: Callable[[np.random.Generator], nx.Graph]) -> Callable[[int, int], list[nx.Graph]]:
    return lambda count, seed: [one(np.random.default_rng([seed, i])) for i in range(count)]


def community(rng: np.random.Generator) -> nx.Graph:
    """Two communities of 6 to 10 nodes, G(n, 0.7); each pair has a bridge with probability 0.1/n, one at least does."""
    size = int(rng.integers(12, 21)) // 2
    graph = nx.disjoint_union_all(nx.gnp_random_graph(size, 0.7, seed=i) for i in range(2))
    bridges = np.argwhere(rng.random((size, size)) < 0.1 / size)
    graph.add_edges_from((int(u), size + int(v)) for u, v in bridges)
    if not len(bridges):
        graph.add_edge(0, size)
    return graph


def grid(rng: np.random.Generator) -> nx.Graph:
    """A rectangular grid of 10 to 19 by 10 to 19 nodes."""
    rows, columns = rng.integers(10, 20, 2)
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(int(rows), int(columns)))


def planar(rng: np.random.Generator) -> nx.Graph:
    """The Delaunay triangulation of 64 points, uniform in a square."""
    from scipy.spatial import Delaunay

    graph = nx.empty_graph(64)
    for corners in Delaunay(rng.random((64, 2))).simplices.tolist():
        graph.add_edges_from(combinations(corners, 2))
    return graph


def sbm(rng: np.random.Generator) -> nx.Graph:
    """2 to 5 communities of 20 to 40 nodes; edges of probability 0.3 within one and 0.005 between two."""
    sizes = rng.integers(20, 41, int(rng.integers(2, 6)))
    of = np.repeat(np.arange(len(sizes)), sizes)
    chance = np.where(of[:, None] == of[None, :], 0.3, 0.005)
    graph = nx.empty_graph(len(of))
    edges = np.argwhere(np.triu(rng.random(chance.shape) < chance, 1))
    graph.add_edges_from((int(u), int(v)) for u, v in edges)
    return graph


def debian_ego(count: int, seed: int) -> list[nx.Graph]:
    """Neighbourhoods of packages in the graph of what depends on, recommends or suggests what, of 4 to 18 packages.

    In place of ego-small, whose citation graph no package carries. From the lists that apt has: another release of
    the distribution is another set. ValueError where there is no apt.
    """
    whole = parse_packages(archive.listed())
    low, high = DEBIAN_SIZES
    seeds = sorted(node for node in whole if low <= len(whole[node]) + 1 <= high)
    if len(seeds) < count:
        raise ValueError(
            f"apt knows only {len(seeds)} packages of {low} to {high} neighbours; run `apt-get update`."
        )
    chosen = np.random.default_rng(seed).choice(len(seeds), count, replace=False)
    return [nx.convert_node_labels_to_integers(nx.Graph(nx.ego_graph(whole, seeds[i]))) for i in chosen]


def parse_packages(text: str) -> nx.Graph:
    """The undirected graph of packages in the format of ``apt-cache dumpavail``; of alternatives the first counts."""
    graph = nx.Graph()
    for fields in archive.packages(text):
        graph.add_edges_from((fields["Package"], target) for _, target in archive.wishes(fields))
    return graph


def is_grid(graph: nx.Graph) -> bool:
    """Whether the graph is a rectangular grid with two rows or more."""
    n, half = len(graph), 2 * len(graph) - graph.number_of_edges()  # of a by b: n = ab, and half = a + b
    square = half * half - 4 * n
    if square < 0:
        return False
    short = round((half - square**0.5) / 2)
    if short < 2 or short * (half - short) != n:
        return False
    return nx.faster_could_be_isomorphic(
        graph, like := nx.grid_2d_graph(short, half - short)
    ) and nx.is_isomorphic(graph, like)


def is_planar(graph: nx.Graph) -> bool:
    """Whether the graph is connected and planar."""
    return nx.is_connected(graph) and nx.check_planarity(graph)[0]


SETS: dict[str, tuple[Callable[[int, int], list[nx.Graph]], int]] = {
    "community_small": (_each(community), 100),
    "grid": (_each(grid), 100),
    "planar": (_each(planar), 200),
    "sbm": (_each(sbm), 200),
    "debian_ego": (debian_ego, 200),
}
"""Sets that are made here: the maker, ``(count, seed) -> graphs``, and how many graphs the benchmark has."""

VALID: dict[str, Callable[[nx.Graph], bool]] = {
    "connected": nx.is_connected,
    "grid": is_grid,
    "planar": is_planar,
    "sbm": is_sbm,
    "molecule": is_molecule,
}
"""What makes a graph a valid one of its set."""
