"""Generated graphs beside the reference: what `diffkit-graphs evaluate` says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx

from diffkit.core.types import lookup
from diffkit.graphs.data import TEST, split
from diffkit.graphs.metrics import compare, vun
from diffkit.graphs.sets import VALID

if TYPE_CHECKING:
    from rich.table import Table


def report(
    graphs: Sequence[nx.Graph], reference: Sequence[nx.Graph], *, test: float = TEST, valid: str = "connected"
) -> dict[str, Any]:
    """Discrepancies of as many ``graphs`` as there are test graphs, and of the training graphs; V.U.N. of all.

    ``reference`` has its ``test`` share first. ``mmd2`` is by kernel, ``generated`` or ``train``, and descriptor.
    ValueError for fewer graphs than test graphs, no test graphs, or an unknown rule ``valid``.
    """
    rule = lookup(valid, VALID, "rule")
    train, held_out = split(reference, test)
    if len(graphs) < len(held_out):
        raise ValueError(
            f"{len(graphs)} graphs against {len(held_out)} test graphs: the protocol compares equally many; "
            "generate more, or lower the share of test graphs."
        )
    found = {"generated": compare(held_out, graphs[: len(held_out)])}
    if train:
        found["train"] = compare(held_out, train)
    kernels = list(found["generated"])
    return {
        "graphs": len(graphs),
        "test": len(held_out),
        "train": len(train),
        "mmd2": {kernel: {side: tables[kernel] for side, tables in found.items()} for kernel in kernels},
        "vun": {"rule": valid, **vun(graphs, train, rule)},
    }


def table(found: dict[str, Any]) -> "Table":
    """A :func:`report` to print."""
    from rich.table import Table

    kernels = found["mmd2"]
    columns = list(next(iter(kernels.values()))["generated"])
    shares = ", ".join(f"{name} {share:.3f}" for name, share in found["vun"].items() if name != "rule")
    about = f"{found['test']} test graphs; valid means {found['vun']['rule']}: {shares}"
    out = Table("MMD² by kernel", "graphs", *columns, caption=about)
    for kernel, sides in kernels.items():
        for side, values in sides.items():
            out.add_row(kernel, side, *(f"{values[name]:.4f}" for name in columns))
    return out
