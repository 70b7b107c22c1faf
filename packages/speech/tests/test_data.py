"""The data sets: pairs on disk, pairs mixed from a small synthetic corpus, and the fixed protocol sets."""

import hashlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffkit.core.collect import MANIFEST
from diffkit.core.train import EpochSampler
from diffkit.speech import audio, dsp, noises, rooms
from diffkit.speech.bank import ClipBank
from diffkit.speech.data import AudioData, PairedFolder
from diffkit.speech.mixing import Mixer
from diffkit.speech.protocol import fixed_mixtures, fixed_reverb

RATE = 16000
# What makes a mixture's SNR readable from it: noise always, nothing else but level.
PLAIN: dict[str, Any] = {"reverb_prob": 0.0, "clean_prob": 0.0, "gap_prob": 0.0, "items": 12, "seconds": 1.0}


def voice(seconds: float, pitch: float, seed: int) -> Tensor:
    """Syllables of a harmonic tone, 3 a second: enough of a voice for levels and activity."""
    time = torch.arange(int(RATE * seconds)) / RATE
    tone = sum(torch.sin(2 * math.pi * pitch * k * time) / k for k in range(1, 12))
    rhythm = (0.5 - 0.5 * torch.cos(2 * math.pi * 3 * time + seed)) ** 2
    return (0.1 * tone * rhythm)[None]


