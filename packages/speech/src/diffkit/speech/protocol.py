"""The fixed test sets that results are reported on: 10 utterances at 3 noise levels, and in 3 rooms.

Everything is drawn from the `test` split of the corpus, by a rule and a seed, so that every machine writes
the same pairs. Speech is at an active level of -26 dBFS; the SNR is the ratio of powers over the whole clip.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffkit.core.files import whole_folder

from . import audio
from .corpus import Clip, clips
from .dsp import active_rms, convolve, snr_gain
from .rooms import ONSET, SPEED_OF_SOUND, draw_room, impulse_response

RATE = 16000
SNRS_DB = (0, 5, 10)
RT60S = (0.4, 0.8, 1.2)
_LEVEL_DB = -26.0
_UTTERANCES = 10
_SECONDS = (4.0, 9.0)

Array = NDArray[np.float32]


def fixed_mixtures(corpus: str | Path, out: str | Path, snrs_db: Sequence[int] = SNRS_DB) -> int:
    """Write `out/{clean,noisy}/NAME_snrXX.wav`: every utterance with its own noise at each SNR in dB.

    Returns the number of pairs. `out` must not exist yet. Raises `ValueError` for a corpus without test
    clips.
    """
    utterances = _utterances(corpus)
    noises = _noise_segments(corpus, [len(wave) for _, wave in utterances])

    def pairs(save: Callable[[str, Array, Array], None]) -> None:
        for (name, clean), (noise_name, noise) in zip(utterances, noises, strict=True):
            for snr in snrs_db:
                noisy = (clean + noise * snr_gain(clean, noise, snr)).astype(np.float32)
                save(f"{name}_{noise_name}_snr{snr:02d}.wav", clean, noisy)

    return _write(Path(out), "noisy", pairs)


def fixed_reverb(corpus: str | Path, out: str | Path, rt60s: Sequence[float] = RT60S) -> int:
    """Write `out/{clean,reverb}/NAME_rt60_X.wav` at each nominal RT60 of X seconds.

    Rooms are shoeboxes of the image source method with a source 1-3 m away; the clean side is the speech
    through the direct path alone, aligned. Returns the number of pairs; raises as :func:`fixed_mixtures`.
    """
    utterances = _utterances(corpus)

    def pairs(save: Callable[[str, Array, Array], None]) -> None:
        for index, (name, dry) in enumerate(utterances):
            for rt60 in rt60s:
                rng = np.random.default_rng((index, round(100 * rt60)))
                room = draw_room(rng, (rt60, rt60), distance=(1.0, 3.0))
                every_reflection = math.ceil(SPEED_OF_SOUND * rt60 / min(room.size))
                full, direct = impulse_response(room, RATE, every_reflection)
                clean, reverb = (
                    convolve(dry, response)[ONSET : ONSET + len(dry)] for response in (direct, full)
                )
                save(f"{name}_rt60_{rt60:g}.wav", clean, reverb)

    return _write(Path(out), "reverb", pairs)


def _utterances(corpus: str | Path) -> list[tuple[str, Array]]:
    """Ten test utterances as equally as possible over the speakers, with names such as en-allison-1."""
    low, high = _SECONDS
    speakers: dict[str, list[Clip]] = {}
    for clip in clips(corpus, "speech", "test"):
        if low <= clip.seconds <= high:
            speakers.setdefault(clip.speaker, []).append(clip)
    if not speakers:
        raise ValueError(
            f"{corpus} has no test speech of {low:g}-{high:g} s; build it with `diffkit-speech data`."
        )
    # By checksum: a fair draw that does not hang on file names or on the order of a folder.
    queues = [sorted(found, key=lambda clip: clip.sha256) for _, found in sorted(speakers.items())]
    chosen: list[tuple[str, Clip]] = []
    for turn in range(_UTTERANCES):
        for queue in queues:
            if turn < len(queue):
                chosen.append((f"{queue[turn].speaker}-{turn + 1}", queue[turn]))
    chosen = sorted(chosen[:_UTTERANCES], key=lambda named: named[0])
    return [(name, _level(_load(corpus, clip))) for name, clip in chosen]


def _noise_segments(corpus: str | Path, lengths: Sequence[int]) -> list[tuple[str, Array]]:
    """One segment per length, walking through the test noises, never the same part of a file twice."""
    found = [
        (Path(clip.path).stem.rpartition("resources-")[2], _load(corpus, clip))
        for clip in clips(corpus, "noise", "test")
    ]
    found = [(name, wave) for name, wave in found if len(wave) >= max(lengths)]
    used = dict.fromkeys((name for name, _ in found), 0)
    segments: list[tuple[str, Array]] = []
    for length in lengths:
        free = [(used[name] // RATE, name, wave) for name, wave in found if used[name] + length <= len(wave)]
        if not free:
            raise ValueError(f"{corpus} has too little test noise for {len(lengths)} utterances.")
        _, name, wave = min(free, key=lambda entry: (used[entry[1]], entry[1]))
        segments.append((name, wave[used[name] : used[name] + length]))
        used[name] += length
    return segments


def _load(corpus: str | Path, clip: Clip) -> Array:
    return audio.read(Path(corpus, clip.path), RATE)[0][0].numpy()


def _level(wave: Array) -> Array:
    return wave * np.float32(10 ** (_LEVEL_DB / 20) / active_rms(wave, RATE))


def _write(out: Path, side: str, pairs: Callable[[Callable[[str, Array, Array], None]], None]) -> int:
    if out.exists():
        raise ValueError(f"{out} exists already; give a new folder or delete it.")
    count = 0

    def save(name: str, clean: Array, degraded: Array) -> None:
        nonlocal count
        gain = np.float32(min(1.0, 0.99 / max(np.abs(clean).max(), np.abs(degraded).max())))
        audio.write(work / "clean" / name, torch.from_numpy(clean * gain), RATE)
        audio.write(work / side / name, torch.from_numpy(degraded * gain), RATE)
        count += 1

    with whole_folder(out) as work:
        for folder in ("clean", side):
            (work / folder).mkdir()
        pairs(save)
    return count
