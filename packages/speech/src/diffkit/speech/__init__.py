"""Clean noisy and reverberant speech with diffusion.

>>> enhancer = Enhancer.from_pretrained("tiny")
>>> clean = enhancer.enhance(waveform, sample_rate)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffkit.speech.enhance import Enhancer
    from diffkit.speech.files import enhance_files

__all__ = ["Enhancer", "enhance_files"]

_HOMES = {"Enhancer": "enhance", "enhance_files": "files"}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: torch takes seconds, and help should not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
