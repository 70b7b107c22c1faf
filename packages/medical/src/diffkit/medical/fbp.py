r"""Filtered backprojection, of parallel rays and of fans with a flat detector (Kak and Slaney 1988, 3.3 and 3.4.2).

The ramp is sampled in space, h(0) = 1/(4 d^2), h(n d) = -1/(pi n d)^2 for odd n and 0 for even, so that no mean is
lost, and convolved without wrapping round. Backprojection is linear between bins and weighs what was measured twice.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from diffkit.core.types import lookup
from diffkit.medical.ct import Projector
from diffkit.medical.scan import Fan, Scan

WINDOWS = {
    "ram-lak": torch.ones_like,
    "hann": lambda f: 0.5 + 0.5 * torch.cos(2 * math.pi * f),
}
"""What the ramp is multiplied by, of the frequency in cycles a bin."""


def fbp(
    projector: Projector,
    sinogram: Tensor,
    *,
    window: Literal["ram-lak", "hann"] = "ram-lak",
) -> Tensor:
    """The image ``[batch, 1, height, width]`` of a sinogram, in 1/mm.

    Angles are equally spaced. Rays of a full turn count half; of more than half a turn those that are measured twice
    have Parker's (1982) weights, with the arc beyond half a turn in place of the fan (Silver 2000). For a shorter arc
    (limited angle) and for few views nothing makes up. Sinograms that are not 0 at the ends of the detector are
    continued by their last value, tapered over a quarter of its width, so that a truncated scan has no bright rim.

    ValueError for angles that are not equally spaced, or a sinogram of another shape.
    """
    projector.check_sinogram(sinogram)
    scan = projector.scan
    y = sinogram[:, 0] * _redundancy(scan).to(sinogram)
    offsets, spacing = scan.offsets, scan.spacing
    if isinstance(scan, Fan):  # on a detector through the axis of rotation
        shrink = scan.source / (scan.source + scan.detector)
        offsets, spacing = offsets * shrink, spacing * shrink
        y = y * (scan.source / (scan.source**2 + offsets.square()).sqrt()).to(y)
    filtered = _ramp(y, spacing, window)

    height, width = projector.shape
    px = ((torch.arange(width, dtype=torch.float64) - (width - 1) / 2) * projector.pixel).to(y)
    py = (((height - 1) / 2 - torch.arange(height, dtype=torch.float64)) * projector.pixel).to(y)[:, None]
    image = y.new_zeros(len(y), height, width)
    for k, angle in enumerate(scan.angles.tolist()):
        place, weight = px * math.cos(angle) + py * math.sin(angle), 1.0
        if isinstance(scan, Fan):
            ratio = scan.source / (scan.source - px * math.sin(angle) + py * math.cos(angle))
            place, weight = place * ratio, ratio.square()
        image += weight * _at(filtered[:, k], place / spacing + (scan.bins - 1) / 2)
    return image[:, None]


def _at(row: Tensor, place: Tensor) -> Tensor:
    """``row`` ``[batch, bins]`` at fractional bins, 0 outside."""
    padded = torch.nn.functional.pad(row, (1, 1))
    place = (place + 1).clamp(0, padded.shape[1] - 1)
    low = place.long().clamp(max=padded.shape[1] - 2)
    return torch.lerp(padded[:, low], padded[:, low + 1], place - low)


def _ramp(y: Tensor, spacing: float, window: str) -> Tensor:
    """``y`` convolved with the ramp along the last axis."""
    bins = y.shape[-1]
    side = bins // 4
    taper = (0.5 + 0.5 * torch.cos(math.pi * (torch.arange(side) + 1) / (side + 1))).to(y)
    y = torch.cat([y[..., :1] * taper.flip(0), y, y[..., -1:] * taper], -1)
    length = 2 ** math.ceil(math.log2(2 * y.shape[-1]))
    n = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64)
    ramp = torch.where(n % 2 == 0, 0.0, -1 / (math.pi * n * spacing).square())
    ramp[0] = 1 / (4 * spacing**2)
    response = torch.fft.rfft(ramp).real * lookup(window, WINDOWS, "window")(
        torch.fft.rfftfreq(length).double()
    )
    out = torch.fft.irfft(torch.fft.rfft(y, length) * (spacing * response).to(y), length)
    return out[..., side : side + bins]


def _redundancy(scan: Scan) -> Tensor:
    """The angle that each ray stands for, less what others measure too: ``[views, 1]`` or ``[views, bins]``."""
    angles = scan.angles.cpu().double()
    steps = angles.diff() if len(angles) > 1 else torch.full((1,), math.pi, dtype=torch.float64)
    step = float(steps.mean().abs())
    if not torch.allclose(steps.abs(), steps.abs().mean(), rtol=1e-3) or step == 0:
        raise ValueError("filtered backprojection needs equally spaced angles: use another method.")
    arc = step * len(angles)
    beyond, turned = (arc - math.pi) / 2, (angles - angles.min() + step / 2)[:, None]
    ray = torch.zeros(1, dtype=torch.float64)
    if isinstance(scan, Fan):
        ray = -(scan.offsets / (scan.source + scan.detector)).atan()
    if arc > 2 * math.pi * (1 - 1e-6):
        return torch.full_like(turned, step * math.pi / arc)
    if beyond < 1e-6:
        return torch.full_like(turned, step)
    # the ray at (turned, ray) is that at (turned + pi + 2 ray, -ray), and their weights add to one
    rise = (turned / (beyond - ray).clamp(min=1e-6)).clamp(max=2)
    fall = ((arc - turned) / (beyond + ray).clamp(min=1e-6)).clamp(max=2)
    return step * (math.pi / 4 * rise).sin().square() * (math.pi / 4 * fall).sin().square()
