r"""Heads drawn from maps of tissue: SynthSeg, Billot et al. 2021 (2107.09559).

A map is deformed, each tissue gets a normal distribution of intensities, and what comes out is blurred, biased and
degraded; a network that has seen only that segments real scans. Maps here are probabilities p_k, sharp of one person
and blurred of many, of which an anatomy is drawn,

    label(x) = argmax_k log p_k(x) + temperature z_k(x),

with smooth normal fields z_k: surfaces move by as much as the map is unsure of them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffkit.medical.fields import at, places, smooth
from diffkit.medical.preprocess import Foreground
from diffkit.medical.resample import blur

TISSUES = ("air", "fluid", "grey", "white", "deep", "bone", "soft")
"""What a head is painted with; "deep" is grey matter inside the white, brighter than cortex."""

_T1 = torch.tensor(
    [[0.0, 0.0], [0.32, 0.08], [0.72, 0.06], [1.0, 0.02], [0.87, 0.05], [0.2, 0.1], [0.6, 0.1], [1.3, 0.25]]
)
# The mean of a tissue in a T1-weighted image, white matter's being 1, and how far it varies between scans. What is soft
# is muscle, as bright as grey matter, or fat, the last.
_TEXTURE = torch.tensor([0, 0, 0.02, 0.02, 0.03, 0.1, 0.08, 0.2])


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What heads are drawn from, on a grid of cubes of ``spacing`` mm.

    ``chance`` ``[7, x, y, z]`` are the probabilities of :data:`TISSUES`, ``depth`` ``[x, y, z]`` the millimetres to the
    brain's surface, positive inside. ``image`` ``[x, y, z]``, white matter near 1 and air 0, is a real scan: a head is
    then that, and its tissue the likeliest.
    """

    chance: Tensor
    depth: Tensor
    spacing: float
    image: Tensor | None = None

    @cached_property
    def maps(self) -> Tensor:
        """All of it as channels, to be sampled at once."""
        image = torch.zeros_like(self.depth) if self.image is None else self.image
        return torch.cat([self.chance, self.depth[None], image[None]])


def draw(
    anatomy: Anatomy,
    rng: np.random.Generator,
    *,
    size: tuple[int, int, int],
    spacing: float,
    contrast: float = 0.2,
    stripped: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """An image ``[1, *size]`` in units of :mod:`~diffkit.medical.preprocess`, and its :data:`TISSUES` ``[*size]``.

    Args:
        anatomy: the maps, and an image if there is one.
        rng: of everything that is drawn.
        size, spacing: of the crop, in voxels and mm.
        contrast: the share of drawn heads with any contrast, and not that of T1.
        stripped: the share of heads without what is outside of the brain.
    """
    extent = torch.tensor(anatomy.depth.shape) * anatomy.spacing
    found = at(anatomy.maps, places(extent, rng, size, spacing) / anatomy.spacing - 0.5)
    whole = anatomy.maps[:, ::3, ::3, ::3]  # intensities are those of the whole head, not of the crop
    painter = _Painter(anatomy, rng, any_contrast=rng.random() < contrast)
    image, tissue = painter(found, spacing)
    far, _ = painter(whole, 3 * anatomy.spacing)
    image = _degrade(image, rng, spacing, strength=0.3 if anatomy.image is not None else 1.0)
    gamma = float(np.exp(0.2 * rng.standard_normal()))
    image, far = image.clamp(min=0) ** gamma, far.clamp(min=0) ** gamma
    if rng.random() < stripped:
        surface = rng.uniform(-2.0, 1.0)
        outside = found[-2] < surface + smooth(size, 4 / spacing, rng)[0]
        image, tissue = image.masked_fill(outside, 0), tissue.masked_fill(outside, 0)
        far = far.masked_fill(whole[-2] < surface, 0)
    units = Foreground.of(far).apply(image)
    return (units * np.exp(0.1 * rng.standard_normal()) + 0.15 * rng.standard_normal())[None].float(), tissue


def likeliest(scores: Tensor) -> Tensor:
    """argmax over the first axis, which torch does four times slower than a loop."""
    best, label = scores[0], torch.zeros(scores.shape[1:], dtype=torch.int64)
    for k, score in enumerate(scores[1:], 1):
        label.masked_fill_(score > best, k)
        best = torch.maximum(best, score)
    return label


class _Painter:
    """One scan's contrast, for a crop and for the whole head."""

    def __init__(self, anatomy: Anatomy, rng: np.random.Generator, *, any_contrast: bool) -> None:
        self.real, self.rng = anatomy.image is not None, rng
        drawn = torch.from_numpy(rng.standard_normal(len(_T1), np.float32))
        self.means = _T1[:, 0] + _T1[:, 1] * drawn
        if any_contrast:
            self.means = torch.from_numpy(rng.uniform(0, 1.2, len(_T1)).astype(np.float32))
            self.means[0] = 0.0
        self.spread, self.temperature = rng.uniform(0.01, 0.05), rng.uniform(0.0, 0.6)
        self.texture, self.fat = _TEXTURE * rng.uniform(0.5, 1.5), rng.uniform(-0.7, 0.7)

    def __call__(self, maps: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
        """The scan and its tissue, of voxels of ``spacing`` mm."""
        chance = maps[: len(TISSUES)]
        if self.real:
            return maps[-1], likeliest(chance)
        shape = tuple(chance.shape[1:])
        fields = smooth(shape, 3.0 / spacing, self.rng, len(TISSUES))
        tissue = likeliest(chance.clamp(min=1e-6).log() + self.temperature * fields)
        texture = fields[0]  # air's, which nothing else shows
        grain = torch.from_numpy(self.rng.standard_normal(shape, np.float32))
        fat = (tissue == len(TISSUES) - 1) & (smooth(shape, 6.0 / spacing, self.rng)[0] < self.fat)
        paint = tissue + fat
        return self.means[paint] + self.texture[paint] * texture + self.spread * grain, tissue


def _degrade(image: Tensor, rng: np.random.Generator, spacing: float, *, strength: float) -> Tensor:
    """Partial volumes, thick slices, a bias field and Rician noise; ``strength`` 1 for a clean image."""
    shape = tuple(image.shape)
    image = blur(image[None], [strength * rng.uniform(0.3, 0.9)] * 3)
    thick = rng.uniform(spacing, 5.0) / spacing
    if rng.random() < 0.3 * strength and thick > 1:
        axis = int(rng.integers(3))
        widths = [0.0] * 3
        widths[axis] = ((thick**2 - 1) / 12) ** 0.5
        fewer = [round(n / thick) if i == axis else n for i, n in enumerate(shape)]
        slices = F.interpolate(blur(image, widths)[None], fewer, mode="trilinear", align_corners=True)
        image = F.interpolate(slices, shape, mode="trilinear", align_corners=True)[0]
    bias = smooth(shape, 40 / spacing, rng)[0]
    image = image[0] * (rng.uniform(0, 0.2) * bias).exp()
    deviation = strength * 10 ** rng.uniform(-2.5, -1.2)
    real, imaginary = torch.from_numpy(rng.standard_normal((2, *shape), np.float32)) * deviation
    return torch.hypot(image + real, imaginary)
