import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.checkpoint import CheckpointError, pick_device
from diffkit.speech import Enhancer, audio, enhance
from diffkit.speech.enhance import crossfade, gated_rms, mirror
from diffkit.speech.files import enhance_files, plan

RATE = 16000


def noise(seconds: float, channels: int = 1, rate: int = RATE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(channels, round(seconds * rate), generator=generator)


def tone(seconds: float, frequency: float, rate: int = RATE) -> Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return 0.3 * torch.sin(2 * math.pi * frequency * time).float()[None]


def snr(estimate: Tensor, reference: Tensor) -> float:
    return float(10 * (reference.square().mean() / (estimate - reference).square().mean()).log10())


@pytest.fixture(scope="module")
def same(identity: Path) -> Enhancer:
    return Enhancer.from_pretrained(identity, "cpu")


@pytest.fixture(scope="module")
def filtering(wild: Path) -> Enhancer:
    return Enhancer.from_pretrained(wild, "cpu")


@pytest.mark.parametrize("samples", [1, 17, 5000, 8 * RATE, 8 * RATE + 1, 20 * RATE + 123])
def test_chunks_add_up(same: Enhancer, samples: int):
    wave = noise(samples / RATE)
    assert snr(same.enhance(wave, RATE), wave) > 80


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_any_rate_keeps_time_and_level(same: Enhancer, rate: int):
    wave = tone(9.3, 1000, rate)
    out = same.enhance(wave, rate)
    inner = slice(rate // 10, -rate // 10)  # resampling rings at the ends
    assert out.shape == wave.shape
    assert snr(out[:, inner], wave[:, inner]) > 50


def test_what_the_model_cannot_hear_is_left_out(same: Enhancer):
    low, high = tone(2, 1000, 48000), tone(2, 15000, 48000)
    inner = slice(4800, -4800)
    assert snr(same.enhance(low + high, 48000)[:, inner], low[:, inner]) > 50


@pytest.mark.parametrize("shape", [(4000,), (1, 4000), (3, 4000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_are_kept(same: Enhancer, shape: tuple[int, ...], dtype: torch.dtype):
    wave = noise(0.25, 3)[: shape[0] if len(shape) == 2 else 1].reshape(shape).to(dtype)
    out = same.enhance(wave, RATE)
    assert (out.shape, out.dtype) == (wave.shape, dtype)
    assert snr(out, wave) > 80


@pytest.mark.parametrize("gain", [1e-6, 30.0])
def test_level_is_kept_at_any_level(filtering: Enhancer, gain: float):
    wave = noise(2)
    assert snr(filtering.enhance(gain * wave, RATE) / gain, filtering.enhance(wave, RATE)) > 60


def test_silence_stays_silent(filtering: Enhancer):
    wave = torch.cat([noise(2, 2), torch.zeros(2, 20 * RATE), noise(2, 2)], 1)
    wave[1] = 0
    out = filtering.enhance(wave, RATE)
    assert not out[1].any()
    assert not out[0, 9 * RATE : 13 * RATE].any()
    assert out[0, :RATE].any()
    assert not filtering.enhance(torch.zeros(9 * RATE), RATE).any()


def test_channels_are_enhanced_for_themselves(filtering: Enhancer):
    left, right = noise(1, seed=1), 0.01 * noise(1, seed=2)
    both = filtering.enhance(torch.cat([left, right, left]), RATE)
    assert torch.equal(both[0], both[2])
    assert snr(both[1:2], filtering.enhance(right, RATE)) > 60


def test_noise_is_a_function_of_the_seed(filtering: Enhancer):
    wave = noise(1)
    first, again, other = (filtering.enhance(wave, RATE, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_long_is_as_whole(filtering: Enhancer, monkeypatch: pytest.MonkeyPatch):
    wave = noise(20) * (1 + tone(20, 0.7))
    chunked = filtering.enhance(wave, RATE, steps=1)
    monkeypatch.setattr(enhance, "CHUNK", 40)
    whole = filtering.enhance(wave, RATE, steps=1)
    assert snr(whole, wave) < 20  # the network does something
    for start in range(0, 20, 2):
        part = slice(start * RATE, (start + 2) * RATE)
        assert snr(chunked[:, part], whole[:, part]) > 60


def test_no_seam_in_speech(monkeypatch: pytest.MonkeyPatch):
    enhancer = Enhancer.from_pretrained("tiny", "cpu")
    example = next((Path(__file__).parents[1] / "examples").glob("kennedy*"))
    wave = audio.read(example, RATE)[0][:1].repeat(1, 2)[:, : 20 * RATE]
    chunked = enhancer.enhance(wave, RATE)
    monkeypatch.setattr(enhance, "CHUNK", 40)
    assert snr(chunked, enhancer.enhance(wave, RATE)) > 25


def test_no_seam_in_a_stationary_sound(filtering: Enhancer):
    out = filtering.enhance(tone(30, 440) + 0.1 * noise(30), RATE, steps=1)
    level = 10 * out.unfold(1, RATE // 4, RATE // 4).square().mean(2).log10()[0, 1:-1]
    assert level.max() - level.min() < 0.5


def test_crossfade_sums_to_one_and_leaves_out_the_edges():
    fade = crossfade(1000)
    torch.testing.assert_close(fade + fade.flip(0), torch.ones(1000))
    assert not fade[:250].any()
    assert (fade.diff() >= 0).all()


def test_gated_rms_leaves_out_pauses():
    speech, pause = noise(4), 1e-4 * noise(36)
    rms = gated_rms([torch.cat([speech, pause], 1), pause], RATE)
    torch.testing.assert_close(rms, torch.full((1, 1), 0.1, dtype=torch.float64), rtol=0.02, atol=0)
    assert gated_rms([1e30 * speech], RATE) == pytest.approx(1e29, rel=0.02)


@pytest.mark.parametrize("samples", [1, 3, 8, 9])
def test_mirror(samples: int):
    wave = torch.arange(samples)[None] + 1.0
    padded = mirror(wave, 8)
    assert padded.shape[1] == (16 if samples == 9 else 8)
    assert torch.equal(padded[:, :samples], wave)
    if samples == 3:
        assert padded.tolist() == [[1, 2, 3, 3, 2, 1, 1, 2]]


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (torch.zeros(0), RATE, "at least one"),
        (torch.zeros(2, 0), RATE, "at least one"),
        (torch.zeros(1, 2, 3), RATE, "shape"),
        (torch.zeros(4, dtype=torch.int16), RATE, "floating"),
        (torch.tensor([0.0, math.nan]), RATE, "NaN"),
        (torch.tensor([0.0, math.inf]), RATE, "infinite"),
        (torch.zeros(4), 0, "positive"),
    ],
)
def test_wrong_waveforms(same: Enhancer, wave: Tensor, rate: int, message: str):
    with pytest.raises(ValueError, match=message):
        same.enhance(wave, rate)


def test_a_rate_nearly_coprime_with_the_models(same: Enhancer) -> None:
    """15999 Hz, where a resampling kernel of all phases would not end: the identity network gives it back."""
    wave = 0.1 * torch.sin(2 * math.pi * 300 * torch.arange(15999) / 15999)[None]
    out = same.enhance(wave, 15999)
    assert out.shape == wave.shape
    middle = slice(3000, -3000)
    assert float((out - wave)[:, middle].abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("options", "message"), [({"solver": "euler"}, "the solvers are ancestral"), ({"steps": 0}, "at least 1")]
)
def test_wrong_options(same: Enhancer, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        same.enhance(noise(0.1), RATE, **options)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_wrong_device(device: str):
    with pytest.raises(ValueError, match="cannot be used here"):
        pick_device(device)


def test_a_checkpoint_of_another_task(save: Any):
    with pytest.raises(CheckpointError, match="for 'dereverb', not for 'enhance'"):
        Enhancer.from_pretrained(save("dereverb"), "cpu", task="enhance")


@pytest.mark.parametrize("solver", ["ddim", "adams", "heun", "dpmpp_2m"])
def test_every_solver(same: Enhancer, solver: str):
    wave = noise(0.5)
    assert snr(same.enhance(wave, RATE, solver=solver, steps=3), wave) > 60


def test_file_to_file_is_the_same(filtering: Enhancer, tmp_path: Path):
    wave = noise(17.3, 2, 44100)
    audio.write(tmp_path / "in.wav", wave, 44100, "FLOAT")
    filtering.enhance_file(tmp_path / "in.wav", tmp_path / "new" / "out.wav")
    out, rate = audio.read(tmp_path / "new" / "out.wav")
    assert (rate, audio.info(tmp_path / "new" / "out.wav").subtype) == (44100, "FLOAT")
    assert torch.equal(out, filtering.enhance(wave, 44100))


def test_a_file_is_the_same_in_any_batch(filtering: Enhancer, tmp_path: Path):
    pairs = []
    for index, seconds in enumerate((1.2, 9.1, 1.3, 3.0, 9.4)):
        audio.write(tmp_path / f"{index}.wav", noise(seconds, 1 + index % 2, seed=index), RATE, "FLOAT")
        pairs.append((tmp_path / f"{index}.wav", tmp_path / "batch" / f"{index}.wav"))
    spent: dict[Path, float] = {}

    def advance(path: Path, seconds: float) -> None:
        spent[path] = spent.get(path, 0) + seconds

    done = list(enhance_files(filtering, pairs, batch_size=3, seed=5, advance=advance))
    assert sorted(outcome.target for outcome in done) == [target for _, target in pairs]
    assert list(spent.values()) == pytest.approx([audio.info(path).seconds for path in spent])
    for source, target in pairs:
        filtering.enhance_file(source, tmp_path / "alone.wav", seed=5, overwrite=True)
        assert snr(audio.read(target)[0], audio.read(tmp_path / "alone.wav")[0]) > 60


def test_not_finite_is_an_error_of_that_file_alone(identity: Path, tmp_path: Path):
    enhancer = Enhancer.from_pretrained(identity, "cpu")

    def poison(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        loudest = inputs[2].square().sum(1).mean(-1).argmax(1)  # of 256 bins up to 8 kHz
        return torch.where((loudest > 128)[:, None, None, None], math.nan, output)

    enhancer.network.register_forward_hook(poison)
    for name, frequency in (("a", 500), ("b", 6000), ("c", 700)):
        audio.write(tmp_path / f"{name}.wav", tone(1, frequency), RATE)
    with pytest.raises(FloatingPointError, match="finite"):
        enhancer.enhance(tone(1, 6000), RATE)
    outcomes = list(enhance_files(enhancer, plan(tmp_path, tmp_path / "out"), batch_size=3))
    errors = {outcome.source.stem: outcome.error for outcome in outcomes}
    assert (errors["a"], errors["c"]) == (None, None)
    assert "b.wav" in str(errors["b"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "c.wav"]


def test_an_interrupt_keeps_what_is_finished_and_resumes(same: Enhancer, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for name in "abc":
        audio.write(tmp_path / "in" / f"{name}.wav", noise(9), RATE)

    def interrupt(path: Path, seconds: float) -> None:
        if path.stem == "b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(enhance_files(same, plan(tmp_path / "in", tmp_path / "out"), advance=interrupt))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]
    rest = plan(tmp_path / "in", tmp_path / "out", resume=True)
    assert [source.stem for source, _ in rest] == ["b", "c"]
    assert all(outcome.error is None for outcome in enhance_files(same, rest))
    assert plan(tmp_path / "in", tmp_path / "out", resume=True) == []


@pytest.mark.gpu
def test_bfloat16_and_compile_on_cuda(wild: Path):
    wave = noise(4)
    reference = Enhancer.from_pretrained(wild, "cpu").enhance(wave, RATE, steps=1)
    half = Enhancer.from_pretrained(wild, "cuda", compile=True, bf16=True)
    assert snr(Enhancer.from_pretrained(wild, "cuda").enhance(wave, RATE, steps=1), reference) > 40
    assert snr(half.enhance(wave, RATE, steps=1), reference) > 20
