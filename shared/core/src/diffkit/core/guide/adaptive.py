"""Guidance that stops when it has nothing left to say: Castillo et al. 2023 (2312.12487).

Along a trajectory the conditional and the unconditional prediction of the noise grow alike. Adaptive guidance
drops the unconditional call for good once they are; LinearAG foretells it before that, from the calls before.
Both belong to a run: two runs that share a guide share nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffkit.core.guide.base import together
from diffkit.core.plan import Plan, integrate
from diffkit.core.predict import eps as noise_target
from diffkit.core.predict import to_data, to_noise
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser, Draw, Guide, begin, expand_as


@dataclass(frozen=True)
class Adaptive:
    """A denoiser under :func:`adaptive`; ``run`` remembers which samples are guided no more."""

    denoise: Denoiser
    uncond: Denoiser
    process: Gaussian
    gain: float
    threshold: float
    run: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self.run.get("over", self.threshold < -1):
            return self.denoise(x, t)
        own, uncond = together((self.denoise, self.uncond), x, t)
        first, second = (to_noise(self.process, d, x, t).flatten(1) for d in (own, uncond))
        alike = torch.cosine_similarity(first, second) > self.threshold
        self.run["alike"] = alike = alike | self.run.get("alike", False)
        self.run["over"] = bool(alike.all())
        return own + expand_as(torch.where(alike, 0.0, self.gain), own) * (own - uncond)

    def begin(self) -> "Adaptive":
        return replace(self, denoise=begin(self.denoise), uncond=begin(self.uncond), run={})


def adaptive(
    guidance_scale: float, uncond: Denoiser, process: Gaussian, *, threshold: float = 0.991
) -> Guide:
    """:func:`~diffkit.core.guide.cfg` for each sample until cos(eps_c, eps_u) passes ``threshold``; then D_c.

    The unconditional denoiser is called as long as one sample of the batch needs it, which is read from the
    device at every such call. Nothing is dropped with a threshold above 1, everything with one below -1.
    ValueError for a scale or threshold that is not finite.
    """
    if not math.isfinite(guidance_scale) or not math.isfinite(threshold):
        raise ValueError(f"adaptive guidance needs finite numbers, not {guidance_scale} and {threshold}.")
    return lambda denoise: Adaptive(denoise, uncond, process, guidance_scale - 1, threshold)


@dataclass(frozen=True)
class Foretold:
    """A denoiser under :func:`linear`; ``own`` and ``other`` are the noises of the run's calls so far."""

    denoise: Denoiser
    uncond: Denoiser
    process: Gaussian
    gain: float
    weights: Sequence[Tensor | None]
    own: list[Tensor] = field(default_factory=list, repr=False)
    other: list[Tensor] = field(default_factory=list, repr=False)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if len(self.own) >= len(self.weights):
            return self.denoise(x, t)
        weights = self.weights[len(self.own)]
        if weights is None:
            d, uncond = together((self.denoise, self.uncond), x, t)
            self.other.append(to_noise(self.process, uncond, x, t))
        else:
            d = self.denoise(x, t)
        self.own.append(to_noise(self.process, d, x, t))
        if weights is not None:
            self.other.append(_foretell(weights, self.own, self.other))
        noise = self.own[-1] + self.gain * (self.own[-1] - self.other[-1])
        return to_data(noise_target, self.process, noise, x, t)

    def begin(self) -> "Foretold":
        return replace(self, denoise=begin(self.denoise), uncond=begin(self.uncond), own=[], other=[])


def linear(
    guidance_scale: float, uncond: Denoiser, process: Gaussian, weights: Sequence[Tensor | None]
) -> Guide:
    """LinearAG: call k of the run foretells the unconditional noise by ``weights[k]`` of :func:`fit_linear`.

    Where that is None both denoisers are called; after the last of them guidance is over. ValueError for a
    scale that is not finite.
    """
    if not math.isfinite(guidance_scale):
        raise ValueError(f"a guidance scale must be finite, not {guidance_scale}.")
    return lambda denoise: Foretold(denoise, uncond, process, guidance_scale - 1, weights)


def fit_linear(
    guidance_scale: float,
    denoise: Denoiser,
    uncond: Denoiser,
    process: Gaussian,
    plan: Plan,
    x: Tensor,
    draw: Draw | None = None,
) -> list[Tensor | None]:
    """The weights of :func:`linear` for ``plan``, by least squares on guided runs from ``x`` ``[batch, ...]``.

    In the first half of the calls every other one is foretold, eps_u(k) = sum_(i <= k) a_i eps_c(i) + sum_(i < k)
    b_i eps_u(i), of which the foretold ones count as foretold; in the second half there is no guidance. The
    paper uses some 200 runs; the weights serve other seeds and conditions.
    """
    own: list[Tensor] = []
    true: list[Tensor] = []

    def record(x: Tensor, t: Tensor) -> Tensor:
        d, other = together((denoise, uncond), x, t)
        own.append(to_noise(process, d, x, t))
        true.append(to_noise(process, other, x, t))
        return d + (guidance_scale - 1) * (d - other)

    run = integrate if draw is None else partial(integrate, draw=draw)
    run(record, x, plan)
    other: list[Tensor] = []
    weights: list[Tensor | None] = []
    for k in range(len(own) // 2):
        if k % 2 == 0:
            weights.append(None)
            other.append(true[k])
            continue
        known = torch.stack([noise.flatten().double().cpu() for noise in (*own[: k + 1], *other)], 1)
        wanted = true[k].flatten().double().cpu()
        weights.append(torch.linalg.lstsq(known, wanted, driver="gelsd").solution)  # regressors may be alike
        other.append(_foretell(weights[k], own[: k + 1], other))
    return weights


def _foretell(weights: Any, own: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    terms = zip(weights.tolist(), (*own, *other), strict=True)
    return sum((weight * noise for weight, noise in terms), torch.zeros_like(own[0]))
