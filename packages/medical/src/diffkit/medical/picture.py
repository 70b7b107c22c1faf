"""Pictures of volumes, for a first look."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

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


def overlay(
    image: Volume, labels: Volume, entropy: Volume, classes: Sequence[str], target: Path, count: int = 5
) -> None:
    """Write a PNG of ``count`` axial slices through what was found: with the classes in colour, and the entropy below.

    As radiologists look at them: the front is up, and the patient's right on the left.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    grey, found, doubt = (axial(volume) for volume in (image, labels, entropy))
    heights = (found > 0).any(0).any(0).nonzero().flatten()
    low, high = (0, grey.shape[2] - 1) if not len(heights) else (int(heights[0]), int(heights[-1]))
    chosen = torch.linspace(low, high, count + 2)[1:-1].round().long().unique().tolist()
    bottom, top = (
        grey.flatten()[:: max(1, grey.numel() // 1_000_000)].quantile(torch.tensor([0.02, 0.995])).tolist()
    )
    colours = [colormaps["tab10"](k % 10) for k in range(len(classes))]
    across, along, _ = (float(mm) for mm in image.oriented("RAS").spacing)
    figure = Figure(figsize=(2.6 * len(chosen), 5.6), layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False)
    for column, k in zip(axes.T, chosen, strict=True):
        for axis in column:
            axis.imshow(grey[..., k].numpy(), cmap="gray", vmin=bottom, vmax=top, aspect=along / across)
            axis.set_axis_off()
        for label, colour in list(enumerate(colours))[1:]:
            here = (found[..., k] == label).float()
            tint = torch.stack([*(here * part for part in colour[:3]), 0.45 * here], -1)
            column[0].imshow(tint.numpy(), aspect=along / across)
        heat = doubt[..., k].clamp(0, 1).numpy()
        column[1].imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=heat, aspect=along / across)
    figure.colorbar(ScalarMappable(Normalize(0, 1), "inferno"), ax=axes[1], label="entropy", shrink=0.8)
    handles = [Patch(color=colour, label=name) for name, colour in zip(classes[1:], colours[1:], strict=True)]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8, frameon=False)
    with whole(target) as beside:
        figure.savefig(beside, format="png", dpi=110)


def series(rows: Mapping[str, Volume], titles: Sequence[str], target: Path, count: int = 6) -> None:
    """Write a PNG of the axial slice that changes most over the channels of the last row, a column for a channel.

    ``count`` channels are spread over all, with a row for each volume, all on one grid: grey, or about zero from blue
    to red where it says "change". As radiologists look at them: the front is up, and the patient's right on the left.
    """
    from matplotlib.figure import Figure

    turned = {name: volume.oriented("RAS") for name, volume in rows.items()}
    first, last = (list(turned.values())[k] for k in (0, -1))
    height = int((last.data[-1] - last.data[0]).abs().sum((0, 1)).argmax())
    chosen = torch.linspace(0, len(first.data) - 1, min(count, len(first.data))).round().long().tolist()
    top = float(first.data[0, :, :, height].float().quantile(0.995))
    figure = Figure(figsize=(2.6 * len(chosen), 3.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(chosen), squeeze=False)
    across, along, _ = first.spacing
    for row, (name, volume) in zip(axes, turned.items(), strict=True):
        low, high, colours = (-top / 2, top / 2, "coolwarm") if name == "change" else (0, top, "gray")
        for axis, k in zip(row, chosen, strict=True):
            shown = _looked_at(volume.data[k, :, :, height].float())
            axis.imshow(shown.numpy(), cmap=colours, vmin=low, vmax=high, aspect=along / across)
            axis.set_axis_off()
            axis.set_title(titles[k], fontsize=9)
        row[0].set_title(f"{name}\n{titles[chosen[0]]}".replace("$", r"\$"), loc="left", fontsize=9)
        row[0].set_title("", loc="center")
    with whole(target) as beside:
        figure.savefig(beside, format="png", dpi=110)


def axial(volume: Volume) -> Tensor:
    """Rows from the front, columns from the patient's right, slices from below."""
    return _looked_at(volume.oriented("RAS").data[0].float())


def _looked_at(values: Tensor) -> Tensor:
    """``[x, y, ...]`` in RAS as radiologists look at them."""
    return values.transpose(0, 1).flip(0, 1)
