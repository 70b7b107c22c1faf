"""Laws of the metrics, and what an evaluation does with good, broken and unpaired files."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffkit.speech import audio, evaluate, metrics

RATE = 16_000


def speech(seconds: float = 2.0, seed: int = 0, rate: int = RATE) -> Tensor:
    """Noise with a falling spectrum and syllable-like bursts: enough of speech for PESQ and ESTOI."""
    time = torch.arange(int(seconds * rate)) / rate
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(time), generator=generator)
    smooth = torch.nn.functional.avg_pool1d(noise[None], 8, 1, padding=4)[0, : len(time)]
    return 0.3 * smooth * torch.sin(2 * math.pi * 2 * time).clamp(min=0)


def tones(rate: int = RATE) -> tuple[Tensor, Tensor]:
    """Two zero-mean signals that are orthogonal and of equal energy."""
    phase = 2 * math.pi * 100 * torch.arange(rate, dtype=torch.float64) / rate
    return phase.sin(), phase.cos()


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5])
def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_energies(snr: float) -> None:
    clean, noise = tones()
    noisy = clean + 10 ** (-snr / 20) * noise
    assert metrics.si_sdr(noisy, clean).item() == pytest.approx(snr, abs=1e-6)


def test_si_sdr_ignores_scale_and_offset() -> None:
    clean, noise = tones()
    noisy = clean + 0.5 * noise
    expected = metrics.si_sdr(noisy, clean)
    torch.testing.assert_close(metrics.si_sdr(0.01 * noisy + 0.2, clean), expected)
    torch.testing.assert_close(metrics.si_sdr(noisy, -7 * clean - 0.1), expected)


def test_si_sdr_scores_each_row_and_has_a_gradient() -> None:
    clean, noise = tones()
    estimate = torch.stack([clean + noise, clean + 0.1 * noise]).float().requires_grad_()
    values = metrics.si_sdr(estimate, clean.float().expand(2, -1))
    assert values.tolist() == pytest.approx([0.0, 20.0], abs=1e-3)
    values.sum().backward()
    assert estimate.grad is not None
    assert torch.isfinite(estimate.grad).all()


def test_a_perfect_copy_has_the_highest_scores() -> None:
    clean = speech()
    scores = metrics.score(clean, clean, RATE)
    assert list(scores) == ["pesq_wb", "estoi", "si_sdr"]
    assert scores["pesq_wb"] == pytest.approx(4.644, abs=1e-3)
    assert scores["estoi"] == pytest.approx(1.0, abs=1e-6)
    assert scores["si_sdr"] == 100.0


def test_every_metric_falls_as_noise_rises() -> None:
    clean, noise = speech(), 0.1 * torch.randn(2 * RATE, generator=torch.Generator().manual_seed(1))
    rows = [metrics.score(clean + gain * noise, clean, RATE) for gain in (0.05, 0.3, 1.5)]
    for name in metrics.DEFAULT:
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True), name


def test_channels_are_averaged() -> None:
    clean, noise = speech(), speech(seed=1)
    one, two = clean + 0.1 * noise, clean + 0.5 * noise
    both = metrics.score(torch.stack([one, two]), torch.stack([clean, clean]), RATE)
    apart = [metrics.score(wave, clean, RATE) for wave in (one, two)]
    for name, value in both.items():
        assert value == pytest.approx((apart[0][name] + apart[1][name]) / 2)


def test_pesq_resamples_to_16_khz() -> None:
    clean, noisy = speech(), speech() + 0.05 * speech(seed=1)
    wide = metrics.pesq_wb(audio.resample(noisy, RATE, 48_000), audio.resample(clean, RATE, 48_000), 48_000)
    assert wide == pytest.approx(metrics.pesq_wb(noisy, clean, RATE), abs=0.05)


def test_dnsmos_is_on_the_opinion_scale() -> None:
    pytest.importorskip("speechmos.dnsmos", reason="the extra dnsmos is optional")
    scores = metrics.score(speech(), speech(), RATE, ["dnsmos"])
    assert list(scores) == ["dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"]
    assert all(0.5 < value < 5 for value in scores.values())


def test_a_small_difference_in_length_is_cut_from_the_end() -> None:
    clean, noise = tones()
    longer = torch.cat([clean + noise, torch.ones(RATE // 20)])
    assert metrics.si_sdr(longer, clean).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("metric", ["pesq_wb", "estoi", "si_sdr"])
@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        (torch.full((RATE,), torch.nan), "estimate has NaN or infinite"),
        (torch.full((RATE,), torch.inf), "estimate has NaN or infinite"),
        (torch.zeros(RATE), "estimate is silent"),
        (torch.zeros(0), "no samples"),
        (speech(0.8), "12800 samples and the reference 16000, more than 10 % apart"),
        (speech(1.0).expand(2, -1), "differ in channels"),
    ],
)
def test_a_pair_without_a_score_says_why(metric: str, estimate: Tensor, message: str) -> None:
    with pytest.raises(metrics.MetricError, match=message):
        metrics.score(estimate, speech(1.0), RATE, [metric])


def test_too_little_speech_says_so() -> None:
    with pytest.raises(metrics.MetricError, match="384 ms"):
        metrics.estoi(speech(0.2), speech(0.2), RATE)
    with pytest.raises(metrics.MetricError, match="quarter of a second"):
        metrics.pesq_wb(speech(0.2), speech(0.2), RATE)


def test_unknown_metric_and_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no metric 'mos'; the metrics are pesq_wb, estoi"):
        metrics.score(speech(), speech(), RATE, ["mos"])
    monkeypatch.setitem(sys.modules, "pystoi", None)
    with pytest.raises(metrics.MissingExtraError, match=r"pystoi; install diffkit-speech\[metrics\]"):
        metrics.score(speech(), speech(), RATE, ["estoi"])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four clean files and estimates at exactly the SI-SDR that their names say; one is in a subfolder."""
    clean, estimate = tmp_path / "clean", tmp_path / "estimate"
    signal, noise = tones()
    for name, gain_db in [("a_snr0", 0), ("a_snr10", 10), ("sub/b_snr0", 2), ("sub/b_snr10", 12)]:
        noisy = 0.3 * (signal + 10 ** (-gain_db / 20) * noise)
        for folder, suffix, wave in [(clean, ".flac", 0.3 * signal), (estimate, ".wav", noisy)]:
            path = (folder / name).with_suffix(suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.write(path, wave, RATE, "PCM_24")
    return clean, estimate


def test_evaluation_groups_by_snr(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    report = evaluate.evaluate(*folders, ["si_sdr"], out=out, progress=False)
    summary = report.summary()
    assert list(summary) == ["0 dB", "10 dB", "all"]
    assert report.failed == {}
    assert summary["0 dB"]["si_sdr"].mean == pytest.approx(1.0, abs=1e-3)
    assert summary["10 dB"]["si_sdr"].std == pytest.approx(math.sqrt(2), abs=1e-3)
    assert summary["all"]["si_sdr"].mean == pytest.approx(6.0, abs=1e-3)
    assert summary["all"]["si_sdr"].n == 4
    saved = json.loads(out.read_text())
    assert [file["name"] for file in saved["files"]] == ["a_snr0", "a_snr10", "sub/b_snr0", "sub/b_snr10"]
    assert saved["summary"]["0 dB"]["si_sdr"]["mean"] == pytest.approx(summary["0 dB"]["si_sdr"].mean)
    assert "diffkit-speech" in saved["versions"]
    assert "Scale-invariant" in saved["protocol"]["si_sdr"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "estimate", "report.json"]


@pytest.mark.parametrize(
    ("name", "group"),
    [("a_snr05", "5 dB"), ("a_snr-5", "-5 dB"), ("a_snr2.5_x", "2.5 dB"), ("a_rt60_0.4", "0.4 s"), ("a", "")],
)
def test_a_name_says_its_group(name: str, group: str, tmp_path: Path) -> None:
    for folder in ("clean", "estimate"):
        (tmp_path / folder).mkdir()
        audio.write(tmp_path / folder / f"{name}.wav", speech(0.5), RATE)
    report = evaluate.evaluate(tmp_path / "clean", tmp_path / "estimate", ["si_sdr"], progress=False)
    assert report.files[0].group == group


def test_a_broken_file_and_lonely_files_are_named_and_the_rest_scored(folders: tuple[Path, Path]) -> None:
    clean, estimate = folders
    (estimate / "a_snr0.wav").write_bytes(b"not audio")
    audio.write(estimate / "a_snr10.wav", torch.zeros(RATE), RATE)
    (clean / "sub/b_snr10.flac").rename(clean / "sub/c_snr10.flac")
    report = evaluate.evaluate(clean, estimate, ["si_sdr"], progress=False)
    assert [file.name for file in report.files] == ["sub/b_snr0"]
    assert str(estimate / "a_snr0.wav") in report.failed["a_snr0"]
    assert "silent" in report.failed["a_snr10"]
    assert "no reference" in report.failed["sub/b_snr10"]
    assert "no estimate" in report.failed["sub/c_snr10"]
    assert report.as_dict()["failed"] == report.failed


def test_workers_find_the_same_as_one_process(folders: tuple[Path, Path]) -> None:
    alone = evaluate.evaluate(*folders, ["si_sdr"], progress=False)
    assert evaluate.evaluate(*folders, ["si_sdr"], num_workers=1, progress=False) == alone


def test_an_estimate_at_another_rate_is_resampled(tmp_path: Path) -> None:
    signal, noise = tones()
    audio.write(tmp_path / "clean.wav", 0.3 * signal, RATE, "FLOAT")
    noisy = audio.resample(0.3 * (signal + 0.1 * noise), RATE, 48_000)
    audio.write(tmp_path / "noisy.wav", noisy, 48_000, "FLOAT")
    report = evaluate.evaluate(tmp_path / "clean.wav", tmp_path / "noisy.wav", ["si_sdr"], progress=False)
    assert report.files[0].scores["si_sdr"] == pytest.approx(20, abs=0.5)
    assert report.summary()["all"]["si_sdr"].std is None


def test_groups_from_a_table(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    rows = ["a_snr0,street", "a_snr10.wav,street", "sub/b_snr0,kitchen", "sub/b_snr10,kitchen"]
    table.write_text("\n".join(["name,group", *rows]))
    report = evaluate.evaluate(*folders, ["si_sdr"], groups=table, progress=False)
    assert list(report.summary()) == ["kitchen", "street", "all"]
    table.write_text("name,group\na_snr0,street\n")
    with pytest.raises(ValueError, match="no group for a_snr10"):
        evaluate.evaluate(*folders, ["si_sdr"], groups=table, progress=False)
    table.write_text("file,snr\na_snr0,street\n")
    with pytest.raises(ValueError, match="columns name and group"):
        evaluate.evaluate(*folders, ["si_sdr"], groups=table, progress=False)


def test_folders_that_do_not_match_are_one_clear_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    clean, estimate = folders
    with pytest.raises(ValueError, match="does not exist"):
        evaluate.evaluate(clean, tmp_path / "nowhere", ["si_sdr"])
    with pytest.raises(ValueError, match="both be folders or both be files"):
        evaluate.evaluate(clean, estimate / "a_snr0.wav", ["si_sdr"])
    with pytest.raises(ValueError, match="must keep the names"):
        evaluate.evaluate(clean, estimate / "sub", ["si_sdr"])
    audio.write(clean / "a_snr0.wav", speech(0.5), RATE)
    with pytest.raises(ValueError, match="differ only by suffix"):
        evaluate.evaluate(clean, estimate, ["si_sdr"])


def test_a_report_that_cannot_be_written_is_refused_before_scoring(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="not a folder that can be written"):
        evaluate.evaluate(*folders, ["si_sdr"], out=tmp_path / "no" / "report.json")
    with pytest.raises(OSError, match="is a folder"):
        evaluate.evaluate(*folders, ["si_sdr"], out=tmp_path)
    out = tmp_path / "report.json"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        evaluate.evaluate(*folders, ["si_sdr"], out=out)
    assert out.read_text() == "mine"
    evaluate.evaluate(*folders, ["si_sdr"], out=out, overwrite=True, progress=False)
    assert json.loads(out.read_text())["failed"] == {}


def test_the_table_shows_every_group(folders: tuple[Path, Path]) -> None:
    table = evaluate.evaluate(*folders, ["si_sdr"], progress=False).table()
    assert [list(column.cells) for column in table.columns] == [
        ["0 dB", "10 dB", "all"],
        ["2", "2", "4"],
        ["1.0 ± 1.4", "11.0 ± 1.4", "6.0 ± 5.9"],
    ]
