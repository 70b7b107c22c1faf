"""BibTeX of what was composed: ``cite(unipc(3), karras(8), VP())``, or ``diffkit cite unipc karras VP``.

A method's docstring names its papers by their arXiv ids, and that is where they are read from: from its own,
or from its module's where its own has none. `papers.bib` has an entry for each id.
"""

import re
import sys
from functools import cache, partial
from importlib import resources
from inspect import isabstract, isfunction
from typing import Any

from diffkit.core import bridge, categorical, manifold, process, spectral
from diffkit.core.grid import GRIDS
from diffkit.core.guide import GUIDES
from diffkit.core.inverse import INVERSE, renoise, travel
from diffkit.core.joint import Joint
from diffkit.core.likelihood import log_prob
from diffkit.core.noise import coupled, heavy_tailed
from diffkit.core.plan import Plan
from diffkit.core.search import METHODS, boundary, rank
from diffkit.core.solvers import SOLVERS, Solver, geodesic
from diffkit.core.steer import fk_correct, fk_steer, twisted
from diffkit.core.types import lookup

_BASES = ("Process", "Gaussian", "Categorical", "Memoryless", "Curved")
_ID = re.compile(r"\b\d{4}\.\d{5}\b")


def cite(*parts: Any) -> str:
    """The BibTeX entries, each once, of solvers, processes, grids, guides, samplers, searches and noise laws.

    A part is the object itself, the function that makes it, or a name as on a command line. What has no paper
    adds nothing. ValueError for an unknown name, for a paper that is not in `papers.bib`, and for a plan, which
    does not know what made it.
    """
    entries = bibliography()
    return "\n\n".join(entries[paper] for paper in dict.fromkeys(i for part in parts for i in papers(part)))


def papers(part: Any) -> list[str]:
    """The arXiv ids that the documentation of one part of :func:`cite` names."""
    if isinstance(part, str):
        part = lookup(part, names(), "method")
    if isinstance(part, Plan):
        raise ValueError("a plan does not know what made it: cite its solver or search.")
    if isinstance(part, Joint):
        return [paper for leaf in part.values() for paper in papers(leaf)]
    home = _home(part)
    return _ID.findall(home.__doc__ or "") or _ID.findall(sys.modules[home.__module__].__doc__ or "")


def names() -> dict[str, Any]:
    """What :func:`cite` knows by name, of every room."""
    rooms = (process, bridge, spectral, categorical, manifold)
    found = {name: part for room in rooms for name, part in vars(room).items() if isinstance(part, type)}
    processes = {
        name: part
        for name, part in found.items()
        if hasattr(part, "posterior") and not isabstract(part) and name not in _BASES and name[0] != "_"
    }
    functions = (
        rank,
        boundary,
        heavy_tailed,
        coupled,
        fk_steer,
        fk_correct,
        twisted,
        log_prob,
        geodesic,
        renoise,
        travel,
    )
    named = {function.__name__: function for function in functions}
    return {**SOLVERS, **GRIDS, **GUIDES, **INVERSE, **METHODS, **named, **processes}


def _home(part: Any) -> Any:
    """The documented class or function that a part is, is made by, or is an instance of."""
    if isfunction(part) and part.__name__ == "<lambda>":
        part = part()  # a registered name for a function with options
    if isinstance(part, Solver):
        part = part.steps
    if isinstance(part, partial):
        part = part.func
    if not isfunction(part) and not isinstance(part, type):
        part = type(part)
    return getattr(sys.modules[part.__module__], part.__qualname__.split(".")[0], part)


@cache
def bibliography() -> dict[str, str]:
    """The entries of `papers.bib` by arXiv id."""
    text = resources.files("diffkit.core").joinpath("papers.bib").read_text(encoding="utf-8")
    return {_ID.findall(entry)[0]: entry for entry in text.strip().split("\n\n")}


def command(argv: list[str]) -> int:
    """``diffkit cite NAME...``: print the entries of methods by name."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: diffkit cite NAME...\n\nprints BibTeX; the names are {', '.join(names())}.")
        return 0
    print(cite(*argv))
    return 0
