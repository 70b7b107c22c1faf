"""All clips of one kind and split in memory: int16 at one rate, resampled once, mapped from one file."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkit.core.files import whole

from . import audio, corpus

Array = NDArray[np.float32]


class ClipBank:
    """Clips in groups (speakers, or sources of noise), each scaled to a peak of 0.9.

    `path` is an int16 .npy file of all clips one after the other, mapped into memory, so the workers and
    ranks of a machine share it; `lengths` [clips] and `groups` [clips] say what is in it.
    """

    def __init__(self, path: Path, lengths: Sequence[int], groups: Sequence[str]) -> None:
        self._path = path
        self._samples = np.load(path, mmap_mode="r")
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self.names = sorted(set(groups))
        index = np.array([self.names.index(group) for group in groups])
        self._members = [np.flatnonzero(index == i) for i in range(len(self.names))]
        sizes = [np.asarray(lengths, dtype=np.float64)[members] for members in self._members]
        # Within a group every second of audio is as likely as every other ...
        self._cumulative = [np.cumsum(size) / size.sum() for size in sizes]
        # ... and groups weigh by the root of their length: long ones lead without drowning the short.
        self.weights = np.sqrt([size.sum() for size in sizes])

    @classmethod
    def load(cls, directory: str | Path, kind: str, split: str, rate: int) -> "ClipBank":
        """The bank of a corpus folder, kept in its `.cache`; raises `ValueError` if it has no such clips."""
        directory = Path(directory)
        clips = corpus.clips(directory, kind, split)
        if not clips:
            raise ValueError(
                f"{directory} has no {kind} in its split {split!r}; build it with `diffkit-speech data`."
            )
        key = hashlib.sha256("".join(clip.sha256 for clip in clips).encode()).hexdigest()[:12]
        path = directory / ".cache" / f"{kind}-{split}-{rate}-{key}"
        if not path.with_suffix(".json").is_file():
            _resample([directory / clip.path for clip in clips], rate, path)
        lengths = json.loads(path.with_suffix(".json").read_text())
        return cls(path.with_suffix(".npy"), lengths, [clip.speaker for clip in clips])

    def __len__(self) -> int:
        return len(self._starts)

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker maps the file again; pickling the map would copy all of it.
        return {name: value for name, value in self.__dict__.items() if name != "_samples"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_samples": np.load(state["_path"], mmap_mode="r")}

    def group(self, rng: np.random.Generator, names: Sequence[str]) -> str:
        """One of `names`, by weight."""
        weights = self.weights[[self.names.index(name) for name in names]]
        return names[int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), side="right"))]

    def clip(self, rng: np.random.Generator, group: str) -> NDArray[np.int16]:
        """A whole clip of `group`, drawn in proportion to its length."""
        i = self.names.index(group)
        chosen = self._members[i][np.searchsorted(self._cumulative[i], rng.random(), side="right")]
        return self._samples[self._starts[chosen] : self._ends[chosen]]


def _resample(paths: list[Path], rate: int, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)

    def one(path: Path) -> NDArray[np.int16]:
        wave = audio.read(path, rate)[0][0]
        return (wave * (0.9 * 32767 / wave.abs().max().clamp(min=1e-4))).round().short().numpy()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        clips = list(pool.map(one, paths))
    samples, lengths = np.concatenate(clips), json.dumps([len(clip) for clip in clips])
    # The list of lengths comes last: where it is, the samples are whole.
    with whole(target.with_suffix(".npy")) as beside:
        np.save(beside, samples)
    with whole(target.with_suffix(".json")) as beside:
        beside.write_text(lengths)
