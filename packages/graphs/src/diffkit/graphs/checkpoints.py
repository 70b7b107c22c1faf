"""What a graph checkpoint holds: a network, what its training graphs say as a whole, and how to sample it."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from diffkit.core import checkpoint
from diffkit.core.joint import Joint
from diffkit.graphs.gdss_sampling import GDSSSampling
from diffkit.graphs.population import Population
from diffkit.graphs.sampling import Sampling

EMBEDDED = Path(__file__).parent / "pretrained"
"""The checkpoints inside the wheel."""

TASK = "graphs"


@dataclass(frozen=True)
class GraphModel:
    """A loaded checkpoint from ``folder``; ``config`` is the whole ``config.json``."""

    folder: Path
    network: Any
    population: Population
    process: Joint
    sampling: Sampling | GDSSSampling
    config: dict[str, Any]


def save(folder: str | Path, task: Any, card: str, sampling: Sampling | GDSSSampling | None = None) -> Path:
    """Write the network of a task of :mod:`diffkit.graphs.task`, to be sampled by ``sampling`` or as the task says."""
    config = {
        "task": TASK,
        "network": checkpoint.describe(task.network, **task.network.arguments),
        "population": checkpoint.describe(task.population),
        **task.described(),
        "sampling": checkpoint.describe(sampling or task.sampling),
        "diffkit-graphs": metadata.version("diffkit-graphs"),
    }
    return checkpoint.save(folder, task.network, config, card)


def load(name: str | Path, *, device: str | torch.device = "cpu") -> GraphModel:
    """A checkpoint by embedded name or by folder, in evaluation mode on ``device``.

    Raises:
        CheckpointError: unknown, broken, or of another domain.
    """
    folder = checkpoint.locate(name, EMBEDDED)
    config = checkpoint.read_config(folder, task=TASK)
    try:
        network, population, sampling = (
            checkpoint.construct(config[part]) for part in ("network", "population", "sampling")
        )
        process = _process(config, population)
    except KeyError as error:
        raise checkpoint.CheckpointError(f"{folder}/config.json lacks {error}.") from error
    network = checkpoint.load_weights(folder, network, device=device)
    return GraphModel(folder, network, population, process, sampling, config)


def _process(config: dict[str, Any], population: Population) -> Joint:
    """Of Gaussian leaves, or of the frequencies of classes."""
    if "processes" in config:
        return Joint({name: checkpoint.construct(leaf) for name, leaf in config["processes"].items()})
    return population.process(config["schedule"])


def write_run(task: Any, folder: Path, trainer: Any, seconds: float) -> None:
    """Export a training run (see :class:`diffkit.core.train.run.Export`), with a card of its facts."""
    from diffkit.core.train.run import card

    data = trainer.datamodule
    text = card(
        f"Graphs like {Path(data.graphs).name}",
        trainer,
        seconds,
        command="diffkit-graphs",
        items=f"{data.batch_size} graphs",
        data=f"{len(data.train_set.graphs)} graphs of up to {task.population.largest} nodes.",
    )
    save(folder, task, text)
