"""The corpus builder against fake package clients on PATH, which serve archives made here."""

import io
import json
import os
import re
import shutil
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from diffkit.core.collect import clients
from diffkit.speech import audio, corpus
from diffkit.speech.sources import SOURCES, Source

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fake clients are shell scripts")


def wav(seconds: float, rate: int = 16000, seed: int = 0, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).normal(0, 0.1, (int(seconds * rate), channels))
    soundfile.write(buffer, noise, rate, "PCM_16", format="WAV")
    return buffer.getvalue()


def source(name: str, **changes) -> Source:
    values: dict[str, Any] = {
        "name": name,
        "client": "npm",
        "package": f"{name}-package",
        "version": "1.2.3",
        "kind": "noise",
        "split": "train",
        "speaker": name,
        "licence": "CC0-1.0",
        "origin": "made by the test",
        "include": r"\.wav$",
    }
    return Source(**(values | changes))


def _tool(name: str) -> str | None:
    return shutil.which(name, path=os.defpath)  # where PATH holds only the fake clients


class Registry:
    """A folder of archives that a fake `npm` on PATH serves, with a log of what was asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.archives, self.programs, self.log = folder / "archives", folder / "bin", folder / "log"
        self.archives.mkdir()
        self.programs.mkdir()
        self.log.touch()
        monkeypatch.setenv("PATH", str(self.programs))
        self.program(
            "npm",
            f'echo "$3" >> {self.log}\n{_tool("cp")} {self.archives}/$3.tgz ${{3%@*}}-${{3#*@}}.tgz',
        )

    def program(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f"#!{_tool('sh')}\n{body}\n")
        path.chmod(0o755)

    def publish(self, package: str, files: dict[str, bytes], version: str = "1.2.3") -> None:
        with tarfile.open(self.archives / f"{package}@{version}.tgz", "w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().split()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(tmp_path, monkeypatch)


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch):
    return lambda *sources: monkeypatch.setattr(corpus, "SOURCES", sources)


def test_a_source_is_built_with_its_manifest(tmp_path: Path, registry: Registry, declare) -> None:
    registry.publish("rain-package", {"a/drops.wav": wav(0.5, 44100, channels=2), "readme.txt": b"no audio"})
    declare(source("rain"))
    report = corpus.build(tmp_path / "corpus", progress=False)
    assert (report.built, report.kept, report.failed) == (["rain"], [], {})
    (clip,) = corpus.clips(tmp_path / "corpus", "noise", "train")
    assert clip.path == "noise/train/rain/a-drops.flac"
    assert (clip.seconds, clip.rate, clip.speaker, clip.source) == (0.5, 44100, "rain", "rain")
    wave, rate = audio.read(tmp_path / "corpus" / clip.path)
    assert (wave.shape, rate) == ((1, 22050), 44100)
    entry = json.loads((tmp_path / "corpus" / "manifest.json").read_text())["sources"]["rain"]
    assert (entry["package"], entry["client"], entry["licence"]) == ("rain-package", "npm", "CC0-1.0")
    assert entry["version"] == "1.2.3"
    assert len(entry["archive_sha256"]) == 64
    # The archive and the working folders are gone.
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == ["manifest.json", "noise"]


def test_a_repeated_build_fetches_only_what_is_missing_or_damaged(
    tmp_path: Path, registry: Registry, declare
) -> None:
    for name in ("rain", "wind"):
        registry.publish(f"{name}-package", {"a.wav": wav(0.5)})
    declare(source("rain"), source("wind"))
    folder = tmp_path / "corpus"
    assert corpus.build(folder, progress=False).built == ["rain", "wind"]
    assert corpus.build(folder, progress=False).kept == ["rain", "wind"]
    assert registry.asked == ["rain-package@1.2.3", "wind-package@1.2.3"]
    clip = folder / corpus.clips(folder, "noise", "train")[0].path
    for harm in (clip.unlink, lambda: clip.write_bytes(b"torn")):
        harm()
        report = corpus.build(folder, progress=False)
        assert (report.built, report.kept) == (["rain"], ["wind"])
        assert audio.info(clip).seconds == 0.5
    declare(source("rain", note="declared differently"), source("wind"))
    assert corpus.build(folder, progress=False).built == ["rain"]


def test_an_interrupted_build_keeps_what_was_complete(
    tmp_path: Path, registry: Registry, declare, monkeypatch
) -> None:
    for name in ("rain", "wind"):
        registry.publish(f"{name}-package", {"a.wav": wav(0.5)})
    declare(source("rain"), source("wind"))
    folder = tmp_path / "corpus"
    unpack = clients.unpack

    def interrupted(archive: Path, target: Path) -> None:
        if "wind" in archive.name:
            raise KeyboardInterrupt
        unpack(archive, target)

    with monkeypatch.context() as patch:
        patch.setattr(clients, "unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corpus.build(folder, progress=False)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    (folder / ".wind-left-by-a-kill").mkdir()
    report = corpus.build(folder, progress=False)
    assert (report.built, report.kept) == (["wind"], ["rain"])
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "noise"]


def test_what_cannot_be_had_is_named_and_the_others_go_on(
    tmp_path: Path, registry: Registry, declare
) -> None:
    registry.publish("rain-package", {"a.wav": wav(0.5)})
    registry.publish("empty-package", {"readme.txt": b"nothing"})
    (registry.archives / "torn-package@1.2.3.tgz").write_bytes(b"not an archive")
    registry.publish("broken-package", {"a.wav": b"RIFF, but no more"})
    registry.program("apt-get", 'echo "E: Unable to locate package $2" >&2; exit 100')
    declare(
        source("gone"),
        source("unknown", client="apt"),
        source("empty"),
        source("torn"),
        source("broken"),
        source("rain"),
    )
    report = corpus.build(tmp_path / "corpus", progress=False)
    assert report.built == ["rain"]
    assert list(report.failed) == ["gone", "unknown", "empty", "torn", "broken"]
    for name, says in {
        "gone": r"gone-package: npm could not get it",
        "unknown": r"unknown-package: apt could not get it .*Unable to locate.*apt-get update",
        "empty": r"empty-package: .*no file that matches",
        "torn": r"torn-package.*does not unpack",
        "broken": r"a\.wav is not audio",
    }.items():
        assert re.search(says, report.failed[name])
    status = json.loads((tmp_path / "corpus" / "manifest.json").read_text())["sources"]
    assert {name: entry["status"] for name, entry in status.items()} == {
        **dict.fromkeys(report.failed, "failed"),
        "rain": "complete",
    }


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(clients.PackageError, match="rain: apt-get is not on this machine"):
        clients.download("apt", "rain", None, tmp_path)
    with pytest.raises(clients.PackageError, match="rain: npm is not on this machine"):
        clients.download("npm", "rain", None, tmp_path)


def test_held_out_files_and_speakers_are_split_by_the_path_alone(
    tmp_path: Path, registry: Registry, declare
) -> None:
    files = {f"{role}-{i}.wav": wav(0.2, seed=i) for role in "mv" for i in range(30)}
    registry.publish("talk-package", files)
    declare(
        source("talk", kind="speech", speaker="cs-{role}", include=r"/(?P<role>[mv])-\d+\.wav$", hold_out=5)
    )
    built = {}
    for name in ("first", "second"):
        corpus.build(tmp_path / name, progress=False)
        built[name] = [
            {c.path for c in corpus.clips(tmp_path / name, "speech", split)} for split in ("train", "valid")
        ]
    train, valid = built["first"]
    assert built["first"] == built["second"]
    assert len(train) + len(valid) == 60
    assert 5 <= len(valid) <= 20
    assert {Path(path).parts[2] for path in train} == {"cs-m", "cs-v"}


def test_short_and_silent_speech_is_left_out(tmp_path: Path, registry: Registry, declare) -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(32000), 16000, format="WAV")
    registry.publish(
        "talk-package", {"long.wav": wav(2), "short.wav": wav(0.5), "silence.wav": silence.getvalue()}
    )
    declare(source("talk", kind="speech", least_seconds=1.0))
    corpus.build(tmp_path / "corpus", progress=False)
    assert [Path(clip.path).name for clip in corpus.clips(tmp_path / "corpus", "speech", "train")] == [
        "package-long.flac"
    ]


def test_an_openttd_sound_set_is_taken_apart(tmp_path: Path, registry: Registry, declare) -> None:
    entries = [b"\x04one\0" + wav(0.1), b"\x04two\0" + wav(0.2)]
    start = 8 * len(entries)
    table = b""
    for entry in entries:
        table += struct.pack("<II", start | 0x80000000, len(entry))
        start += len(entry)
    registry.publish("sounds-package", {"set.cat": table + b"".join(entries)})
    declare(source("sounds", include=r"\.cat$", decode="opensfx"))
    corpus.build(tmp_path / "corpus", progress=False)
    assert [clip.seconds for clip in corpus.clips(tmp_path / "corpus", "noise", "train")] == [0.1, 0.2]


def test_g722_is_decoded_as_16_khz(tmp_path: Path) -> None:
    path = tmp_path / "tone.g722"
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)).astype(np.int16)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    ((_, wave, rate),) = corpus._decode(source("tone", decode="g722"), path)
    assert rate == 16000
    spectrum = np.abs(np.fft.rfft(wave[0, :16000].numpy()))
    assert abs(int(spectrum.argmax()) * rate / min(wave.shape[1], 16000) - 1000) < 5
    assert wave.abs().max() == pytest.approx(8000 / 32768, rel=0.1)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("festvox-ru_0.5+dfsg-6_all.deb", "0.5+dfsg-6"),
        ("wesnoth-1.16-data_1%3a1.16.9-1_all.deb", "1:1.16.9-1"),
        ("livekit_agents-1.8.9-py3-none-any.whl", "1.8.9"),
        ("acoustics-0.2.6.tar.gz", "0.2.6"),
        ("supersonic-scsynth-samples-0.84.2.tgz", "0.84.2"),
    ],
)
def test_the_version_is_read_from_the_archive_name(name: str, version: str) -> None:
    assert clients.version_of(Path(name)) == version


def test_a_wheel_unpacks(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a/data.txt", "here")
    clients.unpack(tmp_path / "a-1-py3-none-any.whl", tmp_path)
    assert (tmp_path / "a" / "data.txt").read_text() == "here"


def test_reserved_sources_are_built_only_when_asked_for(tmp_path: Path, registry: Registry, declare) -> None:
    for name in ("rain", "last"):
        registry.publish(f"{name}-package", {"a.wav": wav(0.5)})
    declare(source("rain"), source("last", split="reserved"))
    assert corpus.build(tmp_path / "corpus", progress=False).built == ["rain"]
    with pytest.raises(ValueError, match="reserved"):
        corpus.build(tmp_path / "corpus", ["last"], progress=False)
    assert corpus.build(tmp_path / "corpus", ["last"], reserved=True, progress=False).built == ["last"]
    assert len(corpus.clips(tmp_path / "corpus", "noise", "reserved")) == 1


def test_an_unknown_source_and_a_missing_or_damaged_corpus_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown source 'nothing'; the sources are festvox-ru"):
        corpus.build(tmp_path / "corpus", ["nothing"], progress=False)
    with pytest.raises(ValueError, match="holds no corpus"):
        corpus.clips(tmp_path, "speech", "train")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        corpus.clips(tmp_path, "speech", "train")


def test_the_table_keeps_training_test_and_reserved_apart() -> None:
    names = [source.name for source in SOURCES]
    assert len(set(names)) == len({entry.speaker for entry in SOURCES}) == len(SOURCES)
    splits: dict[str, set[str]] = {}
    for entry in SOURCES:
        splits.setdefault(entry.package, set()).add(entry.split)
        assert entry.licence
        assert entry.origin
        assert entry.client == "apt" or entry.version, f"{entry.name}: pip and npm pin their version"
        assert not entry.hold_out or entry.split == "train"
    assert all(len(found) == 1 for found in splits.values())
    reserved = {package for package, found in splits.items() if found == {"reserved"}}
    assert reserved == {"pocketsphinx-testdata", "unknown-horizons", "wesnoth-1.16-data"}
