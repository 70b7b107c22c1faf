r"""Processes on classes: each element jumps among K of them until nothing of the data is left.

A state is one-hot, ``[batch, ..., K]``, so that a denoiser, E[x0 | x_t], returns the probabilities of the
classes, and is the denoiser of every other process. A row of zeros is an element that does not exist (a node of
a smaller graph, the diagonal of an adjacency): it stays so. Given x0, elements are independent.

alpha falls from 1 at t = 0 to 0 at t = 1. Jumps come at the rate -alpha'/alpha, each to a draw from a row of a
matrix M, so that from u to t > u the rows of Q say what becomes of a class (Campbell et al. 2022, 2205.14987),

    Q(u, t) = exp(-log(r) (M - I)),   r = alpha(t)/alpha(u).

Where all rows of M are one law pi (uniform, marginal, absorbing) this is the D3PM of Austin et al. 2021
(2107.03006),

    Q(u, t) = r I + (1 - r) 1 pi^T.

The posterior for a distribution p over x0 is the mixture over x0 of Bayes' rule (their eq. 3),

    q(x_u = j | x_t = i)  =  Q(u, t)[j, i] sum_k Q(0, u)[k, j] p_k / Q(0, t)[k, i],

a product of two vectors: nothing of size K x K is built for an element. Their eq. 4, and their code, leave the
divisor out, which for p = E[x0 | x_t] is right where it is the same for all k, with a mask, and elsewhere leads to
another law, however many the steps. A class k that cannot lead to x_t has no quotient; it is left out, and p
renormalised, so that of a masked process a token that is not masked stays.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from diffkit.core.types import float64, lookup

Keep: TypeAlias = Callable[[Tensor], Tensor]
"""``t -> alpha``: the share of the elements that no jump has reached, falling from 1 to 0; float64."""


def linear(t: Tensor) -> Tensor:
    """alpha = 1 - t: the path of discrete flow matching, and the log-linear noise -log(1 - t) of SEDD and MDLM."""
    return 1 - t


def cosine(t: Tensor) -> Tensor:
    """cos^2(pi/2 (t + 0.008)/1.008), 1 at t = 0 (Nichol and Dhariwal 2021, 2102.09672): that of DiGress."""
    first = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    return torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / first


SCHEDULES: dict[str, Keep] = {"linear": linear, "cosine": cosine}


class Choice(NamedTuple):
    """Independent draws of one class for each element, of ``probs`` ``[..., K]``."""

    probs: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """One-hot draws, in the dtype of ``noise``: standard normal values of their shape.

        The class of the largest p_k/E_k, where E_k = -log Phi(noise_k) is exponential: the Gumbel-max trick
        without logarithms of probabilities. Where a noise law has zeros there is no element, nor where all
        probabilities are zero.
        """
        race = self.probs / -torch.special.log_ndtr(noise.to(self.probs.dtype))
        exists = noise.any(-1, keepdim=True) & self.probs.any(-1, keepdim=True)
        return torch.zeros_like(noise).scatter(-1, race.argmax(-1, keepdim=True), exists.to(noise.dtype))


class Categorical(ABC):
    """What all categorical processes share; they differ in :meth:`forward` and :meth:`backward`.

    Implements :class:`~diffkit.core.process.Process` for one-hot states (see the module). ``y`` is refused: there
    are no anchors. Rows that are no distributions are refused on the CPU, where looking costs nothing.
    """

    schedule: str | Keep
    """A name in ``SCHEDULES``, or the function itself."""

    @property
    @abstractmethod
    def size(self) -> int:
        """K, the last axis of a state."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """The law of the prior, float64 ``[K]``."""

    @abstractmethod
    def forward(self, p: Tensor, u: Tensor, t: Tensor) -> Tensor:
        """p Q(u, t): the law of x_t when x_u has the law ``p`` ``[..., K]``, u <= t."""

    @abstractmethod
    def backward(self, x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        """Q(u, t) x: for each class of x_u the probability that it leads to x_t = ``x``."""

    def alpha(self, t: Tensor | float) -> Tensor:
        """The share of the elements that no jump has reached, float64."""
        keep = (
            lookup(self.schedule, SCHEDULES, "schedule") if isinstance(self.schedule, str) else self.schedule
        )
        return keep(float64(t))

    def ratio(self, u: Tensor, t: Tensor) -> Tensor:
        """alpha(t)/alpha(u), the share that no jump reaches between u and t."""
        end, start = self.alpha(t), self.alpha(u)
        return torch.where(start > 0, end / start, 1.0)

    def possible(self, x: Tensor, t: Tensor) -> Tensor:
        """Which classes of x0 can have led to x_t = ``x``: true or false, ``[..., K]``."""
        return self.backward(x, torch.zeros_like(t), t) > 0

    def condition(self, p: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """A denoiser's ``p`` without the classes that x_t = ``x`` excludes, normalised, at least in float32."""
        p = _distribution(p, self.size)
        # Of 1e-20 at least, since a network may be certain of what x_t excludes.
        return _normalise(torch.where(self.possible(x.to(p), t), p + 1e-20, 0.0))

    def corrupt(self, x0: Tensor, t: Tensor, *, y: None = None, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t given x0 ``[batch, ..., K]`` at ``t``: a scalar, or the first axes of x0.

        ``noise`` defaults to fresh standard normal values; edges of a graph need ``symmetric(channels=True)`` of
        them, as ``law``. ValueError if x0 has other classes, or its rows are no distributions.
        """
        return self.marginal(x0, t, y=y).sample(torch.randn_like(x0) if noise is None else noise)

    def marginal(self, x0: Tensor, t: Tensor | float, *, y: None = None) -> Choice:
        """The law of x_t given x0."""
        _no_anchor(y)
        t = float64(t)
        return Choice(self.forward(_distribution(x0, self.size), torch.zeros_like(t), t))

    def posterior(
        self, x: Tensor, x0: Tensor, t: Tensor | float, u: Tensor | float, *, y: None = None
    ) -> Choice:
        """The law of x_u given x_t = ``x``, for u <= t, where x0 has the law ``x0`` (see the module)."""
        _no_anchor(y)
        t, u = float64(t), float64(u)
        start = torch.zeros_like(t)
        p = self.condition(x0, x, t)
        x = x.to(p)
        reach = self.backward(x, start, t)
        quotient = p / torch.where(reach > 0, reach, 1.0)
        return Choice(_normalise(self.backward(x, u, t) * self.forward(quotient, start, u)))

    def prior(self, like: Tensor, *, y: None = None, t: Tensor | float = 1.0) -> Choice:
        """The law that sampling starts from, whatever ``t``.

        Warns when x_1 still depends on x0 (:meth:`terminal_mismatch`).
        """
        _no_anchor(y)
        count(like, self.size)
        if (gap := self.terminal_mismatch()) > 0.01:
            warnings.warn(
                f"{type(self).__name__} still knows of x0 at t = 1 (a total variation of {gap:.3g}): sampling "
                "starts from a law that is not the end of this process.",
                stacklevel=2,
            )
        return Choice(self.weights.to(like.device, wide(like.dtype)).expand(like.shape))

    def terminal_mismatch(self) -> float:
        """How far the law of x_1 is from the prior in total variation, for the worst class of x0."""
        start = torch.zeros((), dtype=torch.float64)
        ends = self.forward(torch.eye(self.size, dtype=torch.float64), start, torch.ones_like(start))
        return float((ends - self.weights).abs().sum(1).max() / 2)


def _normalise(p: Tensor) -> Tensor:
    """Rows that sum to one, or are zero."""
    return p / p.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)


def wide(dtype: torch.dtype) -> torch.dtype:
    """``dtype``, or float32 if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def count(p: Tensor, classes: int) -> None:
    """ValueError unless the last axis of ``p`` has ``classes`` classes."""
    if p.shape[-1] != classes:
        raise ValueError(
            f"a state of {tuple(p.shape)} for a process of {classes} classes: they are its last axis."
        )


def _distribution(p: Tensor, classes: int) -> Tensor:
    """``p`` at least in float32; ValueError unless its rows are distributions, or zero."""
    if not p.is_floating_point():
        raise ValueError(
            "classes are given one-hot: use torch.nn.functional.one_hot(index, classes).float()."
        )
    count(p, classes)
    p = p.to(wide(p.dtype))
    if p.device.type == "cpu" and not torch.compiler.is_compiling():
        total = p.detach().sum(-1)
        off = torch.minimum((total - 1).abs(), total.abs())  # bf16 is within 0.01
        if not bool((off < 0.01).all()) or bool((p < 0).any()):
            raise ValueError(
                "rows over the classes must be probabilities that sum to one (or all zero: no element), in x0 and "
                "in what a denoiser returns; take the softmax of logits."
            )
    return p


def _no_anchor(y: None) -> None:
    if y is not None:
        raise ValueError("a categorical process has no anchor: condition its network by closing over y.")
