import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from diffkit.speech import audio


def tone(rate: int, seconds: float = 1.0, frequency: float = 440.0, channels: int = 1) -> Tensor:
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return 0.5 * torch.sin(2 * math.pi * frequency * time).float().repeat(channels, 1)


@pytest.mark.parametrize(
    ("suffix", "rate", "error"),
    [
        (".wav", 8000, 1e-4),
        (".WAV", 16000, 1e-4),
        (".flac", 44100, 1e-4),
        (".aiff", 16000, 1e-4),
        (".ogg", 44100, 0.05),
        (".opus", 48000, 0.05),
        (".mp3", 44100, 0.05),
    ],
)
def test_every_format_keeps_rate_channels_and_wave(
    tmp_path: Path, suffix: str, rate: int, error: float
) -> None:
    path = tmp_path / f"tone{suffix}"
    wave = tone(rate, channels=2)
    audio.write(path, wave, rate)
    about = audio.info(path)
    read, read_rate = audio.read(path)
    assert (about.rate, about.channels, read_rate) == (rate, 2, rate)
    assert read.dtype == torch.float32
    assert read.shape == wave.shape
    inner = slice(rate // 10, -rate // 10)  # lossy encoders ring at the ends
    assert (read - wave)[:, inner].abs().max() < error


def test_float_wav_is_exact_and_integer_wav_clips(tmp_path: Path) -> None:
    wave = 1.5 * tone(16000)
    audio.write(tmp_path / "float.wav", 3 * wave, 16000, "FLOAT")
    assert torch.equal(audio.read(tmp_path / "float.wav")[0], 3 * wave)
    audio.write(tmp_path / "short.wav", 3 * wave, 16000, "PCM_16")
    assert audio.read(tmp_path / "short.wav")[0].abs().max() <= 1


@pytest.mark.parametrize(
    ("source", "target"), [(48000, 16000), (44100, 16000), (16000, 48000), (11025, 16000)]
)
def test_resampling_keeps_a_tone(source: int, target: int) -> None:
    resampled = audio.resample(tone(source), source, target)
    expected = tone(target)
    assert resampled.shape == expected.shape
    inner = slice(target // 10, -target // 10)
    assert (resampled - expected)[:, inner].abs().max() < 1e-4


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    above = audio.resample(tone(48000, frequency=9000), 48000, 16000)
    assert above[:, 1600:-1600].abs().max() < 1e-5


@pytest.mark.parametrize(
    ("samples", "overlap"), [(1000, 0), (1000, 300), (5000, 4999), (16000, 0), (99999, 7)]
)
def test_blocks_cover_the_file_with_the_asked_overlap(tmp_path: Path, samples: int, overlap: int) -> None:
    path = tmp_path / "noise.wav"
    wave = torch.rand(2, 5 if overlap == 4999 else 16000) - 0.5
    audio.write(path, wave, 16000, "FLOAT")
    parts = list(audio.blocks(path, samples, overlap))
    assert all(part.shape[1] <= samples for part in parts)
    rebuilt = torch.cat([parts[0]] + [part[:, overlap:] for part in parts[1:]], dim=1)
    assert torch.equal(rebuilt, wave)


def test_a_part_of_a_file_is_read(tmp_path: Path) -> None:
    wave = torch.rand(1, 1000) - 0.5
    audio.write(tmp_path / "a.wav", wave, 16000, "FLOAT")
    assert torch.equal(audio.read(tmp_path / "a.wav", start=100, samples=50)[0], wave[:, 100:150])


def test_streaming_writer_equals_one_write(tmp_path: Path) -> None:
    wave = tone(16000, 3)
    with audio.writer(tmp_path / "stream.flac", 16000, 1) as append:
        for part in wave.split(1234, dim=1):
            append(part)
    audio.write(tmp_path / "whole.flac", wave, 16000)
    assert torch.equal(audio.read(tmp_path / "stream.flac")[0], audio.read(tmp_path / "whole.flac")[0])


def _not_audio(path: Path) -> None:
    path.write_text("This is a text, not a recording.")


def _no_bytes(path: Path) -> None:
    path.touch()


def _no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16000)


def _nan(path: Path) -> None:
    soundfile.write(path, np.array([0.0, np.nan, 0.0]), 16000, "FLOAT")


def _infinite(path: Path) -> None:
    soundfile.write(path, np.array([0.0, np.inf, 0.0]), 16000, "FLOAT")


def _missing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_not_audio, "is not audio"),
        (_no_bytes, "is empty"),
        (_no_samples, "no samples"),
        (_nan, "NaN or infinite"),
        (_infinite, "NaN or infinite"),
        (_missing, "is not a file"),
    ],
)
def test_a_bad_file_gives_one_sentence_that_names_it(tmp_path: Path, make, says: str) -> None:
    path = tmp_path / "bad.wav"
    make(path)
    for use in (audio.read, lambda file: list(audio.blocks(file, 2))):
        with pytest.raises(audio.AudioError, match=says) as raised:
            use(path)
        message = str(raised.value)
        assert "bad.wav" in message
        assert message.count("\n") == 0
        assert message.endswith(".")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    audio.write(path, tone(16000), 16000)
    before = path.read_bytes()
    broken = torch.cat([tone(16000, 10), torch.full((1, 10), math.nan)], dim=1)

    def stream() -> None:
        with audio.writer(path, 16000, 1) as append:
            for part in broken.split(16000, dim=1):
                append(part)

    with pytest.raises(audio.AudioError, match=r"out\.wav"):
        stream()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.wav"]


@pytest.mark.parametrize(
    ("name", "rate"), [("a.xyz", 16000), ("a", 16000), ("a.opus", 44100), ("a.mp3", 12345)]
)
def test_what_a_format_cannot_hold_is_said(tmp_path: Path, name: str, rate: int) -> None:
    with pytest.raises(audio.AudioError, match="cannot"):
        audio.write(tmp_path / name, tone(rate), rate)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_made_and_a_file_in_its_place_is_an_os_error(tmp_path: Path) -> None:
    audio.write(tmp_path / "missing" / "a.wav", tone(16000), 16000)
    assert audio.info(tmp_path / "missing" / "a.wav").rate == 16000
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="file"):
        audio.write(tmp_path / "file" / "a.wav", tone(16000), 16000)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"big\.wav"):
            audio.write(tmp_path / "big.wav", tone(16000, 5), 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_find_lists_audio_below_a_folder_sorted(tmp_path: Path) -> None:
    for name in ("b.wav", "a.FLAC", "deep/c.ogg", "deep/notes.txt", ".hidden/d.wav", ".e.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in audio.find(tmp_path)]
    assert found == ["a.FLAC", "b.wav", "deep/c.ogg"]
    with pytest.raises(audio.AudioError, match="is not a folder"):
        audio.find(tmp_path / "b.wav")


@pytest.mark.parametrize("rate", [22051, 44101, 7993])
def test_resample_between_nearly_coprime_rates(rate: int) -> None:
    """A sine stays the sine: -120 dB away from the ends, in a moment and little memory."""
    tone = lambda r: torch.sin(2 * torch.pi * 1000 * torch.arange(r).double() / r)[None]  # noqa: E731
    out = audio.resample(tone(rate), rate, 16000)
    assert out.shape == (1, 16000)
    middle = slice(2000, -2000)
    assert float((out - tone(16000))[:, middle].square().mean().sqrt()) < 1e-6
