"""Guidance by a classifier: by its gradient, or by what it says of the prediction alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffkit.core.gradient import slope
from diffkit.core.guide.base import Conditional
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser, Guide, Through, expand_as, float64


def gradient(
    potential: Callable[[Tensor, Tensor], Tensor], process: Gaussian, *, scale: float = 1.0
) -> Guide:
    """Classifier guidance, Dhariwal and Nichol 2021 (2105.05233): the score gains scale grad log p(c | x_t).

    ``potential(x, t)`` is log p(c | x_t) ``[batch]`` of a classifier that was trained on noisy states, or any
    other log-density. In x0 the gain is s^2/a times the gradient; at a = 0, where x_t knows nothing of x0, it
    is left out. ValueError for a scale that is not finite, or a potential of another shape.
    """
    if not math.isfinite(scale):
        raise ValueError(f"a guidance scale must be finite, not {scale}.")

    def guided(denoise: Denoiser) -> Denoiser:
        def function(x: Tensor, t: Tensor) -> Tensor:
            a, s = process.a(float64(t)), process.s(float64(t))
            gain = torch.where(a > 0, scale * s.square() / a, 0.0)
            return denoise(x, t) + expand_as(gain, x) * slope(lambda x: potential(x, t), x)

        return function

    return lambda denoise: Through(guided, denoise)


@dataclass(frozen=True)
class Confused:
    """A conditional denoiser under :func:`gradient_free`."""

    own: Conditional
    classify: Callable[[Any], Tensor]
    labels: Tensor
    condition: Callable[[Tensor], Any]
    scale: float

    def __call__(self, x: Any, t: Tensor) -> Any:
        d = self.own(x, t)
        chances = self.classify(d)
        if chances.ndim != 2 or len(chances) != len(self.labels):
            raise ValueError(
                f"a classifier gives [batch, classes] chances; this one gave {tuple(chances.shape)}."
            )
        rivals = chances.scatter(1, self.labels[:, None], -torch.inf).argmax(1)
        sure = chances.gather(1, self.labels[:, None])[:, 0]
        rival = self.own.denoise(x, t, self.condition(rivals))
        return d + expand_as(self.scale * (1 - sure), d) * (d - rival)


def gradient_free(
    classify: Callable[[Any], Tensor],
    labels: Tensor,
    *,
    scale: float = 1.0,
    condition: Callable[[Tensor], Any] = lambda labels: labels,
) -> Guide:
    """Gradient-free classifier guidance (2411.15393): away from the class that the prediction is mistaken for.

    D_c + g (D_c - D_k) with k the likeliest other class of D_c and g = scale (1 - p(c | D_c)), of each sample:
    off where the classifier is sure. The denoiser must be a :class:`~diffkit.core.guide.Conditional`; its class
    k depends on D_c, so the two calls follow each other. g is linear in the doubt; the paper's schedule is not
    published with code.

    Args:
        classify: x0 to chances ``[batch, classes]``; it is never differentiated.
        labels: the classes c ``[batch]``, integers.
        scale: g where the classifier is certain of another class.
        condition: the network's condition of labels.

    ValueError for a scale that is not finite, or a denoiser without a condition.
    """
    if not math.isfinite(scale):
        raise ValueError(f"a guidance scale must be finite, not {scale}.")

    def guide(denoise: Denoiser) -> Denoiser:
        if not isinstance(denoise, Conditional):
            raise ValueError(
                "gradient-free guidance needs a Conditional denoiser, to ask it for other classes."
            )
        return Confused(denoise, classify, labels, condition, scale)

    return guide
