"""How graphs are sampled: what a checkpoint remembers, and `generate` takes as arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from diffkit.core.categorical import Jumps, Uniform, distort
from diffkit.core.grid import uniform
from diffkit.core.joint import Joint
from diffkit.core.process import Process
from diffkit.core.sample import ancestral, start
from diffkit.core.types import Denoiser, Draw, lookup
from diffkit.graphs.graph import Batch

if TYPE_CHECKING:
    from diffkit.graphs.checkpoints import GraphModel


_Sampling = TypeVar("_Sampling")


def adjusted(sampling: _Sampling, knobs: Mapping[str, Any]) -> _Sampling:
    """``sampling`` with other ``knobs``. ValueError for one that it does not have, or that is out of range."""
    own: dict[str, Any] = {field.name: field for field in fields(sampling)}  # type: ignore[arg-type]
    for name in knobs:
        lookup(name, own, "knob of this checkpoint")
    return replace(sampling, **knobs)  # type: ignore[type-var]


class Watched:
    """A denoiser that remembers, on its device, whether all it gave was finite; classes would hide it."""

    def __init__(self, denoise: Denoiser, like: Tensor) -> None:
        self.denoise, self.finite = denoise, torch.ones((), dtype=torch.bool, device=like.device)

    def __call__(self, x: Any, t: Tensor) -> dict[str, Tensor]:
        found = self.denoise(x, t)
        for leaf in found.values():
            self.finite = self.finite & leaf.isfinite().all()
        return {name: leaf.nan_to_num() for name, leaf in found.items()}

    def check(self) -> None:
        """FloatingPointError if it was not."""
        if not bool(self.finite):
            raise FloatingPointError("the network gave values that are not finite: its weights are at fault.")


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

    def run(self, model: "GraphModel", batch: Batch, draw: Draw) -> Batch:
        """Graphs of the nodes that ``batch`` has. FloatingPointError as :class:`Watched` says."""
        from diffkit.graphs.task import denoiser, state

        process, like = self.process(model.process), state(batch, model.process)
        denoise = Watched(denoiser(model.network, model.process, batch), batch.mask)
        x = ancestral(process, denoise, start(process, like, draw), self.grid, draw=draw)
        denoise.check()
        return batch._replace(**x)

    def process(self, trained: Joint) -> Joint:
        """The process that is sampled, of the one that was trained."""
        if self.method == "d3pm":
            return trained
        return Joint({name: self._jumps(leaf) for name, leaf in trained.items()})

    def _jumps(self, leaf: Process) -> Process:
        return Jumps(leaf, eta=self.eta, omega=self.omega)  # type: ignore[arg-type, return-value]
