"""Trains for one step and saves the first gradient: what `test_train` starts as two processes.

The loss has no randomness, so the gradient of a batch is the mean of its parts'.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from diffkit.core.train.run import train
from diffkit.speech.checkpoints import write_run
from diffkit.speech.data import AudioData
from diffkit.speech.task import SpeechTask


class OneCall(SpeechTask):
    """The data loss of one network call, at t = 1."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        clean, noisy = batch
        x0, y = self.spectrum(clean), self.spectrum(noisy)
        estimate = self.network(y, torch.ones(len(y), device=y.device), y)
        return {"loss": (estimate - x0).square().mean()}


class Gradient(Callback):
    """Saves the weights before the first step, and their gradient, from the first process."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, OneCall)
        network = pl_module.network
        if trainer.is_global_zero and trainer.global_step == 0:
            record = {
                "processes": trainer.world_size,
                "weights": network.state_dict(),
                "gradient": {name: p.grad for name, p in network.named_parameters()},
            }
            torch.save(record, Path(trainer.default_root_dir) / "first_step.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(OneCall, AudioData, sys.argv[1:], write=write_run)
