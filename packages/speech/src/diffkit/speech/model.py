"""The small network: a time-frequency encoder and decoder around a dual-path recurrent bottleneck.

Convolutions halve the frequency axis, an LSTM runs along frequency and another along time at the coarsest
level (DPRNN, Luo et al. 2020, 1910.06379; DPCRN, Le et al. 2021, 2107.05429), and the decoder gives a
complex mask on the noisy spectrum plus a residual, so that the identity is easy to say. Diffusion time
enters as a scale and shift in every block.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Sinusoidal features of diffusion time in [0, 1], through two linear layers."""

    octaves: Tensor

    def __init__(self, width: int, frequencies: int = 16):
        super().__init__()
        self.register_buffer("octaves", math.pi * torch.logspace(-1, 2, frequencies), persistent=False)
        self.mix = nn.Sequential(
            nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        phase = t[:, None] * self.octaves
        return self.mix(torch.cat([phase.sin(), phase.cos()], 1))


class Block(nn.Module):
    """A residual block of two convolutions, the first dilated in time, with scale and shift from time."""

    def __init__(self, width: int, embedding: int, dilation: int = 1):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv2d(width, width, 3, padding=(1, dilation), dilation=(1, dilation))
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, 1)
        h = nn.functional.silu(self.norm(x) * (1 + scale) + shift)
        return x + self.second(nn.functional.silu(self.first(h)))


class Blocks(nn.ModuleList):
    """Blocks one after another."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class DualPath(nn.Module):
    """An LSTM along frequency, then one along time, each residual: ``[batch, width, bands, frames]``."""

    def __init__(self, width: int, bidirectional: bool = True):
        super().__init__()
        paths = 2 if bidirectional else 1
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.frequency = nn.LSTM(width, width // 2, bidirectional=True, batch_first=True)
        self.time = nn.LSTM(width, width // paths, bidirectional=bidirectional, batch_first=True)
        self.mix = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        batch, width, bands, frames = x.shape
        x = x.permute(0, 3, 2, 1).reshape(batch * frames, bands, width)
        x = x + self.mix[0](self.frequency(self.norms[0](x))[0])
        x = x.view(batch, frames, bands, width).transpose(1, 2).reshape(batch * bands, frames, width)
        x = x + self.mix[1](self.time(self.norms[1](x))[0])
        return x.view(batch, bands, frames, width).permute(0, 3, 1, 2)


class TFNet(nn.Module):
    """Predicts a spectrum from the state and the noisy spectrum.

    Args:
        widths: channels at each level.
        strides: by how much each level divides the frequency axis; their product divides the bins.
        depth: residual blocks at each level.
        paths: dual-path recurrent blocks at the bottleneck.
        scale: what the spectra are multiplied with on the way in (they are small numbers).
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 96),
        strides: Sequence[int] = (4, 2, 2),
        depth: int = 1,
        paths: int = 2,
        scale: float = 4.0,
    ):
        super().__init__()
        self.arguments = {
            "widths": list(widths),
            "strides": list(strides),
            "depth": depth,
            "paths": paths,
            "scale": scale,
        }
        self.scale = scale
        embedding = 2 * widths[-1]
        self.embed = TimeEmbedding(embedding)
        self.down, self.encode, self.decode, self.up = (nn.ModuleList() for _ in range(4))
        self.strides = tuple(strides)
        before = 6
        for width, stride in zip(widths, strides, strict=True):
            kernel = (2 * stride - 1, 3)
            self.down.append(nn.Conv2d(before, width, kernel, (stride, 1), padding=(stride - 1, 1)))
            self.encode.append(Blocks(Block(width, embedding, 2**i) for i in range(depth)))
            self.decode.insert(0, Blocks(Block(width, embedding, 2**i) for i in range(depth)))
            self.up.insert(0, nn.Conv2d(width, stride * (before if before != 6 else 16), 3, padding=1))
            before = width
        self.bottleneck = nn.ModuleList()
        for i in range(paths):
            self.bottleneck.append(DualPath(widths[-1]))
            self.bottleneck.append(Block(widths[-1], embedding, 2 ** (i + 1)))
        self.out = nn.Conv2d(16, 4, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            assert self.out.bias is not None
            self.out.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """``x``, ``y`` compressed spectra ``[batch, 2, bins, frames]``; ``t`` ``[batch]``; returns as ``x``."""
        embedding = self.embed(t)
        h = torch.cat([x, y, magnitude(x), magnitude(y)], 1) * self.scale
        h = h.contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for down, blocks in zip(self.down, self.encode, strict=True):
            h = down(h)
            h = blocks(h, embedding)
            skips.append(h)
        for i, layer in enumerate(self.bottleneck):
            h = layer(h) if i % 2 == 0 else layer(h, embedding)
        for blocks, up, stride in zip(self.decode, self.up, reversed(self.strides), strict=True):
            h = h + skips.pop()
            h = blocks(h, embedding)
            h = up(h)
            h = h.unflatten(1, (-1, stride)).transpose(2, 3).flatten(2, 3)  # channels become bands
        mask_re, mask_im, rest_re, rest_im = self.out(nn.functional.silu(h)).float().chunk(4, 1)
        re, im = y.chunk(2, 1)
        masked = torch.cat([mask_re * re - mask_im * im, mask_re * im + mask_im * re], 1)
        return masked + torch.cat([rest_re, rest_im], 1) / self.scale


def magnitude(spectrum: Tensor) -> Tensor:
    """``[batch, 1, bins, frames]``; its gradient at zero is zero."""
    return spectrum.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
