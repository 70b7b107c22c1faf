"""Graphs to train on, as a LightningDataModule.

Of a file the first fifth is for testing and never trained on, as in GDSS and the benchmarks after it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from diffkit.core.train import EpochData, EpochSampler
from diffkit.graphs import files
from diffkit.graphs.graph import Batch, Classes, Indexed, collate, index
from diffkit.graphs.population import Population

TEST = 0.2
"""The share of a set that is for testing: its first graphs."""

_Graph = TypeVar("_Graph")


def split(graphs: Sequence[_Graph], test: float = TEST) -> tuple[list[_Graph], list[_Graph]]:
    """Training and test graphs, of which the ``test`` share comes first. ValueError for a share outside [0, 1]."""
    if not 0 <= test <= 1:
        raise ValueError(f"the share of test graphs must lie in [0, 1], not {test}.")
    first = int(test * len(graphs))
    return list(graphs[first:]), list(graphs[:first])


class Indices(Dataset[Indexed]):
    """Graphs by index, over and over: item i is graph i modulo their number, ``items`` in an epoch."""

    def __init__(self, graphs: Sequence[Indexed], items: int) -> None:
        self.graphs, self.items = graphs, items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, i: int) -> Indexed:
        return self.graphs[i % len(self.graphs)]


class Alike(EpochSampler):
    """An epoch of :class:`Indices` whose batches hold graphs of like size, so that little of them is padding.

    Sorted by size, equal ones in the epoch's own order, then cut into batches, which come in a random order.
    """

    def __init__(self, dataset: Indices, batch_size: int, like: EpochSampler) -> None:
        super().__init__(dataset, like.num_replicas, like.rank, seed=like.seed, drop_last=True)
        self.batch_size = batch_size
        self.sizes = [len(graph.nodes) for graph in dataset.graphs]

    def __iter__(self) -> Iterator[int]:
        drawn = list(super().__iter__())
        left = len(drawn) % self.batch_size  # dropped before they are sorted, or always the largest would be
        order = sorted(drawn[left:], key=lambda i: self.sizes[i % len(self.sizes)])
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return (i for j in torch.randperm(len(batches), generator=generator).tolist() for i in batches[j])


class GraphData(EpochData):
    """Batches of :class:`~diffkit.graphs.graph.Batch` from graphs on disk, each of graphs of like size.

    Args:
        graphs: a file or a folder, see :func:`diffkit.graphs.files.read`.
        test: the share that comes first and is not trained on.
        valid: of the others, the share that comes last, for the validation loss; with 0, trainer.limit_val_batches
            is 0 too.
        batch_size: graphs in a batch.
        items: graphs in an epoch, however many there are.
        num_workers: of the loader; 0 for graphs as small as these.
        seed: of the order.

    ValueError if nothing is left to train on.
    """

    def __init__(
        self,
        graphs: str,
        test: float = TEST,
        valid: float = 0.1,
        batch_size: int = 64,
        items: int = 6400,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.graphs, self.test, self.valid, self.items = graphs, test, valid, items

    def setup(self, stage: str | None = None) -> None:
        found = files.read(Path(self.graphs))
        self.classes = Classes.of(found)
        train, _ = split(found, self.test)
        rest, kept = split(train[::-1], self.valid)  # from the end
        if not rest:
            raise ValueError(f"{self.graphs} leaves no graph to train on: lower data.test and data.valid.")
        known = [index(graph, self.classes) for graph in rest]
        self.train_set = Indices(known, self.items)
        self.valid_set = Indices([index(graph, self.classes) for graph in kept], len(kept))
        self.population = Population.of(known, self.classes)

    def train_dataloader(self) -> DataLoader[Any]:
        sampler: Any = super().train_dataloader().sampler
        return self._loader(
            self.train_set, sampler=Alike(self.train_set, self.batch_size, sampler), drop_last=True
        )

    def collate(self, items: list[Indexed]) -> Batch:
        """A batch of graphs, padded to the largest."""
        return collate(items, self.classes)
