"""Where the rays of a tomograph run: parallel beams, and fans to a flat detector, in millimetres.

The axis of rotation is the origin, x to the right and y upwards; angles are in radians, counter-clockwise.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scan(ABC):
    """Where rays run: ``angles`` ``[views]`` in radians, counter-clockwise, and ``bins`` of ``spacing`` mm for each.

    ValueError for angles that are not finite, or no bins.
    """

    angles: Tensor
    bins: int
    spacing: float

    def __post_init__(self) -> None:
        if self.angles.ndim != 1 or not len(self.angles) or not bool(torch.isfinite(self.angles).all()):
            raise ValueError("the angles of a scan must be finite, [views], in radians, and at least one.")
        if self.bins < 1 or not self.spacing > 0:
            raise ValueError(f"a detector needs bins of positive size, not {self.bins} of {self.spacing} mm.")

    @property
    def offsets(self) -> Tensor:
        """The middles of the bins along the detector in mm, float64."""
        return (torch.arange(self.bins, dtype=torch.float64) - (self.bins - 1) / 2) * self.spacing

    @abstractmethod
    def rays(self) -> tuple[Tensor, Tensor]:
        """A point on each ray and its unit direction, (x, y) in mm, ``[views, bins, 2]`` float64."""

    @property
    @abstractmethod
    def radius(self) -> float:
        """Of the disc that every view sees whole, in mm."""

    def view(self, index: int) -> Self:
        """The scan of one view."""
        return replace(self, angles=self.angles[index, None])

    def finer(self, factor: int) -> Self:
        """The same detector with ``factor`` bins in place of each, to make data by; their mean is what a bin sees."""
        return replace(self, bins=self.bins * factor, spacing=self.spacing / factor)


@dataclass(frozen=True, eq=False)
class Parallel(Scan):
    """Parallel rays: that of bin u at angle b is all points with x cos b + y sin b = u."""

    def rays(self) -> tuple[Tensor, Tensor]:
        across, along = _axes(self.angles)
        return self.offsets[:, None] * across[:, None], along[:, None].expand(-1, self.bins, -1)

    @property
    def radius(self) -> float:
        return self.bins * self.spacing / 2


@dataclass(frozen=True, eq=False)
class Fan(Scan):
    """Rays from a point source to a flat detector, at ``source`` and ``detector`` mm from the axis of rotation.

    The source is at source (sin b, -cos b), and bin u at detector (-sin b, cos b) + u (cos b, sin b).
    """

    source: float = 500.0
    detector: float = 500.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.source > 0 and self.detector >= 0):
            raise ValueError(
                f"a fan beam needs source > 0 and detector >= 0 in mm, not {self.source}, {self.detector}."
            )

    def rays(self) -> tuple[Tensor, Tensor]:
        across, along = _axes(self.angles)
        source = (-self.source * along[:, None]).expand(-1, self.bins, -1)
        end = self.detector * along[:, None] + self.offsets[:, None] * across[:, None]
        return source, torch.nn.functional.normalize(end - source, dim=-1)

    @property
    def radius(self) -> float:
        return self.source * math.sin(self.opening)

    @property
    def opening(self) -> float:
        """Half the angle of the fan."""
        return math.atan(self.bins * self.spacing / 2 / (self.source + self.detector))


def _axes(angles: Tensor) -> tuple[Tensor, Tensor]:
    """The unit vectors along the detector and along the central ray, ``[views, 2]``."""
    b = angles.cpu().double()
    return torch.stack([b.cos(), b.sin()], -1), torch.stack([-b.sin(), b.cos()], -1)
