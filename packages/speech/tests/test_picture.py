import math
from pathlib import Path

import pytest
import torch

from diffkit.speech import audio
from diffkit.speech.picture import spectrogram, spectrogram_pair


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 0.001), (16000, 3.0), (44100, 20.0), (48000, 2.5)])
def test_a_tone_is_where_and_as_loud_as_it_should_be(tmp_path: Path, rate: int, seconds: float):
    time = torch.arange(math.ceil(seconds * rate), dtype=torch.float64) / rate
    audio.write(tmp_path / "tone.wav", torch.sin(2 * math.pi * 1000 * time).float(), rate, "FLOAT")
    shown = spectrogram(tmp_path / "tone.wav")
    assert shown.db.shape[1] <= 1200
    assert seconds <= shown.seconds < seconds + 0.05
    assert shown.top <= rate / 2
    if seconds > 1:
        inner = shown.db[:, 5:-5]
        frequency = inner.argmax(0) * shown.top / (len(inner) - 1)
        torch.testing.assert_close(frequency, torch.full_like(frequency, 1000), rtol=0, atol=20)
        torch.testing.assert_close(inner.amax(0), torch.full_like(frequency, -3.01), rtol=0, atol=0.1)


def test_the_picture_is_written_whole_whatever_the_name(tmp_path: Path):
    noisy = tmp_path / r"cost $5_a \b 語.wav"
    audio.write(noisy, 0.1 * torch.randn(2, 8000), 8000)
    spectrogram_pair(noisy, noisy, tmp_path / "pair.png")
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


def test_silence_has_a_picture(tmp_path: Path):
    audio.write(tmp_path / "silence.wav", torch.zeros(8000), 8000)
    spectrogram_pair(tmp_path / "silence.wav", tmp_path / "silence.wav", tmp_path / "pair.png")
    assert (tmp_path / "pair.png").exists()
