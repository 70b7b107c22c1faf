"""What is trained: a network that predicts clean speech on a bridge from clean to noisy spectra.

Two losses. *Score* (OUVE, BBED; Richter et al. 2023): the eps loss at random times. *Data prediction*
(SB-VE; Jukic et al. 2024, 2407.16074): the error of the spectrum, of its magnitude and of the waveform, and
where wanted of a differentiable PESQ.

Data prediction has two calls for each batch. The first stands where sampling starts, at t = 1. The second,
on half of the batch, stands at a random time on the bridge *to the first call's own estimate*: that is where
a sampler evaluates the network, and a network that was only ever shown bridges to the truth gets worse with
every further call.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffkit.core import predict
from diffkit.core.process import Gaussian
from diffkit.core.train import Task, denoising_loss
from diffkit.core.train.loss import uniform_times
from diffkit.core.types import Denoiser
from diffkit.speech.model import magnitude
from diffkit.speech.spectrum import Spectrum

EMBEDDED = Path(__file__).parent / "pretrained"
"""The checkpoints inside the wheel."""

LEVEL = 0.1
"""Root mean square to which every recording is brought before the network, full scale being 1."""


def gain_to_level(noisy: Tensor) -> Tensor:
    """The gain ``[batch, 1]`` that brings ``[batch, samples]`` to :data:`LEVEL`; 1 for digital silence."""
    rms = noisy.square().mean(-1, keepdim=True).sqrt()
    return torch.where(rms > 1e-8, LEVEL / rms.clamp(min=1e-8), 1.0)


def denoiser(
    network: nn.Module, process: Gaussian, noisy: Tensor, target: predict.Target = predict.x0
) -> Denoiser:
    """The denoiser of a conditional network, in x, for the compressed noisy spectrum ``noisy``."""

    def conditioned(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, noisy)

    return predict.wrap(conditioned, process, target, y=noisy)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the data-prediction loss; spectra are in units of :attr:`sigma_data`.

    Args:
        spectrum: squared error of the compressed complex spectrum.
        magnitude: squared error of its magnitude.
        time: mean absolute error of the waveform, in units of :data:`LEVEL`.
        pesq: the differentiable PESQ of torch-pesq (extra ``train``); 0 leaves it out.
        estoi: one minus the extended STOI of torch-stoi (extra ``train``); 0 leaves it out.
        sigma_data: standard deviation of a compressed spectrum.
    """

    spectrum: float = 1.0
    magnitude: float = 1.0
    time: float = 0.5
    pesq: float = 0.0
    estoi: float = 0.0
    sigma_data: float = 0.1


