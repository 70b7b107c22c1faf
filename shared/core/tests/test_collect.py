"""Collections of a domain that is none: packages are folders here, and every file is kept as it is.

What the ordinary clients do is tested where they are used, in diffkit-speech, against fake clients on PATH.
"""

import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diffkit.core.collect import MANIFEST, Client, PackageError, Report, build, clients, files, tell


@dataclass(frozen=True)
class Packed:
    name: str
    client: Client = "pip"
    package: str = ""
    version: str | None = "1.0"
    kind: str = "text"
    split: str = "train"
    licence: str = "CC0-1.0"
    origin: str = "made by the test"
    note: str = ""


def convert(source: Packed, unpacked: Path, built: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(unpacked.rglob("*.txt")):
        relative = f"{source.split}/{source.name}/{path.name}"
        (built / relative).parent.mkdir(parents=True, exist_ok=True)
        path.rename(built / relative)
        yield {"path": relative, "length": (built / relative).stat().st_size}
    if (unpacked / "bad").exists():
        raise ValueError(f"{source.name} is bad.")


Publish = Callable[..., None]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Makes packages that can be downloaded; the others cannot."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()

    def download(client: Client, package: str, version: str | None, folder: Path) -> Path:
        if not (shelf / package).exists():
            raise PackageError(f"{package}: {client} could not get it.")
        archive = folder / f"{package}-{version}.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(shelf / package, arcname=".")
        return archive

    def add(package: str, **contents: str) -> None:
        (shelf / package).mkdir(exist_ok=True)
        for name, text in contents.items():
            (shelf / package / name.replace("_", ".")).write_text(text)

    monkeypatch.setattr(clients, "download", download)
    return add


def test_what_is_built_is_listed_with_licence_and_checksum(tmp_path: Path, publish: Publish) -> None:
    publish("letters", b_txt="bb", a_txt="a")
    folder = tmp_path / "out"
    report = build(folder, [Packed("letters", package="letters")], convert, progress=False)
    assert report == Report(built=["letters"])
    found = files(folder, "text", "make it")
    assert [(f["path"], f["length"], f["source"]) for f in found] == [
        ("train/letters/a.txt", 1, "letters"),
        ("train/letters/b.txt", 2, "letters"),
    ]
    assert found[0]["sha256"] == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of "a"
    entry = json.loads((folder / MANIFEST).read_text())["sources"]["letters"]
    assert (entry["status"], entry["licence"], entry["version"]) == ("complete", "CC0-1.0", "1.0")
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "train"]


def test_a_build_goes_on_where_it_is_not_complete(tmp_path: Path, publish: Publish) -> None:
    publish("one", a_txt="1")
    publish("two", a_txt="2")
    folder, sources = tmp_path / "out", [Packed("one", package="one"), Packed("two", package="two")]
    assert build(folder, sources, convert, ["two"], progress=False).built == ["two"]
    assert build(folder, sources, convert, progress=False) == Report(built=["one"], kept=["two"])
    (folder / "train/one/a.txt").write_text("torn")
    assert build(folder, sources, convert, progress=False) == Report(built=["one"], kept=["two"])
    assert (folder / "train/one/a.txt").read_text() == "1"
    sources[1] = Packed("two", package="two", note="declared anew")
    assert build(folder, sources, convert, progress=False) == Report(built=["two"], kept=["one"])


def test_one_failure_is_reported_and_the_others_go_on(
    tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("bad", a_txt="1", bad="")
    publish("good", a_txt="1")
    folder = tmp_path / "out"
    sources = [Packed(name, package=name) for name in ("gone", "bad", "good")]
    report = build(folder, sources, convert, progress=False)
    assert report == Report(["good"], [], {"gone": "gone: pip could not get it.", "bad": "bad is bad."})
    assert [f["source"] for f in files(folder, "text", "make it")] == ["good"]
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "train"]
    assert tell(report, folder, "prog") == 2
    printed = capsys.readouterr()
    assert printed.out == f"1 sources built and 0 kept in {folder}.\n"
    assert "prog: bad could not be had: bad is bad.\n" in printed.err
    assert tell(Report(), folder, "prog") == 0


def test_an_interrupted_build_leaves_nothing_half_made(tmp_path: Path, publish: Publish) -> None:
    publish("one", a_txt="1")

    def interrupted(*args: Any) -> Iterator[dict[str, Any]]:
        yield from list(convert(*args))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out", [Packed("one", package="one")], interrupted, progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_what_is_reserved_is_built_only_when_asked_for(tmp_path: Path, publish: Publish) -> None:
    publish("last", a_txt="1")
    sources = [Packed("last", package="last", split="reserved")]
    assert build(tmp_path, sources, convert, progress=False) == Report()
    with pytest.raises(ValueError, match="'last' is reserved"):
        build(tmp_path, sources, convert, ["last"], progress=False)
    assert build(tmp_path, sources, convert, reserved=True, progress=False).built == ["last"]
    with pytest.raises(ValueError, match="unknown source 'other'; the sources are last"):
        build(tmp_path, sources, convert, ["other"], progress=False)


def test_no_collection_and_a_damaged_one_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no text .*; build it with `make it`"):
        files(tmp_path, "text", "make it")
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        files(tmp_path, "text", "make it")


def test_an_archive_unpacks_whatever_its_suffix(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.ctf", "w") as archive:
        archive.writestr("a/data.txt", "zipped")
    with tarfile.open(tmp_path / "project.inv3", "w:gz") as archive:
        archive.add(tmp_path / "program.ctf", arcname="b/program.ctf")
    for name in ("program.ctf", "project.inv3"):
        clients.unpack(tmp_path / name, tmp_path)
    assert (tmp_path / "a/data.txt").read_text() == "zipped"
    assert (tmp_path / "b/program.ctf").exists()
    (tmp_path / "torn.zip").write_bytes(b"PK, but no more")
    with pytest.raises(PackageError, match=r"torn\.zip: the archive does not unpack"):
        clients.unpack(tmp_path / "torn.zip", tmp_path)
