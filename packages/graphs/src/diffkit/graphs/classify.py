"""Missing classes of nodes, from the classes of others and the relations of all.

The embeddings of :mod:`diffkit.graphs.link` for one relation, with a linear head; or label propagation (Zhou et al.
2004) along all relations as one, which learns nothing: F <- a S F + (1 - a) Y, with S the normalised adjacency and Y
the known classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diffkit.core.types import lookup
from diffkit.graphs.hetero import MISSING, Hetero
from diffkit.graphs.lightgcn import adjacency
from diffkit.graphs.link import METHODS, link
from diffkit.graphs.views import views

PROPAGATION = "propagation"
KEPT, ROUNDS = 0.9, 30
"""a of label propagation, and how often."""


@dataclass(frozen=True, eq=False)
class Classified:
    """Probabilities ``[nodes, classes]`` of the ``classes`` of all nodes of a kind."""

    classes: list[str]
    probabilities: Tensor

    def best(self) -> tuple[list[str], list[float]]:
        """The likeliest class of each node, and its probability."""
        found = self.probabilities.max(1)
        return [self.classes[i] for i in found.indices.tolist()], found.values.tolist()


def classify(
    graph: Hetero,
    kind: str,
    attribute: str,
    *,
    method: str = PROPAGATION,
    relation: str | None = None,
    **options: object,
) -> Classified:
    """The classes of the nodes of ``kind``, of which some have the word ``attribute``.

    Args:
        method: ``propagation``, or one of :data:`~diffkit.graphs.link.METHODS`.
        relation: whose embeddings are taken, by default the one with most edges at the kind.
        options: of :func:`~diffkit.graphs.link.fit`.

    ValueError as of :func:`labelled`, and for an unknown relation or method.
    """
    classes, labels = labelled(graph, kind, attribute)
    lookup(method, {**METHODS, PROPAGATION: None}, "method")
    if method == PROPAGATION:
        if relation is not None:
            raise ValueError(
                "propagation goes along all relations: leave the relation out, or take another method."
            )
        return Classified(classes, propagated(graph, kind, labels))
    name = _busiest(graph, kind) if relation is None else relation
    of = graph.relation(name)
    if kind not in (of.source, of.target):
        raise ValueError(f"the relation {name!r} is of {of.source} and {of.target}, not of {kind}.")
    found = link(graph, name, valid=0, method=method, **options)  # type: ignore[arg-type]
    ends = [z for z, end in ((found.sources, of.source), (found.targets, of.target)) if end == kind]
    return Classified(classes, head(torch.cat(ends, 1), labels))


def labelled(graph: Hetero, kind: str, attribute: str) -> tuple[list[str], Tensor]:
    """The classes of nodes of ``kind``, and which each has ``[nodes]``, -1 where it is missing.

    ValueError for an unknown kind or attribute, or fewer than two classes.
    """
    words = graph.attribute(kind, attribute)
    classes = sorted(set(words) - {MISSING})
    if not classes:
        raise ValueError(f"no {kind} has a {attribute!r}: there is nothing to learn from.")
    if len(classes) == 1:
        raise ValueError(
            f"every {kind} that has a {attribute!r} has {classes[0]!r}: there is nothing to tell apart."
        )
    number = {MISSING: -1, **{word: i for i, word in enumerate(classes)}}
    return classes, torch.tensor([number[word] for word in words])


def head(x: Tensor, labels: Tensor, *, steps: int = 200, decay: float = 1e-4) -> Tensor:
    """Probabilities ``[nodes, classes]`` by logistic regression on ``x`` ``[nodes, width]``; label -1 is unknown."""
    known = labels >= 0
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-12)
    linear = nn.Linear(x.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimiser = torch.optim.AdamW(linear.parameters(), 0.05, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        loss = cross_entropy(linear(x[known]), labels[known])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return linear(x).softmax(1)


def propagated(graph: Hetero, kind: str, labels: Tensor) -> Tensor:
    """Probabilities by label propagation; of nodes that no class reaches the shares of the classes."""
    table = views(graph, kind, kind, doubled=False)
    known = labels >= 0
    y = torch.zeros(table.count, int(labels.max()) + 1)
    y[table.sources][known, labels[known]] = 1
    matrix = adjacency([torch.cat(list(table.edges.values()), 1)], table.count)
    spread = y
    for _ in range(ROUNDS):
        spread = KEPT * (matrix @ spread) + (1 - KEPT) * y
    found, shares = spread[table.sources], y.mean(0)
    total = found.sum(1, keepdim=True)
    return torch.where(total > 0, found / total, shares / shares.sum())


def _busiest(graph: Hetero, kind: str) -> str:
    counts = {
        name: relation.edges.shape[1]
        for name, relation in graph.relations.items()
        if kind in (relation.source, relation.target)
    }
    if not counts:
        raise ValueError(f"no relation has a {kind} at an end.")
    return max(counts, key=lambda name: counts[name])


def judge(truth: Tensor, found: Tensor) -> dict[str, float]:
    """``accuracy``, which with one class for each node is micro-F1, and ``macro_f1``, of classes ``[nodes]``.

    Macro-F1 is the mean over the classes of the truth of 2 TP/(2 TP + FP + FN).
    """
    classes = truth.unique()
    hit = [(found == c) & (truth == c) for c in classes]
    f1 = [2 * h.sum() / ((found == c).sum() + (truth == c).sum()) for h, c in zip(hit, classes, strict=True)]
    return {
        "accuracy": float((found == truth).double().mean()),
        "macro_f1": float(torch.stack(f1).double().mean()),
    }
