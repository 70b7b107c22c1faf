r"""Ellipses, whose image and line integrals are known: data that no projector has made.

A line at distance d from the centre of an ellipse of half axes a, b meets it on a chord of length
2 a b sqrt(e^2 - d^2)/e^2, e^2 = a^2 cos^2 w + b^2 sin^2 w, w the angle from its axis a to the normal of the line.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.medical.scan import Scan


@dataclass(frozen=True, eq=False)
class Ellipses:
    """A sum of ellipses. ``table`` ``[count, 6]``: value, half axes, centre x and y in mm, angle in radians."""

    table: Tensor

    @classmethod
    def shepp_logan(cls, radius: float = 100.0) -> "Ellipses":
        """The head of Shepp and Logan 1974 with Toft's (1996) contrast, within ``radius`` mm; values in [0, 1]."""
        rows = [
            [1, 0.69, 0.92, 0, 0, 0],
            [-0.8, 0.6624, 0.874, 0, -0.0184, 0],
            [-0.2, 0.11, 0.31, 0.22, 0, -18],
            [-0.2, 0.16, 0.41, -0.22, 0, 18],
            [0.1, 0.21, 0.25, 0, 0.35, 0],
            [0.1, 0.046, 0.046, 0, 0.1, 0],
            [0.1, 0.046, 0.046, 0, -0.1, 0],
            [0.1, 0.046, 0.023, -0.08, -0.605, 0],
            [0.1, 0.023, 0.023, 0, -0.606, 0],
            [0.1, 0.023, 0.046, 0.06, -0.605, 0],
        ]
        scale = torch.tensor([1, radius, radius, radius, radius, math.pi / 180], dtype=torch.float64)
        return cls(torch.tensor(rows, dtype=torch.float64) * scale)

    def image(self, shape: tuple[int, int], pixel: float = 1.0, *, samples: int = 4) -> Tensor:
        """``[1, 1, height, width]`` float64: of each pixel the mean of ``samples`` x ``samples`` points."""
        height, width = (
            ((torch.arange(n * samples, dtype=torch.float64) + 0.5) / samples - n / 2) * pixel for n in shape
        )
        value, a, b, cx, cy, angle = self.table.mT[:, :, None, None]
        total = torch.zeros(shape[0] * samples, shape[1] * samples, dtype=torch.float64)
        for k in range(len(self.table)):
            x, y = width - cx[k], -height[:, None] - cy[k]
            cos, sin = angle[k].cos(), angle[k].sin()
            total += value[k] * (((x * cos + y * sin) / a[k]) ** 2 + ((y * cos - x * sin) / b[k]) ** 2 <= 1)
        return torch.nn.functional.avg_pool2d(total[None, None], samples)

    def sinogram(self, scan: Scan) -> Tensor:
        """The exact line integrals ``[1, 1, views, bins]``, float64."""
        point, direction = scan.rays()
        value, a, b, cx, cy, angle = self.table.mT[:, :, None, None]
        nx, ny = direction[..., 1], -direction[..., 0]
        distance = (point[..., 0] - cx) * nx + (point[..., 1] - cy) * ny
        turned = torch.atan2(ny, nx) - angle
        squared = (a * turned.cos()).square() + (b * turned.sin()).square()
        chord = 2 * a * b * (squared - distance.square()).clamp(min=0).sqrt() / squared
        return (value * chord).sum(0)[None, None]
