"""How well held-out edges are ranked: Recall@k, NDCG@k and MRR over all nodes that an edge could go to.

Each source with held-out edges is a query. All nodes of the target's kind are ranked by score; those it is known to
have an edge to, and itself, are left out. Nodes of equal score share the mean of their ranks, so that a constant score
is worth nothing.

* Recall@k: the share of a query's edges of rank k or less, and NDCG@k the sum of 1/log2(1 + rank) over them, divided by
  that of the best order: means over queries, as LightGCN's protocol counts (He et al. 2020, 2002.02126).
* MRR: the mean over edges of 1/rank, the query's other held-out edges being left out too ("filtered", Bordes et al.
  2013).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def rank(
    sources: Tensor,
    targets: Tensor,
    edges: Tensor,
    known: Tensor,
    *,
    same: bool,
    k: int = 20,
    chunk: int = 512,
) -> dict[str, float]:
    """``recall``, ``ndcg`` and ``mrr`` in [0, 1] of embeddings whose scores are products.

    Args:
        sources, targets: ``[sources, width]`` and ``[targets, width]``.
        edges: held out, ``[2, edges]``: all of their queries that are to be found.
        known: ``[2, known]``, that are not ranked.
        same: whether both are of one kind, where no node has an edge to itself.
        k: of Recall and NDCG.
        chunk: queries at a time.

    ValueError for no edges.
    """
    if not edges.shape[1]:
        raise ValueError("there are no held-out edges to rank: hold out a larger share.")
    wanted, masked = _grouped(edges), _grouped(known)
    queries = list(wanted)
    ideal = (1 / np.log2(np.arange(2, k + 2))).cumsum()
    recall, ndcg, reciprocal = 0.0, 0.0, 0.0
    for first in range(0, len(queries), chunk):
        some = queries[first : first + chunk]
        for query, row in zip(some, (sources[some] @ targets.T).cpu().numpy(), strict=True):
            goals = wanted[query]
            values = row[goals]
            row[masked.get(query, [])] = -np.inf
            row[[*goals, query] if same else goals] = -np.inf
            filtered = np.array([1 + _above(row, value) for value in values])
            full = filtered + [_above(values, value) - 0.5 for value in values]  # it is as good as itself
            hits = full[full <= k]
            recall += len(hits) / len(goals)
            ndcg += (1 / np.log2(1 + hits)).sum() / ideal[min(len(goals), k) - 1]
            reciprocal += (1 / filtered).sum()
    return {"recall": recall / len(queries), "ndcg": ndcg / len(queries), "mrr": reciprocal / edges.shape[1]}


def candidates(
    sources: Tensor, targets: Tensor, known: Tensor, *, same: bool, top: int = 20, chunk: int = 512
) -> Iterator[tuple[int, list[int], list[float]]]:
    """For every source the ``top`` targets that are not ``known``, the best first, and their scores."""
    masked = _grouped(known)
    for first in range(0, len(sources), chunk):
        scores = sources[first : first + chunk] @ targets.T
        for query, row in enumerate(scores, first):
            row[masked.get(query, [])] = -float("inf")
            if same:
                row[query] = -float("inf")
            best = row.topk(min(top, len(row)))
            kept = best.values.isfinite()
            yield query, best.indices[kept].tolist(), best.values[kept].tolist()


def _grouped(edges: Tensor) -> dict[int, list[int]]:
    """Targets by source."""
    found: dict[int, list[int]] = {}
    for u, v in edges.T.tolist():
        found.setdefault(u, []).append(v)
    return found


def _above(scores: NDArray[np.floating[Any]], value: float) -> float:
    """How many scores are above ``value``, equal ones counting half."""
    return np.count_nonzero(scores > value) + np.count_nonzero(scores == value) / 2
