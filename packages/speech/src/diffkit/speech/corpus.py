"""The demo corpus: packages by name -> `DIR/{speech,noise,rir}/SPLIT/SPEAKER/*.flac` and `manifest.json`.

Every file is mono FLAC at its own rate. The manifest says where each came from, under which licence, and
its checksum. How packages are fetched, and how a build goes on, says :mod:`diffkit.core.collect`.
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from diffkit.core import collect
from diffkit.core.collect import Report

from . import audio
from .sources import SOURCES, Source

# Below this RMS (-60 dBFS) a clip is silence.
_SILENCE = 1e-3


@dataclass(frozen=True)
class Clip:
    """One file of a corpus as its manifest lists it; `path` is relative to the corpus."""

    path: str
    kind: str
    split: str
    speaker: str
    seconds: float
    rate: int
    sha256: str
    source: str


def build(
    directory: str | Path,
    sources: Iterable[str] | None = None,
    *,
    reserved: bool = False,
    progress: bool = True,
) -> Report:
    """Build or continue the corpus in `directory`.

    `sources` are names from :data:`~diffkit.speech.sources.SOURCES` (default: all but the reserved, which
    `reserved=True` adds). Needs `av` for G.722 and the network for the package clients. Raises `ValueError`
    for an unknown source name; what goes wrong with one source is in the report.
    """
    return collect.build(directory, SOURCES, _convert, sources, reserved=reserved, progress=progress)


def clips(directory: str | Path, kind: str, split: str) -> list[Clip]:
    """The files of one kind and split, sorted by path; raises `ValueError` when there is no corpus."""
    listed = (Clip(**entry) for entry in collect.files(directory, "corpus", "diffkit-speech data"))
    return [clip for clip in listed if (clip.kind, clip.split) == (kind, split)]


def _convert(source: Source, unpacked: Path, built: Path) -> list[dict[str, Any]]:
    entries = list(_encode(source, unpacked, built))
    if not entries:
        raise ValueError(f"{source.package}: the package holds no file that matches {source.include}.")
    return entries


def _encode(source: Source, unpacked: Path, built: Path) -> Iterator[dict[str, Any]]:
    include, exclude = re.compile(source.include), re.compile(source.exclude)
    for path in sorted(p for p in unpacked.rglob("*") if p.is_file()):
        inside = path.relative_to(unpacked).as_posix()
        match = include.search("/" + inside)
        if not match or exclude.search("/" + inside):
            continue
        speaker = source.speaker.format(**match.groupdict())
        for name, wave, rate in _decode(source, path):
            wave = wave[:1] if source.kind == "rir" else wave.mean(0, keepdim=True)
            seconds = wave.shape[1] / rate
            if seconds < source.least_seconds or wave.square().mean().sqrt() < _SILENCE * (
                source.kind != "rir"
            ):
                continue
            held_out = source.hold_out and _bucket(f"{inside}/{name}") % source.hold_out == 0
            split = "valid" if held_out else source.split
            relative = Path(source.kind, split, speaker, _flat(inside, name) + ".flac")
            audio.write(built / relative, wave, rate, "PCM_16")
            yield {
                "path": relative.as_posix(),
                "kind": source.kind,
                "split": split,
                "speaker": speaker,
                "seconds": round(seconds, 3),
                "rate": rate,
            }


def _decode(source: Source, path: Path) -> Iterator[tuple[str, Tensor, int]]:
    if path.stat().st_size == 0:
        return
    if source.decode == "g722":
        yield path.stem, *_read_g722(path)
    elif source.decode == "opensfx":
        yield from _read_cat(path)
    else:
        yield path.stem, *audio.read(path)


def _read_g722(path: Path) -> tuple[Tensor, int]:
    """Headerless G.722 at 64 kbit/s, as Asterisk stores it: 16 kHz mono."""
    try:
        import av
    except ImportError:
        raise ValueError(f"{path.name}: decoding G.722 needs `av`; install diffkit-speech[train].") from None
    with av.open(str(path), format="g722") as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    pcm = np.concatenate(frames, axis=1)
    return torch.from_numpy(pcm.astype(np.float32) / 32768), 16000


def _read_cat(path: Path) -> Iterator[tuple[str, Tensor, int]]:
    """OpenTTD sound set: a table of little-endian (offset with top bit set, length), then RIFF files."""
    data = path.read_bytes()
    (first,) = struct.unpack_from("<I", data)
    for index in range((first & 0x7FFFFFFF) // 8):
        offset = struct.unpack_from("<I", data, 8 * index)[0] & 0x7FFFFFFF
        riff = data.index(b"RIFF", offset)
        size = struct.unpack_from("<I", data, riff + 4)[0] + 8
        samples, rate = soundfile.read(BytesIO(data[riff : riff + size]), dtype="float32", always_2d=True)
        if len(samples):
            yield f"{index:02d}", torch.from_numpy(np.ascontiguousarray(samples.T)), rate


def _flat(inside: str, name: str) -> str:
    # The folder just above keeps names apart that repeat in a package (digits/1 and letters/1).
    folder = Path(inside).parent.name
    return re.sub(r"[^\w.+-]+", "_", f"{folder}-{name}")


def _bucket(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
