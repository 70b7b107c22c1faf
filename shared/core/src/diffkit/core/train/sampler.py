"""Batches in the order in which a run sees its data."""

from collections.abc import Iterator, Sized
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate


class EpochSampler(DistributedSampler[Any]):
    """A distributed shuffle whose indices go on counting: epoch ``e`` gives ``e * len(dataset) + i``.

    For data sets that draw item ``i`` as a pure function of their seed and ``i``: persistent workers, several
    machines and a resumed run then see what one process would have seen, and no item twice.
    """

    dataset: Sized

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(self.dataset)
        return (first + int(i) for i in super().__iter__())


class EpochData(LightningDataModule):
    """Batches of ``train_set``, by :class:`EpochSampler`, and of ``valid_set``; a domain's ``setup`` makes both."""

    train_set: Any
    valid_set: Any

    def __init__(self, *, batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def collate(self, items: list[Any]) -> Any:
        """A batch of items: of tensors their stack."""
        return default_collate(items)

    def train_dataloader(self) -> DataLoader[Any]:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = EpochSampler(self.train_set, ranks, rank, seed=self.seed, drop_last=True)
        return self._loader(self.train_set, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.valid_set, shuffle=False)

    def _loader(self, dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.collate,
            **options,
        )
