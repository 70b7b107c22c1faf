"""Schedules found by search, each by a function ``(denoise, process, x, budget, ...)`` to a plan or a grid.

``denoise`` has its conditions closed over and ``x`` is a batch of starts for the search to calibrate on, both
in z = x - b(t) y. :mod:`diffkit.core.saved` keeps what is found.
"""

from collections.abc import Callable

from diffkit.core.grid import Grid
from diffkit.core.plan import Plan
from diffkit.core.search.boss import boss
from diffkit.core.search.compensation import compensate, compensated
from diffkit.core.search.evolve import evolve
from diffkit.core.search.olss import olss
from diffkit.core.search.refine import refine
from diffkit.core.search.s3 import s3
from diffkit.core.search.seeds import boundary, rank

METHODS: dict[str, Callable[..., Plan | Grid]] = {
    "boss": boss,
    "compensate": compensated,
    "evolve": evolve,
    "olss": olss,
    "refine": refine,
    "s3": s3,
}
"""Searches for a schedule by their names on a command line."""

__all__ = [
    "METHODS",
    "boss",
    "boundary",
    "compensate",
    "compensated",
    "evolve",
    "olss",
    "rank",
    "refine",
    "s3",
]
