"""Generated molecules beside real ones: what `diffkit-graphs evaluate --valid molecule` says."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import networkx as nx

from diffkit.graphs.data import TEST, split
from diffkit.graphs.molecules import smiles
from diffkit.graphs.nspdk import nspdk

if TYPE_CHECKING:
    from rich.table import Table


def report(
    graphs: Sequence[nx.Graph], reference: Sequence[nx.Graph], *, test: float = TEST
) -> dict[str, Any]:
    """Shares of ``graphs`` that are valid, unique and novel, and their distances from the test molecules.

    A graph is valid as it was generated, nothing being corrected, if RDKit accepts it and it is one molecule; of the
    valid some are ``unique``, by canonical SMILES, and of those some ``novel``, not among the training molecules.
    ``nspdk`` is of all graphs (:mod:`diffkit.graphs.nspdk`), ``fcd`` of the valid ones (Preuer et al. 2018,
    1803.09518), where the package fcd is installed; ``train`` has both for as many training molecules. ``reference``
    has its ``test`` share first.

    ValueError for no graphs, or no test or training molecules.
    """
    train, held_out = split(reference, test)
    if not len(graphs) or not held_out or not train:
        raise ValueError("there must be molecules to judge, and real ones on both sides of the test share.")
    valid = [found for graph in graphs if (found := smiles(graph)) is not None]
    known = {smiles(graph) for graph in train}
    distinct = set(valid)
    near = {"generated": distances(graphs, held_out), "train": distances(train[: len(graphs)], held_out)}
    return {
        "graphs": len(graphs),
        "test": len(held_out),
        "train": len(train),
        "valid": len(valid) / len(graphs),
        "unique": len(distinct) / max(len(valid), 1),
        "novel": len(distinct - known) / max(len(distinct), 1),
        "distances": near,
    }


def distances(graphs: Sequence[nx.Graph], real: Sequence[nx.Graph]) -> dict[str, float]:
    """``nspdk`` of two sets of molecules, and ``fcd`` where it can be had and both have two valid ones."""
    found = {"nspdk": nspdk(graphs, real)}
    words = [[word for graph in side if (word := smiles(graph))] for side in (graphs, real)]
    if find_spec("fcd") is not None and min(map(len, words)) > 1:
        from fcd import get_fcd  # pyright: ignore[reportMissingImports]

        found["fcd"] = float(get_fcd(*words))
    return found


def table(found: dict[str, Any]) -> "Table":
    """A :func:`report` to print."""
    from rich.table import Table

    near = found["distances"]
    columns = list(near["generated"])
    shares = ", ".join(f"{name} {found[name]:.4f}" for name in ("valid", "unique", "novel"))
    about = f"{found['graphs']} graphs, nothing corrected: {shares}; {found['test']} test molecules"
    out = Table("distance from the test molecules", *columns, caption=about)
    for side, values in near.items():
        out.add_row(side, *(f"{values[name]:.4f}" for name in columns))
    return out
