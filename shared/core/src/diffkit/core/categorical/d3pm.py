"""The processes of D3PM: uniform, marginal, absorbing, and by any matrix (Austin et al. 2021, 2107.03006)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffkit.core.categorical.process import Categorical, Keep
from diffkit.core.types import expand_as


class Memoryless(Categorical):
    """Processes whose every jump is a draw of one law pi: Q(u, t) = r I + (1 - r) 1 pi^T."""

    def ratio(self, u: Tensor, t: Tensor) -> Tensor:
        return super().ratio(u, t).clamp(min=1e-30)  # a token that is set and not masked at t = 1 stays

    def forward(self, p: Tensor, u: Tensor, t: Tensor) -> Tensor:
        r = self.ratio(u, t)
        return expand_as(r, p) * p + expand_as(1 - r, p) * p.sum(-1, keepdim=True) * self.weights.to(p)

    def backward(self, x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        r = self.ratio(u, t)
        return expand_as(r, x) * x + expand_as(1 - r, x) * (x * self.weights.to(x)).sum(-1, keepdim=True)


@dataclass(frozen=True)
class Uniform(Memoryless):
    """Jumps to any of ``classes`` classes (Hoogeboom et al. 2021, 2102.05379; Austin et al. 2021, 2107.03006)."""

    classes: int
    schedule: str | Keep = "linear"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def size(self) -> int:
        return self.classes

    @property
    def weights(self) -> Tensor:
        return torch.full((self.classes,), 1 / self.classes, dtype=torch.float64)


@dataclass(frozen=True)
class Marginal(Memoryless):
    """Jumps to classes as frequent as ``frequencies``, those of the data: DiGress (Vignac et al. 2022, 2209.14734).

    ``frequencies`` ``[K]`` sum to one. At the prior a graph then has as many edges as those of the data.
    """

    frequencies: Sequence[float]
    schedule: str | Keep = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "frequencies", tuple(float(p) for p in self.frequencies))
        _check(self)
        _stochastic(torch.tensor([self.frequencies], dtype=torch.float64), "the frequencies of the classes")

    @property
    def size(self) -> int:
        return len(self.frequencies)

    @property
    def weights(self) -> Tensor:
        frequencies = torch.tensor(self.frequencies, dtype=torch.float64)
        return frequencies / frequencies.sum()


@dataclass(frozen=True)
class Absorbing(Memoryless):
    """Jumps to a mask, the last of ``classes`` classes, which is none of the data's (Austin et al. 2021, 2107.03006).

    The masked diffusion of MDLM (Sahoo et al. 2024, 2406.07524), and the masked path of discrete flow matching.
    """

    classes: int
    schedule: str | Keep = "linear"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def size(self) -> int:
        return self.classes

    @property
    def weights(self) -> Tensor:
        return torch.eye(self.classes, dtype=torch.float64)[-1]

    def possible(self, x: Tensor, t: Tensor) -> Tensor:
        return super().possible(x, t) & (self.weights.to(x) == 0)


@dataclass(frozen=True)
class Transition(Categorical):
    """Jumps by the rows of any ``matrix`` ``[K, K]`` of probabilities M: neighbours, near words, ordinal classes.

    Q(u, t) = exp(-log(r) (M - I)), one matrix exponential for each time, which a GPU waits for; M = 1 pi^T gives
    :class:`Marginal`. The discrete chains of Austin et al. 2021 (2107.03006) whose step is (1 - beta) I + beta M
    are this in the limit of many steps. The prior is the mean of the rows of Q(0, 1).
    ValueError if a row does not sum to one, or an entry is negative: which.
    """

    matrix: Sequence[Sequence[float]]
    schedule: str | Keep = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", tuple(tuple(float(p) for p in row) for row in self.matrix))
        if any(len(row) != len(self.matrix) for row in self.matrix):
            raise ValueError("a transition matrix is square: give a row of K probabilities for each class.")
        _check(self)
        _stochastic(torch.tensor(self.matrix, dtype=torch.float64), "the transition matrix")

    @property
    def size(self) -> int:
        return len(self.matrix)

    @property
    def weights(self) -> Tensor:
        return self._mean

    @cached_property
    def _mean(self) -> Tensor:
        start = torch.zeros((), dtype=torch.float64)
        return self.matrices(start, torch.ones_like(start)).mean(0)

    @cached_property
    def _generator(self) -> Tensor:
        rows = torch.tensor(self.matrix, dtype=torch.float64)
        return rows / rows.sum(1, keepdim=True) - torch.eye(self.size, dtype=torch.float64)

    def matrices(self, u: Tensor, t: Tensor) -> Tensor:
        """Q(u, t) ``[..., K, K]`` of the times' shape, float64."""
        jumps = -self.ratio(u, t).log().clamp(min=-1e4)  # their mean number, infinite where nothing is left
        return torch.linalg.matrix_exp(jumps[..., None, None] * self._generator.to(jumps)).clamp(min=0)

    def forward(self, p: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return _rows(p, self.matrices(u, t))

    def backward(self, x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return _rows(x, self.matrices(u, t).mT)


def _rows(p: Tensor, matrices: Tensor) -> Tensor:
    """Each row of ``p`` times the matrix of its time."""
    lead = matrices.shape[:-2]
    return (p.reshape(*lead, -1, p.shape[-1]) @ matrices.to(p)).reshape(p.shape)


def _check(process: Categorical) -> None:
    if process.size < 2:
        raise ValueError(f"a categorical process needs at least two classes, not {process.size}.")
    process.alpha(0.0)  # an unknown schedule, now and not in training


def _stochastic(matrix: Tensor, what: str) -> None:
    """ValueError unless all rows are distributions."""
    if bool((matrix < 0).any()):
        row, column = (matrix < 0).nonzero()[0].tolist()
        raise ValueError(f"{what}: row {row} has {float(matrix[row, column]):g} at {column}, below zero.")
    off = (matrix.sum(1) - 1).abs()
    if not bool((off < 1e-4).all()):  # rows of float32, which are then divided by their sums
        row = int((~(off < 1e-4)).nonzero()[0])
        raise ValueError(
            f"{what}: row {row} sums to {float(matrix[row].sum()):.6g}, not 1; divide each row by its sum."
        )
