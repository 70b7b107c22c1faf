"""Drawings of graphs, in rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx

from diffkit.core.files import whole
from diffkit.graphs.graph import LABEL

SHOWN = 8
"""Graphs in a row."""


def draw(path: str | Path, rows: Mapping[str, Sequence[nx.Graph]]) -> None:
    """A PNG with the first graphs of each row, whose name stands before it; nodes have a colour for their label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.8 * SHOWN, 1.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), SHOWN, squeeze=False)
    labels = sorted(
        {str(label) for graphs in rows.values() for g in graphs for _, label in g.nodes(data=LABEL)}
    )
    for line, (name, graphs) in zip(axes, rows.items(), strict=True):
        for axis, graph in zip(line, graphs, strict=False):
            _draw(axis, graph, labels)
        for axis in line:
            axis.set_axis_off()
        line[0].set_title(name, loc="left")
    with whole(Path(path)) as beside:
        figure.savefig(beside, dpi=120)


def _draw(axis: Any, graph: nx.Graph, labels: list[str]) -> None:
    from matplotlib import colormaps

    palette = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    place = nx.kamada_kawai_layout(graph) if len(graph) <= 64 else nx.spring_layout(graph, seed=0)
    colours = [palette[labels.index(str(label)) % 10] for _, label in graph.nodes(data=LABEL)]
    nx.draw_networkx(
        graph, place, ax=axis, with_labels=False, node_size=400 / len(graph), node_color=colours, width=0.6
    )
