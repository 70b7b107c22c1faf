"""Debian's archive and WordNet as heterogeneous graphs."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diffkit.core.collect import clients
from diffkit.graphs import archive, hetero_files, wordnet
from diffkit.graphs.cli import main

PACKAGES = """Package: a
Maintainer: Anna <anna@example.org>
Depends: b (>= 2), c:any | d, a, virtual
Suggests: c
Section: games

Package: b
Maintainer: Anna <anna@example.org>
Section: libs

Package: c
"""
NOUN = """  1 This software and database is being provided
00000001 03 n 02 entity 0 thing(p) 0 002 ~ 00000002 n 0000 + 00000007 v 0101 | that which is
00000002 05 n 01 dog 0 001 @ 00000001 n 0000 | a "| dog" of two | bars
"""
VERB = "00000007 29 v 01 be 0 001 + 00000001 n 0101 01 + 08 00 | to be\n"


def edges(graph: Any, name: str) -> set[tuple[str, str]]:
    r = graph.relations[name]
    return {(graph.nodes[r.source][u], graph.nodes[r.target][v]) for u, v in r.edges.T.tolist()}


def test_an_archive_by_hand() -> None:
    graph = archive.graph(PACKAGES)
    assert graph.nodes == {"package": ["a", "b", "c"], "maintainer": ["Anna <anna@example.org>"]}
    assert graph.attribute("package", "section") == ["games", "libs", ""]
    assert edges(graph, "depends") == {("a", "b"), ("a", "c")}
    assert edges(graph, "suggests") == {("a", "c")}
    assert edges(graph, "maintains") == {("Anna <anna@example.org>", "a"), ("Anna <anna@example.org>", "b")}


def write_wordnet(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, text in {"noun": NOUN, "verb": VERB, "adj": "", "adv": ""}.items():
        (folder / f"data.{part}").write_text(text)


def test_wordnet_by_hand(tmp_path: Path) -> None:
    write_wordnet(tmp_path / "dict")
    graph = wordnet.graph(tmp_path / "dict")
    entity, dog, be = "entity.n.00000001", "dog.n.00000002", "be.v.00000007"
    assert graph.nodes == {"synset": [entity, dog, be]}
    assert edges(graph, "hyponym") == {(entity, dog)}
    assert edges(graph, "hypernym") == {(dog, entity)}
    assert edges(graph, "derivation") == {(entity, be), (be, entity)}
    assert graph.attribute("synset", "lexname") == ["noun.Tops", "noun.animal", "verb.body"]
    assert graph.attribute("synset", "pos") == ["noun", "noun", "verb"]
    (tmp_path / "dict/data.adv").write_text("00000009 02 r zz\n")
    with pytest.raises(ValueError, match=r"data\.adv is damaged"):
        wordnet.graph(tmp_path / "dict")


def test_names_of_relations_and_files() -> None:
    assert len(set(wordnet.POINTERS.values())) == 26
    assert len(set(wordnet.LEXNAMES)) == 45
    assert [wordnet.LEXNAMES[i] for i in (0, 3, 28, 29, 43, 44)] == [  # lexnames(5)
        "adj.all",
        "noun.Tops",
        "noun.time",
        "verb.body",
        "verb.weather",
        "adj.ppl",
    ]


def test_data_builds_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def unpack(_: Path, folder: Path) -> None:
        write_wordnet(folder / "usr/share/wordnet")
        (folder / "usr/share/doc/wordnet-base").mkdir(parents=True)
        (folder / "usr/share/doc/wordnet-base/copyright").write_text("WordNet 3.0 Copyright 2006")

    def download(client: str, package: str, version: str | None, folder: Path) -> Path:
        (folder / f"{package}_3.0-37_all.deb").write_bytes(b"")
        return folder / f"{package}_3.0-37_all.deb"

    monkeypatch.setattr(clients, "unpack", unpack)
    monkeypatch.setattr(clients, "download", download)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=PACKAGES))
    assert main(["data", str(tmp_path), "--set", "wordnet"]) == 0
    assert main(["data", str(tmp_path), "--set", "debian"]) == 0
    assert "4 nodes and 5 edges in" in capsys.readouterr().out
    assert len(hetero_files.read(tmp_path / "wordnet").relations) == 3
    assert set(hetero_files.read(tmp_path / "debian").nodes) == {"package", "maintainer"}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert set(manifest["sources"]) == {"wordnet", "debian"}
    assert all(source["licence"] for source in manifest["sources"].values())
    listed = {entry["path"]: len(entry["sha256"]) for entry in manifest["files"]}
    assert set(listed.values()) == {64}
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(listed) == there - {"manifest.json"}
    assert "wordnet/licence/copyright" in there
    assert main(["data", str(tmp_path), "--set", "debian"]) == 0  # again, and nothing is listed twice
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest


def test_debian_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["data", str(tmp_path), "--set", "debian"]) == 2
    assert "needs apt-cache" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
