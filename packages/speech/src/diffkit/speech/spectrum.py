r"""The compressed complex spectrum that the networks see, and its exact inverse.

c~ = beta |c|^alpha e^{i arg c} for STFT coefficients c (Welker et al. 2022; SGMSE+, Richter et al. 2023,
2208.05830, eq. 1: alpha = 0.5, beta = 0.15). The real and imaginary parts are two channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Waveform ``[batch, samples]`` <-> compressed spectrum ``[batch, 2, n_fft // 2 + 1, frames]``.

    Args:
        rate: the sample rate in Hz of the waveforms it is meant for.
        n_fft: length of the (periodic, square-root Hann) window and of the transform, in samples.
        hop: step between frames, in samples; at most ``n_fft // 2``.
        exponent, factor: alpha and beta of the compression.
    """

    rate: int = 16000
    n_fft: int = 510
    hop: int = 255
    exponent: float = 0.5
    factor: float = 0.15

    @property
    def bins(self) -> int:
        """Number of frequencies."""
        return self.n_fft // 2 + 1

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.n_fft, dtype=like.dtype, device=like.device).sqrt()

    def __call__(self, wave: Tensor) -> Tensor:
        """The compressed spectrum of ``wave``; zeros are appended to fill the last frame."""
        pad = -wave.shape[-1] % self.hop
        wave = torch.nn.functional.pad(wave, (0, pad))
        spectrum = torch.stft(
            wave, self.n_fft, self.hop, window=self._window(wave), return_complex=True, pad_mode="constant"
        )
        return self.compress(spectrum)

    def inverse(self, spectrum: Tensor, samples: int) -> Tensor:
        """The waveform ``[batch, samples]`` of a compressed spectrum."""
        coefficients = self.expand(spectrum)
        total = (spectrum.shape[-1] - 1) * self.hop
        wave = torch.istft(
            coefficients, self.n_fft, self.hop, window=self._window(spectrum), length=max(total, samples)
        )
        return wave[..., :samples]

    def compress(self, spectrum: Tensor) -> Tensor:
        """Complex ``[batch, bins, frames]`` to two channels; smooth at zero."""
        parts = torch.view_as_real(spectrum).movedim(-1, 1)
        power = parts.square().sum(1, keepdim=True).clamp(min=torch.finfo(parts.dtype).tiny)
        return parts * (self.factor * power ** ((self.exponent - 1) / 2))

    def expand(self, parts: Tensor) -> Tensor:
        """The inverse of :meth:`compress`; the gradient at zero is zero."""
        power = parts.square().sum(1, keepdim=True) / self.factor**2
        power = power.clamp(min=1e-24 if parts.dtype == torch.float64 else 1e-12)
        scaled = parts / self.factor * power ** ((1 / self.exponent - 1) / 2)
        return torch.view_as_complex(scaled.movedim(1, -1).contiguous())
