"""Noise made on the spot: events and ambience from files, babble, coloured noise, hum and typing.

Each maker takes a generator and a length and returns float32 `[samples]` at an arbitrary level; the mixer
sets the levels. All randomness comes from the generator.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .bank import ClipBank
from .dsp import convolve, fast_length, random_gain, rms
from .rooms import RoomBank

Array = NDArray[np.float32]


def coloured(rng: np.random.Generator, samples: int) -> Array:
    """Gaussian noise of unit RMS with power as 1/f^a, a in [-0.5, 2.5] (0 white, 2 brown), and an EQ."""
    n = fast_length(samples)
    bins = np.maximum(np.arange(n // 2 + 1, dtype=np.float32), n / 800)  # flat below 20 Hz at 16 kHz
    shape = bins ** (-rng.uniform(-0.5, 2.5) / 2) * random_gain(rng, n, 6)
    spectrum = rng.standard_normal((2, n // 2 + 1), dtype=np.float32) * shape
    wave = np.fft.irfft(spectrum[0] + 1j * spectrum[1], n)[:samples].astype(np.float32)
    return wave / np.float32(rms(wave))


def hum(rng: np.random.Generator, samples: int, rate: int) -> Array:
    """Mains or a motor: up to 30 harmonics of a slowly drifting 40-300 Hz, over a little coloured noise."""
    base = float(rng.choice((50, 60, rng.uniform(40, 300))))
    drift = np.interp(np.arange(samples), np.linspace(0, samples, 5), 1 + 0.01 * rng.standard_normal(5))
    phase = np.cumsum(2 * np.pi * base / rate * drift)
    orders = np.arange(1, min(30, int(0.45 * rate / base)) + 1)
    gains = orders ** -rng.uniform(0.3, 1.5) * 10 ** (rng.uniform(-12, 0, len(orders)) / 20)
    # Chebyshev recurrence: cos((k+1)p) = 2 cos(p) cos(kp) - cos((k-1)p), far cheaper than thirty sines.
    cosine = np.cos(phase).astype(np.float32)
    before, now, wave = np.ones_like(cosine), cosine, np.zeros_like(cosine)
    for gain in gains.astype(np.float32):
        wave += gain * now
        before, now = now, 2 * cosine * now - before
    noise = coloured(rng, samples)
    level = 10 ** (rng.uniform(-25, -5) / 20)
    return (wave / rms(wave) + noise * level).astype(np.float32)


def from_files(rng: np.random.Generator, bank: ClipBank, names: Sequence[str], samples: int) -> Array:
    """Recorded noise: a long clip is cropped, a short one repeats at random intervals; pitch x 0.7-1.4."""
    group = bank.group(rng, names)
    speed = float(np.exp2(rng.uniform(-0.5, 0.5))) if rng.random() < 0.5 else 1.0
    needed = int(np.ceil(samples * speed)) + 1
    clip = bank.clip(rng, group)
    if len(clip) >= needed:
        start = rng.integers(len(clip) - needed + 1)
        wave = clip[start : start + needed].astype(np.float32)
    else:
        wave = _scatter(rng, [clip, bank.clip(rng, group)], needed)
    if speed != 1.0:
        wave = np.interp(np.arange(samples) * speed, np.arange(needed), wave).astype(np.float32)
    return wave[:samples]


def typing(rng: np.random.Generator, bank: ClipBank, group: str, samples: int, rate: int) -> Array:
    """Key presses of `group` at 2-12 a second, in bursts, each at its own loudness."""
    wave = np.zeros(samples, np.float32)
    pace = rng.uniform(2, 12)
    position = int(rng.exponential(rate / pace))
    while position < samples:
        click = bank.clip(rng, group)[: samples - position]
        wave[position : position + len(click)] += click * np.float32(10 ** (rng.uniform(-15, 0) / 20))
        pause = rng.uniform(0.3, 1.5) if rng.random() < 0.08 else 0.0
        position += int(rate * (pause + rng.gamma(4, 1 / (4 * pace)))) + 1
    return wave


def babble(rng: np.random.Generator, speech: ClipBank, rooms: RoomBank | None, samples: int) -> Array:
    """3-12 voices at once at different distances; half the time in a room, if there are `rooms`."""
    wave = np.zeros(samples, np.float32)
    for _ in range(rng.integers(3, 13)):
        voice = utterance(rng, speech, speech.group(rng, speech.names), samples)
        wave += voice * np.float32(10 ** (rng.uniform(-12, 0) / 20) / rms(voice))
    if rooms is not None and rng.random() < 0.5:
        response = rooms.full[rng.integers(len(rooms))]
        wave = convolve(wave, response)[:samples]
    return wave


def utterance(
    rng: np.random.Generator, speech: ClipBank, speaker: str, samples: int, pause: int = 0
) -> Array:
    """`samples` of one speaker: clips joined with gaps of up to `pause`, then cut at a random place."""
    parts = [speech.clip(rng, speaker)]
    total = len(parts[0])
    while total < samples:
        clip = speech.clip(rng, speaker)
        gap = int(rng.integers(pause + 1))
        parts += [np.zeros(gap, np.int16), clip]
        total += gap + len(clip)
    joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
    start = rng.integers(total - samples + 1)
    return joined[start : start + samples].astype(np.float32)


def _scatter(rng: np.random.Generator, clips: Sequence[NDArray[np.int16]], samples: int) -> Array:
    # Either a steady loop, overlapped so that it has no gaps, or separate events.
    wave = np.zeros(samples, np.float32)
    steady = rng.random() < 0.5
    position = 0 if steady else int(rng.integers(max(1, samples // 2)))
    while position < samples:
        clip = clips[0] if steady else clips[int(rng.integers(len(clips)))]
        fade = min(len(clip) // 4, 400)
        window = np.ones(len(clip), np.float32)
        if fade:
            ramp = np.linspace(0, 1, fade, dtype=np.float32)
            window[:fade], window[-fade:] = ramp, ramp[::-1]
        part = (clip * window)[: samples - position]
        wave[position : position + len(part)] += part
        step = len(clip) - fade if steady else int(len(clip) * rng.uniform(0.5, 3))
        position += max(step, 800)
    return wave
