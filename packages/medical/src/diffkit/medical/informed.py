r"""A prior of slices that is shown what a scan saw: E[x0 | x_t, g] for the least-squares image g of the measurements.

Where whole parts of the frequencies are missing, as of CT over less than half a turn, a prior that knows nothing of
the scan must find them by iterations from the least-squares image, in which they are wrong everywhere, and rests
close by. One that has seen g beside what it was made of has learnt what such a scan does to a head: its first call
is the mean of all that fits, and the projections of :mod:`diffkit.core.inverse` add what it overlooks.

It learns scans of all kinds, few views or short arcs, from any side and of any dose, and needs none of them told.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffkit.medical.ct import Projector
from diffkit.medical.dose import WATER, scan_noise, to_attenuation
from diffkit.medical.methods import System
from diffkit.medical.planes import Head, PlaneData, Planes
from diffkit.medical.prior import PriorTask
from diffkit.medical.scan import Parallel
from diffkit.medical.slices import Mixed, from_air, root_ramp


class InformedTask(PriorTask):
    """The loss of :class:`~diffkit.medical.prior.PriorTask` on planes and what a scan shows of them."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        x0, shown = batch
        return {"loss": self.denoising(lambda x, t: self.network(x, t, shown), x0)}


class ScannedPlanes(Planes):
    """``(plane, image)``, both ``[1, size, size]``: planes of CT and the least squares of what a scan sees of each.

    ``scans`` kinds of scan are drawn from the seed, one half of few views over half a turn, the other of 60 to 150
    degrees; a plane is seen by one of them, with a dose of its own. ``options`` are those of
    :class:`~diffkit.medical.planes.Planes`. The matrices of the scans are kept, 0.1 GB each at 256 pixels.
    """

    def __init__(self, heads: Sequence[Head], *, scans: int = 24, **options: Any) -> None:
        super().__init__(heads, "ct", **options)
        rng = np.random.default_rng(self.seed)
        self.projectors = [self._projector(rng, limited=bool(k % 2)) for k in range(scans)]

    def _projector(self, rng: np.random.Generator, *, limited: bool) -> Projector:
        arc = math.radians(rng.uniform(60, 150)) if limited else math.pi
        views = round(math.degrees(arc) * rng.uniform(0.4, 1.0)) if limited else int(rng.integers(12, 61))
        angles = rng.uniform(0, 2 * math.pi) + torch.arange(views, dtype=torch.float64) * arc / views
        bins = math.ceil(self.size * math.sqrt(2)) + 5
        return Projector(Parallel(angles, bins, self.spacing), (self.size, self.size), self.spacing)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        plane = super().__getitem__(index)
        rng = np.random.default_rng((self.seed, index, 1))
        projector = self.projectors[int(rng.integers(len(self.projectors)))]
        integrals = projector.A(to_attenuation(1000 * plane[None]))
        seen, _ = scan_noise(integrals, photons=10 ** rng.uniform(4.5, 6), seeds=[int(rng.integers(1 << 31))])
        p = seen / WATER - projector.A(torch.ones_like(plane[None]))
        return plane, from_air(System(Mixed(projector, root_ramp), root_ramp(p), 0.0))[0]


class ScanData(PlaneData):
    """Batches of :class:`ScannedPlanes`, of as many ``scans``.

    The other arguments are those of :class:`~diffkit.medical.planes.PlaneData`.
    """

    def __init__(
        self, folder: str, train: list[str], valid: list[str], scans: int = 24, **options: Any
    ) -> None:
        super().__init__(folder, train, valid, "ct", **options)
        self.scans = scans

    def planes(self, part: str, items: int) -> ScannedPlanes:
        return ScannedPlanes(
            self._heads(part),
            scans=self.scans,
            items=items,
            seed=self.seed + (part == "valid"),
            **self.options,
        )
