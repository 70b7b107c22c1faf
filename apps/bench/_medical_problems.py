"""The inverse problems of apps/bench/medical.py: slices of the demo data, and what a scanner would have measured.

MR: magnitudes of a whole head at 1 mm on 256 x 256, with a random smooth phase, seen by eight loop coils with noise of
0.002 of the brightest pixel. CT: line integrals of the slice at half the pixel size by two rays a bin, with photons.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffkit.medical import volume
from diffkit.medical.coils import loops, smooth_phase
from diffkit.medical.ct import Projector
from diffkit.medical.dose import scan_noise, to_attenuation
from diffkit.medical.kspace import KSpace
from diffkit.medical.masks import poisson_disc, random_lines
from diffkit.medical.metrics import nmse, psnr, ssim
from diffkit.medical.mri import Cartesian, Sense
from diffkit.medical.scan import Parallel
from diffkit.medical.sinogram import Sinogram

SIDE, NOISE, PHOTONS = 256, 0.002, 1e5

MR = {
    "mr-4x": "4x lines, 20 of them central",
    "mr-8x": "8x lines, 10 of them central",
    "mr-poisson-4x": "4x points (Poisson disc), 20 x 20 of them central",
    "mr-poisson-8x": "8x points (Poisson disc), 20 x 20 of them central",
}
CT = {"ct-20": (20, 180), "ct-60": (60, 180), "ct-90deg": (90, 90), "ct-120deg": (120, 120)}
"""Views, and the degrees over which they are spread."""

FIRST = 3
"""Slices of a subject that every method is measured on; those after them say how a gain spreads."""
_HEIGHTS = (0.6, 0.5, 0.7, 0.4, 0.45, 0.55, 0.65, 0.75, 0.8)
_CRANIUM = (7, 2, 12)


@dataclass(frozen=True, eq=False)
class Case:
    """A slice ``truth`` ``[height, width]``, magnitudes or HU + 1000, and what was ``measured`` of it."""

    name: str
    truth: Tensor
    measured: KSpace | Sinogram

    def scores(self, image: Tensor) -> dict[str, float]:
        """Of ``image`` ``[1, height, width]``, complex or in HU; fastMRI's metrics, with air at 0."""
        found = (image.abs() if image.is_complex() else image.clamp(min=-1000) + 1000).double()
        truth = self.truth[None].double()
        return {"psnr": psnr(found, truth), "ssim": ssim(found, truth), "nmse": nmse(found, truth)}


def subject_slices(problem: str) -> list[str]:
    """The slices of the subject that :func:`cases` begins with, in its order."""
    if problem in MR:
        return [f"colin27 {height:g}" for height in _HEIGHTS]
    return [f"cranium {k}" for k in _CRANIUM]


def cases(problem: str, data: Path, slices: int, *, tuning: bool = False) -> Iterator[Case]:
    """At most ``slices`` of the test subjects, or one of the validation subject; CT has two other people's too."""
    if problem in MR:
        head = data / ("valid/pydeface/t1.nii.gz" if tuning else "test/colin27/t1.nii.gz")
        for height in _HEIGHTS[: 1 if tuning else slices]:
            yield _mr(problem, head, height)
        return
    views, arc = CT[problem]
    block = data / f"{'valid/cranium/slices-028-035' if tuning else 'test/cranium/slices-054-067'}.nii.gz"
    for k in (2,) if tuning else _CRANIUM[:slices]:
        yield _ct(f"cranium {k}", block, k, views, arc)
    if not tuning:
        for person in ("cq500-310", "supria"):
            yield _ct(person, data / f"test/{person}/ct.nii.gz", 0, views, arc)


def _mr(problem: str, head: Path, height: float) -> Case:
    values = volume.read(head).oriented("RAS").data[0].float()
    plane = values[:, :, int(values.shape[2] * height)].T.flip(0)  # rows run from the front
    rows, columns = (SIDE - n for n in plane.shape)
    plane = F.pad(plane, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)).clamp(min=0)
    plane = plane / plane.max()
    seed = round(100 * height)
    mask = {
        "mr-4x": lambda: random_lines(SIDE, 4, 20, seed=seed),
        "mr-8x": lambda: random_lines(SIDE, 8, 10, seed=seed),
        "mr-poisson-4x": lambda: poisson_disc((SIDE, SIDE), 4, (20, 20), seed=seed),
        "mr-poisson-8x": lambda: poisson_disc((SIDE, SIDE), 8, (20, 20), seed=seed),
    }[problem]()
    x = torch.polar(plane, smooth_phase((SIDE, SIDE), seed=seed))[None, None]
    y = Sense(Cartesian(mask), loops(8, (SIDE, SIDE))).measure(x, noise=NOISE, seeds=[seed])
    return Case(f"{head.parent.name} {height:g}", plane, KSpace(y, mask.expand(SIDE, SIDE)))


def _ct(name: str, path: Path, k: int, views: int, arc: float) -> Case:
    scan = volume.read(path).oriented("RAS")
    plane = scan.data[0, :, :, k].float().T.flip(0).clamp(min=-1000)[None, None]
    pixel = scan.spacing[0]
    if plane.shape[-1] == SIDE:
        fine = F.interpolate(plane, scale_factor=2, mode="bicubic", align_corners=False).clamp(min=-1000)
    else:
        fine, plane, pixel = plane, F.avg_pool2d(plane, 2), 2 * pixel
    rays = Parallel(torch.arange(views, dtype=torch.float64) * math.radians(arc) / views, 367, pixel)
    finer = rays.finer(2)
    with warnings.catch_warnings(action="ignore"):  # the whole scan sees the whole image
        each = [
            Projector(finer.view(v), (2 * SIDE, 2 * SIDE), pixel / 2).A(to_attenuation(fine))
            for v in range(views)
        ]
    clean = torch.cat(each, 2).unflatten(-1, (-1, 2)).mean(-1)
    y, _ = scan_noise(clean, photons=PHOTONS, seeds=[k])
    return Case(name, plane[0, 0] + 1000, Sinogram(y, rays, (SIDE, SIDE), pixel, PHOTONS))
