r"""A first image of CT over less than half a turn, by one network call on the least-squares image.

Where whole parts of the frequencies are missing, as they are then, the least-squares image is wrong everywhere, and a
prior that knows nothing of the scan rests close to where it began. A network that has seen such images beside what
they were of takes the run near its end; the prior goes on from there, at little noise, and the data have their say at
each step. So do Chung et al. 2022, "Come-Closer-Diffuse-Faster" (2112.05146), begin.

It learns arcs of all lengths, from any side and of any dose, and needs none of them told. Few views over half a turn
are another matter: there least squares are right but for streaks, which the prior alone takes away. The error it is
trained by is square, so that it is the mean of all that the image may have been:

    predicted = g + SCALE F(g),     F trained to (x0 - g)/SCALE.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffkit.core import checkpoint
from diffkit.core.train import Task
from diffkit.medical.checkpoints import EMBEDDED
from diffkit.medical.ct import Projector
from diffkit.medical.dose import WATER, scan_noise, to_attenuation
from diffkit.medical.methods import System
from diffkit.medical.model import continued
from diffkit.medical.planes import Head, PlaneData, Planes
from diffkit.medical.scan import Parallel
from diffkit.medical.slices import Mixed, from_air, root_ramp

SCALE = 0.25
"""About what least squares err by, in the units of a prior of CT."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """``network`` as a map from least-squares images ``[batch, 1, height, width]`` to predicted ones."""

    network: nn.Module

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        found = correction(self.network, continued(image, self.network))
        return image + SCALE * found[..., :height, :width]


def correction(network: nn.Module, image: Tensor) -> Tensor:
    """F of the module: the network of a prior, at the time 0."""
    return network(image, image.new_zeros(len(image)))


def save(folder: str | Path, task: Any, card: str, data: dict[str, Any]) -> Path:
    """Write the network of a :class:`PredictorTask`; ``data`` says how its slices were cut."""
    config = {
        "task": "predictor",
        "kind": "ct",
        "network": checkpoint.describe(task.network, **task.network.arguments),
        "data": data,
        "diffkit-medical": metadata.version("diffkit-medical"),
    }
    return checkpoint.save(folder, task.network, config, card)


def load(name: str | Path, *, device: str | torch.device = "cpu") -> Predictor:
    """A predictor by embedded name or by folder, in evaluation mode on ``device``.

    CheckpointError: unknown, broken, or for another task or domain.
    """
    folder = checkpoint.locate(name, EMBEDDED)
    config = checkpoint.read_config(folder, task="predictor")
    if "network" not in config:
        raise checkpoint.CheckpointError(f"{folder}/config.json lacks 'network'.")
    network = checkpoint.construct(config["network"])
    return Predictor(checkpoint.load_weights(folder, network, device=device))


class PredictorTask(Task):
    """The square error of what is predicted from what a scan shows of planes, in units of :data:`SCALE`.

    Args:
        network: of a prior's kind, ``(image, time) -> F``.
        init: a predictor, by name or folder, whose weights training starts from.
        options: of :class:`~diffkit.core.train.Task`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        init: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: int = 200,
    ) -> None:
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        self.start_from(init, EMBEDDED)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        x0, seen = batch
        return {"loss": F.mse_loss(correction(self.network, seen), (x0 - seen) / SCALE)}


class ScannedPlanes(Planes):
    """``(plane, image)``, both ``[1, size, size]``: planes of CT and the least squares of what a scan sees of each.

    ``scans`` kinds of scan are drawn from the seed, over 60 to 150 degrees from any side; a plane is seen by one of
    them, with a dose of its own. ``options`` are those of :class:`~diffkit.medical.planes.Planes`. The matrices of the
    scans are kept, 0.2 GB each at 256 pixels.
    """

    def __init__(self, heads: Sequence[Head], *, scans: int = 24, **options: Any) -> None:
        super().__init__(heads, "ct", **options)
        rng = np.random.default_rng(self.seed)
        self.projectors = [self._projector(rng) for _ in range(scans)]

    def _projector(self, rng: np.random.Generator) -> Projector:
        degrees = rng.uniform(60, 150)
        arc, views = math.radians(degrees), round(degrees * rng.uniform(0.4, 1.0))
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
