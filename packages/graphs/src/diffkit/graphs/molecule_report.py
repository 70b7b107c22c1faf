"""Generated molecules beside real ones: what `diffkit-graphs evaluate --valid molecule` says."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import networkx as nx

from diffkit.graphs import nspdk
from diffkit.graphs.data import TEST, split
from diffkit.graphs.molecules import smiles, to_mol

if TYPE_CHECKING:
    from rich.table import Table


def report(
    graphs: Sequence[nx.Graph], reference: Sequence[nx.Graph], *, test: float = TEST
) -> dict[str, Any]:
    """Shares of ``graphs`` that are valid, unique and novel, and their distances from the test molecules.

    A graph is ``accepted`` if RDKit takes it as it was generated, nothing being corrected, which GDSS and DiGress call
    valid. Here it is ``valid`` if it is also in one piece: one molecule, and not several. Of the valid some are
    ``unique``, by canonical SMILES, and of those some ``novel``, not among the training molecules.
    ``nspdk`` is of all graphs (:mod:`diffkit.graphs.nspdk`), ``fcd`` of the valid ones (Preuer et al. 2018,
    1803.09518), where the package fcd is installed; ``train`` has both for as many training molecules. ``reference``
    has its ``test`` share first.

    ValueError for no graphs, or no test or training molecules.
    """
    train, held_out = split(reference, test)
    if not len(graphs) or not held_out or not train:
        raise ValueError("there must be molecules to judge, and real ones on both sides of the test share.")
    valid = _words(graphs)
    known = {smiles(graph) for graph in train}
    distinct = set(valid)
    near = distances({"generated": graphs, "train": train[: len(graphs)]}, held_out)
    return {
        "graphs": len(graphs),
        "test": len(held_out),
        "train": len(train),
        "accepted": sum(to_mol(graph) is not None for graph in graphs) / len(graphs),
        "valid": len(valid) / len(graphs),
        "unique": len(distinct) / max(len(valid), 1),
        "novel": len(distinct - known) / max(len(distinct), 1),
        "distances": near,
    }


def distances(
    sides: Mapping[str, Sequence[nx.Graph]], real: Sequence[nx.Graph]
) -> dict[str, dict[str, float]]:
    """``nspdk`` of each of ``sides`` from real molecules; ``fcd`` where it can be had, and all have two valid ones."""
    centre = nspdk.mean(real)
    found = {name: {"nspdk": nspdk.apart(nspdk.mean(graphs), centre)} for name, graphs in sides.items()}
    if find_spec("fcd") is None:
        return found
    words = {name: _words(graphs) for name, graphs in sides.items()}
    known = _words(real)
    if min(map(len, (known, *words.values()))) > 1:
        from fcd.utils import calculate_frechet_distance  # pyright: ignore[reportMissingImports]

        law = _activations(known)
        for name, row in found.items():
            row["fcd"] = float(calculate_frechet_distance(*_activations(words[name]), *law))
    return found


def _words(graphs: Sequence[nx.Graph]) -> list[str]:
    return [word for graph in graphs if (word := smiles(graph)) is not None]


def _activations(words: list[str]) -> tuple[Any, Any]:
    """The mean and the covariance of ChemNet's activations."""
    import numpy as np
    from fcd import get_predictions, load_ref_model  # pyright: ignore[reportMissingImports]

    found = get_predictions(load_ref_model(), words)
    return found.mean(0), np.cov(found.T)


def table(found: dict[str, Any]) -> "Table":
    """A :func:`report` to print."""
    from rich.table import Table

    near = found["distances"]
    columns = list(near["generated"])
    shares = ", ".join(f"{name} {found[name]:.4f}" for name in ("accepted", "valid", "unique", "novel"))
    about = f"{found['graphs']} graphs, nothing corrected: {shares}; {found['test']} test molecules"
    out = Table("distance from the test molecules", *columns, caption=about)
    for side, values in near.items():
        out.add_row(side, *(f"{values[name]:.4f}" for name in columns))
    return out
