"""What a medical checkpoint holds: a prior's or a segmenter's network, its process, and what its channels mean."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffkit.core import checkpoint
from diffkit.core.categorical import Categorical
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser
from diffkit.medical.prior import EMBEDDED, denoiser

KINDS = ("mr", "ct", "progress")


@dataclass(frozen=True)
class Prior:
    """A loaded prior of slices; ``kind`` is one of :data:`KINDS`, ``config`` the whole ``config.json``."""

    folder: Path
    network: nn.Module
    process: Gaussian
    kind: str
    config: dict[str, Any]

    @property
    def denoise(self) -> Denoiser:
        """Of slices ``[batch, 1, height, width]`` in the prior's units, complex for "mr"."""
        return denoiser(self.network, self.process, self.config["sigma_data"], complex=self.kind == "mr")

    @property
    def near_real(self) -> bool:
        """Whether it learnt complex slices of little phase."""
        return bool(self.config.get("near_real", False))


def save(folder: str | Path, task: Any, kind: str, card: str, data: dict[str, Any]) -> Path:
    """Write the network of a :class:`~diffkit.medical.prior.PriorTask`; ``data`` says how its slices were cut."""
    config = {
        "task": "prior",
        "kind": kind,
        "near_real": kind == "mr",
        "network": checkpoint.describe(task.network, **task.network.arguments),
        "process": checkpoint.describe(task.process),
        "sigma_data": task.sigma_data,
        "data": data,
        "diffkit-medical": metadata.version("diffkit-medical"),
    }
    return checkpoint.save(folder, task.network, config, card)


def load(name: str | Path, *, device: str | torch.device = "cpu") -> Prior:
    """A prior by embedded name or by folder, in evaluation mode on ``device``.

    Raises:
        CheckpointError: unknown, broken, or of another kind or domain.
    """
    folder = checkpoint.locate(name, EMBEDDED)
    config = checkpoint.read_config(folder)
    if config.get("task") != "prior" or config.get("kind") not in KINDS:
        raise checkpoint.CheckpointError(
            f"{folder} is a checkpoint for {config.get('task')!r}, not a prior of medical images."
        )
    try:
        network = checkpoint.construct(config["network"])
        process = checkpoint.construct(config["process"])
        _ = float(config["sigma_data"])
    except KeyError as error:
        raise checkpoint.CheckpointError(f"{folder}/config.json lacks or misnames {error}.") from error
    network = checkpoint.load_weights(folder, network, device=device)
    return Prior(folder, network, process, config["kind"], config)


@dataclass(frozen=True)
class SegmentModel:
    """A loaded segmenter: ``process`` is None of a plain one, ``shift`` that of its times, and ``spec`` says how images
    are prepared for it (see :mod:`diffkit.medical.preprocess`). ``source`` is the class of its data.
    """

    folder: Path
    network: nn.Module
    process: Gaussian | Categorical | None
    shift: float
    spec: dict[str, Any]
    source: str


def save_segmenter(folder: str | Path, task: Any, card: str, data: Any) -> Path:
    """Write the network of a :class:`~diffkit.medical.segment_task.SegmentTask`, and what its ``data`` module says."""
    config = {
        "task": "segment",
        "network": checkpoint.describe(task.network, **task.network.arguments),
        "process": None if task.process is None else checkpoint.describe(task.process),
        "shift": task.shift,
        "data": data.spec(),
        "source": checkpoint.describe(data)["class_path"],
        "diffkit-medical": metadata.version("diffkit-medical"),
    }
    return checkpoint.save(folder, task.network, config, card)


def load_segmenter(name: str | Path, *, device: str | torch.device = "cpu") -> SegmentModel:
    """A segmenter by embedded name or by folder, in evaluation mode on ``device``.

    Raises:
        CheckpointError: unknown, broken, or for another task or domain.
    """
    folder = checkpoint.locate(name, EMBEDDED)
    config = checkpoint.read_config(folder, task="segment")
    try:
        network = checkpoint.construct(config["network"])
        process = None if config["process"] is None else checkpoint.construct(config["process"])
        shift, spec, source = float(config["shift"]), dict(config["data"]), str(config["source"])
    except KeyError as error:
        raise checkpoint.CheckpointError(f"{folder}/config.json lacks {error}.") from error
    network = checkpoint.load_weights(folder, network, device=device)
    return SegmentModel(folder, network, process, shift, spec, source)


def write_run(task: Any, folder: Path, trainer: Any, seconds: float) -> None:
    """Export a training run (see :class:`diffkit.core.train.run.Export`), with a card of its facts."""
    from diffkit.core.train.run import card
    from diffkit.medical import predictor
    from diffkit.medical.segment_task import SegmentTask

    data = trainer.datamodule
    segments = isinstance(task, SegmentTask)
    predicts = isinstance(task, predictor.PredictorTask)
    if segments:
        kind = type(task.process).__name__ if task.process is not None else "no"
        what = f"segmenter of {', '.join(data.classes[1:])} in {', '.join(data.channels)}, with {kind} noise"
        items = f"crops of {' x '.join(map(str, data.size))} voxels of {data.spacing:g} mm"
        source = type(data).__name__
    else:
        what = "predictor of CT slices from scans in part" if predicts else f"prior of {data.kind} slices"
        items, source = "planes", ", ".join(data.patterns["train"])
    text = card(
        what,
        trainer,
        seconds,
        command="diffkit-medical",
        items=f"{data.batch_size} {items}",
        data=f"{source}; origins, licences and checksums stand in the manifest.json of `diffkit-medical data`.",
    )
    if segments:
        save_segmenter(folder, task, text, data)
    elif predicts:
        predictor.save(folder, task, text, data.options)
    else:
        save(folder, task, data.kind, text, data.options)
