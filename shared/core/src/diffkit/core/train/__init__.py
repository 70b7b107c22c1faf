"""Training: losses, the Task, and the schedule of the learning rate."""

from diffkit.core.train.loss import denoising_loss, mean_per_sample
from diffkit.core.train.task import Task

__all__ = ["Task", "denoising_loss", "mean_per_sample"]
