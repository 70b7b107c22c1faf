"""Generate graphs, and denoise heterogeneous ones, with diffusion.

>>> generator = Generator.from_pretrained("community_small")
>>> graphs = generator.generate(100)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffkit.graphs.files import read, write
    from diffkit.graphs.fit import fit
    from diffkit.graphs.generate import Generator
    from diffkit.graphs.metrics import compare, vun
    from diffkit.graphs.sampling import Sampling

__all__ = ["Generator", "Sampling", "compare", "fit", "read", "vun", "write"]

_HOMES = {
    "Generator": "generate",
    "Sampling": "sampling",
    "compare": "metrics",
    "fit": "fit",
    "read": "files",
    "vun": "metrics",
    "write": "files",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: torch takes seconds, and help should not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
