"""What a set of graphs says as a whole: its labels, how frequent the classes are, how many nodes a graph has."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffkit.core.categorical import Marginal
from diffkit.core.joint import Joint
from diffkit.graphs.graph import Classes, Indexed


@dataclass(frozen=True)
class Population:
    """Measured on training graphs by :meth:`of`, and kept in a checkpoint.

    Args:
        classes: the labels.
        nodes: the share of each class of nodes, ``[K]``.
        edges: the share of each class of pairs, ``[C]``, class 0 being no edge.
        sizes: how many graphs have 0, 1, 2, ... nodes.
        degrees: how many nodes have 0, 1, 2, ... neighbours.
    """

    classes: Classes
    nodes: Sequence[float]
    edges: Sequence[float]
    sizes: Sequence[int]
    degrees: Sequence[int] = ()

    @classmethod
    def of(cls, graphs: Sequence[Indexed], classes: Classes) -> "Population":
        """That of graphs, each pair of nodes counted once."""
        K, C = classes.sizes
        nodes, pairs = torch.zeros(K, dtype=torch.float64), torch.zeros(C, dtype=torch.float64)
        degrees = torch.cat([graph.pairs.bool().sum(1) for graph in graphs]).bincount()
        for graph in graphs:
            n = len(graph.nodes)
            nodes += graph.nodes.long().bincount(minlength=K)
            pairs += graph.pairs[tuple(torch.triu_indices(n, n, 1))].long().bincount(minlength=C)
        sizes = torch.tensor([len(graph.nodes) for graph in graphs]).bincount()
        return cls(
            classes,
            (nodes / nodes.sum()).tolist(),
            (pairs / pairs.sum()).tolist(),
            sizes.tolist(),
            degrees.tolist(),
        )

    @property
    def largest(self) -> int:
        """The nodes of the largest graph."""
        return len(self.sizes) - 1

    def features(self, count: int) -> list[float]:
        """The share of each label of a node; without labels of ``count`` degrees, the last for all above."""
        if len(self.nodes) > 1:
            return list(self.nodes)
        total = sum(self.degrees)
        shares = [number / total for number in [*self.degrees, *[0] * count]]
        return [*shares[: count - 1], sum(shares[count - 1 :])]

    def process(self, schedule: str = "linear") -> Joint:
        """Noise of the classes' frequencies (DiGress): leaves ``nodes``, if there are two classes, and ``edges``."""
        leaves = {"nodes": self.nodes, "edges": self.edges}
        return Joint({name: Marginal(p, schedule) for name, p in leaves.items() if len(p) > 1})

    def draw_size(self, seed: int) -> int:
        """A number of nodes, as frequent as among the graphs; a function of ``seed``.

        Seeds that follow each other spread evenly over the sizes, so that few graphs have them in the right shares:
        the quantile at the seed's radical inverse in base 2 (van der Corput 1935).
        """
        place = int(f"{seed % 2**53:053b}"[::-1], 2) / 2**53
        shares = torch.tensor(self.sizes, dtype=torch.float64).cumsum(0)
        return int(torch.searchsorted(shares, place * shares[-1], right=True))
