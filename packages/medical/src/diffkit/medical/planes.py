"""Planes cut from volumes at random, to train a prior of slices: a few heads become endless slices.

A plane is a pure function of the seed and its number. It is cut at a random depth, tilt, turn, size and place,
and its intensities are bent: gamma, a slow bias over the field, a scale. An MR image gets a smooth phase, which every
scan has and no stored magnitude keeps: mostly a small one, as a reconstruction takes out what the centre of k-space
tells of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from diffkit.core.train import EpochData
from diffkit.medical.volume import Volume, read


class Head(NamedTuple):
    """A volume to cut: values ``[x, y, z]`` to the right, front and top, and the millimetres of a voxel."""

    values: Tensor
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, volume: Volume, kind: Literal["mr", "ct"]) -> "Head":
        """Of a volume in the order of RAS, in units of the prior."""
        return cls(in_units(volume.data[0].float(), kind), volume.spacing)


class Planes(Dataset[Tensor]):
    """``[channels, size, size]`` planes of ``heads``: 2 channels for a complex image, 1 for CT.

    Args:
        heads: in units of the prior, air at 0 (MR) or -1 (CT).
        kind: "mr" draws gamma, bias and phase; "ct" leaves intensities alone, which are physical.
        size: pixels of a side.
        spacing: millimetres of a pixel.
        items: planes of an epoch.
        seed: of all of them.
        tilt: the largest angle to the axial plane, degrees; 0 where a head is a thin block of slices.
        turn: the largest angle in it, degrees.
        depth: the shares of a head's height between which planes pass.
        shift: the largest millimetres from the middle of the head to that of a plane; for planes smaller than it.
        warp: millimetres by which a plane is bent in itself, a deviation: other people's heads from one.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        kind: Literal["mr", "ct"],
        *,
        size: int = 256,
        spacing: float = 1.0,
        items: int = 4000,
        seed: int = 0,
        tilt: float = 12.0,
        turn: float = 12.0,
        depth: tuple[float, float] = (0.3, 0.9),
        shift: float = 8.0,
        warp: float = 0.0,
    ) -> None:
        self.warp = warp
        self.heads, self.kind, self.size, self.spacing = list(heads), kind, size, spacing
        self.items, self.seed, self.depth, self.shift = items, seed, depth, shift
        self.angles = np.radians([tilt, tilt, turn])

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Tensor:
        rng = np.random.default_rng((self.seed, index))
        plane = self._cut(self.heads[int(rng.integers(len(self.heads)))], rng)
        if self.kind == "ct":
            return plane[None]
        magnitude = self._bend(plane, rng)
        field = torch.linspace(-1, 1, self.size)
        strength = 10 ** rng.uniform(-1.7, 0.0)
        phase = torch.as_tensor(strength) * (_smooth(field, rng) + rng.standard_normal())
        return torch.stack([magnitude * phase.cos(), magnitude * phase.sin()])

    def _bend(self, plane: Tensor, rng: np.random.Generator) -> Tensor:
        """Another gamma, bias and scale for a magnitude."""
        bias = torch.exp(0.15 * _smooth(torch.linspace(-1, 1, self.size), rng))
        return plane.clamp(min=0) ** rng.uniform(0.75, 1.35) * bias * rng.uniform(0.75, 1.15)

    def _cut(
        self, head: Head, rng: np.random.Generator, move: Callable[[Tensor], Tensor] = lambda points: points
    ) -> Tensor:
        """A plane; ``move`` says where in the head each of its points ``[size, size, 3]`` is taken from, in mm."""
        extent = torch.tensor([n * s for n, s in zip(head.values.shape, head.spacing, strict=True)])
        half = self.size * self.spacing / 2 * rng.uniform(0.88, 1.12)
        grid = torch.linspace(-half, half, self.size)
        up, right = torch.meshgrid(-grid, grid, indexing="ij")  # rows run down, from the front
        points = torch.stack([right, up, torch.zeros_like(up)], -1)
        if self.warp:
            field = torch.linspace(-1, 1, self.size)
            bent = [_smooth(field, rng), _smooth(field, rng), torch.zeros_like(up)]
            points = points + self.warp * torch.stack(bent, -1)
        angles = self.angles * rng.uniform(-1, 1, 3)
        centre = torch.tensor(
            [*rng.uniform(-self.shift, self.shift, 2), (rng.uniform(*self.depth) - 0.5) * float(extent[2])]
        )
        mirror = torch.tensor([rng.choice([-1.0, 1.0]), 1.0, 1.0])
        points = move((points @ _rotation(*angles).mT + centre).float() * mirror)
        unit = (points / (extent / 2)).flip(-1)  # grid_sample has the last axis first
        outside = -1.0 if self.kind == "ct" else 0.0
        cut = F.grid_sample(
            head.values[None, None] - outside,
            unit[None, None].float(),
            align_corners=False,
            padding_mode="zeros",
        )
        return cut[0, 0, 0] + outside


