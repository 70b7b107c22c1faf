"""Guides: decorators of denoisers, which work with every solver and compose.

>>> guided = interval(cfg(4.0, uncond), low=0.1, high=0.8)(denoise)
>>> x0 = sample(guided, process, like)

What a guide remembers belongs to the run: two runs may share it. Guides that restore from measurements are in
:mod:`diffkit.core.inverse`.
"""

from collections.abc import Callable

from diffkit.core.guide.adaptive import adaptive, fit_linear, linear
from diffkit.core.guide.attention import identity_attention
from diffkit.core.guide.base import Conditional, together
from diffkit.core.guide.classifier import gradient, gradient_free
from diffkit.core.guide.contrast import autoguidance, cfg, contrast, pag
from diffkit.core.guide.interval import interval
from diffkit.core.guide.lacon import Aligner, Features, alignment, lacon
from diffkit.core.guide.projected import apg
from diffkit.core.types import Guide

GUIDES: dict[str, Callable[..., Guide]] = {
    guide.__name__: guide
    for guide in (adaptive, apg, autoguidance, cfg, gradient, gradient_free, interval, lacon, linear, pag)
}
"""Every guide by its name."""

__all__ = [
    "GUIDES",
    "Aligner",
    "Conditional",
    "Features",
    "adaptive",
    "alignment",
    "apg",
    "autoguidance",
    "cfg",
    "contrast",
    "fit_linear",
    "gradient",
    "gradient_free",
    "identity_attention",
    "interval",
    "lacon",
    "linear",
    "pag",
    "together",
]
