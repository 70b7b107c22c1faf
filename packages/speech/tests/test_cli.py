import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffkit.speech import audio, checkpoints, files
from diffkit.speech.cli import main

RATE = 16000


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    (folder / "more").mkdir(parents=True)
    for name, seconds in (("a.wav", 1.0), ("b.flac", 0.7), ("more/c.ogg", 0.5)):
        audio.write(folder / name, 0.1 * torch.randn(2, round(seconds * RATE)), RATE)
    (folder / "notes.txt").write_text("not a recording")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_and_its_pictures(recordings: Path, identity: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "out"
    assert main(["enhance", str(recordings), str(out), "--model", str(identity)]) == 0
    assert names(out) == ["a.wav", "a.wav.png", "b.flac", "b.flac.png", "more/c.ogg", "more/c.ogg.png"]
    for name in ("a.wav", "b.flac", "more/c.ogg"):
        assert audio.info(out / name) == audio.info(recordings / name)
    assert "3 of 3 files" in capsys.readouterr().out


def test_a_file_into_a_folder_or_a_file(recordings: Path, identity: Path, tmp_path: Path):
    options = ["--model", str(identity), "--no_picture"]
    assert main(["enhance", str(recordings / "a.wav"), str(tmp_path / "out"), *options]) == 0
    assert main(["enhance", str(recordings / "a.wav"), str(tmp_path / "clean.flac"), *options]) == 0
    assert names(tmp_path / "out") == ["a.wav"]
    assert audio.info(tmp_path / "clean.flac").samples == RATE


def test_overwrite_and_resume(recordings: Path, identity: Path, tmp_path: Path, capsys: Any):
    command = ["enhance", str(recordings), str(tmp_path / "out"), "--model", str(identity), "--no_picture"]
    assert main(command) == 0
    (tmp_path / "out" / "b.flac").unlink()
    before = (tmp_path / "out" / "a.wav").stat().st_mtime_ns
    assert main([*command, "--resume"]) == 0
    assert "1 of 1 files" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.wav").stat().st_mtime_ns == before
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "out" / "a.wav").stat().st_mtime_ns > before


def test_outputs_within_the_inputs_are_no_inputs(recordings: Path, identity: Path):
    command = [
        "enhance",
        str(recordings),
        str(recordings / "clean"),
        "--model",
        str(identity),
        "--no_picture",
    ]
    assert main(command) == 0
    assert main([*command, "--overwrite"]) == 0
    assert names(recordings / "clean") == ["a.wav", "b.flac", "more/c.ogg"]


def test_interrupt(
    recordings: Path, identity: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*args: Any, **options: Any) -> Any:
        yield from list(real(*args, **options))[:1]
        raise KeyboardInterrupt

    real = files.enhance_files
    monkeypatch.setattr(files, "enhance_files", interrupted)
    command = ["enhance", str(recordings), str(tmp_path / "out"), "--model", str(identity), "--no_picture"]
    assert main(command) == 130
    assert "interrupted" in capsys.readouterr().err
    assert "a.wav" in names(tmp_path / "out")


def test_dereverb(recordings: Path, save: Any, tmp_path: Path):
    model = str(save("dereverb"))
    command = ["dereverb", str(recordings / "a.wav"), str(tmp_path / "dry.wav"), "--no_picture"]
    assert main([*command, "--model", model]) == 0
    assert audio.info(tmp_path / "dry.wav").samples == RATE


def test_models(save: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    folder = save("dereverb")
    monkeypatch.setattr(checkpoints, "EMBEDDED", folder.parent)
    assert main(["models"]) == 0
    assert capsys.readouterr().out.split() == ["dereverb", "(dereverb)", "Untrained", "For", "tests."]


def test_evaluate(recordings: Path, tmp_path: Path, capsys: Any):
    command = ["evaluate", str(recordings), str(recordings), "--metrics", "[si_sdr]"]
    assert main([*command, "--out", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["summary"]["all"]["si_sdr"]["n"] == 3
    assert "si_sdr" in capsys.readouterr().out


def test_evaluate_names_what_has_no_score(recordings: Path, tmp_path: Path, capsys: Any):
    other = tmp_path / "estimates"
    other.mkdir()
    audio.write(other / "a.wav", 0.1 * torch.randn(2, RATE), RATE)
    assert main(["evaluate", str(recordings), str(other), "--metrics", "[si_sdr]"]) == 2
    assert "b.flac" in capsys.readouterr().err


def test_data_names_an_unknown_source(tmp_path: Path, capsys: Any):
    assert main(["data", str(tmp_path / "corpus"), "--sources", "[nowhere]"]) == 2
    assert "'nowhere'" in capsys.readouterr().err
    assert not (tmp_path / "corpus").exists()
