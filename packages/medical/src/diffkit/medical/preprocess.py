"""From images on their own grid to what a segmenter sees, and back.

A segmenter sees cubes of one spacing, axes in the order of RAS, and channels whose values mean the same in every image.
What a kind of channel means:

* "mr" has no unit: it is cut to between the percentiles 0.5 and 99.5 of the foreground, all that is above the mean
  of the image, where it has mean 0 and standard deviation 1;
* "ct" in HU: the window of :data:`WINDOW` becomes [-1, 1];
* "suv", the uptake of PET over its mean in the body: a fifth of it, at most 5.

A *spec* is a dict that JSON can hold, made by a data module and kept in a checkpoint: "channels" (their names),
"kinds", "classes" (class 0 is the background), "spacing" in mm, "size", the voxels of a crop, and "mirrored", whether
left and right are alike to it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffkit.medical.resample import isotropic, resample
from diffkit.medical.volume import Volume, stack

WINDOW = (-200.0, 250.0)
"""HU of soft tissue: from fat to vessels with contrast."""

_THIN = 8  # slices: fewer are no volume


def prepare(volumes: Mapping[str, Volume], spec: Mapping[str, Any]) -> Tensor:
    """The images of one head or body as ``[channels, x, y, z]`` float32, no smaller than ``spec["size"]``.

    Args:
        volumes: on one grid, in the order of ``spec["channels"]``; the names are those of an error.
        spec: see above.

    ValueError if there are more channels or fewer, they are not on one grid (it says which, and how far), a side has
    fewer than 8 voxels, or some are not finite or all the same.
    """
    volume = stack(volumes)
    names = ", ".join(volumes)
    if len(volume.data) != len(spec["kinds"]):
        raise ValueError(
            f"{names} give {len(volume.data)} channels, and {len(spec['kinds'])} are needed: "
            f"{', '.join(spec['channels'])}, in this order."
        )
    if min(volume.shape) < _THIN:
        size = " x ".join(map(str, volume.shape))
        raise ValueError(
            f"{names}: {size} voxels are no volume; at least {_THIN} are needed along each axis."
        )
    if volume.data.is_complex():
        raise ValueError(f"{names} must be real: give magnitudes.")
    for name, kind, channel in zip(spec["channels"], spec["kinds"], volume.data, strict=True):
        if not bool(torch.isfinite(channel).all()):
            raise ValueError(f"{names}: {name} has voxels that are not finite: mend or mask them first.")
        if kind == "mr" and bool((channel == channel[0, 0, 0]).all()):
            raise ValueError(f"{names}: {name} is {float(channel[0, 0, 0]):g} everywhere, and shows nothing.")
    data = resample(volume, *isotropic(volume, spec["spacing"], tuple(spec["size"]))).data
    return normalise(data, spec["kinds"])


def restore(result: Tensor, like: Volume, spec: Mapping[str, Any]) -> Volume:
    """What was found on the grid of :func:`prepare`, ``[channels, x, y, z]``, on that of ``like``.

    Affine, shape and orientation are those of ``like``, to the bit. Interpolation is linear, so that probabilities
    stay probabilities. ValueError for a shape that :func:`prepare` does not give for ``like``.
    """
    shape, affine = isotropic(like, spec["spacing"], tuple(spec["size"]))
    if tuple(result.shape[1:]) != shape:
        raise ValueError(
            f"a result of {list(result.shape[1:])} voxels does not fit the {list(shape)} of its image."
        )
    return like.holding(resample(Volume(result.cpu(), affine), like.shape, like.affine).data)


def normalise(data: Tensor, kinds: list[str] | tuple[str, ...]) -> Tensor:
    """``data`` ``[channels, x, y, z]`` in the units of a segmenter, by the kind of each channel."""
    return torch.stack([_UNITS[kind](channel) for kind, channel in zip(kinds, data, strict=True)])


class Foreground(NamedTuple):
    """What an MR image is measured against: the top of its range, and its foreground's mean and deviation."""

    top: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Foreground":
        """Of an image of any shape, with its air."""
        inside = x[x > x.mean()]
        low, top = (inside.kthvalue(max(1, round(share * inside.numel()))).values for share in (0.005, 0.995))
        inside = inside.clamp(low, top)
        return cls(top, inside.mean(), inside.std(correction=0).clamp(min=1e-6 * float(top.abs()) + 1e-12))

    def apply(self, x: Tensor) -> Tensor:
        """``x`` in units of "mr"."""
        return (x.clamp(max=self.top) - self.mean) / self.deviation


def _mr(x: Tensor) -> Tensor:
    return Foreground.of(x).apply(x)


def _ct(x: Tensor) -> Tensor:
    low, high = WINDOW
    return (x.clamp(low, high) - low) * (2 / (high - low)) - 1


def _suv(x: Tensor) -> Tensor:
    return (x / 5).clamp(0, 5)


_UNITS: dict[str, Callable[[Tensor], Tensor]] = {"mr": _mr, "ct": _ct, "suv": _suv}
