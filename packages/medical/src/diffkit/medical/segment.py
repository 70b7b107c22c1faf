"""Segmentation with its uncertainty: several masks drawn for one image, by a diffusion model of masks.

A mask of the whole image is the state that diffuses. Each call of the network is made of windows of the size that it
was trained on, blended into one prediction (Bar-Tal et al. 2023, 2302.08113), so that the windows agree at every step,
and a sample's noise is one field, of its own seed: whole samplers in each window would draw different lesions on both
sides of a seam, and their blend would be neither.

Of a sample its last prediction counts, E[x0 | x_t], not a draw from it: the mean over samples is that of the same law
with less variance (Rao and Blackwell). And at its first call the noisy mask says nothing yet, so that all samples share
one answer: n samples of two calls are n + 1 calls, or n + 2 where every other sample is of the mirrored image, whose
mirrored mask is one of the image. What both views say, each on the mean of its samples, is pooled by the geometric
mean: two estimates of the same chances that are right would be made timid by the other one (Ranjan and Gneiting 2010).
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from diffkit.core.categorical import Categorical
from diffkit.core.checkpoint import pick_device
from diffkit.core.grid import shifted
from diffkit.core.process import Gaussian
from diffkit.core.sample import sample
from diffkit.core.types import lookup
from diffkit.medical.checkpoints import SegmentModel, load_segmenter
from diffkit.medical.decide import DECISIONS
from diffkit.medical.preprocess import prepare, restore
from diffkit.medical.resample import isotropic
from diffkit.medical.segment_task import log_probability, state
from diffkit.medical.volume import Volume

_OVERLAP = 0.25  # of windows; MONAI's default
_LEAST = 1e-30  # of a sum of probabilities, whose logarithm is taken

_Probability: TypeAlias = Callable[[Tensor | None, Tensor], Tensor]


@dataclass(frozen=True)
class Segmentation:
    """On the grid of the images, to the bit.

    ``labels`` uint8; ``probability`` of each class, a channel each, over the samples;
    ``entropy`` of it, in [0, 1]: 0 where one class is certain, 1 where all are equally probable.
    """

    labels: Volume
    probability: Volume
    entropy: Volume


class Segmenter:
    """Segments volumes.

    >>> found = Segmenter.from_pretrained("tissue")({"t1": volume.read("t1.nii.gz")})

    Args:
        model: see :func:`~diffkit.medical.checkpoints.load_segmenter`.
        bf16: run the network in bfloat16: several times faster where the hardware has it, as CPUs with AMX.
    """

    def __init__(self, model: SegmentModel, *, bf16: bool = False) -> None:
        self.model, self.bf16 = model, bf16
        self.device = next(model.network.parameters()).device

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "tissue", device: str = "auto", *, bf16: bool = False
    ) -> "Segmenter":
        """With an embedded checkpoint, or one in a folder; CheckpointError if there is none."""
        return cls(load_segmenter(name, device=pick_device(device)), bf16=bf16)

    def calls(self, samples: int, steps: int) -> int:
        """Network calls for each window of an image: one of a plain segmenter, which has one answer."""
        if self.model.process is None:
            return 1
        return min(samples, 1 + self._mirrored) + samples * (steps - 1)

    @property
    def _mirrored(self) -> bool:
        return bool(self.model.spec.get("mirrored", False))

    def __call__(
        self,
        volumes: Mapping[str, Volume],
        *,
        samples: int = 8,
        steps: int = 2,
        seed: int = 0,
        batch_size: int = 4,
        decide: str = "probable",
        advance: Callable[[int], None] = lambda done: None,
    ) -> Segmentation:
        """Segment one head or body.

        Args:
            volumes: the modalities on one grid, in the order of the model's channels; names are those of an error.
            samples: masks to draw.
            steps: of each; see :meth:`calls`.
            seed: of the first; others count on.
            batch_size: windows at a time.
            decide: a name of :data:`~diffkit.medical.decide.DECISIONS`, of how labels follow from probabilities.
            advance: told how many calls are done.

        ValueError for other channels than the model's, grids that differ, voxels that are not finite, an unknown
        decision, or more memory than there is.
        """
        decision = lookup(decide, DECISIONS, "decision")
        spec, first = self.model.spec, next(iter(volumes.values()), None)
        if first is None:
            raise ValueError(f"no image to segment: give {', '.join(spec['channels'])}.")
        self._check_memory(first)
        image = prepare(volumes, spec)
        mean = self.probability(
            image, samples=samples, steps=steps, seed=seed, batch_size=batch_size, advance=advance
        )
        probability = restore(mean, first, spec)
        p = probability.data
        entropy = -torch.xlogy(p, p).sum(0, keepdim=True) / math.log(len(p))
        return Segmentation(
            first.holding(decision(p)[None].to(torch.uint8)),
            probability,
            first.holding(entropy.clamp(0, 1)),
        )

    @torch.no_grad()
    def probability(
        self,
        image: Tensor,
        *,
        samples: int = 8,
        steps: int = 2,
        seed: int = 0,
        batch_size: int = 4,
        advance: Callable[[int], None] = lambda done: None,
    ) -> Tensor:
        """The probabilities ``[classes, x, y, z]`` of an ``image`` as ``prepare`` gives it; see above."""
        if min(samples, steps, batch_size) < 1:
            raise ValueError("samples, steps and batch_size must be at least 1.")
        model, image = self.model, image[None].to(self.device)
        if model.process is None:
            plain = self._windowed(image, batch_size, advance)
            return plain(None, torch.ones((), dtype=torch.float64))[0].movedim(-1, 0)
        classes = len(model.spec["classes"])
        size = model.process.size if isinstance(model.process, Categorical) else classes
        like = image.new_empty(1, *image.shape[2:], size)
        sides = [image, image.flip(2)][: samples if self._mirrored else 1]
        views = [_remembering(self._windowed(side, batch_size, advance)) for side in sides]
        grid = shifted(steps, model.shift)
        totals = image.new_zeros(len(views), *image.shape[2:], classes)
        for k in range(samples):
            mirrored = k % len(views)
            found = _last(views[mirrored], model.process, like, grid, seed + k)
            totals[mirrored] += (found.flip(1) if mirrored else found)[0, ..., :classes]
        return totals.clamp(min=_LEAST).log().mean(0).softmax(-1).movedim(-1, 0)

    def _windowed(self, image: Tensor, batch_size: int, advance: Callable[[int], None]) -> _Probability:
        """``(x, t) -> probabilities`` of the whole image, classes last."""
        from monai.inferers.utils import sliding_window_inference

        model, channels = self.model, image.shape[1]

        def windows(x: Tensor | None, t: Tensor) -> Tensor:
            def network(part: Tensor) -> Tensor:
                noisy = None if x is None else part[:, channels:].movedim(1, -1)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    found = log_probability(model.network, model.process, part[:, :channels], noisy, t)
                return found.float().exp().movedim(-1, 1)

            seen = image if x is None else torch.cat([image, x.movedim(-1, 1)], 1)
            p = sliding_window_inference(
                seen, model.spec["size"], batch_size, network, overlap=_OVERLAP, mode="gaussian"
            )
            assert isinstance(p, Tensor)
            advance(1)
            return p.movedim(1, -1)

        return windows

    def _check_memory(self, image: Volume) -> None:
        """ValueError if what is held at a time is more than this machine has."""
        spec = self.model.spec
        channels, classes = len(spec["channels"]), len(spec["classes"])
        shape, _ = isotropic(image, spec["spacing"], tuple(spec["size"]))
        inner = 4 * math.prod(shape) * (3 * channels + 12 * classes)
        outer = 4 * math.prod(image.shape) * (2 * channels + 3 * classes)
        for device, needed in ((self.device, inner), (torch.device("cpu"), inner + outer)):
            if needed > (there := _memory(device)):
                raise ValueError(
                    f"an image of {' x '.join(map(str, image.shape))} voxels needs {needed / 1e9:.3g} GB of memory on "
                    f"{device.type}, and there are {there / 1e9:.3g}: crop it, or resample it to larger voxels."
                )


def _remembering(windows: _Probability) -> _Probability:
    """``windows`` that answer once at t = 1, where they see pure noise."""
    first: list[Tensor] = []

    def remembering(x: Tensor | None, t: Tensor) -> Tensor:
        if float(t) < 1:
            return windows(x, t)
        if not first:
            first.append(windows(x, t))
        return first[0]

    return remembering


def _last(
    probability: _Probability, process: Gaussian | Categorical, like: Tensor, grid: Tensor, seed: int
) -> Tensor:
    """The last prediction of a sample, ``[1, x, y, z, size]``."""
    found: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        found[:] = [probability(x, t)]
        return state(process, found[0])

    sample(denoise, process, like, grid=grid, seeds=[seed])
    return found[0]


def _memory(device: torch.device) -> int:
    """Bytes in all of a machine or its GPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
