r"""How often each node stands in each of the 15 orbits of graphlets of two to four nodes.

The orbits are those of Przulj 2007, in her order: 0 the ends of an edge; 1 and 2 ends and middle of a path of three;
3 a triangle; 4 and 5 ends and middles of a path of four; 6 and 7 leaves and centre of a claw; 8 a square; 9, 10 and 11
the tail, the other two and the centre of a triangle with a tail; 12 and 13 the nodes of degree two and three of a
square with a diagonal; 14 all four joined. Graphlets are induced: what other edges join their nodes counts.

Occurrences of a pattern with any further edges are sums over degrees d, triangles t and common neighbours A^2, but of
four joined nodes, which are the triangles of a neighbourhood. From the densest to the sparsest, those that belong to
a denser graphlet are then taken off, as often as that contains the pattern (Hocevar and Demsar 2014).
"""

import networkx as nx
import numpy as np
from numpy.typing import NDArray


def orbits(graph: nx.Graph) -> NDArray[np.int64]:
    """The counts ``[n, 15]``, nodes in the order of the graph; it is simple, its labels and weights count nothing."""
    A = nx.to_numpy_array(graph, weight=None, dtype=np.int64)  # pyright: ignore[reportArgumentType]
    d = A.sum(1)
    common = _product(A, A)
    np.fill_diagonal(common, 0)
    shared = A * common  # of neighbours
    t = shared.sum(1) // 2
    o = np.zeros((len(A), 15), np.int64)
    o[:, 0] = d
    o[:, 1] = A @ (d - 1) - 2 * t
    o[:, 2] = _pairs(d) - t
    o[:, 3] = t
    o[:, 14] = [_triangles(A[row][:, row]) for row in A.astype(bool)]
    o[:, 13] = _pairs(shared).sum(1) - 3 * o[:, 14]
    o[:, 12] = (A * _product(A, shared - A)).sum(1) // 2 - 3 * o[:, 14]
    o[:, 8] = _pairs(common).sum(1) - o[:, 12:15] @ [1, 1, 3]
    o[:, 11] = t * (d - 2) - o[:, 13:15] @ [2, 3]
    o[:, 10] = shared @ (d - 2) - o[:, 12:15] @ [2, 2, 6]
    o[:, 9] = A @ t - 2 * t - o[:, 12:15] @ [2, 0, 3]
    o[:, 7] = d * (d - 1) * (d - 2) // 6 - o[:, 11:15] @ [1, 0, 1, 1]
    o[:, 6] = A @ _pairs(d - 1) - o[:, 9:15] @ [1, 1, 0, 2, 1, 3]
    o[:, 5] = (d - 1) * (A @ (d - 1)) - 2 * t - o[:, 8:15] @ [2, 0, 1, 2, 2, 4, 6]
    o[:, 4] = A @ (A @ (d - 1)) - d * (d - 1) - 2 * t - o[:, 8:15] @ [2, 2, 1, 0, 4, 2, 6]
    return o


def _product(A: NDArray[np.int64], B: NDArray[np.int64]) -> NDArray[np.int64]:
    return (A.astype(float) @ B.astype(float)).astype(np.int64)  # exact, and much faster than of integers


def _pairs(n: NDArray[np.int64]) -> NDArray[np.int64]:
    return n * (n - 1) // 2


def _triangles(A: NDArray[np.int64]) -> int:
    return int((A @ A * A).sum()) // 6
