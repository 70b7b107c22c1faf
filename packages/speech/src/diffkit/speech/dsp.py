"""The arithmetic of levels, filters and convolution that mixing is made of; all waves are `[samples]`."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

Array = NDArray[np.float32]

_FRAME = 0.02  # seconds, for the active level


def rms(wave: Array) -> float:
    """Root mean square over the whole array."""
    return float(np.sqrt(np.mean(np.square(wave)) + 1e-24))


def equalise(rng: np.random.Generator, wave: Array, decibels: float, knots: int = 7) -> Array:
    """`wave` through a random smooth zero-phase equaliser of up to +-`decibels`; see :func:`random_gain`."""
    n = fast_length(len(wave))
    filtered = np.fft.irfft(np.fft.rfft(wave, n) * random_gain(rng, n, decibels, knots), n)
    return filtered[: len(wave)].astype(np.float32)


def random_gain(rng: np.random.Generator, n: int, decibels: float, knots: int = 7) -> Array:
    """Amplitude per bin of an `n`-point real FFT: random dB values at log-spaced knots, interpolated."""
    bins = np.arange(n // 2 + 1, dtype=np.float32)
    octaves = np.log2(np.maximum(bins, n / 1024) / (n / 2))  # 0 at Nyquist, -9 at the lowest knot
    levels = np.interp(octaves, np.linspace(-9, 0, knots), rng.uniform(-decibels, decibels, knots))
    return (10 ** (levels / 20)).astype(np.float32)


def modulate(rng: np.random.Generator, wave: Array, decibels: float, every: int) -> Array:
    """`wave` with a gain that wanders by up to +-`decibels`, one knot in `every` samples."""
    knots = len(wave) // every + 2
    gain = 10 ** (rng.uniform(-decibels, decibels, knots) / 20)
    return (wave * np.interp(np.arange(len(wave)) / every, np.arange(knots), gain)).astype(np.float32)


def random_low_pass(rng: np.random.Generator, n: int, rate: int) -> Array:
    """Amplitude per bin of an `n`-point real FFT: 1 below a cut-off of 3.2 kHz to Nyquist, 0 above it."""
    cut = rng.uniform(min(3200, rate / 4), rate / 2)
    frequency = np.arange(n // 2 + 1, dtype=np.float32) * (rate / n)
    return np.clip((1.1 * cut - frequency) / (0.1 * cut), 0, 1).astype(np.float32)


def convolve(wave: Array, response: Array) -> Array:
    """Linear convolution by FFT in single precision, as long as `wave` plus the response."""
    return np.asarray(signal.fftconvolve(wave, response), np.float32)


def fast_length(samples: int) -> int:
    """The next FFT length that is quick."""
    return int(fft.next_fast_len(samples, real=True))  # type: ignore[arg-type]


def snr_gain(speech: Array, noise: Array, snr_db: float) -> float:
    """The factor on `noise` that makes 10 log10(power of speech / power of noise) equal `snr_db`.

    Zero when either is silent, so that neither silence nor noise of infinite gain comes out.
    """
    speech_power, noise_power = float(np.mean(np.square(speech))), float(np.mean(np.square(noise)))
    if noise_power < 1e-12 or speech_power < 1e-12:
        return 0.0
    return (speech_power / noise_power) ** 0.5 * 10 ** (-snr_db / 20)


def active_frames(wave: Array, rate: int) -> NDArray[np.bool_]:
    """Which 20 ms frames are within 30 dB of the loudest one."""
    frame = round(_FRAME * rate)
    power = np.square(wave[: len(wave) // frame * frame].reshape(-1, frame)).mean(1)
    return power > max(1e-3 * power.max(initial=0.0), 1e-10)


def active_rms(wave: Array, rate: int) -> float:
    """Root mean square over the active frames; 1 for silence."""
    frame = round(_FRAME * rate)
    active = active_frames(wave, rate)
    if not active.any():
        return 1.0
    return rms(wave[: len(active) * frame].reshape(-1, frame)[active])
