"""Audio files <-> tensors, thin over libsndfile (`soundfile`): wav, flac, ogg, opus, mp3, aiff.

A waveform is a float32 tensor `[channels, samples]` in [-1, 1]; a rate is in Hz. Every file that cannot
be used raises :class:`AudioError` with one sentence that names it. A file is written beside its target
and renamed when complete, so an interrupted or failed write leaves nothing behind.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from diffkit.core.files import whole

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif")

# libsndfile's major format and encoding for a suffix whose default encoding is not the one we want.
_FORMATS = {".opus": ("OGG", "OPUS"), ".oga": ("OGG", None), ".aif": ("AIFF", None)}
# libsndfile's Vorbis encoder overflows its stack on very long single writes; a second is always safe.
_WRITE_FRAMES = 65536


class AudioError(ValueError):
    """A file that is not usable audio; the message names the file and says what is wrong."""


@dataclass(frozen=True)
class Info:
    """What the header of an audio file says."""

    rate: int
    channels: int
    samples: int
    subtype: str

    @property
    def seconds(self) -> float:
        return self.samples / self.rate


def find(folder: str | Path) -> list[Path]:
    """All audio files below `folder`, by suffix, sorted; hidden files and folders are left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder} is not a folder.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def info(path: str | Path) -> Info:
    """Rate, channels and length of `path` without decoding it; raises :class:`AudioError`."""
    with _open(path) as file:
        return _info(path, file)


def read(path: str | Path, rate: int | None = None, start: int = 0, samples: int = -1) -> tuple[Tensor, int]:
    """`path` as float32 `[channels, samples]`, resampled to `rate` when one is given, and its rate.

    `start` and `samples` (-1: to the end) read a part; they count at the file's own rate. Raises
    :class:`AudioError` for a file that is missing, empty, not audio, has no samples, or holds NaN or
    infinite samples.
    """
    with _open(path) as file:
        source_rate = _info(path, file).rate
        if start:
            file.seek(start)
        wave = _decode(path, file, samples)
    if rate is None or rate == source_rate:
        return wave, source_rate
    return resample(wave, source_rate, rate), rate


def blocks(path: str | Path, samples: int, overlap: int = 0) -> Iterator[Tensor]:
    """`path` as consecutive `[channels, <= samples]` blocks at its own rate, in constant memory.

    Each block but the first begins with the last `overlap` samples of the one before; the last is as
    long as what is left. Raises as :func:`read` does, when it comes to the bad place.
    """
    if not 0 <= overlap < samples:
        raise ValueError(f"overlap must be in [0, {samples}), got {overlap}.")
    with _open(path) as file:
        _info(path, file)
        block = _decode(path, file, samples)
        while True:
            yield block
            fresh = _decode(path, file, samples - overlap)
            if fresh.shape[1] == 0:
                return
            block = torch.cat([block[:, block.shape[1] - overlap :], fresh], dim=1)


def write(path: str | Path, wave: Tensor, rate: int, subtype: str | None = None) -> None:
    """Write `[channels, samples]` or `[samples]` to `path`; the suffix gives the format.

    `subtype` is libsndfile's encoding name, such as "PCM_24" or "FLOAT". Samples beyond [-1, 1] are
    clipped by integer encodings. Raises :class:`AudioError` for what the format cannot hold or for
    non-finite samples, `OSError` where the disk refuses.
    """
    wave = wave.unsqueeze(0) if wave.ndim == 1 else wave
    with writer(path, rate, wave.shape[0], subtype) as append:
        append(wave)


@contextmanager
def writer(
    path: str | Path, rate: int, channels: int, subtype: str | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """A context that gives `append(wave [channels, samples])`; the file appears whole when it closes.

    The stream goes to a hidden file beside `path`, renamed at the end and removed on any error.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise AudioError(f"{path}: cannot write '{suffix}'; name the file with one of {', '.join(SUFFIXES)}.")
    container, encoding = _FORMATS.get(suffix, (suffix[1:].upper(), None))
    encoding = subtype or encoding
    if not soundfile.check_format(container, encoding):
        raise AudioError(f"{path}: {container} cannot hold the encoding {encoding}.")
    with whole(path) as beside:
        open(beside, "wb").close()  # a refusal here is an OSError that says why; libsndfile's does not
        try:
            file = soundfile.SoundFile(beside, "w", rate, channels, encoding, format=container)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: {container} cannot hold {channels} channels at {rate} Hz.") from error
        written = 0

        def append(wave: Tensor) -> None:
            nonlocal written
            _append(path, file, wave)
            written += wave.shape[-1]

        with file:
            yield append
        if soundfile.info(beside).frames < written:
            raise OSError(errno.ENOSPC, f"could not write all of {path}; is the disk full?")


_MANY_PHASES = 2000


def resample(wave: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """`wave [..., samples]` at `target_rate`, band-limited (windowed sinc, Kaiser, 64 zero crossings).

    The result has `ceil(samples * target_rate / source_rate)` samples.
    """
    if source_rate == target_rate:
        return wave
    from torchaudio.functional import resample as sinc

    divisor = gcd(source_rate, target_rate)
    down, up = source_rate // divisor, target_rate // divisor
    if max(down, up) > _MANY_PHASES:  # rates like 22051 Hz: torchaudio's kernel would fill the memory
        from scipy.signal import resample_poly

        out = resample_poly(wave.double().cpu().numpy(), up, down, axis=-1, window=("kaiser", 14.77))
        return torch.from_numpy(out).to(wave)
    return sinc(
        wave,
        down,
        up,
        lowpass_filter_width=64,
        rolloff=0.9476,
        resampling_method="sinc_interp_kaiser",
        beta=14.77,
    )


@contextmanager
def _open(path: str | Path) -> Iterator[soundfile.SoundFile]:
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path} is not a file.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes).")
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} is not audio that can be read: {error.error_string.rstrip('.')}."
        ) from error
    with file:
        yield file


def _info(path: str | Path, file: soundfile.SoundFile) -> Info:
    if file.frames == 0:
        raise AudioError(f"{path} holds no samples.")
    return Info(file.samplerate, file.channels, file.frames, file.subtype)


def _decode(path: str | Path, file: soundfile.SoundFile, samples: int) -> Tensor:
    try:
        data = file.read(samples, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} breaks off or is damaged: {error.error_string.rstrip('.')}.") from error
    if not np.isfinite(data).all():
        raise AudioError(f"{path} holds NaN or infinite samples.")
    return torch.from_numpy(np.ascontiguousarray(data.T))


def _append(path: Path, file: soundfile.SoundFile, wave: Tensor) -> None:
    if not torch.isfinite(wave).all():
        raise AudioError(f"{path}: refusing to write NaN or infinite samples.")
    for part in wave.detach().float().cpu().T.split(_WRITE_FRAMES):
        try:
            file.write(part.numpy())
        except (AssertionError, soundfile.LibsndfileError) as error:  # a short write is an assert there
            raise OSError(errno.ENOSPC, f"could not write all of {path}; is the disk full?") from error
