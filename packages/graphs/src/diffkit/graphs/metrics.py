r"""How far generated graphs are from others: maximum mean discrepancies, and validity, uniqueness, novelty.

A graph becomes a descriptor: the histogram of its degrees, that of its clustering coefficients (100 bins on [0, 1]),
that of the eigenvalues of its normalised Laplacian (200 bins on [0, 2]), or the mean over its nodes of the counts of
the 15 orbits of graphlets of up to four nodes (:mod:`diffkit.graphs.orbits`). With k = exp(-d^2/(2
sigma^2)) of a distance d between descriptors, the squared discrepancy is the V-statistic

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y),

over all pairs, equal ones included. Two kernels are in use, and numbers of one say nothing of the other:

* ``gaussian_emd``, of GraphRNN (You et al. 2018, 1802.08773), and of the tables of GDSS (Jo et al. 2022,
  2202.02514): d is the 1-Wasserstein distance, in bins; clustering has its bins at 1/100; orbits have the
  Euclidean distance. Isolated nodes are removed first.
* ``gaussian_tv``, of GRAN (Liao et al. 2019, 1910.00760), SPECTRE, DiGress and DeFoG: d is half the sum of absolute
  differences, of all descriptors. Not positive definite (O'Bray et al. 2022, 2106.01098).

sigma is 1 for degrees and spectra, 0.1 for clustering and 30 for orbits with both. As published for either, numbers
depend on how many graphs there are: compare as many generated graphs as test graphs, and give the discrepancy of
training graphs from test graphs beside them.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from diffkit.core.types import lookup
from diffkit.graphs.graph import LABEL
from diffkit.graphs.orbits import orbits

Array: TypeAlias = NDArray[np.floating[Any]]

BINS = {"clustering": (100, 0.0, 1.0), "spectral": (200, -1e-5, 2.0)}
SIGMA = {"degree": 1.0, "clustering": 0.1, "orbit": 30.0, "spectral": 1.0}
UNIT = {"degree": 1.0, "clustering": 0.01, "spectral": 1.0}
"""Between two bins, as the Wasserstein distance of GDSS's protocol counts it."""
TABLE = ("degree", "clustering", "orbit")
"""The columns of GDSS's tables, of which ``average`` is the mean."""


def degree(graph: nx.Graph) -> Array:
    """The share of the nodes that has each degree, ``[largest + 1]``."""
    return np.asarray(nx.degree_histogram(graph)) / len(graph)


def clustering(graph: nx.Graph) -> Array:
    """The histogram of the nodes' clustering coefficients, which sums to one."""
    values = nx.clustering(graph)
    return _histogram(list(values.values()) if isinstance(values, dict) else [values], "clustering")


def spectral(graph: nx.Graph) -> Array:
    """The histogram of the eigenvalues of the normalised Laplacian, which sums to one."""
    adjacency = nx.to_numpy_array(graph, weight=None)  # pyright: ignore[reportArgumentType]
    root = np.sqrt(adjacency.sum(1))
    safe = np.where(root > 0, root, 1.0)
    laplacian = np.diag((root > 0).astype(float)) - adjacency / safe[:, None] / safe[None, :]
    return _histogram(np.linalg.eigvalsh(laplacian), "spectral")


def orbit(graph: nx.Graph) -> Array:
    """How often a node stands in each of the 15 orbits of graphlets of two to four nodes, on average over nodes."""
    return orbits(graph).mean(0)


DESCRIPTORS: dict[str, Callable[[nx.Graph], Array]] = {
    f.__name__: f for f in (degree, clustering, orbit, spectral)
}


def pruned(graph: nx.Graph) -> nx.Graph:
    """The graph without its isolated nodes; a graph without edges keeps one node."""
    kept = [node for node, d in graph.degree() if d > 0]
    return graph.subgraph(kept or list(graph)[:1])


def _whole(graph: nx.Graph) -> nx.Graph:
    return graph


