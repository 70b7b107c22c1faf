"""Segmentations scored against truths, and the tables of them."""

import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diffkit.core.checkpoint import construct
from diffkit.core.files import whole
from diffkit.medical.cases import UNKNOWN, Case
from diffkit.medical.segment_metrics import Overlap, around, calibration, overlap
from diffkit.medical.volume import Volume, check_grids, read, stem

if TYPE_CHECKING:
    from rich.table import Table

    from diffkit.medical.segment import Segmenter

TOLERANCE = 2.0
"""Of surface Dice, mm: a voxel of the grid that the networks work on."""

_LABELS = (".nii.gz", ".nii", ".npz")


@dataclass(frozen=True)
class Score:
    """Of one image: ``classes`` by name, all but the background, and the calibration error ``ece``.

    ``ece`` is over the voxels within 10 mm of the true foreground; not a number where only labels were found, or where
    some of these voxels are of unknown class: those that the truth selects by their class say nothing of calibration.
    """

    name: str
    classes: dict[str, Overlap]
    ece: float = math.nan


@dataclass(frozen=True)
class Standing:
    """Means over images. ``calls`` of the network for each window of one, and ``seconds`` for one, all in all."""

    name: str
    dice: float
    hd95: float
    surface: float
    ece: float
    calls: int
    seconds: float


