r"""A prior of slices that is told how large the ventricles are.

The covariate is c = log(100 V/B), the ventricles' volume V in per cent of the brain's, B: the ventricle-brain ratio
of radiology. It is that of the whole head, so that all slices of a volume share it, and it is absolute: a slice shows
it, whoever's it is, while a growth since a baseline can be seen only by who knows the baseline. B cancels what a
plane's scale and the size of a head change alike; in MNI's space it is that of :data:`BRAIN`.

c is known of heads in the space of an atlas, whose ventricles are found (:mod:`diffkit.medical.volumetry`) and
grown by any factor (:mod:`diffkit.medical.deform`), plane by plane. Other heads teach what heads look like with c
unknown, as does a share of all planes, so that c can be left out (Ho and Salimans 2022, 2207.12598).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffkit.core.train import EpochData
from diffkit.medical.checkpoints import load
from diffkit.medical.deform import FACTORS, Growth
from diffkit.medical.model import UNet
from diffkit.medical.planes import Head, Planes, matching
from diffkit.medical.prior import PriorTask
from diffkit.medical.volume import read
from diffkit.medical.volumetry import ventricles

BRAIN = 1410.0
"""Grey and white matter in MNI's space in ml, by SPM's maps of tissue."""

UNKNOWN = math.nan
"""The covariate of a slice whose ventricles nobody measured."""


def covariate(volume: float) -> float:
    """c of ventricles of ``volume`` ml in MNI's space."""
    return math.log(100 * volume / BRAIN)


