"""The order in which a run sees its data."""

from collections.abc import Iterator, Sized
from typing import Any

from torch.utils.data import DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """A distributed shuffle whose indices go on counting: epoch ``e`` gives ``e * len(dataset) + i``.

    For data sets that draw item ``i`` as a pure function of their seed and ``i``: persistent workers, several
    machines and a resumed run then see what one process would have seen, and no item twice.
    """

    dataset: Sized

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(self.dataset)
        return (first + int(i) for i in super().__iter__())