class SpeechTask(Task):
    """Enhancement or dereverberation: the difference is the data.

    Args:
        network: ``(x, t, y) -> F`` on compressed spectra ``[batch, 2, bins, frames]``.
        process: the bridge from clean (t = 0) to noisy (t = 1).
        spectrum: the transform.
        target: what the network predicts, a name of :data:`diffkit.core.predict.TARGETS`.
        objective: ``data`` or ``score``, see the module.
        weights: of the data objective.
        rollout: probability that the second call's bridge leads to the network's own estimate.
        jitter_db: training levels vary by this much around :data:`LEVEL`, uniformly in dB.
        init: a checkpoint, by name or folder, whose weights training starts from.
        t_min: the smallest time trained at by the score objective, where its target is singular.
        options: of :class:`~diffkit.core.train.Task`.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Gaussian,
        spectrum: Spectrum | None = None,
        *,
        target: Literal["x0", "eps", "score", "v", "flow", "residual"] = "x0",
        objective: Literal["data", "score"] = "data",
        weights: LossWeights | None = None,
        rollout: float = 0.5,
        jitter_db: float = 6.0,
        t_min: float = 0.03,
        init: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: int = 200,
    ):
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        self.start_from(init, EMBEDDED)
        self.process = process
        self.spectrum = spectrum or Spectrum()
        self.target = predict.TARGETS[target]
        self.objective = objective
        self.weights = weights or LossWeights()
        self.rollout = rollout
        self.jitter_db = jitter_db
        self.t_min = t_min
        makers = {"pesq": _pesq_loss, "estoi": _estoi_loss}
        self._measures = {
            name: make(self.spectrum.rate) for name, make in makers.items() if getattr(self.weights, name)
        }

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """``batch``: clean and noisy waveforms, each ``[batch, samples]``."""
        clean, noisy = batch
        gain = gain_to_level(noisy)
        if self.training and self.jitter_db:
            db = (2 * torch.rand_like(gain) - 1) * self.jitter_db
            gain = gain * 10 ** (db / 20)
        clean = clean * gain
        x0, y = self.spectrum(clean), self.spectrum(noisy * gain)
        if self.objective == "score":
            t = uniform_times(len(x0), like=x0, low=self.t_min)
            network = lambda x, t: self.network(x, t, y)  # noqa: E731
            return {"loss": denoising_loss(network, self.process, x0, target=self.target, y=y, t=t)}
        return self._data_loss(clean, x0, y)

    def _data_loss(self, clean: Tensor, x0: Tensor, y: Tensor) -> dict[str, Tensor]:
        denoise = denoiser(self.network, self.process, y, self.target)
        start = self.process.prior(y, y=y).sample(torch.randn_like(y))
        one = torch.ones(len(y), device=y.device)
        first = denoise(start, one)
        terms = self._errors(first, x0, clean)
        half = (len(y) + 1) // 2
        y, x0, clean, estimate = y[:half], x0[:half], clean[:half], first[:half].detach()
        own = torch.rand(half, 1, 1, 1, device=y.device) < self.rollout
        t = uniform_times(half, like=y)
        x = self.process.corrupt(torch.where(own, estimate, x0), t, y=y)
        again = self._errors(denoiser(self.network, self.process, y, self.target)(x, t), x0, clean)
        return {
            "loss": (terms["loss"] + again["loss"]) / 2,
            **{name: terms[name] for name in terms if name != "loss"},
            "second": again["loss"],
        }

    def _errors(self, estimate: Tensor, x0: Tensor, clean: Tensor) -> dict[str, Tensor]:
        w = self.weights
        wave = self.spectrum.inverse(estimate.float(), clean.shape[-1])
        error = (estimate - x0).square().mean() / w.sigma_data**2
        size_error = (magnitude(estimate) - magnitude(x0)).square().mean() / w.sigma_data**2
        time = (wave - clean).abs().mean() / LEVEL
        loss = w.spectrum * error + w.magnitude * size_error + w.time * time
        terms = {"spectrum": error, "time": time}
        audible = clean.square().mean(-1) > 1e-6  # neither measure knows silence
        with torch.autocast(wave.device.type, enabled=False):  # PESQ's recursive filters are float32 only
            for name, measure in self._measures.items():
                terms[name] = measure(clean[audible], wave[audible]) if audible.any() else wave.sum() * 0
                loss = loss + getattr(w, name) * terms[name]
        return {"loss": loss, **terms}


def _pesq_loss(rate: int) -> Any:
    """The differentiable PESQ disturbance, ``(clean, estimate) -> scalar`` on ``[batch, samples]``."""
    try:
        from diffkit.speech.pesq_loss import SpectralPesqLoss
    except ImportError as error:
        raise ValueError("the pesq loss needs torch-pesq: pip install 'diffkit-speech[train]'.") from error
    measure = SpectralPesqLoss(1.0, sample_rate=rate).requires_grad_(False)
    return lambda clean, estimate: measure.to(clean.device)(clean, estimate).mean()


def _estoi_loss(rate: int) -> Any:
    """One minus the extended STOI (Jensen and Taal 2016), as :func:`_pesq_loss`."""
    try:
        from torch_stoi import NegSTOILoss
    except ImportError as error:
        raise ValueError("the estoi loss needs torch-stoi: pip install 'diffkit-speech[train]'.") from error
    measure = NegSTOILoss(sample_rate=rate, extended=True)
    return lambda clean, estimate: 1 + measure.to(clean.device)(estimate, clean).mean()
