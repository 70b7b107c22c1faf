"""A model of somebody's graphs in minutes: training without a configuration."""

from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from diffkit.core.checkpoint import pick_device
from diffkit.core.train.run import EMA, Export
from diffkit.graphs import files
from diffkit.graphs.checkpoints import write_run
from diffkit.graphs.data import GraphData
from diffkit.graphs.graph import Classes
from diffkit.graphs.model import GraphTransformer
from diffkit.graphs.task import GraphTask


def fit(
    graphs: str | Path, folder: str | Path, *, minutes: float = 10.0, seed: int = 0, device: str = "auto"
) -> Path:
    """Train a small network on all graphs of a file or folder for some ``minutes``; returns its checkpoint.

    As `diffkit-graphs train` does with `configs/community_small.yaml`; the checkpoint stands in ``folder``.
    ValueError for a time that is not positive, or graphs that :func:`~diffkit.graphs.files.read` refuses.
    """
    if not minutes > 0:
        raise ValueError(f"the minutes to learn must be positive, not {minutes}.")
    classes = Classes.of(found := files.read(graphs)).sizes
    data = GraphData(str(graphs), test=0.0, valid=0.0, batch_size=min(64, len(found)), seed=seed)
    seed_everything(seed, verbose=False)
    torch.set_flush_denormal(True)
    trainer = Trainer(
        accelerator=pick_device(device).type,
        devices=1,
        precision="bf16-mixed",
        max_time=timedelta(minutes=minutes),
        max_epochs=-1,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[Export(write_run), EMA()],
    )
    trainer.fit(GraphTask(GraphTransformer(*classes, layers=4)), datamodule=data)
    return Path(folder) / "checkpoint"
