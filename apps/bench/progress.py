"""Ventricles that grow by a known factor, beside progressions that were given the first image and the last factor.

``python apps/bench/progress.py corpus [--model runs/progress/checkpoint] [--report apps/bench/progress.md]``

Colin27, on whom nothing was trained. His ventricles are the fluid near the atlas's that hangs together with it; a
diffeomorphism (`diffkit.medical.deform`) enlarges them by factors up to the target, and the image with them: that is
the truth. `Progressor` gets the undeformed image, the region within 6 mm of the ventricles as mask and the target, by
each of its ways to the noise. The volume is measured by intensity in the mask on both, with the levels of the
undeformed image. Every third slice is taken, so that a core has done in minutes; volumes are those of these slices.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from diffkit.core.files import whole
from diffkit.medical.covariate import covariate
from diffkit.medical.deform import Growth, grown
from diffkit.medical.inversion import WAYS
from diffkit.medical.metrics import psnr
from diffkit.medical.picture import series
from diffkit.medical.planes import bright
from diffkit.medical.progress import Progressor
from diffkit.medical.volume import Volume, read
from diffkit.medical.volumetry import around, curve, levels, ventricles

REACH, EVERY = 6.0, 3  # mm of room around the ventricles; of so many slices one is taken
ABOUT = """
The truth is Colin27, deformed so that his ventricles have the factor in the first column. The other columns are the
volume by intensity over that of the first image. `nothing` is the undeformed image.

PSNR is that of the slices of the mask against the truth's after the last round. Background is the root mean square
change outside of the mask after all rounds; round trip the largest change by one round to the image's own covariate,
with all of it free and all of the change kept; both in per cent of bright tissue. `apps/bench/progress.py` says how.
"""


@dataclass(frozen=True)
class Result:
    """What one way did: factors of volume by round, and the numbers of the second table."""

    frames: Volume
    factors: list[float]
    psnr: float
    background: float
    round_trip: float
    seconds: float


def every_third(mask: Volume) -> Volume:
    """A mask of every third slice."""
    return mask.holding(mask.data & (torch.arange(mask.shape[2]) % EVERY == 0))


def through(frame: Tensor, mask: Volume) -> Tensor:
    """The slices ``[z, x, y]`` of a frame ``[x, y, z]`` that the mask meets."""
    return frame[..., mask.data[0].any(0).any(0)].movedim(-1, 0)


def truth(image: Volume, inside: Volume, factors: list[float]) -> Volume:
    """The image with its ventricles grown by each of the factors, a channel for each."""
    growth = Growth.of(inside.data[0], image.spacing)
    frames = [grown(image, growth, factor).data for factor in track(factors, "truth", transient=True)]
    return image.holding(torch.cat(frames))


def measured(frames: Volume, image: Volume, mask: Volume) -> list[float]:
    """The volume in each channel over that in the image, by the levels of the image."""
    at = levels(image.data[0].float()[mask.data[0]])
    (first,) = curve(image, mask, at)
    return [ml / first for ml in curve(frames, mask, at)]


def results(
    progressor: Progressor, image: Volume, mask: Volume, true: Volume, options: dict[str, Any]
) -> Iterator[tuple[str, Result]]:
    """Every way and what it did."""
    percent = 100 / float(bright(image.data[0].float()))
    whole_slices = mask.holding(mask.data.any(1, keepdim=True).any(2, keepdim=True).expand_as(mask.data))
    still: dict[str, Any] = {**options, "target": 1.0, "rounds": 1, "inside": 1.0, "outside": 1.0}
    for way in track(list(WAYS), "ways", transient=True):
        start = time.perf_counter()
        frames = progressor(image, mask, way=way, **options).frames
        seconds = time.perf_counter() - start
        same = progressor(image, whole_slices, way=way, **still).frames.data
        change = through(frames.data[-1] - frames.data[0], mask)[~through(mask.data[0], mask)]
        yield (
            way,
            Result(
                frames,
                measured(frames, image, mask),
                psnr(through(frames.data[-1], mask), through(true.data[-1], mask)),
                percent * float(change.square().mean().sqrt()),
                percent * float((same[1] - same[0]).abs().max()),
                seconds,
            ),
        )


def table(factors: list[float], true: list[float], floor: float, found: dict[str, Result], about: str) -> str:
    """Both tables as markdown."""
    names = list(found)
    rows = [
        f"| {f:.2f} | {t:.2f} | {' | '.join(f'{found[n].factors[k]:.2f}' for n in names)} |"
        for k, (f, t) in enumerate(zip(factors, true, strict=True))
    ]
    ways = [
        f"| {n} | {r.psnr:.2f} | {r.background:.2g} | {r.round_trip:.2g} | {r.seconds:.0f} |"
        for n, r in found.items()
    ]
    return "\n".join(
        [
            "# Ventricles that grow", ABOUT,
            f"| factor | truth, measured | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|", *rows, "",
            "| way | PSNR, dB | background, % | round trip, % | seconds |", "|---" * 5 + "|",
            f"| nothing | {floor:.2f} | 0 | 0 | |", *ways, "", about, "",
        ]
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", type=Path, help="what `diffkit-medical data` has built")
    parser.add_argument("--model", default="progress", help="an embedded name, or the folder of a checkpoint")
    parser.add_argument(
        "--report", type=Path, help="also write the tables to this file, and the picture beside it"
    )
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16")
    numbers: dict[str, Any] = {"target": 2.0, "rounds": 5, "strength": 0.7, "steps": 6}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    options = {name: getattr(given, name) for name in numbers}

    image = read(given.corpus / "test/colin27/t1.nii.gz")
    inside = ventricles(image, read(given.corpus / "train/neuromorphometrics/labels.nii.gz"))
    mask = every_third(around(inside, REACH))
    factors = [given.target ** (k / given.rounds) for k in range(given.rounds + 1)]
    true = truth(image, inside, factors)
    options["ratio"] = math.exp(covariate(Growth.of(inside.data[0], image.spacing).volume))
    progressor = Progressor.from_pretrained(given.model, "cpu", bf16=given.bf16)
    found = dict(results(progressor, image, mask, true, options))
    floor = psnr(through(image.data[0].float(), mask), through(true.data[-1], mask))
    options["scale"] = progressor.scale
    settings = ", ".join(f"{name} {value:.3g}" for name, value in options.items())
    machine = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    kind = "bfloat16" if given.bf16 else "float32"
    about = f"{progressor.slices(image, mask)} slices, {settings}, {kind}; {machine}."
    text = table(factors, measured(true, image, mask), floor, found, about)
    print(text)
    if given.report:
        with whole(given.report) as beside:
            beside.write_text(text)
        titles = [f"{factor:.2f}" for factor in factors]
        rows = {"truth": true, **{name: result.frames for name, result in found.items()}}
        series(rows, titles, given.report.with_suffix(".png"))


if __name__ == "__main__":
    main()
