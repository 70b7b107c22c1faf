"""Pictures of volumes, for a first look."""

from collections.abc import Mapping
from pathlib import Path

import torch

from diffkit.core.files import whole
from diffkit.medical.volume import Volume


def slices(volumes: Mapping[str, Volume], target: Path, count: int = 5) -> None:
    """Write a PNG of ``count`` slices spread along k, a row for each volume: grey, or heat where it says "doubt"."""
    from matplotlib.figure import Figure

    depth = next(iter(volumes.values())).shape[2]
    chosen = torch.linspace(0, depth - 1, min(count, depth) + 2)[1:-1].round().long().unique().tolist()
    figure = Figure(figsize=(2.6 * len(chosen), 2.8 * len(volumes)), layout="constrained")
    axes = figure.subplots(len(volumes), len(chosen), squeeze=False)
    for row, (name, volume) in zip(axes, volumes.items(), strict=True):
        top = float(volume.data[0].float().quantile(0.999)) if volume.data[0].numel() < 1 << 24 else None
        for axis, k in zip(row, chosen, strict=True):
            shown = volume.data[0, :, :, k].float().numpy()
            axis.imshow(shown, cmap="inferno" if name == "doubt" else "gray", vmin=0, vmax=top)
            axis.set_axis_off()
        row[0].set_title(name.replace("$", r"\$"), loc="left", fontsize=9)
    with whole(target) as beside:
        figure.savefig(beside, format="png", dpi=110)
