"""Networks on volumes: `(x [batch, inputs, x, y, z], t [batch]) -> [batch, outputs, x, y, z]`, t in [0, 1].

With ``dims`` of 2 they see each slice along z alone, and a volume is a batch of slices. Sides must divide by
``multiple``. All keep the channels of a voxel beside each other in memory, for which AMX and tensor cores are four
times faster in bfloat16.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}


class Volumetric(nn.Module, ABC):
    """What all share; ``arguments`` rebuild one. ValueError for other ``dims`` than 2 and 3."""

    multiple: int

    def __init__(self, dims: int, **arguments: Any) -> None:
        super().__init__()
        if dims not in _LAYOUT:
            raise ValueError(f"a network works on 2 or 3 dimensions, not {dims}.")
        self.dims = dims
        self.arguments: dict[str, Any] = {**arguments, "dims": dims}

    @abstractmethod
    def body(self, x: Tensor, t: Tensor) -> Tensor:
        """The network on ``[batch, inputs, *sides]``, of as many sides as ``dims``."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.dims == 3:
            return self.body(x.contiguous(memory_format=_LAYOUT[3]), t)
        depth = x.shape[-1]
        slices = x.movedim(-1, 1).flatten(0, 1).contiguous(memory_format=_LAYOUT[2])
        return self.body(slices, t.repeat_interleave(depth)).unflatten(0, (-1, depth)).movedim(1, -1)


class VolumeUNet(Volumetric):
    """A residual U-Net that is told the time by scales and shifts of its normalised features (FiLM, 1709.07871).

    Args:
        inputs: channels of the image, and classes of the noisy mask beside it.
        outputs: classes, as logits.
        widths: channels of the levels; each has half the resolution of the one before.
        blocks: residual blocks of each level, on the way down and up; 0 leaves it a convolution each way.
        dims: 3, or 2 for slices.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int] = (16, 48, 96, 128),
        blocks: Sequence[int] = (0, 1, 1, 1),
        dims: int = 3,
    ) -> None:
        super().__init__(dims, inputs=inputs, outputs=outputs, widths=list(widths), blocks=list(blocks))
        if len(widths) != len(blocks):
            raise ValueError(f"{len(widths)} widths need as many numbers of blocks, not {len(blocks)}.")
        conv = nn.Conv3d if dims == 3 else nn.Conv2d
        grow = nn.ConvTranspose3d if dims == 3 else nn.ConvTranspose2d
        self.multiple = 2 ** (len(widths) - 1)
        times = 4 * widths[0]
        self.clock = nn.Sequential(nn.Linear(widths[0], times), nn.SiLU(), nn.Linear(times, times), nn.SiLU())
        self.first = conv(inputs, widths[0], 3, padding=1)
        self.down, self.up, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        for k, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for way in (self.down, self.up):
                way.append(nn.ModuleList(_Residual(conv, width, times) for _ in range(count)))
            if k + 1 < len(widths):
                self.shrink.append(conv(width, widths[k + 1], 2, stride=2))
                self.grow.append(grow(widths[k + 1], width, 2, stride=2))
        self.last = nn.Sequential(
            nn.GroupNorm(8, widths[0]), nn.SiLU(), conv(widths[0], outputs, 3, padding=1)
        )
        self.to(memory_format=_LAYOUT[dims])  # pyright: ignore[reportCallIssue]

    def body(self, x: Tensor, t: Tensor) -> Tensor:
        from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

        time = self.clock(get_timestep_embedding(1000 * t, self.first.out_channels).to(x))
        x, skips = self.first(x), []
        for k, blocks in enumerate(self.down):
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, time)
            if k < len(self.shrink):
                skips.append(x)
                x = self.shrink[k](x)
        for k in reversed(range(len(self.up))):
            for block in self.up[k]:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, time)
            if k:
                x = skips.pop() + self.grow[k - 1](x)
        return self.last(x)


class _Residual(nn.Module):
    def __init__(self, conv: Any, width: int, times: int) -> None:
        super().__init__()
        self.before, self.between = nn.GroupNorm(8, width), nn.GroupNorm(8, width, affine=False)
        self.film = nn.Linear(times, 2 * width)
        self.one, self.two = conv(width, width, 3, padding=1), conv(width, width, 3, padding=1)
        nn.init.zeros_(self.two.weight)  # a block begins as the identity
        nn.init.zeros_(self.two.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.one(F.silu(self.before(x)))
        scale, shift = self.film(time).reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, 1)
        return x + self.two(F.silu(torch.addcmul(shift, self.between(h), 1 + scale)))


class Plain(Volumetric):
    """A network of MONAI that has no use for the time, to compare with: its UNet or SegResNet.

    Args:
        inputs, outputs, dims: see :class:`VolumeUNet`.
        kind: "unet" (Kerfoot et al. 2018) or "segresnet" (Myronenko 2018, 1810.11654).
        width: channels of the first level, doubled at each of the three below.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kind: Literal["unet", "segresnet"] = "unet",
        width: int = 16,
        dims: int = 3,
    ) -> None:
        super().__init__(dims, inputs=inputs, outputs=outputs, kind=kind, width=width)
        from monai.networks.nets.segresnet import SegResNet
        from monai.networks.nets.unet import UNet

        self.multiple = 8
        widths = [width << k for k in range(4)]
        if kind == "unet":
            self.inner = UNet(dims, inputs, outputs, widths, (2, 2, 2), num_res_units=2)
        elif kind == "segresnet":
            self.inner = SegResNet(dims, width, inputs, outputs, blocks_down=(1, 2, 2, 4))
        else:
            raise ValueError(f"no network {kind!r}; the kinds are unet and segresnet.")
        self.to(memory_format=_LAYOUT[dims])  # pyright: ignore[reportCallIssue]

    def body(self, x: Tensor, t: Tensor) -> Tensor:
        return self.inner(x)
