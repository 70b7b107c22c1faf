"""Drawings of graphs, in rows: molecules as structural formulas, others as dots and lines."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import networkx as nx

from diffkit.core.files import whole
from diffkit.graphs.graph import LABEL
from diffkit.graphs.molecules import rdkit, to_mol, unchecked

SHOWN = 8
"""Graphs in a row."""

PIXELS = 400
"""The side of a structural formula."""


def draw(path: str | Path, rows: Mapping[str, Sequence[nx.Graph]]) -> None:
    """A PNG with the first graphs of each row, whose name stands before it.

    Graphs whose labels all name atoms and bonds are drawn by RDKit, where it is installed, and a red title says which
    of them it refuses. Nodes of others have a colour for their label.
    """
    from matplotlib.figure import Figure

    shown = {name: list(graphs)[:SHOWN] for name, graphs in rows.items()}
    figure = Figure(figsize=(1.8 * SHOWN, 1.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), SHOWN, squeeze=False)
    every = [graph for graphs in shown.values() for graph in graphs]
    labels = sorted({str(label) for graph in every for _, label in graph.nodes(data=LABEL)})
    formulas = _are_molecules(every)
    for line, (name, graphs) in zip(axes, shown.items(), strict=True):
        for axis, graph in zip(line, graphs, strict=False):
            if formulas:
                _formula(axis, graph)
            else:
                _dots(axis, graph, labels)
        for axis in line:
            axis.set_axis_off()
        line[0].set_title(name, loc="left")
    with whole(Path(path)) as beside:
        figure.savefig(beside, dpi=120)


def _are_molecules(graphs: Sequence[nx.Graph]) -> bool:
    try:
        for graph in graphs:
            unchecked(graph)
    except ValueError:  # no RDKit, or labels of something else
        return False
    return True


def _formula(axis: Any, graph: nx.Graph) -> None:
    from matplotlib.image import imread
    from rdkit.Chem.Draw import rdMolDraw2D
    from rdkit.Chem.rdDepictor import Compute2DCoords

    mol = to_mol(graph)
    if refused := mol is None:
        mol = unchecked(graph)
        mol.UpdatePropertyCache(strict=False)
        rdkit().FastFindRings(mol)
        axis.set_title("refused", loc="right", color="tab:red", fontsize="small")
    Compute2DCoords(mol)
    canvas = rdMolDraw2D.MolDraw2DCairo(PIXELS, PIXELS)
    canvas.drawOptions().prepareMolsBeforeDrawing = not refused
    canvas.DrawMolecule(mol)
    canvas.FinishDrawing()
    axis.imshow(imread(BytesIO(canvas.GetDrawingText())))


def _dots(axis: Any, graph: nx.Graph, labels: list[str]) -> None:
    from matplotlib import colormaps

    palette = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    place = nx.kamada_kawai_layout(graph) if len(graph) <= 64 else nx.spring_layout(graph, seed=0)
    colours = [palette[labels.index(str(label)) % 10] for _, label in graph.nodes(data=LABEL)]
    nx.draw_networkx(
        graph, place, ax=axis, with_labels=False, node_size=400 / len(graph), node_color=colours, width=0.6
    )
