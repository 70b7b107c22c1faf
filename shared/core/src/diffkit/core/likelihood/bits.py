"""Bits per dimension, of data that was quantised."""

import math

import torch
from torch import Tensor


def bits_per_dim(log_prob: Tensor, dims: int, width: float) -> Tensor:
    """-(log p + dims log width)/(dims log 2) of data quantised in steps of ``width``, as 2/255 for 8 bits in [-1, 1].

    A bound on the discrete code length, if log p is that of data with uniform noise of that width
    (:func:`dequantise`; Theis et al. 2015, 1511.01844).
    """
    return -(log_prob / dims + math.log(width)) / math.log(2)


def dequantise(x: Tensor, width: float, noise: Tensor) -> Tensor:
    """``x`` with uniform noise in (-width/2, width/2), made of standard normal ``noise``."""
    return x + width * (torch.special.ndtr(noise) - 0.5)
