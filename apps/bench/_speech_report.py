"""The results of apps/bench/speech.py as a Markdown table, as JSON and as a plot."""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from diffkit.core.files import whole
from diffkit.speech.evaluate import OVERALL, Spread


@dataclass(frozen=True)
class Result:
    """A system's scores on one task: group -> metric -> mean, deviation, count.

    `calls` are network calls, `rtf` the seconds of computing per second of audio, `lag` the latency in
    samples that was taken out, `curve` the plot's curve that it is a point of; None where they do not apply.
    """

    system: str
    summary: dict[str, dict[str, Spread]]
    calls: int | None = None
    rtf: float | None = None
    lag: int | None = None
    curve: str | None = None


Results = dict[str, list[Result]]
_TITLES = {"pesq_wb": "PESQ-wb", "estoi": "ESTOI", "si_sdr": "SI-SDR in dB"}


def describe_run(threads: int, packages: Iterable[str]) -> dict[str, str]:
    """What the numbers depend on; absolute paths in the command are cut to their last part."""
    arguments = [re.sub(r"(?<![^\s,\[])/(?:[^\s,/]+/)*", "", argument) for argument in sys.argv[1:]]
    names = ("diffkit-speech", "torch", "onnxruntime", "pesq", "pystoi", *packages)
    return {
        "command": f"`{shlex.join(['python', 'apps/bench/speech.py', *arguments])}`",
        "machine": f"{_processor()}, {os.cpu_count()} cores, {threads} threads used",
        "load average": f"{os.getloadavg()[2]:.1f} over the last 15 minutes, this run included",
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
    }


def to_markdown(results: Results, run: dict[str, str], skipped: dict[str, str]) -> str:
    """A table per task, then the systems that were not run and what the numbers depend on."""
    lines = ["# Speech enhancement beside its peers", ""]
    lines += ["Cells are means of PESQ-wb / ESTOI / SI-SDR in dB; the last is over all files.", ""]
    for task, rows in results.items():
        groups = list(rows[0].summary)
        judged = "dnsmos_ovrl" in rows[0].summary[OVERALL]
        header = ["system", "calls", *groups, *(["DNSMOS OVRL"] if judged else []), "RTF"]
        lines += [f"## {task.capitalize()}", "", _row(header), _row(["---"] * len(header))]
        for result in rows:
            cells = [_cell(result.summary[group]) for group in groups]
            if judged:
                cells.append(f"{result.summary[OVERALL]['dnsmos_ovrl'].mean:.2f}")
            calls = "" if result.calls is None else str(result.calls)
            rtf = "" if result.rtf is None else f"{result.rtf:.3f}"
            lines.append(_row([result.system, calls, *cells, rtf]))
        lines.append("")
    lines += [f"* {name}: {text}" for name, text in {**skipped, **run}.items()]
    return "\n".join(lines) + "\n"


def to_json(results: Results, run: dict[str, str], skipped: dict[str, str]) -> str:
    """All of it, with standard deviation and count of every cell."""

    def plain(result: Result) -> dict[str, Any]:
        summary = {g: {m: s._asdict() for m, s in row.items()} for g, row in result.summary.items()}
        return vars(result) | {"summary": summary}

    tasks = {task: [plain(result) for result in rows] for task, rows in results.items()}
    return json.dumps({"run": run, "skipped": skipped, **tasks}, indent=1) + "\n"


def plot(results: Results, path: Path) -> None:
    """Mean quality against network calls: a curve per checkpoint and solver, a dotted level per peer.

    Writes nothing when no system has a curve.
    """
    from matplotlib.figure import Figure

    tasks = [task for task, rows in results.items() if any(result.curve for result in rows)]
    if not tasks:
        return
    figure = Figure(figsize=(12, 3.6 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), len(_TITLES), squeeze=False)
    for task, row in zip(tasks, panels, strict=True):
        for metric, axes in zip(_TITLES, row, strict=True):
            _panel(axes, results[task], metric)
            axes.set(title=f"{task}: {_TITLES[metric]}", xlabel="network calls")
        row[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    with whole(path) as beside:
        figure.savefig(beside, format="png", dpi=150)


def write(path: Path, text: str) -> None:
    """Write `path` whole or not at all."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _panel(axes: Any, rows: list[Result], metric: str) -> None:
    levels = [result for result in rows if result.curve is None]
    for index, result in enumerate(levels):
        level = result.summary[OVERALL][metric].mean
        axes.axhline(level, color=f"C{index}", linestyle=":", linewidth=1, label=result.system)
    curves = list(dict.fromkeys(result.curve for result in rows if result.curve))
    for index, curve in enumerate(curves, start=len(levels)):
        points = sorted((r.calls or 0, r.summary[OVERALL][metric].mean) for r in rows if r.curve == curve)
        axes.semilogx(*zip(*points, strict=True), color=f"C{index}", marker="o", label=f"diffkit {curve}")
    calls = sorted({result.calls for result in rows if result.calls})
    axes.set_xticks(calls, labels=calls)
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(scores: dict[str, Spread]) -> str:
    return f"{scores['pesq_wb'].mean:.2f} / {scores['estoi'].mean:.3f} / {scores['si_sdr'].mean:.1f}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
