"""The command line: help, and what a user did wrong in one sentence."""

from pathlib import Path

import pytest

from diffkit.medical.checkpoints import EMBEDDED
from diffkit.medical.cli import main


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "  data " in capsys.readouterr().out


def test_models_are_those_inside(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert sorted(lines) == sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))
    assert {"ct", "mr"} <= set(lines)
    assert lines["ct"].startswith("(prior)  ")


def test_data_names_an_unknown_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(tmp_path / "data"), "--sources", "nowhere"]) == 2
    assert "unknown source 'nowhere'; the sources are mni152-2009a" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_data_names_a_reserved_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(tmp_path / "data"), "--sources", "papaya"]) == 2
    assert "'papaya' is reserved for a last judgement" in capsys.readouterr().err
