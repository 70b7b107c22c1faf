"""The spectrograms of a recording and of its enhancement, one above the other, as a PNG.

Memory is constant: a spectrogram is averaged into a fixed number of columns while the file is read.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffkit.core.files import whole
from diffkit.speech import audio

RANGE_DB = 80
"""What is shown below the loudest bin of the input."""
_COLUMNS = 1200
_WINDOW, _HOP = 0.032, 0.008  # s
_WIDEST = 12000  # Hz; above is little speech, and what is there would take most of the picture


@dataclass(frozen=True)
class Spectrogram:
    """Mean power ``[bins, columns]`` of a recording's channels, in dB; a full-scale sine has -3 dB.

    ``top`` is the frequency of the last bin in Hz, ``seconds`` the end of the last column.
    """

    db: Tensor
    top: float
    seconds: float


def spectrogram(path: str | Path) -> Spectrogram:
    """The spectrogram of an audio file: 32 ms Hann windows, power averaged over channels and columns."""
    about = audio.info(path)
    window, hop = round(_WINDOW * about.rate), round(_HOP * about.rate)
    frames = max(1, -(-about.samples // (hop * _COLUMNS)))  # per column
    step = hop * frames
    bins = min(window // 2, round(_WIDEST / about.rate * window)) + 1
    weight = torch.hann_window(window)
    many = max(1, 8 * about.rate // step)  # columns in a block
    shared = window - hop  # of two blocks, so that no window spans the edge of one
    mean = torch.zeros(bins, -(-about.samples // step))
    at = 0
    for block in audio.blocks(path, step * many + shared, shared):
        own = many if block.shape[1] == step * many + shared else -(-block.shape[1] // step)
        block = torch.nn.functional.pad(block, (0, own * step + shared - block.shape[1]))
        spectrum = torch.stft(block, window, hop, window=weight, center=False, return_complex=True)
        power = spectrum[:, :bins].abs().square().mean(0).unflatten(1, (-1, frames)).mean(2)
        mean[:, at : at + own] = power[:, : mean.shape[1] - at]
        at += own
    mean /= 2 * (weight.sum() / 2).square()
    return Spectrogram(
        10 * mean.clamp(min=1e-20).log10(),
        (bins - 1) * about.rate / window,
        mean.shape[1] * step / about.rate,
    )


def spectrogram_pair(before: str | Path, after: str | Path, target: str | Path) -> None:
    """Write the picture of two recordings to the PNG file ``target``, on one colour scale.

    Raises :class:`~diffkit.speech.audio.AudioError` for recordings that cannot be read, `OSError` where the
    disk refuses.
    """
    from matplotlib.figure import Figure

    before, after, target = Path(before), Path(after), Path(target)
    panels = [("input", spectrogram(before)), ("output", spectrogram(after))]
    loudest = float(panels[0][1].db.max())
    figure = Figure(figsize=(10, 6), dpi=120, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    for axis, (name, shown) in zip(axes, panels, strict=True):
        axis.imshow(
            shown.db.numpy(),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=loudest - RANGE_DB,
            vmax=loudest,
            extent=(0, shown.seconds, 0, shown.top / 1000),
        )
        axis.set_ylabel("frequency (kHz)")
        axis.set_title(name, loc="left", fontsize=10)
    axes[-1].set_xlabel("time (s)")
    figure.colorbar(axes[0].images[0], ax=axes, label="power (dB re full scale)", pad=0.01, aspect=40)
    figure.suptitle(before.name.replace("$", r"\$"), fontsize=12)  # a dollar would begin an equation
    with whole(target) as beside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # of a file's name
        figure.savefig(beside, format="png")