def hiss(seconds: float, seed: int) -> Tensor:
    return 0.1 * torch.randn(1, int(RATE * seconds), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    files = []

    def add(kind: str, split: str, speaker: str, name: str, wave: Tensor) -> None:
        path = folder / kind / split / speaker / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio.write(path, wave, RATE)
        files.append(
            {
                "path": path.relative_to(folder).as_posix(),
                "kind": kind,
                "split": split,
                "speaker": speaker,
                "seconds": wave.shape[1] / RATE,
                "rate": RATE,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "source": speaker,
            }
        )

    for split in ("train", "valid"):
        for i in range(3):
            add("speech", split, "low", f"low-{i}", voice(0.7 + i, 110 + i, i))
            add("speech", split, "high", f"high-{i}", voice(0.7 + i, 220 + i, i))
        for i in range(2):
            add("noise", split, "rain", f"rain-{i}", hiss(0.3 + 3 * i, i))
            add("noise", split, "keys", f"key-{i}", hiss(0.05, i))
    for i in range(6):
        add("speech", "test", "en-voice", f"en-{i}", voice(4 + i / 10, 150 + i, i))
        add("speech", "test", "es-voice", f"es-{i}", voice(4 + i / 10, 180 + i, i))
    for i in range(3):
        add("noise", "test", "place", f"resources-place{i}", hiss(20, i))
    (folder / MANIFEST).write_text(json.dumps({"sources": {}, "files": files}))
    return folder


def power_ratio_db(clean: Tensor, noisy: Tensor) -> float:
    return float(10 * torch.log10(clean.double().square().sum() / (noisy - clean).double().square().sum()))


@pytest.mark.parametrize("snr", [-5.0, 0.0, 7.5, 20.0])
def test_a_mixture_has_the_asked_snr(corpus: Path, snr: float) -> None:
    for clean, noisy in Mixer(corpus, snr_db=(snr, snr), **PLAIN):
        assert clean.dtype == noisy.dtype == torch.float32
        assert clean.shape == noisy.shape == (RATE,)
        assert max(clean.abs().max(), noisy.abs().max()) <= 1
        assert power_ratio_db(clean, noisy) == pytest.approx(snr, abs=0.05)


def test_the_clean_side_has_the_asked_active_level(corpus: Path) -> None:
    for clean, _ in Mixer(corpus, snr_db=(20, 20), level_db=(-30, -30), **PLAIN):
        assert 20 * math.log10(dsp.active_rms(clean.numpy(), RATE)) == pytest.approx(-30, abs=0.05)


def test_clipping_is_prevented_on_both_sides_alike(corpus: Path) -> None:
    for clean, noisy in Mixer(corpus, snr_db=(-5, -5), level_db=(0, 0), **PLAIN):
        assert 0.9 < max(clean.abs().max(), noisy.abs().max()) < 1
        assert power_ratio_db(clean, noisy) == pytest.approx(-5, abs=0.05)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_items_do_not_depend_on_the_worker(corpus: Path) -> None:
    mixer = Mixer(corpus, seconds=0.5, items=12, n_rooms=3, rt60=(0.2, 0.4))
    alone = [torch.stack(pair) for pair in mixer]
    for workers in (1, 2):
        loaded = [
            torch.cat(batch) for batch in DataLoader(mixer, batch_size=1, num_workers=workers, shuffle=False)
        ]
        assert all(torch.equal(one, two) for one, two in zip(alone, loaded, strict=True))
    again = Mixer(corpus, seconds=0.5, items=12, n_rooms=3, rt60=(0.2, 0.4))
    assert all(torch.equal(one, torch.stack(pair)) for one, pair in zip(alone, again, strict=True))
    other = Mixer(corpus, seconds=0.5, items=12, n_rooms=3, rt60=(0.2, 0.4), seed=1)
    assert not any(torch.equal(one, torch.stack(pair)) for one, pair in zip(alone, other, strict=True))


def test_epochs_and_ranks_share_the_items_out(corpus: Path) -> None:
    mixer = Mixer(corpus, **PLAIN)
    drawn = []
    for epoch in range(3):
        ranks = [EpochSampler(mixer, 3, rank, seed=5) for rank in range(3)]
        for sampler in ranks:
            sampler.set_epoch(epoch)
        indices = [list(sampler) for sampler in ranks]
        assert [len(part) for part in indices] == [4, 4, 4]
        drawn.append(sorted(index for part in indices for index in part))
    assert drawn == [list(range(12)), list(range(12, 24)), list(range(24, 36))]
    assert not torch.equal(mixer[0][1], mixer[12][1])


def test_items_may_be_clean(corpus: Path) -> None:
    settings: dict[str, Any] = PLAIN | {"clean_prob": 1.0}
    assert all(torch.equal(clean, noisy) for clean, noisy in Mixer(corpus, **settings))


def test_items_may_have_a_silent_gap(corpus: Path) -> None:
    settings: dict[str, Any] = PLAIN | {"gap_prob": 1.0, "colour_prob": 0.0}
    for clean, _ in Mixer(corpus, **settings):
        silent = "".join("s" if quiet else "." for quiet in clean.abs() < 1e-6)
        assert max(map(len, silent.split("."))) > 0.07 * RATE  # a tenth of the item, less its fades


def echo_room(delay: int) -> rooms.RoomBank:
    """A room with the direct path and one echo of half its amplitude, `delay` samples later."""
    direct = np.zeros(2 * rooms.ONSET, np.float32)
    direct[rooms.ONSET] = 1
    full = np.pad(direct, (0, delay))
    full[rooms.ONSET + delay] = 0.5
    return rooms.RoomBank((full,), (direct,), np.array([0.2]), np.array([0.2]))


def in_echo_room(corpus: Path, delay: int, **settings: Any) -> list[tuple[Tensor, Tensor]]:
    defaults: dict[str, Any] = PLAIN | {"n_rooms": 1, "rt60": (0.2, 0.4), "reverb_prob": 1.0}
    mixer = Mixer(corpus, **(defaults | settings))
    mixer.rooms = echo_room(delay)
    return list(mixer)


def test_dereverberation_keeps_the_direct_path_aligned(corpus: Path) -> None:
    for clean, reverb in in_echo_room(corpus, 400, task="dereverb"):
        assert torch.allclose(reverb[400:], clean[400:] + 0.5 * clean[:-400], atol=1e-5)
        # What was said before the item began still echoes in its first samples.
        assert not torch.allclose(reverb[:400], clean[:400], atol=1e-3) or clean[:400].abs().max() < 1e-2


def test_enhancement_keeps_early_reflections_and_drops_late_ones(corpus: Path) -> None:
    for clean, reverb in in_echo_room(corpus, 400, early_ms=20.0, noise_prob=0.0):  # 20 ms are 320 samples
        assert torch.allclose(reverb[400:], clean[400:] + 0.5 * clean[:-400], atol=1e-5)
    for clean, reverb in in_echo_room(corpus, 400, early_ms=100.0, noise_prob=0.0):
        assert torch.allclose(reverb, clean, atol=1e-6)


def test_every_kind_of_noise_sounds_and_is_finite(corpus: Path) -> None:
    speech, noise = (ClipBank.load(corpus, kind, "train", RATE) for kind in ("speech", "noise"))
    room = rooms.make_bank(2, RATE, rt60=(0.2, 0.3))
    for seed in range(20):
        for make in (
            lambda rng: noises.from_files(rng, noise, ["rain"], 8000),
            lambda rng: noises.typing(rng, noise, "keys", 80000, RATE),
            lambda rng: noises.babble(rng, speech, room, 8000),
            lambda rng: noises.coloured(rng, 8000),
            lambda rng: noises.hum(rng, 8000, RATE),
        ):
            wave = make(np.random.default_rng(seed))
            assert wave.dtype == np.float32
            assert len(wave) in (8000, 80000)
            assert np.isfinite(wave).all()
            assert dsp.rms(wave) > 1e-3


def test_coloured_noise_falls_with_frequency_as_asked() -> None:
    class Fixed(np.random.Generator):
        """A generator whose uniform draws are their upper bound: exponent 2.5, an equaliser flat at +6 dB."""

        def uniform(self, low=0.0, high=1.0, size=None):
            return high if size is None else np.full(size, high)

    wave = noises.coloured(Fixed(np.random.PCG64(0)), 2**18)
    power = np.abs(np.fft.rfft(wave)) ** 2
    octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(10, 17)]
    assert np.diff(10 * np.log10(octaves)) == pytest.approx(-2.5 * 10 * math.log10(2), abs=0.7)