def _rotation(a: float, b: float, c: float) -> Tensor:
    """Turns about the three axes, one after the other."""
    out = torch.eye(3)
    for axis, angle in enumerate((a, b, c)):
        i, j = [k for k in range(3) if k != axis]
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        out = out @ turn
    return out


def _smooth(field: Tensor, rng: np.random.Generator) -> Tensor:
    """A random polynomial of the plane, of degree 3 and unit size."""
    powers = torch.stack([field**k for k in range(4)])
    weights = torch.tensor(rng.standard_normal((4, 4)), dtype=torch.float32)
    weights = weights * (torch.arange(4)[:, None] + torch.arange(4) <= 3)
    return powers.mT @ weights @ powers / 2


class PlaneData(EpochData):
    """Batches of :class:`Planes` from volumes on disk, as `diffkit-medical data` builds them.

    Args:
        folder: of the volumes.
        train: glob patterns in it; several volumes of one person count as that person once each.
        valid: likewise, of subjects that are not trained on; 64 planes of them are seen at every validation.
        kind: "mr" or "ct".
        size: pixels of a side.
        spacing: millimetres of a pixel.
        batch_size: planes of a step.
        items: planes of an epoch.
        num_workers: processes that cut.
        seed: of the planes.
        tilt, turn, depth, shift, warp: see :class:`Planes`.
        noise: the deviation of the noise of a noisy scan, in units of the prior, by its path in ``folder``; it is
            taken away before cutting, as a prior draws and keeps whatever noise it was trained on.

    ValueError, when set up, for patterns that no file is like, or noise of a volume that is not there.
    """

    def __init__(
        self,
        folder: str,
        train: list[str],
        valid: list[str],
        kind: Literal["mr", "ct"] = "mr",
        size: int = 256,
        spacing: float = 1.0,
        batch_size: int = 8,
        items: int = 4000,
        num_workers: int = 1,
        seed: int = 0,
        tilt: float = 12.0,
        turn: float = 12.0,
        depth: tuple[float, float] = (0.3, 0.9),
        shift: float = 8.0,
        warp: float = 0.0,
        noise: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.noise = dict(noise)
        self.folder, self.patterns = Path(folder), {"train": train, "valid": valid}
        self.kind: Literal["mr", "ct"] = kind
        self.items = items
        self.options: dict[str, Any] = {
            "size": size,
            "spacing": spacing,
            "tilt": tilt,
            "turn": turn,
            "depth": depth,
            "shift": shift,
            "warp": warp,
        }

    def setup(self, stage: str | None = None) -> None:
        if missing := [path for path in self.noise if not (self.folder / path).exists()]:
            raise ValueError(f"noise is given of {', '.join(missing)}, and {self.folder} has no such volume.")
        self.train_set, self.valid_set = self.planes("train", self.items), self.planes("valid", 64)

    def planes(self, part: str, items: int) -> Planes:
        """``items`` planes of the heads of a part, ``train`` or ``valid``."""
        seed = self.seed + (part == "valid")
        return Planes(self._heads(part), self.kind, items=items, seed=seed, **self.options)

    def _heads(self, part: str) -> list[Head]:
        return [self._head(path) for path in matching(self.folder, self.patterns[part])]

    def _head(self, path: Path) -> Head:
        head = Head.of(read(path, slices=8).oriented("RAS"), self.kind)
        noise = self.noise.get(path.relative_to(self.folder).as_posix())
        return head._replace(values=denoised(head.values, noise)) if noise else head


def matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files in ``folder`` that any of the glob ``patterns`` names, pattern by pattern; ValueError for none."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not paths:
        raise ValueError(
            f"{folder} holds nothing like {', '.join(patterns)}: build it with `diffkit-medical data`."
        )
    return paths


def denoised(magnitude: Tensor, noise: float) -> Tensor:
    """A volume of magnitudes ``[x, y, z]`` without its Rician noise, of deviation ``noise`` in either part.

    Non-local means (Buades et al. 2005), and the floor of magnitudes, E m^2 = a^2 + 2 noise^2, taken away.
    """
    from skimage.restoration import denoise_nl_means

    means = denoise_nl_means(
        magnitude.numpy(), patch_size=3, patch_distance=3, h=0.5 * noise, sigma=noise, fast_mode=True
    )
    return torch.from_numpy((means**2 - 2 * noise**2).clip(min=0) ** 0.5).to(magnitude)


def in_units(values: Tensor, kind: Literal["mr", "ct"]) -> Tensor:
    """Intensities in the prior's units: magnitudes over their bright tissue, or thousands of HU above -1000 to 2000."""
    if kind == "ct":
        return (values / 1000).clamp(-1, 2)
    return (values / bright(values)).clamp(0, 1.6)


def bright(values: Tensor) -> Tensor:
    """The level of bright tissue: the 99.5th percentile of magnitudes above a fiftieth of the largest."""
    inside = values[values > values.max() / 50]
    return inside.kthvalue(max(1, round(0.995 * inside.numel()))).values
