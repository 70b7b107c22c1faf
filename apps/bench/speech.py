"""Speech enhancement beside its peers, in one run: quality per SNR or RT60, network calls, real-time factor.

The protocol (`diffkit.speech.protocol`): ten test utterances at 16 kHz, each with its own test noise at 0, 5
and 10 dB, and in rooms of RT60 0.4, 0.8 and 1.2 s, thirty pairs each. Every system runs on every file in
this process on the CPU; its outputs are moved by one lag, its latency, and scored by
`diffkit.speech.evaluate`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _peers import PEERS, RATE, Enhance, Wave
from _speech_report import Result, describe_run, plot, to_json, to_markdown, write
from rich.progress import track
from threadpoolctl import threadpool_limits

from diffkit.speech import audio
from diffkit.speech.evaluate import evaluate
from diffkit.speech.protocol import fixed_mixtures, fixed_reverb

DEGRADED = {"enhance": "noisy", "dereverb": "reverb"}  # task -> the folder of its inputs
METRICS = ("pesq_wb", "estoi", "si_sdr")
_MAX_LAG = RATE // 10


@dataclass(frozen=True)
class System:
    """What is compared: `build()` gives a loaded enhancer with no memory of earlier files."""

    name: str
    build: Callable[[], Enhance]
    calls: int | None = None  # of the network, for a clip of one chunk
    curve: str | None = None  # of the plot, that this is a point of


def main(
    corpus: Path,
    work: Path = Path("runs/bench-speech"),
    enhance: list[str] | None = None,
    dereverb: list[str] | None = None,
    peers: list[str] | None = None,
    threads: int = 2,
    dnsmos: bool = False,
    report: Path | None = None,
) -> None:
    """Benchmark speech enhancement on the fixed protocol sets of a demo corpus.

    Args:
        corpus: folder that `diffkit-speech data` has built.
        work: folder for the protocol sets and every system's aligned output, to listen to; sets that it
            holds already are used as they are.
        enhance: diffkit systems for the noisy set, each CHECKPOINT:SOLVER:STEPS.
        dereverb: diffkit systems for the reverberant set, likewise.
        peers: names of the peers to run; default all that are installed, [] for none.
        threads: CPU threads of torch, onnxruntime and BLAS.
        dnsmos: also measure DNSMOS (extra `dnsmos`; a few seconds a file).
        report: where to write the tables (REPORT.md), all numbers (.json) and the plot (.png).
    """
    torch.set_num_threads(threads)
    specs = {"enhance": enhance or [], "dereverb": dereverb or []}
    metrics = (*METRICS, "dnsmos") if dnsmos else METRICS
    skipped: dict[str, str] = {}
    results: dict[str, list[Result]] = {}
    with threadpool_limits(threads):
        for task, degraded in DEGRADED.items():
            systems = [
                *_peers(task, threads, peers, skipped),
                *(_diffkit(spec, task) for spec in specs[task]),
            ]
            pairs = _protocol(task, corpus, work)
            before = evaluate(pairs / "clean", pairs / degraded, metrics, progress=False)
            results[task] = [Result(degraded, before.summary())]
            results[task] += [_run(system, pairs, degraded, metrics) for system in systems]
    run = describe_run(threads, _packages(results))
    text = to_markdown(results, run, skipped)
    print(text)
    if report is not None:
        write(report.with_suffix(".md"), text)
        write(report.with_suffix(".json"), to_json(results, run, skipped))
        plot(results, report.with_suffix(".png"))


def latency(estimates: list[Wave], references: list[Wave]) -> int:
    """Samples, at most 0.1 s, by which the estimates come late: where the mean cross-correlation peaks.

    One lag for all files of a system: alone, a reverberant file may agree best with its own reflections.
    """
    lags = np.arange(-_MAX_LAG, _MAX_LAG + 1)
    total = np.zeros(len(lags))
    for estimate, reference in zip(estimates, references, strict=True):
        size = 2 ** (len(estimate) + len(reference)).bit_length()
        spectrum = np.fft.rfft(estimate, size) * np.fft.rfft(reference, size).conj()
        scale = np.linalg.norm(estimate) * np.linalg.norm(reference)
        total += np.fft.irfft(spectrum, size)[lags] / scale
    return int(lags[total.argmax()])


def advance(wave: Wave, lag: int, length: int) -> Wave:
    """`wave` earlier by `lag` samples (later if negative), cut or zero-padded to `length`."""
    moved = wave[lag:] if lag >= 0 else np.pad(wave, (-lag, 0))
    return np.pad(moved, (0, max(0, length - len(moved))))[:length]


def _protocol(task: str, corpus: Path, work: Path) -> Path:
    """The folder with the pairs of `task`, written unless it is there."""
    folder = work / task
    if not folder.exists():
        fixed = {"enhance": fixed_mixtures, "dereverb": fixed_reverb}[task]
        fixed(corpus, folder)
    return folder


def _peers(task: str, threads: int, wanted: list[str] | None, skipped: dict[str, str]) -> Iterator[System]:
    for peer in PEERS:
        if task not in peer.tasks or (wanted is not None and peer.name not in wanted):
            continue
        try:
            peer.build(threads)
        except ImportError as error:
            skipped[peer.name] = f"not run: {error}"
            print(f"{peer.name} is not run: {error}", file=sys.stderr)
            continue
        yield System(peer.name, lambda peer=peer: peer.build(threads))


def _packages(results: dict[str, list[Result]]) -> list[str]:
    ran = {result.system for rows in results.values() for result in rows}
    return [peer.package for peer in PEERS if peer.name in ran]


def _diffkit(spec: str, task: str) -> System:
    from diffkit.speech.enhance import Enhancer

    parts = spec.rsplit(":", 2)
    if len(parts) != 3 or not parts[2].isdigit():
        raise ValueError(f"{spec} is not CHECKPOINT:SOLVER:STEPS, such as tiny:ddim:5.")
    checkpoint, solver, steps = parts
    enhancer = Enhancer.from_pretrained(checkpoint, device="cpu", task=task)

    def enhance(wave: Wave) -> Wave:
        noisy = torch.from_numpy(wave)[None]
        return enhancer.enhance(noisy, RATE, solver=solver, steps=int(steps), seed=0)[0].numpy()

    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = enhancer.network.register_forward_pre_hook(count)
    enhance(np.random.default_rng(0).normal(0, 0.05, RATE).astype(np.float32))
    hook.remove()
    curve = f"{Path(checkpoint).name} {solver}"
    return System(f"diffkit {curve} {steps}", lambda: enhance, calls, curve)


def _run(system: System, pairs: Path, degraded: str, metrics: tuple[str, ...]) -> Result:
    """Enhance every degraded file of `pairs` into a folder named for the system, then score the folder."""
    out = pairs / system.name.replace(" ", "_")
    out.mkdir(exist_ok=True)
    files = audio.find(pairs / degraded)
    system.build()(_load(files[0]))  # warm up, outside the clock
    clean = [_load(pairs / "clean" / path.name) for path in files]
    spent, estimates = 0.0, []
    for path in track(files, f"{pairs.name}: {system.name}", transient=True):
        wave, enhance = _load(path), system.build()
        start = time.perf_counter()
        estimates.append(enhance(wave))
        spent += time.perf_counter() - start
    lag = latency(estimates, clean)
    for path, estimate, reference in zip(files, estimates, clean, strict=True):
        aligned = torch.from_numpy(advance(estimate, lag, len(reference)))
        audio.write(out / path.name, aligned, RATE, "FLOAT")
    scores = evaluate(pairs / "clean", out, metrics, progress=False)
    if scores.failed:
        raise ValueError(f"{system.name} has no score: {'; '.join(scores.failed.values())}")
    seconds = sum(map(len, clean)) / RATE
    return Result(system.name, scores.summary(), system.calls, spent / seconds, lag, system.curve)


def _load(path: Path) -> Wave:
    return audio.read(path, RATE)[0][0].numpy()


if __name__ == "__main__":
    from jsonargparse import auto_cli

    try:
        auto_cli(main)
    except (ValueError, OSError) as error:
        sys.exit(f"speech.py: {error}")
