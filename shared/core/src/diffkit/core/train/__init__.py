"""Training: losses, the Task, the order of the data."""

from diffkit.core.train.loss import denoising_loss, mean_per_sample
from diffkit.core.train.sampler import EpochData, EpochSampler
from diffkit.core.train.task import Task

__all__ = ["EpochData", "EpochSampler", "Task", "denoising_loss", "mean_per_sample"]
