"""What a user may get wrong: one sentence on stderr, exit status 2, nothing lost and no half-written file."""

import math
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from diffkit.speech import audio
from diffkit.speech.cli import main

RATE = 16000
Run = Callable[..., str]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "good.wav"
    path.parent.mkdir()
    audio.write(path, 0.1 * torch.randn(1, RATE), RATE)
    return path


@pytest.fixture
def refuse(identity: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command that must fail; returns what it says, which is one line without a traceback."""
    monkeypatch.delenv("DIFFKIT_TRACEBACK", raising=False)

    def refuse(*command: str | Path, model: str | Path | None = identity) -> str:
        options = [] if model is None else ["--model", str(model)]
        assert main([*map(str, command), *options, "--no_picture"]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffkit-speech: ")]
        assert len(said) == 1
        return said[0]

    return refuse


def not_audio(path: Path) -> None:
    path.write_text("Dear diary, this is not a recording. " * 100)


def empty(path: Path) -> None:
    path.touch()


def no_samples(path: Path) -> None:
    audio.write(path, torch.zeros(1, 0), RATE)


def nan(path: Path) -> None:
    _raw(path, math.nan)


def infinite(path: Path) -> None:
    _raw(path, math.inf)


def _raw(path: Path, value: float) -> None:
    import soundfile

    wave = torch.zeros(20 * RATE)
    wave[-10] = value  # in the last chunk
    soundfile.write(path, wave.numpy(), RATE, subtype="FLOAT")


BROKEN: dict[Callable[[Path], None], str] = {
    not_audio: "not audio",
    empty: "empty",
    no_samples: "no samples",
    nan: "NaN",
    infinite: "infinite",
}


@pytest.mark.parametrize("make", BROKEN)
def test_a_broken_file(make: Callable[[Path], None], refuse: Run, tmp_path: Path):
    make(tmp_path / "bad.wav")
    said = refuse("enhance", tmp_path / "bad.wav", tmp_path / "out.wav")
    assert "bad.wav" in said
    assert BROKEN[make] in said
    assert [path.name for path in tmp_path.iterdir()] == ["bad.wav"]


@pytest.mark.parametrize("make", BROKEN)
def test_a_broken_file_among_good_ones(
    make: Callable[[Path], None], good: Path, identity: Path, tmp_path: Path, capsys: Any
):
    make(good.with_name("bad.wav"))
    audio.write(good.with_name("zoo.wav"), 0.1 * torch.randn(1, RATE), RATE)
    assert main(["enhance", str(good.parent), str(tmp_path / "out"), "--model", str(identity)]) == 2
    said = capsys.readouterr().err
    assert "bad.wav" in said
    assert "1 of 3 files" in said
    done = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert done == ["good.wav", "good.wav.png", "zoo.wav", "zoo.wav.png"]


def enhanced(
    wave: torch.Tensor, rate: int, model: Path, folder: Path, subtype: str | None = None
) -> torch.Tensor:
    audio.write(folder / "in.wav", wave, rate, subtype)
    command = ["enhance", str(folder / "in.wav"), str(folder / "out.wav"), "--model", str(model)]
    assert main(command) == 0
    assert audio.info(folder / "out.wav") == audio.info(folder / "in.wav")
    return audio.read(folder / "out.wav")[0]


def test_silence(wild: Path, tmp_path: Path):
    assert not enhanced(torch.zeros(1, 9 * RATE), RATE, wild, tmp_path).any()


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_clipping(wild: Path, tmp_path: Path, subtype: str):
    wave = (2 * torch.randn(1, 2 * RATE)).clamp(-1, 1)
    out = enhanced(wave, RATE, wild, tmp_path, subtype)
    assert torch.isfinite(out).all()
    if subtype == "PCM_16":
        assert out.abs().max() <= 1


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 2)])
def test_other_rates_and_channels(identity: Path, tmp_path: Path, rate: int, channels: int):
    time = torch.arange(9 * rate) / rate
    wave = 0.3 * torch.sin(2 * math.pi * 440 * time)[None].repeat(channels, 1)
    out = enhanced(wave, rate, identity, tmp_path)
    inner = slice(rate, -rate)
    assert (out - wave)[:, inner].abs().max() < 1e-3


def test_an_output_that_exists(good: Path, refuse: Run, tmp_path: Path):
    precious = tmp_path / "out.wav"
    precious.write_text("precious")
    said = refuse("enhance", good, precious)
    assert "out.wav exists" in said
    assert "--overwrite" in said
    assert precious.read_text() == "precious"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "good.wav").write_text("precious")
    assert "good.wav exists" in refuse("enhance", good.parent, tmp_path / "folder")
    assert (tmp_path / "folder" / "good.wav").read_text() == "precious"


@pytest.mark.parametrize("of", ["file", "folder"])
def test_an_output_that_is_the_input(good: Path, refuse: Run, of: str):
    before = good.read_bytes()
    path = good if of == "file" else good.parent
    assert "both input and output" in refuse("enhance", path, path, "--overwrite")
    assert good.read_bytes() == before


def test_a_folder_that_cannot_be_written(good: Path, refuse: Run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    said = refuse("enhance", good, tmp_path / "file" / "below" / "out.wav")
    assert "cannot be made" in said
    assert str(tmp_path / "file" / "below") in said


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, which is how a full disk looks to the writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(good: Path, refuse: Run, tmp_path: Path):
    audio.write(good.with_name("long.wav"), 0.1 * torch.randn(1, 20 * RATE), RATE)
    with largest_file(100_000):
        said = refuse("enhance", good.parent, tmp_path / "out")
    assert "long.wav" in said
    assert "disk full" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.wav"]
    assert audio.info(tmp_path / "out" / "good.wav").samples == RATE


def test_a_folder_without_audio_and_no_input_at_all(refuse: Run, tmp_path: Path):
    (tmp_path / "bare").mkdir()
    assert "no audio files" in refuse("enhance", tmp_path / "bare", tmp_path / "out")
    assert "does not exist" in refuse("enhance", tmp_path / "nowhere", tmp_path / "out")


def test_an_output_of_unknown_format(good: Path, refuse: Run, tmp_path: Path):
    assert ".wav, .flac" in refuse("enhance", good, tmp_path / "out.m4a")
    assert "is a folder" in refuse("enhance", good.parent, good)


def test_an_unknown_checkpoint(good: Path, refuse: Run, tmp_path: Path):
    said = refuse("enhance", good, tmp_path / "out.wav", model="huge")
    assert "'huge'" in said
    assert "known names are" in said


def test_a_checkpoint_of_another_task(good: Path, refuse: Run, save: Any, tmp_path: Path):
    said = refuse("enhance", good, tmp_path / "out.wav", model=save("dereverb"))
    assert "for 'dereverb', not for 'enhance'" in said


def test_a_checkpoint_of_another_domain(good: Path, refuse: Run, save: Any, tmp_path: Path):
    folder = save()
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"enhance"', '"molecules"'))
    assert "not for speech" in refuse("enhance", good, tmp_path / "out.wav", model=folder)


def test_broken_weights(good: Path, refuse: Run, save: Any, tmp_path: Path):
    folder = save()
    (folder / "model.safetensors").write_bytes(b"not weights")
    assert "model.safetensors cannot be loaded" in refuse("enhance", good, tmp_path / "out.wav", model=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--solver", "dddim"], "did you mean 'ddim'"),
        (["--steps", "0"], "at least 1"),
        (["--steps", "many"], "steps cannot be 'many'"),
        (["--device", "abacus"], "'abacus' cannot be used"),
        (["--overwrite", "--resume"], "one of the two"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_options(good: Path, refuse: Run, tmp_path: Path, options: list[str], message: str):
    assert message in refuse("enhance", good, tmp_path / "out.wav", *options)
    assert not (tmp_path / "out.wav").exists()


PEAK = """
import resource, sys
from diffkit.speech.cli import main
assert main(["enhance", sys.argv[1], sys.argv[2], "--model", sys.argv[3], "--steps", "1"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in the units of Linux")
def test_memory_does_not_grow_with_length(identity: Path, tmp_path: Path):
    peaks = []
    for minutes in (1, 10):
        path = tmp_path / f"{minutes}.flac"
        minute = 0.1 * torch.randn(1, 60 * RATE)
        with audio.writer(path, RATE, 1) as append:
            for _ in range(minutes):
                append(minute)
        run = subprocess.run(
            [sys.executable, "-c", PEAK, path, tmp_path / f"{minutes}-out.flac", identity],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert audio.info(tmp_path / f"{minutes}-out.flac").samples == minutes * 60 * RATE
        peaks.append(int(run.stdout.split()[-1]))
    assert peaks[1] < 2000
    assert peaks[1] < peaks[0] + 30  # the samples alone would take 38 MB
