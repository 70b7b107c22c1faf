"""torch-pesq's differentiable PESQ, with its two recursive filters applied in the frequency domain.

Back-propagation through a recursive filter is a loop over samples (10 s a training step on a CPU); the same
filters as products of spectra take milliseconds. The filters ring for far less than the padding here.
"""

import torch
from torch import Tensor
from torch_pesq import PesqLoss


def _filter(signal: Tensor, coefficients: Tensor) -> Tensor:
    """The filter (numerator, denominator) ``[2, order]`` on ``[batch, samples]``, zero initial state."""
    n = 1 << (2 * signal.shape[-1] - 1).bit_length()
    numerator, denominator = torch.fft.rfft(coefficients.double(), n)
    response = (numerator / denominator).to(torch.complex64)
    return torch.fft.irfft(torch.fft.rfft(signal, n) * response, n)[..., : signal.shape[-1]]


class SpectralPesqLoss(PesqLoss):
    """``(clean, estimate)``, each ``[batch, samples]`` -> disturbance ``[batch]``, 0 for equal signals.

    The weighted sum 0.1 d_sym + 0.0309 d_asym of ITU-T P.862; silence has no PESQ, so leave it out.
    """

    def align_level(self, signal: Tensor) -> Tensor:
        band = _filter(signal, self.power_filter)
        power = band.square().sum(1, keepdim=True) / (band.shape[1] + 5120) / 1.04684
        return signal * (1e7 / power.clamp(min=1e-12)).sqrt()

    def preemphasize(self, signal: Tensor) -> Tensor:
        ramp = torch.ones_like(signal[0])
        edge = torch.arange(1, 16, device=signal.device) / 16
        ramp[:15], ramp[-15:] = edge, edge.flip(0)
        return _filter(signal * ramp, self.pre_filter)
