"""Guidance where it is needed: in an interval of time, Kynkaanniemi et al. 2024 (2404.07724)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffkit.core.types import Denoiser, Guide, begin, each, expand_as


@dataclass(frozen=True)
class Interval:
    """``guided`` where ``low <= t <= high``, ``denoise`` elsewhere."""

    denoise: Denoiser
    guided: Denoiser
    low: float
    high: float

    def __call__(self, x: Any, t: Tensor) -> Any:
        inside = (t >= self.low) & (t <= self.high)
        if not torch.compiler.is_compiling():
            if bool(inside.all()):
                return self.guided(x, t)
            if not bool(inside.any()):
                return self.denoise(x, t)
        own, guided = self.denoise(x, t), self.guided(x, t)
        return each(lambda p, q: torch.where(expand_as(inside, p).bool(), q, p), own, guided)

    def begin(self) -> "Interval":
        return Interval(begin(self.denoise), begin(self.guided), self.low, self.high)


def interval(guide: Guide, low: float = 0.0, high: float = 1.0) -> Guide:
    """``guide`` while ``low <= t <= high``; outside nothing but the denoiser itself is called.

    High noise levels lose diversity to guidance, and at low ones it does nothing. A level sigma of their
    interval is at ``process.time(-log(sigma))``. Whether t is inside is read from the device; in a compiled
    loop both are called instead, with the same values. ValueError for an interval outside [0, 1].
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance needs an interval 0 <= low <= high <= 1, not {low} to {high}.")
    return lambda denoise: Interval(denoise, guide(denoise), low, high)