class CovariateUNet(UNet):
    """The :class:`~diffkit.medical.model.UNet` told a covariate: `(x, t, c [batch]) -> F`, c NaN where it is unknown.

    It is embedded by two layers, and added to the embedding of the time.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (48, 96, 96),
        block: int = 2,
        depth: int = 1,
        attention: bool = False,
    ) -> None:
        super().__init__(channels, widths, block, depth, attention)
        self.body.num_class_embeds = 1  # MONAI's embedding of classes, with a number in their place
        embedding: Any = _Embedding(4 * widths[0])  # as wide as that of the time
        self.body.class_embedding = embedding

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        blocks = self.body(F.pixel_unshuffle(x, self.block), 1000 * t, class_labels=c)
        return F.pixel_shuffle(blocks, self.block)

    def adopt(self, prior: nn.Module) -> None:
        """Become ``prior`` without its further channels, deaf to the covariate; ValueError for other widths."""
        own, theirs = self.state_dict(), prior.state_dict()
        for name, value in own.items():
            if name.startswith("body.class_embedding."):
                value.mul_(0 if ".2." in name else 1)
                continue
            if name not in theirs or any(a > b for a, b in zip(value.shape, theirs[name].shape, strict=True)):
                raise ValueError(f"the prior's network is of other widths: its {name} does not fit.")
            value.copy_(theirs[name][tuple(slice(n) for n in value.shape)])


class _Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c: Tensor) -> Tensor:
        known = torch.isfinite(c)
        return self.layers(torch.stack([c.where(known, 0), known.to(c)], -1))


class CovariateTask(PriorTask):
    """The loss of :class:`~diffkit.medical.prior.PriorTask` on planes and their covariates ``[batch]``.

    Args:
        network: ``(x, t, c) -> F``.
        dropout: the share of planes whose covariate is not told.
        adopt: a prior of complex slices, by name or folder, of the same widths, ``process`` and ``sigma_data``, as
            whose real part training starts: what a head looks like is then known, and how c shows is left to learn.
        process, sigma_data, t_min, focus, init, learning_rate, weight_decay, warmup: of
            :class:`~diffkit.medical.prior.PriorTask`.
    """

    def __init__(
        self, network: nn.Module, *, dropout: float = 0.1, adopt: str | None = None, **options: Any
    ) -> None:
        super().__init__(network, **options)
        self.dropout = dropout
        if adopt is not None:
            assert isinstance(network, CovariateUNet)
            network.adopt(load(adopt).network)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        x0, c = batch
        told = torch.rand_like(c) >= self.dropout
        c = c.where(told, UNKNOWN)
        return {"loss": self.denoising(lambda x, t: self.network(x, t, c), x0)}


class GrowingPlanes(Planes):
    """``(plane [1, size, size], c)``: each plane of a head whose ventricles have grown by a factor of their own.

    ``growths`` are those of the heads, None where their ventricles are unknown; ``options`` are those of
    :class:`~diffkit.medical.planes.Planes`.
    """

    def __init__(self, heads: Sequence[Head], growths: Sequence[Growth | None], **options: Any) -> None:
        super().__init__(heads, "mr", **options)
        self.growths = list(growths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rng = np.random.default_rng((self.seed, index))
        k = int(rng.integers(len(self.heads)))
        growth, c = self.growths[k], UNKNOWN
        if growth is None:
            plane = self._cut(self.heads[k], rng)
        else:
            factor = math.exp(rng.uniform(*np.log(FACTORS)))
            s, c = growth.time(factor), covariate(factor * growth.volume)
            plane = self._cut(self.heads[k], rng, lambda points: growth.flow(points, -s))
        return self._bend(plane, rng)[None], torch.tensor(c, dtype=torch.float32)


class GrowthData(EpochData):
    """Batches of :class:`GrowingPlanes` from volumes on disk, as `diffkit-medical data` builds them.

    Args:
        folder: of the volumes.
        atlas: labels of Neuromorphometrics' regions, a file in it.
        train: glob patterns in it of heads in the space of the atlas.
        unknown: likewise of heads in any space, whose ventricles are left alone.
        valid: likewise, in the space of the atlas; 64 planes of them are seen at every validation.
        size: pixels of a side.
        spacing: millimetres of a pixel.
        batch_size: planes of a step.
        items: planes of an epoch.
        num_workers: processes that cut.
        seed: of the planes.
        depth, shift: see :class:`~diffkit.medical.planes.Planes`.
    """

    kind = "progress"

    def __init__(
        self,
        folder: str,
        atlas: str,
        train: list[str],
        valid: list[str],
        unknown: list[str] | None = None,
        size: int = 192,
        spacing: float = 1.0,
        batch_size: int = 8,
        items: int = 4000,
        num_workers: int = 1,
        seed: int = 0,
        depth: tuple[float, float] = (0.3, 0.7),
        shift: float = 8.0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.folder, self.atlas, self.items = Path(folder), atlas, items
        self.patterns = {"train": train, "valid": valid, "unknown": unknown or []}
        self.planes: dict[str, Any] = {"size": size, "spacing": spacing, "depth": depth, "shift": shift}
        self.options = dict(self.planes)
        """What a checkpoint keeps: those of the planes and, when set up, the least and largest covariate."""

    def setup(self, stage: str | None = None) -> None:
        atlas = read(self.folder / self.atlas)
        found: dict[str, list[tuple[Head, Growth | None]]] = {}
        for part, patterns in self.patterns.items():
            paths = matching(self.folder, patterns) if patterns else []
            volumes = [read(path, slices=8).oriented("RAS") for path in paths]
            found[part] = [
                (
                    Head.of(volume, "mr"),
                    None
                    if part == "unknown"
                    else Growth.of(ventricles(volume, atlas).data[0], volume.spacing),
                )
                for volume in volumes
            ]
        sizes = [covariate(growth.volume) for _, growth in found["train"] if growth is not None]
        low, high = (pick(sizes) + math.log(factor) for pick, factor in zip((min, max), FACTORS, strict=True))
        self.options["covariate"] = (low, high)
        self.train_set, self.valid_set = (
            GrowingPlanes(*zip(*heads, strict=True), items=items, seed=self.seed + k, **self.planes)
            for k, (heads, items) in enumerate(
                [(found["train"] + found["unknown"], self.items), (found["valid"], 64)]
            )
        )
