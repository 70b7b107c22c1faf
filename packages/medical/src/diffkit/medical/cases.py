"""What a segmenter is trained and tested on: crops with their labels, and whole images with theirs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from diffkit.core.train import EpochData
from diffkit.medical.data import Image, images
from diffkit.medical.sources import Split
from diffkit.medical.volume import Volume

UNKNOWN = 255
"""In a truth: of no known class, and not to be judged."""


class Case(NamedTuple):
    """One subject: images by channel on one grid, as :func:`~diffkit.medical.preprocess.prepare` takes them.

    ``truth`` are the classes on that grid, ``[1, i, j, k]`` uint8, :data:`UNKNOWN` where nobody knows.
    """

    name: str
    volumes: dict[str, Volume]
    truth: Volume


Draw: TypeAlias = Callable[[np.random.Generator], tuple[Tensor, Tensor]]
"""A crop and its labels from a generator."""


class Draws(Dataset[tuple[Tensor, Tensor]]):
    """``items`` of what ``draw`` makes from a generator: item i is a function of ``seed`` and i alone."""

    def __init__(self, draw: Draw, *, items: int, seed: int) -> None:
        self.draw, self.items, self.seed = draw, items, seed

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.draw(np.random.default_rng((self.seed, index)))


class SegmentData(EpochData):
    """Batches of ``(image [batch, channels, x, y, z], label [batch, x, y, z] int64)``, class 0 being the background.

    Images are in the units of :mod:`~diffkit.medical.preprocess`, and axes are in the order of RAS.

    Args:
        folder: of the data.
        spacing: of a voxel, mm.
        size: voxels of a crop.
        items: crops of an epoch; 32 others are seen at every validation.
        batch_size, num_workers, seed: of :class:`~diffkit.core.train.EpochData`.
    """

    channels: tuple[str, ...]
    kinds: tuple[str, ...]
    classes: tuple[str, ...]
    mirrored = False
    """Whether crops are mirrored left to right at times: then a mirrored image is one more to ask a segmenter about."""

    def __init__(
        self,
        folder: str,
        *,
        spacing: float = 2.0,
        size: tuple[int, int, int] = (64, 64, 32),
        batch_size: int = 2,
        items: int = 2000,
        num_workers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        x, y, z = size
        self.folder, self.items = Path(folder), items
        self.spacing, self.size = spacing, (x, y, z)

    def draw(self, train: Draw, valid: Draw) -> None:
        """Make the two sets, of crops that ``train`` and ``valid`` draw."""
        self.train_set = Draws(train, items=self.items, seed=self.seed)
        self.valid_set = Draws(valid, items=32, seed=self.seed + 1)

    def spec(self) -> dict[str, Any]:
        """What a checkpoint remembers to see a new image alike: see :mod:`~diffkit.medical.preprocess`."""
        return {
            "channels": list(self.channels),
            "kinds": list(self.kinds),
            "classes": list(self.classes),
            "spacing": self.spacing,
            "size": list(self.size),
            "mirrored": self.mirrored,
        }

    def test_cases(self) -> Iterator[Case]:
        """Whole images of subjects that nothing was trained on, with their truth."""
        raise NotImplementedError


def listed(folder: Path, split: Split, name: str) -> Image:
    """The labels SUBJECT/NAME of the demo data, with what they are called; ValueError if they are not there."""
    path = f"{split}/{name}"
    found = [image for image in images(folder, "mri", split, "labels") if image.path == path]
    if not found:
        raise ValueError(f"{folder} lacks {path}: build it with `diffkit-medical data {folder}`.")
    return found[0]
