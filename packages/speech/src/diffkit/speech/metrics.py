"""The field's measures of enhanced speech: SI-SDR, ESTOI, wide-band PESQ and DNSMOS.

Signals are `[samples]` or `[channels, samples]` in [-1, 1], estimate first, the clean reference second;
channels are scored one by one and averaged. The two may differ in length by up to a tenth, as resampling
and framing leave it: both are cut to the shorter, from the end. No measure looks for a delay except PESQ,
so an estimate that lags must be aligned before.

NaN or infinite samples, silence (no sample differs from the next), different channel counts and a larger
difference in length raise :class:`MetricError`: such a pair has no score.
"""

import importlib
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType

import torch
from torch import Tensor

from .audio import resample

RATE = 16_000
DEFAULT = ("pesq_wb", "estoi", "si_sdr")
# SI-SDR of a perfect copy is infinite; this is beyond what 16-bit audio can tell apart from it.
_LIMIT_DB = 100.0
_LENGTH_TOLERANCE = 0.1
_P835 = ("sig", "bak", "ovrl")


class MetricError(ValueError):
    """A pair of signals that a metric is not defined for."""


class MissingExtraError(ValueError):
    """A metric whose package is not installed; the message names the extra to install."""


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio of `[..., samples]` in dB, `[...]`; differentiable.

    With both signals made zero-mean, e the estimate, s the reference and a = <e, s> / <s, s>:
    10 log10(|a s|^2 / |e - a s|^2), in float64, held within [-100, 100] dB so that a perfect copy has a
    finite score. Works at any sample rate. Raises :class:`MetricError`.

    Le Roux, Wisdom, Erdogan, Hershey, "SDR - half-baked or well done?", ICASSP 2019, eq. 2-3.
    """
    estimate, reference = _comparable(estimate, reference)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    reference = reference - reference.mean(-1, keepdim=True)
    scale = (estimate * reference).sum(-1, keepdim=True) / reference.square().sum(-1, keepdim=True)
    target = scale * reference
    ratio = target.square().sum(-1) / (estimate - target).square().sum(-1)
    return (10 * ratio.log10()).clamp(-_LIMIT_DB, _LIMIT_DB)


def estoi(estimate: Tensor, reference: Tensor, rate: int) -> float:
    """Extended short-time objective intelligibility, up to 1 (identical); higher is better.

    Correlates 384 ms segments of 15 third-octave bands (150 Hz to 4.3 kHz) at 10 kHz, after frames more
    than 40 dB below the reference's loudest are left out; `rate` is resampled to 10 kHz by pystoi.
    Raises :class:`MetricError` when fewer than 30 such frames (384 ms) of speech remain.

    Jensen, Taal, "An algorithm for predicting the intelligibility of speech masked by modulated noise
    maskers", IEEE/ACM TASLP 24(11), 2016; package pystoi.
    """
    stoi = _load("pystoi", "metrics").stoi

    def one(estimate: Tensor, reference: Tensor) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                return float(stoi(reference.numpy(), estimate.numpy(), rate, extended=True))
            except RuntimeWarning as error:
                raise MetricError("There is less than 384 ms of speech, too little for ESTOI.") from error

    return _channel_mean(one, *_comparable(estimate, reference))


def pesq_wb(estimate: Tensor, reference: Tensor, rate: int) -> float:
    """Wide-band PESQ, the predicted mean opinion score from 1.04 (bad) to 4.64 (identical).

    At 16 kHz, resampled when `rate` differs; aligns time and level itself. Raises :class:`MetricError`
    below a quarter of a second or when PESQ's voice activity detector finds no speech.

    ITU-T P.862.2 (2007), the wide-band mapping of P.862; package pesq.
    """
    pesq = _load("pesq", "metrics")

    def one(estimate: Tensor, reference: Tensor) -> float:
        try:
            return float(pesq.pesq(RATE, reference.numpy(), estimate.numpy(), "wb"))
        except pesq.NoUtterancesError as error:
            raise MetricError("PESQ finds no speech in it.") from error
        except pesq.BufferTooShortError as error:
            raise MetricError("It is shorter than a quarter of a second, too short for PESQ.") from error

    estimate, reference = _comparable(estimate, reference)
    return _channel_mean(one, resample(estimate, rate, RATE), resample(reference, rate, RATE))


def dnsmos(estimate: Tensor, rate: int) -> dict[str, float]:
    """DNSMOS P.835 of `estimate` alone, no reference: predicted opinion of speech, background, overall.

    Returns `dnsmos_sig`, `dnsmos_bak`, `dnsmos_ovrl`, each about 1 to 5, higher is better: the mean over
    9.01 s windows every second at 16 kHz, a shorter clip repeated to fill one; samples beyond [-1, 1]
    are clipped. It depends on level, so compare at equal loudness. Raises :class:`MetricError`.

    Reddy, Gopal, Cutler, "DNSMOS P.835", ICASSP 2022; package speechmos (polynomial fit for
    non-personalised enhancement).
    """
    run = _load("speechmos.dnsmos", "dnsmos").run
    wave = resample(_usable(estimate, "estimate"), rate, RATE).clamp(-1, 1).float()
    scores = [run(channel.numpy(), RATE) for channel in _channels(wave)]
    return {f"dnsmos_{part}": sum(float(s[f"{part}_mos"]) for s in scores) / len(scores) for part in _P835}


def score(
    estimate: Tensor, reference: Tensor, rate: int, metrics: Iterable[str] = DEFAULT
) -> dict[str, float]:
    """The named metrics of one pair: a value per name, for "dnsmos" its three parts.

    Names are those of :data:`METRICS`. Raises `ValueError` for an unknown name,
    :class:`MissingExtraError` for a missing package, :class:`MetricError` for a pair without a score.
    """
    metrics = tuple(metrics)
    require(metrics)
    result: dict[str, float] = {}
    for name in metrics:
        result |= METRICS[name](estimate, reference, rate)
    return result


def require(metrics: Iterable[str]) -> None:
    """Raise now, before any work, for a metric that is unknown or whose package is missing."""
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"There is no metric '{name}'; the metrics are {', '.join(METRICS)}.")
        if name in _PACKAGES:
            _load(*_PACKAGES[name])


METRICS: dict[str, Callable[[Tensor, Tensor, int], dict[str, float]]] = {
    "pesq_wb": lambda estimate, reference, rate: {"pesq_wb": pesq_wb(estimate, reference, rate)},
    "estoi": lambda estimate, reference, rate: {"estoi": estoi(estimate, reference, rate)},
    "si_sdr": lambda estimate, reference, rate: {"si_sdr": float(si_sdr(estimate, reference).mean())},
    "dnsmos": lambda estimate, reference, rate: dnsmos(estimate, rate),
}
_PACKAGES = {
    "pesq_wb": ("pesq", "metrics"),
    "estoi": ("pystoi", "metrics"),
    "dnsmos": ("speechmos.dnsmos", "dnsmos"),
}


def _load(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"This metric needs the package {error.name}; install diffkit-speech[{extra}]."
        ) from error


def _comparable(estimate: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    estimate, reference = _usable(estimate, "estimate"), _usable(reference, "reference")
    if estimate.shape[:-1] != reference.shape[:-1]:
        shapes = f"{list(estimate.shape)} against {list(reference.shape)}"
        raise MetricError(f"Estimate and reference differ in channels: {shapes}.")
    lengths = sorted((estimate.shape[-1], reference.shape[-1]))
    if lengths[1] - lengths[0] > _LENGTH_TOLERANCE * lengths[1]:
        raise MetricError(
            f"The estimate has {estimate.shape[-1]} samples and the reference {reference.shape[-1]}, "
            "more than 10 % apart."
        )
    return estimate[..., : lengths[0]], reference[..., : lengths[0]]


def _usable(wave: Tensor, role: str) -> Tensor:
    if wave.shape[-1] == 0:
        raise MetricError(f"The {role} has no samples.")
    if not torch.isfinite(wave).all():
        raise MetricError(f"The {role} has NaN or infinite samples.")
    if (wave.amax(-1) == wave.amin(-1)).any():
        raise MetricError(f"The {role} is silent.")
    return wave.double()


def _channel_mean(metric: Callable[[Tensor, Tensor], float], estimate: Tensor, reference: Tensor) -> float:
    """Mean of a one-channel metric over the channels of two `[..., samples]`."""
    pairs = zip(_channels(estimate), _channels(reference), strict=True)
    values = [metric(*pair) for pair in pairs]
    return sum(values) / len(values)


def _channels(wave: Tensor) -> Tensor:
    return wave.detach().cpu().reshape(-1, wave.shape[-1])