def test_an_utterance_is_of_one_speaker_and_as_long_as_asked(corpus: Path) -> None:
    bank = ClipBank.load(corpus, "speech", "train", RATE)
    for seed in range(10):
        wave = noises.utterance(np.random.default_rng(seed), bank, "high", 6 * RATE, pause=1000)
        assert wave.shape == (6 * RATE,)
        spectrum = np.abs(np.fft.rfft(wave))
        assert 215 < spectrum.argmax() * RATE / len(wave) < 230


def test_a_bank_is_read_back_and_survives_pickling(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = ClipBank.load(corpus, "speech", "train", RATE)
    monkeypatch.setattr(audio, "read", None)  # decoding again would fail
    again = pickle.loads(pickle.dumps(ClipBank.load(corpus, "speech", "train", RATE)))
    assert len(pickle.dumps(bank)) < 10_000
    for seed in range(5):
        clips = [kept.clip(np.random.default_rng(seed), "low") for kept in (bank, again)]
        assert np.array_equal(clips[0], clips[1])
        assert np.abs(clips[0]).max() == round(0.9 * 32767)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"snr_db": (5, 0)}, "snr_db must be"),
        ({"task": "separate"}, "task must be"),
        ({"split": "nowhere"}, "has no speech in its split 'nowhere'"),
    ],
)
def test_a_wrong_setting_is_said(corpus: Path, settings: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Mixer(corpus, **settings)


def pairs(
    folder: Path, names: dict[str, float], sides: tuple[str, str] = ("clean", "noisy"), rate: int = RATE
) -> None:
    for side, gain in zip(sides, (1.0, 0.5), strict=True):
        for seed, (name, seconds) in enumerate(names.items()):
            path = folder / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.write(path, gain * hiss(seconds, seed).repeat(2, 1), rate, "FLOAT")


@pytest.mark.parametrize("sides", [("clean", "noisy"), ("anechoic", "reverb")])
def test_pairs_are_matched_cropped_alike_and_padded(tmp_path: Path, sides: tuple[str, str]) -> None:
    pairs(tmp_path, {"a.wav": 2.0, "deep/b.wav": 0.3}, sides)
    whole = PairedFolder(tmp_path, RATE)
    assert [len(clean) for clean, _ in whole] == [2 * RATE, int(0.3 * RATE)]
    cropped = PairedFolder(tmp_path, RATE, crop=0.5, seed=1)
    for index in range(6):
        clean, noisy = cropped[index]
        assert clean.shape == noisy.shape == (RATE // 2,)
        assert torch.allclose(noisy, 0.5 * clean)
        assert clean.abs().max() > 0
    assert not torch.equal(cropped[0][0], cropped[2][0])  # another epoch, another place
    assert torch.equal(cropped[0][0], PairedFolder(tmp_path, RATE, crop=0.5, seed=1)[0][0])


def test_pairs_are_resampled(tmp_path: Path) -> None:
    pairs(tmp_path, {"a.wav": 1.0}, rate=48000)
    clean, _ = PairedFolder(tmp_path, 24000, crop=0.1)[0]
    assert clean.shape == (2400,)


def test_pairs_that_do_not_match_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold the folders clean/ and noisy/"):
        PairedFolder(tmp_path)
    pairs(tmp_path, {"a.wav": 0.1, "b.wav": 0.1})
    (tmp_path / "noisy" / "b.wav").unlink()
    with pytest.raises(ValueError, match=r"1 files in clean/ have no partner in noisy/, first b\."):
        PairedFolder(tmp_path)
    audio.write(tmp_path / "noisy" / "b.wav", hiss(0.2, 0), RATE)
    with pytest.raises(audio.AudioError, match=r"b\.wav .*differ in length or rate"):
        PairedFolder(tmp_path)[1]


def test_the_data_module_gives_batches_of_both_kinds_of_data(corpus: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = PLAIN | {"valid_items": 4, "batch_size": 4, "num_workers": 0}
    mixer = {name: settings.pop(name) for name in ("reverb_prob", "clean_prob", "gap_prob")}
    for split in ("train", "valid"):
        pairs(tmp_path / split, {f"{i}.wav": 1.5 for i in range(4)})
    for data, batches in (
        (AudioData(corpus=str(corpus), mixer=mixer, **settings), 3),
        (AudioData(paired=str(tmp_path), **settings), 1),
    ):
        data.prepare_data()
        data.setup()
        train, valid = list(data.train_dataloader()), list(data.val_dataloader())
        assert (len(train), len(valid)) == (batches, 1)
        for clean, noisy in train + valid:
            assert clean.shape == noisy.shape == (4, RATE)
    with pytest.raises(ValueError, match="either corpus or paired"):
        AudioData()
    with pytest.raises(ValueError, match="either corpus or paired"):
        AudioData(corpus=str(corpus), paired=str(tmp_path))


def test_the_fixed_mixtures_are_as_described_and_repeatable(corpus: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert fixed_mixtures(corpus, tmp_path / name) == 30
    files = audio.find(tmp_path / "first" / "noisy")
    assert sum("en-voice" in path.name for path in files) == 15
    for path in files:
        (noisy, rate), (clean, _) = audio.read(path), audio.read(tmp_path / "first" / "clean" / path.name)
        assert rate == RATE
        assert power_ratio_db(clean, noisy) == pytest.approx(int(path.stem[-2:]), abs=0.05)
        assert 20 * math.log10(dsp.active_rms(clean[0].numpy(), RATE)) == pytest.approx(-26, abs=0.05)
        assert path.read_bytes() == (tmp_path / "second" / "noisy" / path.name).read_bytes()
    noise = {}
    for path in files:
        if path.stem.endswith("snr00"):
            clean = audio.read(tmp_path / "first" / "clean" / path.name)[0]
            noise[path.name] = audio.read(path)[0] - clean
    parts = [wave[0, :1000].numpy() for wave in noise.values()]
    assert all(
        abs(np.corrcoef(a, b)[0, 1]) < 0.2 for i, a in enumerate(parts) for b in parts[:i]
    )  # each its own
    with pytest.raises(ValueError, match="exists already"):
        fixed_mixtures(corpus, tmp_path / "first")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_the_fixed_reverberation_is_aligned(corpus: Path, tmp_path: Path) -> None:
    assert fixed_reverb(corpus, tmp_path / "out", rt60s=(0.3,)) == 10
    for path in audio.find(tmp_path / "out" / "clean"):
        assert path.stem.endswith("_rt60_0.3")
        clean, reverb = (audio.read(tmp_path / "out" / side / path.name)[0] for side in ("clean", "reverb"))
        assert clean.shape == reverb.shape
        assert -15 < power_ratio_db(clean, reverb) < 15
