r"""NCSN++ for complex spectra, the network of SGMSE+.

A U-Net of BigGAN residual blocks over frequency and time (Song et al. 2021, 2011.13456; for speech Richter
et al. 2023, 2208.05830). Levels halve both axes with the filter [1, 3, 3, 1]; every residual sum is divided
by sqrt 2; log t enters every block through Gaussian Fourier features.
Beside the U-Net, a pyramid of ever smaller inputs is added on the way down, and every level on the way up
adds to a growing output.

**What it outputs.** Richter et al. write the score as -g(x_t, y, t)/t and minimise |s score + eps|^2. For
their OUVE process s/t lies between .24 and .63 wherever they train, t in [.03, 1], so that loss is the eps
loss of a network F = (s/t) g, up to a factor that a network conditioned on t expresses itself. Here F is the
plain output, and a division that has no meaning for another process or target is left to
:mod:`diffkit.core.predict`: take ``target="eps"`` for SGMSE+, and ``target="x0"`` for a Schroedinger bridge,
where the published network is undivided too.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_T_MIN = 1e-5  # below it log t stops falling: t = 0 is data, and no solver calls a network there
_CHANNELS = 2  # real and imaginary


class NCSNpp(nn.Module):
    """Predicts a compressed spectrum from the state and the noisy spectrum.

    The defaults are the 16 kHz network of SGMSE+ (65.6 million parameters); ``attention=()``,
    ``progressive=False`` and ``bins=768`` give its 48 kHz variant (Richter et al. 2024, 2406.06185).

    Args:
        nf: channels of the first level, a multiple of 4.
        ch_mult: channels of each level, in units of ``nf``; every level but the first halves both axes.
        num_res_blocks: residual blocks of each level on the way down; one more on the way up.
        attention: numbers of frequencies whose level has self-attention (the bottleneck always has it).
        fourier_scale: standard deviation of the Fourier features' frequencies, in periods per unit of log t.
        progressive: have the pyramids of inputs and outputs; without them the last level alone is output.
        bins: frequencies of the spectra, n_fft // 2 + 1, a multiple of 2^(levels - 1).

    Raises:
        ValueError: ``nf`` or ``bins`` is not such a multiple.
    """

    def __init__(
        self,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 2, 2, 2),
        num_res_blocks: int = 2,
        attention: Sequence[int] = (16,),
        fourier_scale: float = 16.0,
        progressive: bool = True,
        bins: int = 256,
    ):
        super().__init__()
        self.factor = 2 ** (len(ch_mult) - 1)
        if nf < 4 or nf % 4:
            raise ValueError(f"nf is {nf}, but must be a multiple of 4.")
        if bins < 1 or bins % self.factor:
            raise ValueError(
                f"bins is {bins}, but {len(ch_mult)} levels need a multiple of {self.factor}: change the "
                "spectrum's n_fft (bins = n_fft // 2 + 1) or ch_mult."
            )
        self.arguments = {
            "nf": nf,
            "ch_mult": list(ch_mult),
            "num_res_blocks": num_res_blocks,
            "attention": list(attention),
            "fourier_scale": fourier_scale,
            "progressive": progressive,
            "bins": bins,
        }
        self.bins, self.progressive = bins, progressive
        widths = [nf * multiple for multiple in ch_mult]
        attends = [bins >> level in attention for level in range(len(widths))]
        entries = 2 * _CHANNELS  # the state's and the noisy spectrum's

        def block(
            before: int, after: int, resample: nn.Module | None = None, attend: bool = False
        ) -> ResidualBlock:
            return ResidualBlock(before, after, 4 * nf, resample, attend)

        self.embed = TimeEmbedding(nf, fourier_scale)
        self.first = _conv(entries, nf, 3)
        self.encode, self.decode, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        self.enter, self.leave = nn.ModuleList(), nn.ModuleList()
        self.smaller, self.larger = Downsample(), Upsample()

        width, skips = nf, [nf]
        for level, (after, attend) in enumerate(zip(widths, attends, strict=True)):
            if level:
                self.shrink.append(block(width, width, Downsample()))
                if progressive:
                    self.enter.append(_conv(entries, width, 1))
                skips.append(width)
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks):
                blocks.append(block(width, after, attend=attend))
                width = after
                skips.append(width)
            self.encode.append(blocks)

        self.middle = nn.ModuleList([block(width, width, attend=True), block(width, width)])

        for level in reversed(range(len(widths))):
            if level < len(widths) - 1:
                self.grow.append(block(width, width, Upsample()))
            blocks = nn.ModuleList()
            for i in range(num_res_blocks + 1):
                last = i == num_res_blocks
                blocks.append(block(width + skips.pop(), widths[level], attend=last and attends[level]))
                width = widths[level]
            self.decode.append(blocks)
            if progressive or level == 0:
                self.leave.append(nn.Sequential(_norm(width), nn.SiLU(), _conv(width, entries, 3, zero=True)))
        self.output = nn.Conv2d(entries, _CHANNELS, 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The prediction F, shaped as ``x``.

        Args:
            x, y: the state and the noisy spectrum, compressed, ``[batch, 2, bins, frames]``; any number of
                frames. Inside they are mirrored at their end to a multiple of 2^(levels - 1): unlike zeros,
                that looks like speech in noise.
            t: times in [0, 1], ``[batch]``.

        Raises:
            ValueError: the spectra have another number of frequencies than ``bins``.
        """
        if x.shape[-2] != self.bins:
            raise ValueError(
                f"the spectrum has {x.shape[-2]} frequencies, but the network is for {self.bins}."
            )
        frames = x.shape[-1]
        pyramid = _mirror(torch.cat([x, y], 1), frames + -frames % self.factor)
        embedding = self.embed(t)

        h = self.first(pyramid)
        skips = [h]
        for level, blocks in enumerate(self.encode):
            if level:
                h = self.shrink[level - 1](h, embedding)
                if self.progressive:
                    pyramid = self.smaller(pyramid)
                    h = h + self.enter[level - 1](pyramid)
                skips.append(h)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, embedding)
                skips.append(h)

        for block in self.middle:
            h = block(h, embedding)

        output = None
        for level, blocks in enumerate(self.decode):
            if level:
                h = self.grow[level - 1](h, embedding)
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(torch.cat([h, skips.pop()], 1), embedding)
            if self.progressive:
                more = self.leave[level](h)
                output = more if output is None else self.larger(output) + more
        return self.output(self.leave[0](h) if output is None else output)[..., :frames].to(x.dtype)


