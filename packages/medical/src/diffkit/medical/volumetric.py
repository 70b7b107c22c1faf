"""The network of a segmenter: one of MONAI's on volumes, or on their slices."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

_LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}


class Volumetric(nn.Module):
    """`x [batch, inputs, x, y, z] -> [batch, outputs, x, y, z]`, whose sides divide by ``multiple``.

    Channels of a voxel lie beside each other in memory, for which AMX and tensor cores are four times faster in
    bfloat16. ValueError for other ``kind`` or ``dims`` than those below.

    Args:
        inputs: channels of the image, and classes of the noisy mask beside it.
        outputs: classes, as logits.
        kind: "unet" (Kerfoot et al. 2018) or "segresnet" (Myronenko 2018, 1810.11654).
        width: channels of the first level, doubled at each of the three below.
        dims: 3, or 2 to see each slice along z alone.
    """

    multiple = 8

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kind: Literal["unet", "segresnet"] = "unet",
        width: int = 32,
        dims: int = 3,
    ) -> None:
        super().__init__()
        from monai.networks.nets.segresnet import SegResNet
        from monai.networks.nets.unet import UNet

        if dims not in _LAYOUT:
            raise ValueError(f"a network works on 2 or 3 dimensions, not {dims}.")
        self.dims = dims
        self.arguments: dict[str, Any] = {
            "inputs": inputs,
            "outputs": outputs,
            "kind": kind,
            "width": width,
            "dims": dims,
        }
        if kind == "unet":
            widths = [width << k for k in range(4)]
            self.inner = UNet(dims, inputs, outputs, widths, (2, 2, 2), num_res_units=2)
        elif kind == "segresnet":
            self.inner = SegResNet(dims, width, inputs, outputs, blocks_down=(1, 2, 2, 4))
        else:
            raise ValueError(f"no network {kind!r}; the kinds are unet and segresnet.")
        self.to(memory_format=_LAYOUT[dims])  # pyright: ignore[reportCallIssue]

    def adopt(self, other: "Volumetric") -> None:
        """Become ``other``, of the same kind, and blind to the inputs that it lacks; ValueError if it is unlike."""
        mine = {name: value for name, value in self.arguments.items() if name != "inputs"}
        if any(other.arguments[name] != value for name, value in mine.items()):
            raise ValueError(f"a network of {mine} cannot start as one of {other.arguments}.")
        theirs = other.state_dict()
        for name, value in self.state_dict().items():
            known = theirs[name]
            if value.ndim > 1 and value.shape[1] > known.shape[1]:
                value.zero_()
                value[:, : known.shape[1]] = known
            else:
                value.copy_(known)

    def forward(self, x: Tensor) -> Tensor:
        if self.dims == 3:
            return self.inner(x.contiguous(memory_format=_LAYOUT[3]))
        slices = x.movedim(-1, 1).flatten(0, 1).contiguous(memory_format=_LAYOUT[2])
        return self.inner(slices).unflatten(0, (-1, x.shape[-1])).movedim(1, -1)
