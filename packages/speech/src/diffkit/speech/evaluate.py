"""Score a folder of estimates against a folder of clean references, by group, into one report.

Files are paired by their relative name without suffix (`clean/a/b.flac` and `enhanced/a/b.wav`). A name
with `_snr5` or `_rt60_0.4` in it belongs to that group; a CSV can say otherwise. What cannot be scored is
named in the report and does not stop the rest.
"""

import csv
import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffkit.core.files import whole

from . import audio
from . import metrics as measures

if TYPE_CHECKING:
    from rich.table import Table

OVERALL = "all"
_GROUP = re.compile(r"_(?P<kind>snr|rt60)_?(?P<value>-?\d+(?:\.\d+)?)(?![\d.])")
_UNITS = {"snr": "dB", "rt60": "s"}
_PACKAGES = ("diffkit-speech", "torch", "torchaudio", "pesq", "pystoi", "speechmos")


class Spread(NamedTuple):
    """Mean, sample standard deviation (None for a single value) and count of one metric in one group."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Scored:
    """One pair: its relative name without suffix, its group ("" for none) and a value per metric."""

    name: str
    group: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Report:
    """What an evaluation found; `failed` maps the name of each file without a score to the reason."""

    clean: str
    estimate: str
    metrics: tuple[str, ...]
    files: list[Scored]
    failed: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, dict[str, Spread]]:
        """Group -> metric -> :class:`Spread`, groups in ascending order and :data:`OVERALL` last."""
        groups = sorted({file.group for file in self.files} - {""}, key=_natural)
        members = {group: [f.scores for f in self.files if f.group == group] for group in groups}
        if self.files:
            members[OVERALL] = [file.scores for file in self.files]
        return {
            group: {name: spread([s[name] for s in scores]) for name in scores[0]}
            for group, scores in members.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types: versions, protocol, summary, the value of each file."""
        return {
            "clean": self.clean,
            "estimate": self.estimate,
            "versions": _versions(),
            "protocol": {name: _first_line(getattr(measures, name)) for name in self.metrics},
            "summary": {
                group: {name: value._asdict() for name, value in row.items()}
                for group, row in self.summary().items()
            },
            "files": [{"name": f.name, "group": f.group, **f.scores} for f in self.files],
            "failed": self.failed,
        }

    def save(self, path: str | Path) -> None:
        """Write :meth:`as_dict` to `path` as JSON, whole or not at all; raises `OSError`."""
        with whole(path) as beside:
            beside.write_text(json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def table(self) -> "Table":
        """The summary for a terminal: a row per group, mean ± standard deviation per metric."""
        from rich.table import Table

        summary = self.summary()
        table = Table("group", "n")
        for name in summary.get(OVERALL, {}):
            table.add_column(name, justify="right")
        for group, row in summary.items():
            n = next(iter(row.values())).n
            table.add_row(group, str(n), *(_cell(name, value) for name, value in row.items()))
        return table


def evaluate(
    clean: str | Path,
    estimate: str | Path,
    metrics: Iterable[str] = measures.DEFAULT,
    *,
    groups: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    num_workers: int = 0,
    progress: bool = True,
) -> Report:
    """Score two folders paired by name, or two files, and write the report to `out` (JSON) if given.

    An estimate at another rate is resampled to its reference's. `groups` is a CSV with the columns `name`
    (relative, suffix optional) and `group`, in place of the SNR or RT60 in the names. `num_workers`
    processes share the files (0: this process). Files that are broken, or have no partner, are in the
    report's `failed`. Raises, before any scoring, `ValueError` when nothing can be paired, for an unknown
    metric or a missing package, and `OSError` when `out` cannot be written, or exists without `overwrite`.
    """
    names = tuple(metrics)
    measures.require(names)
    if out is not None:
        _check_writable(Path(out), overwrite)
    clean, estimate = Path(clean), Path(estimate)
    pairs, failed = _pair(clean, estimate)
    group_of = _read_groups(Path(groups), pairs) if groups is not None else {n: _group(n) for n in pairs}
    files = []
    with _mapper(num_workers) as run:
        outcomes = run(partial(_score, names), pairs.values())
        for name, outcome in zip(pairs, _track(outcomes, len(pairs), progress), strict=True):
            if isinstance(outcome, str):
                failed[name] = outcome
            else:
                files.append(Scored(name, group_of[name], outcome))
    report = Report(str(clean), str(estimate), names, files, failed)
    if out is not None:
        report.save(out)
    return report


def spread(values: list[float]) -> Spread:
    """Mean and sample standard deviation (n - 1) of at least one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


def _check_writable(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file for the report.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; overwrite it explicitly or name another file.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent} is not a folder that can be written to.")


def _score(names: tuple[str, ...], pair: tuple[Path, Path]) -> dict[str, float] | str:
    """Scores of a (clean, estimate) pair of files, or one sentence saying why there are none."""
    clean, estimate = pair
    try:
        reference, rate = audio.read(clean)
        wave, _ = audio.read(estimate, rate)
        return measures.score(wave, reference, rate, names)
    except audio.AudioError as error:
        return str(error)
    except measures.MetricError as error:
        return f"{estimate} against {clean}: {error}"


def _pair(clean: Path, estimate: Path) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Name -> (clean, estimate) and, for files without a partner, name -> reason."""
    for path in (clean, estimate):
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
    if clean.is_dir() != estimate.is_dir():
        raise ValueError(f"{clean} and {estimate} must both be folders or both be files.")
    if clean.is_file():
        return {estimate.stem: (clean, estimate)}, {}
    references, estimates = _by_name(clean), _by_name(estimate)
    pairs = {name: (references[name], estimates[name]) for name in references if name in estimates}
    if not pairs:
        raise ValueError(
            f"No file of {estimate} ({len(estimates)} audio files) has the name of one of {clean} "
            f"({len(references)}); estimates must keep the names of their references."
        )
    lonely = {n: f"{references[n]} has no estimate in {estimate}." for n in set(references) - set(pairs)}
    lonely |= {n: f"{estimates[n]} has no reference in {clean}." for n in set(estimates) - set(pairs)}
    return pairs, dict(sorted(lonely.items()))


def _by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in audio.find(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise ValueError(f"{files[name]} and {path} differ only by suffix; keep one of them.")
        files[name] = path
    return files


def _group(name: str) -> str:
    match = _GROUP.search(name)
    return f"{float(match['value']):g} {_UNITS[match['kind']]}" if match else ""


def _read_groups(path: Path, names: Iterable[str]) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"name", "group"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} must have the columns name and group in its first line.")
        table = {row["name"]: row["group"] for row in rows}
    suffixed: Mapping[str, str] = {str(Path(name).with_suffix("").as_posix()): g for name, g in table.items()}
    result = {name: table.get(name, suffixed.get(name)) for name in names}
    missing = [name for name, group in result.items() if not group]
    if missing:
        raise ValueError(f"{path} gives no group for {missing[0]} ({len(missing)} files without one).")
    return {name: str(group) for name, group in result.items()}


@contextmanager
def _mapper(num_workers: int) -> Iterator[Any]:
    if num_workers == 0:
        yield map
        return
    # spawn: a fork of a process with torch's threads can hang
    with ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_one_thread) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _track(outcomes: Iterable[Any], total: int, show: bool) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(outcomes, "scoring", total, console=Console(stderr=True), disable=not show)


def _natural(group: str) -> tuple[float, str]:
    """Groups that begin with a number by that number, the others after them by name."""
    try:
        return float(group.split()[0]), group
    except ValueError:
        return math.inf, group


def _cell(metric: str, value: Spread) -> str:
    digits = 1 if metric == "si_sdr" else 3 if metric == "estoi" else 2
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{std}"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _first_line(function: Any) -> str:
    return (function.__doc__ or "").split("\n", 1)[0]
