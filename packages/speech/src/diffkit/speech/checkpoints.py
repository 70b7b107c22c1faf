"""What a speech checkpoint holds: a network, its process, its transform and its task."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffkit.core import checkpoint, predict
from diffkit.core.grid import Grid, power
from diffkit.core.process import Gaussian
from diffkit.speech.spectrum import Spectrum
from diffkit.speech.task import EMBEDDED

TASKS = ("enhance", "dereverb")

_SAMPLING = {
    "data": {"solver": "ancestral", "steps": 1, "power": 3.0},  # further calls gather near the data
    # The reverse SDE down to where the score is still trained, and its mean there; SGMSE+'s 60 calls.
    "score": {"solver": "pc", "steps": 30, "end": 0.03},
}


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint from ``folder``; ``config`` is the whole ``config.json``."""

    folder: Path
    network: nn.Module
    process: Gaussian
    spectrum: Spectrum
    target: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.folder.name

    def grid(self, steps: int) -> Grid:
        """The times that it is sampled at."""
        own = self.config["sampling"]
        return power(steps, own.get("power", 1.0), own.get("start", 1.0), own.get("end", 0.0))


def save(folder: str | Path, task: Any, kind: str, card: str, sampling: dict[str, Any] | None = None) -> Path:
    """Write the network of a :class:`~diffkit.speech.task.SpeechTask` for ``kind`` of :data:`TASKS`.

    ``sampling`` are the solver and steps that serve it best.
    """
    config = {
        "task": kind,
        "network": checkpoint.describe(task.network, **task.network.arguments),
        "process": checkpoint.describe(task.process),
        "spectrum": checkpoint.describe(task.spectrum),
        "target": next(name for name, target in predict.TARGETS.items() if target is task.target),
        "sampling": sampling or _SAMPLING["data"],
        "diffkit-speech": metadata.version("diffkit-speech"),
    }
    return checkpoint.save(folder, task.network, config, card)


def load(name: str | Path, *, device: str | torch.device = "cpu") -> Model:
    """A checkpoint by embedded name or by folder, in evaluation mode on ``device``.

    Raises:
        CheckpointError: unknown, broken, or of another domain.
    """
    folder = checkpoint.locate(name, EMBEDDED)
    config = checkpoint.read_config(folder)
    if config.get("task") not in TASKS:
        raise checkpoint.CheckpointError(
            f"{folder} is a checkpoint for {config.get('task')!r}, not for speech."
        )
    try:
        network = checkpoint.construct(config["network"])
        process = checkpoint.construct(config["process"])
        spectrum = checkpoint.construct(config["spectrum"])
        target = config["target"]
        _ = predict.TARGETS[target], config["sampling"]["solver"], config["sampling"]["steps"]
    except KeyError as error:
        raise checkpoint.CheckpointError(f"{folder}/config.json lacks or misnames {error}.") from error
    network = checkpoint.load_weights(folder, network, device=device)
    return Model(folder, network, process, spectrum, target, config)


def write_run(task: Any, folder: Path, trainer: Any, seconds: float) -> None:
    """Export a training run (see :class:`diffkit.core.train.run.Export`), with a card of its facts."""
    from diffkit.core.train.run import card

    data = trainer.datamodule
    source = data.corpus or data.paired
    text = card(
        data.task,
        trainer,
        seconds,
        command="diffkit-speech",
        items=f"{data.batch_size} items of {data.seconds} s",
        data=f"{Path(source).name}; for a corpus, licences and checksums stand in its manifest.json.",
    )
    save(folder, task, data.task, text, _SAMPLING[task.objective])