class TimeEmbedding(nn.Module):
    """Gaussian Fourier features of log t (Tancik et al. 2020), through two layers: ``[batch, 4 width]``."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        # Rounded to float16: phases reach 10^3, and a checkpoint in half precision must keep them.
        self.register_buffer("frequencies", (torch.randn(width) * scale).half().float())
        self.mix = nn.Sequential(
            _dense(2 * width, 4 * width), nn.SiLU(), _dense(4 * width, 4 * width), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        assert isinstance(self.frequencies, Tensor)
        log_t = t.to(self.frequencies.dtype).clamp(min=_T_MIN).log()
        phase = 2 * math.pi * log_t[:, None] * self.frequencies
        return self.mix(torch.cat([phase.sin(), phase.cos()], 1))


class ResidualBlock(nn.Module):
    """BigGAN's residual block (Brock et al. 2019), which may halve or double both axes between its norms.

    ``resample`` acts on both branches; ``attend`` adds self-attention behind.
    """

    def __init__(self, before: int, after: int, embedding: int, resample: nn.Module | None, attend: bool):
        super().__init__()
        self.enter = nn.Sequential(_norm(before), nn.SiLU())
        self.resample = resample or nn.Identity()
        self.first = _conv(before, after, 3)
        self.shift = _dense(embedding, after)
        self.second = nn.Sequential(_norm(after), nn.SiLU(), _conv(after, after, 3, zero=True))
        same = before == after and resample is None
        self.shortcut = nn.Identity() if same else _conv(before, after, 1)
        self.attention = Attention(after) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(self.resample(self.enter(x))) + self.shift(embedding)[:, :, None, None]
        h = self.second(h)
        return self.attention((self.shortcut(self.resample(x)) + h) / math.sqrt(2))


class Attention(nn.Module):
    """Residual self-attention with one head over all places of ``[batch, width, bins, frames]``."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _norm(width)
        self.query, self.key, self.value = (_conv(width, width, 1) for _ in range(3))
        self.out = _conv(width, width, 1, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        h = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).view_as(x)
        return (x + self.out(h)) / math.sqrt(2)


class _Filter(nn.Module):
    """The smoothing kernel [1, 3, 3, 1] x [1, 3, 3, 1] with weights that sum to ``total``."""

    kernel: Tensor

    def __init__(self, total: float):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", total * torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)

    def each(self, x: Tensor) -> Tensor:
        """The kernel for each channel of ``x``, ``[channels, 1, 4, 4]``."""
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)


class Downsample(_Filter):
    """Halves the last two axes of ``[batch, channels, bins, frames]``; keeps constants (inside)."""

    def __init__(self):
        super().__init__(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.each(x), stride=2, padding=1, groups=x.shape[1])


class Upsample(_Filter):
    """Doubles the last two axes of ``[batch, channels, bins, frames]``; keeps constants (inside)."""

    def __init__(self):
        super().__init__(4.0)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv_transpose2d(x, self.each(x), stride=2, padding=1, groups=x.shape[1])


def _norm(width: int) -> nn.GroupNorm:
    """Groups of at least 4 channels, at most 32 of them, as many as divide ``width``."""
    groups = next(n for n in range(min(width // 4, 32), 0, -1) if width % n == 0)
    return nn.GroupNorm(groups, width, eps=1e-6)


def _conv(before: int, after: int, kernel: int, *, zero: bool = False) -> nn.Conv2d:
    """A convolution that keeps the shape, with the initialisation of DDPM; ``zero`` starts it at zero."""
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    _initialise(conv, zero)
    return conv


def _dense(before: int, after: int) -> nn.Linear:
    dense = nn.Linear(before, after)
    _initialise(dense, False)
    return dense


def _initialise(layer: nn.Conv2d | nn.Linear, zero: bool) -> None:
    (nn.init.zeros_ if zero else nn.init.xavier_uniform_)(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _mirror(x: Tensor, frames: int) -> Tensor:
    """``x`` followed by its mirror image as often as it takes to ``frames``."""
    while x.shape[-1] < frames:
        x = torch.cat([x, x.flip(-1)], -1)
    return x[..., :frames]
