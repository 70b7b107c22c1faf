"""Noisy or reverberant speech mixed on the fly from a corpus: the training set of both tasks.

The order is that of nature: speech, colour of the voice path, room, noise, level. Item `i` is a pure
function of `(seed, i)`, so it does not matter which worker, rank or epoch of a resumed run asks for it;
item `i` of epoch `e` is `mixer[e * len(mixer) + i]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from . import dsp, noises
from .bank import ClipBank
from .rooms import ONSET, RoomBank, make_bank

Array = NDArray[np.float32]

# How often each kind of noise layer is drawn.
_KINDS = {"files": 0.5, "babble": 0.17, "coloured": 0.15, "typing": 0.11, "hum": 0.07}
# Name of the corpus source that holds single key presses.
_KEYS = "keys"


class Mixer(Dataset[tuple[Tensor, Tensor]]):
    """`(clean, noisy)` pairs, float32 `[samples]` in [-1, 1], from the corpus in `corpus`.

    For `task="enhance"` the noisy side has noise at an SNR drawn from `snr_db` (power over the item, dB) and,
    with `reverb_prob`, a room; the clean side keeps the direct sound and the first `early_ms` of reflections.
    For `task="dereverb"` the noisy side is always in a room and has noise only with `noise_prob`
    (default 0), and the clean side is the direct sound alone, aligned with it.

    rt60: measured seconds of the simulated rooms; `n_rooms` of them (a tenth, others, where `split` is not
    "train") are made once and kept in the corpus.
    level_db: active level of the clean side in dBFS, before the joint rescaling that prevents clipping.
    clean_prob: items without noise (and for enhancement without a room). gap_prob: items with a silent gap.
    colour_prob: items whose voice is equalised by up to +-8 dB or band-limited.
    Raises `ValueError` for a corpus without speech or noise in `split`, or a range that is not one.
    """

    def __init__(
        self,
        corpus: str | Path,
        split: str = "train",
        task: Literal["enhance", "dereverb"] = "enhance",
        rate: int = 16000,
        seconds: float = 2.0,
        items: int = 10000,
        seed: int = 0,
        snr_db: tuple[float, float] = (-5.0, 20.0),
        level_db: tuple[float, float] = (-40.0, -10.0),
        rt60: tuple[float, float] = (0.15, 1.8),
        n_rooms: int = 300,
        reverb_prob: float | None = None,
        noise_prob: float | None = None,
        early_ms: float = 50.0,
        clean_prob: float = 0.03,
        gap_prob: float = 0.05,
        colour_prob: float = 0.3,
    ) -> None:
        for name, (low, high) in {"snr_db": snr_db, "level_db": level_db, "rt60": rt60}.items():
            if low > high:
                raise ValueError(f"{name} must be (low, high), got ({low}, {high}).")
        if task not in ("enhance", "dereverb"):
            raise ValueError(f"task must be 'enhance' or 'dereverb', got {task!r}.")
        self.dereverb = task == "dereverb"
        self.rate, self.items, self.seed = rate, items, seed
        self.samples = round(seconds * rate)
        self.snr_db, self.level_db = snr_db, level_db
        self.reverb_prob = (1.0 if self.dereverb else 0.3) if reverb_prob is None else reverb_prob
        self.noise_prob = (0.0 if self.dereverb else 1.0) if noise_prob is None else noise_prob
        self.early = ONSET + round(early_ms * rate / 1000)
        self.clean_prob, self.gap_prob, self.colour_prob = clean_prob, gap_prob, colour_prob
        self.speech = ClipBank.load(corpus, "speech", split, rate)
        self.noise = ClipBank.load(corpus, "noise", split, rate) if self.noise_prob else None
        self.rooms: RoomBank | None = None
        if self.reverb_prob:
            train = split == "train"  # rooms are held out too
            rooms, room_seed = (n_rooms, 0) if train else (max(1, n_rooms // 10), 1)
            self.rooms = make_bank(rooms, rate, room_seed, rt60, Path(corpus, ".cache"), progress=True)
        self.kinds = dict(_KINDS)
        if self.noise is not None:
            self.noise_files = [name for name in self.noise.names if name != _KEYS]
            if _KEYS not in self.noise.names:
                del self.kinds["typing"]
            if not self.noise_files:
                del self.kinds["files"]

    def __len__(self) -> int:
        return self.items

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(self.items))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        untouched = rng.random() < self.clean_prob
        in_room = rng.random() < self.reverb_prob and (self.dereverb or not untouched)
        has_noise = rng.random() < self.noise_prob and not untouched
        clean, noisy, room = self._speak(rng, in_room)
        gain = 10 ** (rng.uniform(*self.level_db) / 20) / dsp.active_rms(clean, self.rate)
        if has_noise:
            noise = self._make_noise(rng, room)
            noisy = noisy + noise * np.float32(dsp.snr_gain(noisy, noise, rng.uniform(*self.snr_db)))
        peak = max(np.abs(noisy).max(), np.abs(clean).max())
        gain = np.float32(min(gain, 0.99 / (peak + 1e-9)))
        return torch.from_numpy(clean * gain), torch.from_numpy(noisy * gain)

    def _speak(self, rng: np.random.Generator, in_room: bool) -> tuple[Array, Array, int | None]:
        """Target and room sound, `[samples]` each, and the index of the room."""
        # In a room what was said before the item still sounds in it.
        lead = self.rate // 2 if in_room else 0
        dry = self._draw_speech(rng, lead + self.samples)
        if rng.random() < self.gap_prob:
            _cut_gap(rng, dry, self.rate)
        room = int(rng.integers(len(self.rooms))) if in_room and self.rooms else None
        tail = len(self.rooms.full[room]) if self.rooms and room is not None else 0
        n = dsp.fast_length(len(dry) + tail)
        spectrum = np.fft.rfft(dry, n)
        if rng.random() < self.colour_prob:
            spectrum *= dsp.random_gain(rng, n, 8)
            if rng.random() < 0.3:
                spectrum *= dsp.random_low_pass(rng, n, self.rate)
        if self.rooms is None or room is None:
            clean = np.fft.irfft(spectrum, n)[: self.samples].astype(np.float32)
            return clean, clean, None
        full = self.rooms.full[room]
        kept = self.rooms.direct[room] if self.dereverb else _early(full, self.early)
        both = np.fft.irfft(spectrum * np.stack([np.fft.rfft(kept, n), np.fft.rfft(full, n)]), n)
        clean, noisy = both[:, lead + ONSET :][:, : self.samples].astype(np.float32)
        return clean, noisy, room

    def _draw_speech(self, rng: np.random.Generator, samples: int) -> Array:
        speaker = self.speech.group(rng, self.speech.names)
        pause = self.rate // 4
        wave = noises.utterance(rng, self.speech, speaker, samples, pause)
        for _ in range(2):  # prefer an item with a voice in at least half of it
            if dsp.active_frames(wave, self.rate).mean() >= 0.5:
                break
            wave = noises.utterance(rng, self.speech, speaker, samples, pause)
        return wave

    def _make_noise(self, rng: np.random.Generator, room: int | None) -> Array:
        """1-3 layers, the first the loudest, sometimes modulated, equalised and in a room like the voice."""
        assert self.noise is not None
        names, weights = list(self.kinds), np.array(list(self.kinds.values()))
        total = np.zeros(self.samples, np.float32)
        for layer in range(rng.choice((1, 2, 3), p=(0.55, 0.3, 0.15))):
            match names[rng.choice(len(names), p=weights / weights.sum())]:
                case "files":
                    wave = noises.from_files(rng, self.noise, self.noise_files, self.samples)
                case "babble":
                    wave = noises.babble(rng, self.speech, self.rooms, self.samples)
                case "coloured":
                    wave = noises.coloured(rng, self.samples)
                case "typing":
                    wave = noises.typing(rng, self.noise, _KEYS, self.samples, self.rate)
                case _:
                    wave = noises.hum(rng, self.samples, self.rate)
            if rng.random() < 0.3:
                wave = dsp.modulate(rng, wave, 6, int(self.rate * rng.uniform(0.05, 1)))
            level = 0.0 if layer == 0 else rng.uniform(-12, 0)
            total += wave * np.float32(10 ** (level / 20) / dsp.rms(wave))
        if room is not None and rng.random() < 0.5:
            assert self.rooms is not None  # rooms are sorted by RT60: a neighbour is much the same room
            near = int(np.clip(room + rng.integers(-5, 6), 0, len(self.rooms) - 1))
            total = dsp.convolve(total, self.rooms.full[near])[: self.samples]
        if rng.random() < 0.5:
            total = dsp.equalise(rng, total, 8)
        return total


def _cut_gap(rng: np.random.Generator, wave: Array, rate: int) -> None:
    length = int(len(wave) * rng.uniform(0.1, 0.5))
    start = int(rng.integers(len(wave) - length + 1))
    fade = min(rate // 100, length // 2)
    window = np.zeros(length, np.float32)
    window[:fade], window[length - fade :] = np.linspace(1, 0, fade), np.linspace(0, 1, fade)
    wave[start : start + length] *= window


def _early(response: Array, samples: int) -> Array:
    """The first `samples` of a response, faded out over the last fifth of them."""
    window = np.minimum(1, np.linspace(5, 0, samples, dtype=np.float32))
    return response[:samples] * window[: len(response)]
