"""Ways to sample slices that explain their measurements: those of :mod:`diffkit.core.inverse`, set for this field.

Operators have unit norm, and images are in the prior's units. Numbers were chosen on slices of the validation subjects.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from diffkit.core.inverse import dds, diffpir, dps, flowchef, pigdm, plug, renoise, renoised
from diffkit.core.inverse.operator import Operator
from diffkit.core.process import Gaussian
from diffkit.core.solvers import Sampler, Solver, ddim
from diffkit.core.types import Denoiser, Guide
from diffkit.medical.volume_prior import dds_tv, plug_tv


@dataclass(frozen=True, eq=False)
class System:
    """Measurements ``y`` of a batch by ``operator``, each part with the deviation ``noise``."""

    operator: Operator
    y: Tensor
    noise: float


@dataclass(frozen=True, eq=False)
class Given:
    """What a method is given, in the prior's units.

    The noise of ``rows`` is independent. ``eased`` are rows mixed so that few iterations solve them, for methods that
    know nothing of noise, or only its level.
    """

    rows: System
    eased: System
    process: Gaussian


Method = Callable[[Denoiser, Given], tuple[Denoiser, Solver | Sampler]]


def _proximal(given: Given, scale: float, iterations: int) -> Guide:
    at = given.eased
    return diffpir(at.operator, at.y, given.process, noise=at.noise, scale=scale, iterations=iterations)


_MOMENTUM = 0.5  # of plug, by which 20 steps come 1 dB nearer


def _plug(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return _proximal(given, 1.0, 6)(denoise), plug(_MOMENTUM)


def _dds(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return denoise, renoised(dds(given.eased.operator, given.eased.y), 1.0)


def _diffpir(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return _proximal(given, 7.0, 10)(denoise), renoise(0.55)


def _pigdm(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    at = given.rows
    return pigdm(at.operator, at.y, given.process, noise=at.noise, spread=1.0)(denoise), ddim(1.0)


def _dps(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    return dps(given.eased.operator, given.eased.y, given.process, scale=300.0)(denoise), ddim(1.0)


def _flowchef(denoise: Denoiser, given: Given) -> tuple[Denoiser, Solver | Sampler]:
    at = given.eased
    return flowchef(at.operator, at.y, scale=2.0 * at.y[0].numel())(denoise), ddim()


METHODS: dict[str, Method] = {
    "plug": _plug,
    "dds": _dds,
    "diffpir": _diffpir,
    "pigdm": _pigdm,
    "dps": _dps,
    "flowchef": _flowchef,
}
"""The methods by name; ``dps`` and ``pigdm`` differentiate the network, and all but ``plug`` sample a law."""

STARTS = {"plug": 0.2}
"""The times at which methods begin, where it is not 1."""


MIRRORED = ("plug",)
"""Methods whose every other call sees the mirror image: priors learn slices and their mirror images alike, and without
noise what the network errs by adds up over the calls (Zhang et al. 2021, 2008.13751)."""


def _plug_tv(denoise: Denoiser, given: Given, *, weight: float) -> tuple[Denoiser, Solver | Sampler]:
    at = given.eased
    return denoise, plug_tv(at.operator, at.y, noise=at.noise, weight=weight, momentum=_MOMENTUM)


def _dds_tv(denoise: Denoiser, given: Given, *, weight: float) -> tuple[Denoiser, Solver | Sampler]:
    return denoise, dds_tv(given.eased.operator, given.eased.y, weight=weight)


STACKS: dict[str, Callable[..., tuple[Denoiser, Solver | Sampler]]] = {"plug": _plug_tv, "dds": _dds_tv}
"""Methods of whole stacks of slices, with a total variation of ``weight`` along them."""
