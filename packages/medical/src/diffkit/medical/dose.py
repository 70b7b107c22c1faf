"""Units of X-ray tomography, and the noise of photons and electronics."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffkit.core.noise import key

WATER = 0.0193
"""The attenuation of water at 70 keV, 1/mm."""


def to_attenuation(hu: Tensor, *, water: float = WATER) -> Tensor:
    """Hounsfield units to attenuation in 1/mm: ``water`` (1 + HU/1000), and 0 below -1000 HU."""
    return (water * (1 + hu / 1000)).clamp(min=0)


def to_hu(attenuation: Tensor, *, water: float = WATER) -> Tensor:
    """Attenuation in 1/mm to Hounsfield units; of ``water`` 0, of nothing -1000."""
    return 1000 * (attenuation / water - 1)


def scan_noise(
    sinogram: Tensor, *, photons: float, seeds: Sequence[int], electronic: float = 10.0
) -> tuple[Tensor, Tensor]:
    """What a detector reads where the line integrals are ``sinogram`` ``[batch, ...]``, and its standard deviation.

    Counts are Poisson of mean photons exp(-p), plus normal noise of ``electronic`` counts; the reading is
    -log(counts/photons), its deviation sqrt(counts + electronic^2)/counts to first order. Counts below 1 read as 1:
    behind much metal a reading is too low. Each sample has its own seed.

    Args:
        photons: that reach a bin through air, 1e4 (low dose) to 1e6; positive.
        electronic: standard deviation, in photons.
    """
    if not (photons > 0 and electronic >= 0):
        raise ValueError(
            f"photons must be above 0 and electronic noise not below, not {photons}, {electronic}."
        )
    if len(seeds) != len(sinogram):
        raise ValueError(f"{len(seeds)} seeds for a batch of {len(sinogram)}: give one for each sample.")
    mean = photons * (-sinogram).exp()
    counts = torch.empty_like(mean)
    for i, seed in enumerate(seeds):
        generator = torch.Generator(mean.device).manual_seed(key(seed, 0))
        counts[i] = torch.poisson(mean[i], generator=generator)
        counts[i] += electronic * torch.empty_like(mean[i]).normal_(generator=generator)
    counts = counts.clamp(min=1)
    return -(counts / photons).log(), (counts + electronic**2).sqrt() / counts
