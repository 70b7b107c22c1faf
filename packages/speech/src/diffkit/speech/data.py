"""Data sets and loaders: pairs on disk, or pairs mixed on the fly, as one LightningDataModule.

Training data sets here are stateless: item `i` of epoch `e` is `dataset[e * len(dataset) + i]`, a pure
function of the seed, counted by :class:`~diffkit.core.train.EpochSampler`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from diffkit.core.train import EpochData

from . import audio
from .mixing import Mixer

Pair = tuple[Tensor, Tensor]

# The names of the two sides, the target first: noisy speech, or SGMSE's names for reverberant speech.
_SIDES = (("clean", "noisy"), ("anechoic", "reverb"))


class PairedFolder(Dataset[Pair]):
    """`(clean, noisy)` mono pairs, float32 `[samples]`, of equal relative names under two folders of `root`.

    The folders are `clean/` and `noisy/`, or `anechoic/` and `reverb/`; a suffix may differ between sides.
    Files are resampled to `rate` Hz and channels averaged. `crop` seconds are cut at a random place that is a
    function of `(seed, index)`, and shorter files are padded with silence; None gives whole files.
    Raises `ValueError` where the two sides do not match, or a pair differs in rate or length.
    """

    def __init__(self, root: str | Path, rate: int = 16000, crop: float | None = None, seed: int = 0) -> None:
        self.root, self.rate, self.crop, self.seed = Path(root), rate, crop, seed
        self.pairs = _match(self.root)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Pair:
        clean, noisy = self.pairs[index % len(self)]
        about, other = audio.info(clean), audio.info(noisy)
        if (about.rate, about.samples) != (other.rate, other.samples):
            raise audio.AudioError(
                f"{clean} ({about.samples} samples at {about.rate} Hz) and {noisy} "
                f"({other.samples} at {other.rate} Hz) differ in length or rate."
            )
        start, samples = 0, about.samples
        if self.crop is not None:
            samples = round(self.crop * about.rate)
            start = int(
                np.random.default_rng((self.seed, index)).integers(max(about.samples - samples, 0) + 1)
            )
        pair = [audio.read(path, self.rate, start, samples)[0].mean(0) for path in (clean, noisy)]
        if self.crop is not None:
            wanted = round(self.crop * self.rate)
            pair = [functional.pad(wave[:wanted], (0, max(wanted - len(wave), 0))) for wave in pair]
        return pair[0], pair[1]


class AudioData(EpochData):
    """Training and validation batches `(clean, noisy)`, each `[batch, samples]` float32.

    Give either `corpus`, a folder built by `diffkit-speech data`, mixed by :class:`Mixer` with the extra
    arguments `mixer`; or `paired`, a folder with `train/` and `valid/`, each a :class:`PairedFolder`.
    rate in Hz; seconds per item; items and valid_items per epoch (corpus only).
    """

    def __init__(
        self,
        corpus: str | None = None,
        paired: str | None = None,
        task: Literal["enhance", "dereverb"] = "enhance",
        rate: int = 16000,
        seconds: float = 2.0,
        batch_size: int = 8,
        items: int = 10000,
        valid_items: int = 64,
        num_workers: int = 1,
        seed: int = 0,
        mixer: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if (corpus is None) == (paired is None):
            raise ValueError("give either corpus or paired, a folder of recordings to mix or of pairs.")
        self.corpus, self.paired, self.rate, self.seconds = corpus, paired, rate, seconds
        self.task: Literal["enhance", "dereverb"] = task
        self.items, self.valid_items, self.mixer = items, valid_items, mixer or {}

    def prepare_data(self) -> None:
        """Fill the corpus' cache in one process per machine before the others read it."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        self.train_set, self.valid_set = self._dataset("train"), self._dataset("valid")

    def _dataset(self, split: str) -> Mixer | PairedFolder:
        if self.paired is not None:
            return PairedFolder(Path(self.paired, split), self.rate, self.seconds, self.seed)
        assert self.corpus is not None
        train = split == "train"
        return Mixer(
            self.corpus,
            split,
            task=self.task,
            rate=self.rate,
            seconds=self.seconds,
            items=self.items if train else self.valid_items,
            seed=self.seed,
            **self.mixer,
        )


def _match(root: Path) -> list[tuple[Path, Path]]:
    for target, source in _SIDES:
        if (root / target).is_dir() and (root / source).is_dir():
            break
    else:
        raise ValueError(f"{root} must hold the folders clean/ and noisy/, or anechoic/ and reverb/.")
    sides = [
        {path.relative_to(root / side).with_suffix(""): path for path in audio.find(root / side)}
        for side in (target, source)
    ]
    for here, there, names in (
        (target, source, sides[0].keys() - sides[1]),
        (source, target, sides[1].keys() - sides[0]),
    ):
        if names:
            raise ValueError(
                f"{root}: {len(names)} files in {here}/ have no partner in {there}/, first {min(names)}."
            )
    if not sides[0]:
        raise ValueError(f"{root / target} holds no audio files ({', '.join(audio.SUFFIXES)}).")
    return [(sides[0][name], sides[1][name]) for name in sorted(sides[0])]
