"""The Task: what a domain trains, as a LightningModule.

A domain writes ``loss(batch)`` and hands over a network; optimiser, schedule and the refusal of NaN are
here. Lightning does the rest: devices, nodes, precision, checkpoints, resume, loggers.
"""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffkit.core.checkpoint import load_weights, locate


class Task(LightningModule):
    """A network, its loss and its optimiser.

    Args:
        network: the module whose parameters are trained and shipped.
        learning_rate: the peak of AdamW's learning rate.
        weight_decay: AdamW's, on matrices and kernels only (not on gains and biases).
        warmup: steps of linear warm-up; afterwards a cosine to zero at the end of the run, which is
            ``Trainer(max_steps=...)``, ``max_epochs`` or ``max_time``, whichever is set.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: int = 200,
    ):
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup

    def start_from(self, checkpoint: str | None, embedded: Path) -> None:
        """Take the weights of a ``checkpoint`` by folder or by name in ``embedded``; of None nothing is taken.

        CheckpointError if there is none, or it is of another network.
        """
        if checkpoint is not None:
            load_weights(locate(checkpoint, embedded), self.network)
            self.network.train()

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """The terms of the loss: ``loss`` is what is minimised, other entries are logged."""
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        with torch.random.fork_rng(devices=[]):  # the same times and noise at every validation
            torch.manual_seed(batch_idx)
            self._step(batch, "valid")

    def _step(self, batch: Any, stage: str) -> Tensor:
        terms = self.loss(batch)
        if not torch.isfinite(terms["loss"].detach()):
            raise FloatingPointError(
                f"the {stage} loss is {terms['loss'].item()} at step {self.global_step}: lower the learning "
                "rate or look for NaN in the data; the last checkpoint is intact."
            )
        logged = {f"{stage}/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged, prog_bar=True, sync_dist=stage == "valid", batch_size=1)
        return terms["loss"]

    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        shares = [0.0]
        trainer = self.trainer
        if trainer.max_steps > 0 or (trainer.max_epochs or -1) > 0:
            total = trainer.estimated_stepping_batches
            shares.append(trainer.global_step / total if math.isfinite(total) else 0.0)
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, Timer) and callback.time_remaining() is not None:
                elapsed, left = callback.time_elapsed(), callback.time_remaining() or 0.0
                shares.append(elapsed / max(elapsed + left, 1e-9))
        return min(max(shares), 1.0)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        decay = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": self.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.99))

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / max(self.warmup, 1))
            return rise * 0.5 * (1 + math.cos(math.pi * self.progress()))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