def mmd(x: Sequence[Array], y: Sequence[Array], what: str, kernel: str) -> float:
    """The squared discrepancy of two sets of descriptors ``what``, of :data:`DESCRIPTORS` (see the module)."""
    distance = lookup(kernel, KERNELS, "kernel")
    longest = max(len(row) for row in [*x, *y])
    a, b = (np.stack([np.pad(row, (0, longest - len(row))) for row in rows]) for rows in (x, y))

    def mean(p: Array, q: Array) -> float:
        return float(np.exp(-(distance(p, q, what) ** 2) / (2 * SIGMA[what] ** 2)).mean())

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def compare(
    reference: Sequence[nx.Graph],
    graphs: Sequence[nx.Graph],
    kernels: Sequence[str] = ("gaussian_emd", "gaussian_tv"),
) -> dict[str, dict[str, float]]:
    """The squared discrepancies of ``graphs`` from ``reference``, by kernel and descriptor, with their ``average``.

    The average is that of GDSS's tables: degree, clustering and orbit. Training graphs against test graphs
    give what is within reach. ValueError where either is empty, or for an unknown kernel.
    """
    if not len(reference) or not len(graphs):
        raise ValueError("a comparison needs graphs on both sides; one of them is empty.")
    found: dict[str, dict[str, float]] = {}
    for kernel in kernels:
        kept = pruned if kernel == "gaussian_emd" else _whole
        table = {
            what: mmd([f(kept(g)) for g in reference], [f(kept(g)) for g in graphs], what, kernel)
            for what, f in DESCRIPTORS.items()
        }
        found[kernel] = {**table, "average": sum(table[what] for what in TABLE) / len(TABLE)}
    return found


def vun(
    graphs: Sequence[nx.Graph], train: Sequence[nx.Graph], valid: Callable[[nx.Graph], bool] = nx.is_connected
) -> dict[str, float]:
    """The shares of ``graphs`` that are valid, unique, novel, and all three (``vun``), as SPECTRE and DiGress count.

    Unique is the first graph of each kind, novel one that is isomorphic, labels included, to none of
    ``train``. ``valid`` is one of :data:`~diffkit.graphs.sets.VALID`, or any other rule. ValueError for no graphs.
    """
    if not len(graphs):
        raise ValueError("there are no graphs to judge.")
    known, seen = _Kinds(), _Kinds()
    for graph in train:
        known.add(graph)
    flags = np.array([(valid(graph), seen.add(graph), not known.has(graph)) for graph in graphs])
    shares = dict(zip(("valid", "unique", "novel"), flags.mean(0).tolist(), strict=True))
    return {**shares, "vun": float(flags.all(1).mean())}


class _Kinds:
    """Graphs up to isomorphism: by the hash of Weisfeiler and Lehman, and among equal hashes by search."""

    def __init__(self) -> None:
        self.graphs: dict[str, list[nx.Graph]] = defaultdict(list)

    def has(self, graph: nx.Graph) -> bool:
        alike = self.graphs.get(self._hash(graph), [])
        return any(nx.is_isomorphic(graph, other, node_match=_same, edge_match=_same) for other in alike)

    def add(self, graph: nx.Graph) -> bool:
        """Whether it is new."""
        new = not self.has(graph)
        if new:
            self.graphs[self._hash(graph)].append(graph)
        return new

    @staticmethod
    def _hash(graph: nx.Graph) -> str:
        plain = nx.Graph()
        plain.add_nodes_from((node, {LABEL: str(label)}) for node, label in graph.nodes(data=LABEL))
        plain.add_edges_from(graph.edges)
        return nx.weisfeiler_lehman_graph_hash(plain, node_attr=LABEL)


def _same(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.get(LABEL) == other.get(LABEL)


def _histogram(values: Sequence[float] | Array, what: str) -> Array:
    bins, low, high = BINS[what]
    values = np.clip(values, low, high)  # an eigenvalue of 2 by rounding
    counts = np.histogram(values, bins, (low, high))[0]
    return counts / counts.sum()


def _wasserstein(p: Array, q: Array, what: str) -> Array:
    """Between all rows: the sum of the distances of cumulated histograms; of orbits the Euclidean distance."""
    from scipy.spatial.distance import cdist

    if what == "orbit":
        return cdist(p, q)
    return cdist(p.cumsum(1), q.cumsum(1), "cityblock") * UNIT[what]


def _total_variation(p: Array, q: Array, what: str) -> Array:
    from scipy.spatial.distance import cdist

    return cdist(p, q, "cityblock") / 2


KERNELS: dict[str, Callable[[Array, Array, str], Array]] = {
    "gaussian_emd": _wasserstein,
    "gaussian_tv": _total_variation,
}