def score(
    name: str,
    labels: Volume,
    truth: Volume,
    classes: Sequence[str],
    probability: Tensor | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> Score:
    """One image compared with its truth, on one grid; both are labels, and ``classes`` names them from 0.

    A truth that leaves voxels unknown is asked for those classes only that it has.

    ValueError for grids that differ (how far), labels that are no class, or a truth without foreground.
    """
    check_grids({f"the truth of {name}": truth, f"the segmentation of {name}": labels})
    right, found = truth.data[0].long(), labels.data[0].long()
    region = around(right, truth.spacing)
    if not bool(region.any()):
        raise ValueError(
            f"{name}: the truth is an empty mask, against which nothing can be scored; leave it out."
        )
    for what, mask in (("truth", right[right != UNKNOWN]), ("segmentation", found)):
        if not 0 <= int(mask.min()) <= int(mask.max()) < len(classes):
            raise ValueError(
                f"{name}: the {what} has labels from {int(mask.min())} to {int(mask.max())}, and the classes are 0 to "
                f"{len(classes) - 1}: {', '.join(classes)}."
            )
    known = right != UNKNOWN
    scores = {
        name: overlap((found == k) & known, right == k, truth.spacing, tolerance=tolerance)
        for k, name in enumerate(classes)
        if k and (bool(known.all()) or bool((right == k).any()))
    }
    ece = math.nan
    if probability is not None and bool(known[region].all()):
        ece = calibration(probability, right, region)
    return Score(name, scores, ece)


def judge(
    segmenter: "Segmenter",
    cases: Iterable[Case],
    *,
    name: str | None = None,
    samples: int = 8,
    steps: int = 2,
    seed: int = 0,
    decide: str = "probable",
    tolerance: float = TOLERANCE,
) -> tuple[Standing, list[Score]]:
    """A model on whole test images, such as those of ``SegmentData.test_cases()``: its row of a table, and its scores.

    ValueError if there are no cases, or as :func:`score`.
    """
    scores, seconds = [], []
    for case in cases:
        start = time.perf_counter()
        found = segmenter(case.volumes, samples=samples, steps=steps, seed=seed, decide=decide)
        seconds.append(time.perf_counter() - start)
        classes = segmenter.model.spec["classes"]
        scores.append(
            score(case.name, found.labels, case.truth, classes, found.probability.data, tolerance=tolerance)
        )
    if not scores:
        raise ValueError("there are no test cases to judge by.")
    calls = segmenter.calls(samples, steps)
    name = name or segmenter.model.folder.name
    return mean(name, scores, calls=calls, seconds=statistics.fmean(seconds)), scores


def compete(
    models: Sequence[str], folder: Path, *, device: str = "auto", bf16: bool = False, **options: Any
) -> tuple[list[Standing], list[Score]]:
    """:func:`judge` of ``models``, by name or folder, each on the test cases of its own data in ``folder``.

    ``folder`` is the demo data; ``options`` are those of :func:`judge`.
    """
    from diffkit.medical.segment import Segmenter

    rows: list[Standing] = []
    scores: list[Score] = []
    for name in models:
        segmenter = Segmenter.from_pretrained(name, device, bf16=bf16)
        data = construct({"class_path": segmenter.model.source, "init_args": {"folder": str(folder)}})
        row, found = judge(segmenter, data.test_cases(), name=name, **options)
        rows.append(row)
        scores += [replace(score, name=f"{name}: {score.name},") for score in found]
    return rows, scores


def compare(
    found: Path, truth: Path, classes: Sequence[str] | None = None, *, tolerance: float = TOLERANCE
) -> tuple[list[Standing], list[Score]]:
    """:func:`score` of two files of labels, or of those files of two folders that are named alike, and their mean.

    ``classes`` are by default the numbers up to the largest of the truths. ValueError for a file and a folder, or a
    truth without its segmentation (which).
    """
    if truth.is_dir() != found.is_dir():
        raise ValueError(
            f"{found} and {truth} must be two files, or two folders of files that are named alike."
        )
    names = (
        [path.name for path in sorted(truth.iterdir()) if path.name.endswith(_LABELS)]
        if truth.is_dir()
        else [""]
    )
    if not names:
        raise ValueError(f"{truth} has no labels ({', '.join(_LABELS)}).")
    if missing := [name for name in names if name and not (found / name).exists()]:
        raise ValueError(f"{found} has no {', '.join(missing)}, of which {truth} has the truth.")
    truths = {stem(truth / name): read(truth / name) for name in names}
    largest = max(int(t.data[t.data != UNKNOWN].max()) for t in truths.values())
    classes = classes or [str(k) for k in range(largest + 1)]
    scores = [
        score(
            stem(truth / name), read(found / name), truths[stem(truth / name)], classes, tolerance=tolerance
        )
        for name in names
    ]
    return [mean("mean", scores)], scores


def mean(name: str, scores: Sequence[Score], *, calls: int = 0, seconds: float = math.nan) -> Standing:
    """The row of a table: over the images, of the mean over the classes that are there."""

    def over(values: Iterable[float]) -> float:
        there = [value for value in values if not math.isnan(value)]
        return statistics.fmean(there) if there else math.nan

    dice, hd95, surface = (
        over(over(getattr(part, what) for part in score.classes.values()) for score in scores)
        for what in ("dice", "hd95", "surface")
    )
    return Standing(name, dice, hd95, surface, over(score.ece for score in scores), calls, seconds)


def table(rows: Sequence[Standing], scores: Sequence[Score] = ()) -> "Table":
    """For a terminal: a row for each class of each image in ``scores``, then ``rows``."""
    from rich.table import Column, Table

    columns = ("Dice", "HD95 mm", "surface Dice", "ECE", "calls", "s")
    made = Table(
        Column("", overflow="fold"),  # of what may be a long path; numbers stay whole
        *(Column(name, no_wrap=True, justify="right") for name in columns),
        box=None,
    )
    for score in scores:
        for name, part in score.classes.items():
            made.add_row(f"{score.name} {name}", *map(_number, (part.dice, part.hd95, part.surface)))
    for row in rows:
        numbers = map(_number, (row.dice, row.hd95, row.surface, row.ece))
        made.add_row(row.name, *numbers, str(row.calls or "-"), _number(row.seconds))
    return made


def write(path: Path, rows: Sequence[Standing], scores: Sequence[Score]) -> None:
    """Everything as JSON, null where there is no finite number."""
    record = {"rows": [asdict(row) for row in rows], "scores": [asdict(score) for score in scores]}
    with whole(path) as beside:
        beside.write_text(json.dumps(_finite(record), indent=1) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
