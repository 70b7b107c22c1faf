"""How graphs are sampled: what a checkpoint remembers, and `generate` takes as arguments."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diffkit.core.categorical import Jumps, Uniform, distort
from diffkit.core.grid import uniform
from diffkit.core.joint import Joint
from diffkit.core.process import Process


@dataclass(frozen=True)
class Sampling:
    """How to sample; none of it needs another training.

    Args:
        method: ``flow``, discrete flow matching (:class:`~diffkit.core.categorical.Jumps`), or ``d3pm``, the posterior.
        steps: network calls for each batch, 1 or more.
        distortion: a name of :data:`~diffkit.core.categorical.DISTORTIONS`: where the steps are short.
        eta, omega: redraws and target guidance of ``flow``, 0 or more.

    ValueError for what is out of range, or knobs of ``flow`` beside ``d3pm``.
    """

    method: Literal["flow", "d3pm"] = "flow"
    steps: int = 100
    distortion: str = "polydec"
    eta: float = 0.0
    omega: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in ("flow", "d3pm"):
            raise ValueError(f"no method {self.method!r}; the methods are flow, d3pm.")
        if self.method == "d3pm" and (self.eta or self.omega):
            raise ValueError("eta and omega belong to the method flow: leave them out, or take it.")
        Jumps(Uniform(2), eta=self.eta, omega=self.omega)
        _ = self.grid  # an unknown distortion, now and not after the checkpoint is loaded

    @property
    def grid(self) -> Tensor:
        """The times, from 1 to 0."""
        return distort(uniform(self.steps), self.distortion)

    def process(self, trained: Joint) -> Joint:
        """The process that is sampled, of the one that was trained."""
        if self.method == "d3pm":
            return trained
        return Joint({name: self._jumps(leaf) for name, leaf in trained.items()})

    def _jumps(self, leaf: Process) -> Process:
        return Jumps(leaf, eta=self.eta, omega=self.omega)  # type: ignore[arg-type, return-value]
