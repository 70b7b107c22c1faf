"""Positron emission tomography: standardised uptake, and what a scanner makes of an uptake.

The standardised uptake value is the activity in a voxel over what it would be if the dose had spread evenly through a
body of 1 g/ml,

    SUV = activity [Bq/ml] weight [g]/(dose [Bq] 2^(-delay/half-life)),

delay being the time from the injection, when the dose was measured, to the scan that the activity is corrected to.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffkit.medical.resample import blur, isotropic, resample
from diffkit.medical.volume import Volume

FLUORINE = 6586.2
"""The half-life of fluorine-18, s (109.77 min)."""

_VOXEL = 4.0  # mm, of the image
_FWHM = 2 * math.sqrt(2 * math.log(2))  # deviations of a Gaussian in its full width at half maximum


def to_suv(
    activity: Tensor, *, weight: float, dose: float, delay: float, half_life: float = FLUORINE
) -> Tensor:
    """Standardised uptake by body weight.

    Args:
        activity: of the image, Bq/ml.
        weight: of the patient, kg.
        dose: injected, Bq.
        delay: from the injection to the time that the activity is corrected to, s; 0 or more. Where the scanner
            corrected to the injection itself (DICOM's DecayCorrection is ADMIN) it is 0.
        half_life: of the tracer, s.

    ValueError for numbers out of their range.
    """
    if not (weight > 0 and dose > 0 and half_life > 0 and delay >= 0):
        raise ValueError(
            f"weight, dose and half-life must be above 0 and the delay not below, not {weight:g} kg, {dose:g} Bq, "
            f"{half_life:g} s, {delay:g} s."
        )
    return activity * (1000 * weight / (dose * 2 ** (-delay / half_life)))


class Scanner(NamedTuple):
    """What blurs and what counts: full widths at half maximum in mm, and counts a voxel of 64 mm^3 for SUV 1.

    Both widths together are those of an image, 5 to 7 mm. Counts of 15 to 80 give a tissue of SUV 2 a deviation of
    18 to 8 % before the filter. The ranges are choices for clinical scanners, and not fitted to one.
    """

    intrinsic: float
    filter: float
    counts: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Scanner":
        """One of the range."""
        first, second = rng.uniform(3.5, 5.0, 2)
        return cls(first, second, float(np.exp(rng.uniform(np.log(15), np.log(80)))))

    def image(self, uptake: Volume, rng: np.random.Generator) -> Volume:
        """What it makes of an uptake in SUV, ``[1, x, y, z]`` in cubes, in voxels of 4 mm.

        The detectors' blur, then the mean over a voxel, then Poisson counts, then the filter of a reconstruction, which
        gives noise its texture and correlates it. The variance of noise grows with uptake, as in OSEM.
        """
        seen = blur(uptake.data.float(), [self.intrinsic / _FWHM / mm for mm in uptake.spacing])
        coarse = resample(uptake.holding(seen), *isotropic(uptake, _VOXEL))
        counts = rng.poisson(coarse.data.clamp(min=0).numpy() * self.counts).astype(np.float32)
        return coarse.holding(
            blur(torch.from_numpy(counts) / self.counts, [self.filter / _FWHM / _VOXEL] * 3)
        )
