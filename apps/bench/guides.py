"""What guides cost beyond the network calls that they make; prints and writes a table.

``python apps/bench/guides.py [--report apps/bench/guides.md] [--device cpu]``

A state of 4x3x64x64. The guide's own time is that of a guided call of a network that is free (the state
itself) less that of the bare calls; beside it stands the time of the same calls of a small U-Net (diffusers,
0.9 million parameters: any network in use is slower). Gradients that a guide takes through the network are
network calls too; here they are taken through the free one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from solvers import command, interleaved, machine
from torch import Tensor

from diffkit.core.guide import (
    Conditional,
    adaptive,
    apg,
    autoguidance,
    cfg,
    contrast,
    gradient,
    gradient_free,
    interval,
    lacon,
    linear,
    pag,
)
from diffkit.core.inverse import Blur, Mask, ddnm, dds, diffpir, dps, flowchef, pigdm
from diffkit.core.process import Cosine
from diffkit.core.types import Denoiser, Guide, begin

SHAPE, PROCESS = (4, 3, 64, 64), Cosine()


def free(x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
    """A network that costs nothing."""
    return x


def guides(device: str) -> dict[str, tuple[Guide, list[int]]]:
    """Each guide, and the batches that its network calls have beside that of the denoiser itself: 4 is one
    more call, 8 a call of twice the batch instead of it.
    """
    labels = torch.zeros(SHAPE[0], dtype=torch.long, device=device)
    other = partial(free)  # not the denoiser itself, which would be called once for both
    none = Conditional(free, labels)
    weights = [torch.tensor([0.5]), torch.tensor([0.4, 0.3, 0.3])]
    slope = lambda x, t: x.flatten(1).sum(1)  # noqa: E731
    mask, blur = Mask((torch.rand(SHAPE[-2:]) < 0.5).to(device)), Blur((torch.ones(5, 5) / 25).to(device))
    y = mask.A(torch.randn(SHAPE, device=device))
    return {
        "cfg, one batch": (cfg(4.0, none), [8]),
        "cfg, two networks": (cfg(4.0, other), [4, 4]),
        "cfg with rescale": (cfg(4.0, none, rescale=0.7), [8]),
        "cfg and pag": (lambda d: pag(3.0, other)(cfg(4.0, none)(d)), [8, 4]),
        "autoguidance": (autoguidance(2.0, other), [4, 4]),
        "contrast of three": (
            lambda d: contrast(1.0, none)(contrast(1.0, Conditional(free, labels))(d)),
            [12],
        ),
        "interval of cfg": (interval(cfg(4.0, none), 0.1, 0.9), [8]),
        "apg": (apg(4.0, none, radius=15.0), [8]),
        "adaptive": (adaptive(4.0, none, PROCESS, threshold=2.0), [8]),
        "linear, foretold": (linear(4.0, none, PROCESS, weights), [4]),
        "gradient": (gradient(slope, PROCESS), [4]),
        "gradient_free": (gradient_free(_classify, labels), [4, 4]),
        "lacon": (lacon(slope, PROCESS), [4]),
        "ddnm, a mask": (ddnm(mask, y), [4]),
        "dds, a blur": (dds(blur, blur.A(y)), [4]),
        "diffpir, a mask": (diffpir(mask, y, PROCESS, noise=0.1), [4]),
        "flowchef, a mask": (flowchef(mask, y, scale=100.0), [4]),
        "dps, a mask": (dps(mask, y, PROCESS), [4]),
        "pigdm, a mask": (pigdm(mask, y, PROCESS, noise=0.1), [4]),
    }


def _classify(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :10].softmax(1)


def own_time(guide: Guide, batches: list[int], device: str, runs: int) -> float:
    """Seconds of a guided call with a free network, less those of its bare calls."""
    x, t = torch.randn(SHAPE, device=device), torch.tensor(0.6, dtype=torch.float64, device=device)
    labels = torch.zeros(SHAPE[0], dtype=torch.long, device=device)
    guided: Denoiser = guide(Conditional(free, labels))

    def call() -> Any:
        run = begin(guided)
        return [run(x, t) for _ in range(2)]

    def bare() -> Any:
        return [free(x, t) for _ in batches for _ in range(2)]

    with torch.no_grad():
        best = interleaved({"call": call, "bare": bare}, device, runs)
    return (best["call"] - best["bare"]) / 2


def network_time(device: str, runs: int) -> Callable[[int], float]:
    """Seconds of one call of the U-Net, by its batch."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=64,
        layers_per_block=1,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    network.to(device).eval()  # type: ignore[arg-type]
    t = torch.tensor(600, device=device)
    inputs = {n: torch.randn(n, *SHAPE[1:], device=device) for n in (4, 8, 12)}
    calls: dict[str, Callable[[], object]] = {
        str(n): partial(network.forward, x, t) for n, x in inputs.items()
    }
    with torch.no_grad():
        best = interleaved(calls, device, max(5, runs // 20))
    return lambda batch: best[str(batch)]


def report(device: str, runs: int) -> str:
    """The table as markdown."""
    network = network_time(device, runs)
    lines = ["# What guides cost", "", f"State {'x'.join(map(str, SHAPE))}, {device}.", ""]
    lines += [
        "| guide | batches of its calls | their time, ms | its own, ms | share |",
        "|---|---|---|---|---|",
    ]
    for name, (guide, batches) in guides(device).items():
        own, calls = own_time(guide, batches, device, runs), sum(map(network, batches))
        lines.append(
            f"| {name} | {' + '.join(map(str, batches))} | {1e3 * calls:.1f} | {1e3 * own:.3f} | {own / calls:.2%} |"
        )
    lines += ["", machine(device)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command(__doc__, report)
