"""The networks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def continued(image: Tensor, network: nn.Module) -> Tensor:
    """``image`` with sides that ``network`` takes (its ``multiple``), continued by reflection to the right and down."""
    height, width = image.shape[-2:]
    multiple = int(getattr(network, "multiple", 1))
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="reflect")


class UNet(nn.Module):
    """MONAI's `DiffusionModelUNet` on blocks of pixels: `(x [batch, channels, height, width], t [batch]) -> F`.

    Args:
        channels: of the state: 2 for a complex image, 1 for CT.
        widths: of the levels; each halves the resolution, and a side must divide by block * 2^(levels - 1).
        block: pixels of block x block are the channels of the first level: an eighth of the cost at 2.
        depth: residual blocks a level.
        attention: at the lowest level.
    """

    def __init__(
        self,
        channels: int = 2,
        widths: tuple[int, ...] = (64, 96, 128),
        block: int = 2,
        depth: int = 1,
        attention: bool = True,
    ) -> None:
        super().__init__()
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        self.arguments: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "block": block,
            "depth": depth,
            "attention": attention,
        }
        self.block = block
        self.multiple = block * 2 ** (len(widths) - 1)
        """Of which the sides of a state must be multiples."""
        self.body = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=channels * block**2,
            out_channels=channels * block**2,
            channels=tuple(widths),
            attention_levels=(*[False] * (len(widths) - 1), attention),
            num_res_blocks=depth,
            num_head_channels=min(32, widths[-1]),
            norm_num_groups=8,
        )
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  faster, on CPUs twofold

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(F.pixel_unshuffle(x, self.block), 1000 * t), self.block)
