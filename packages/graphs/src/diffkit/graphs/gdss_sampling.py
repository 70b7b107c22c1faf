"""How GDSS is sampled: what its checkpoint remembers, and `generate` takes as arguments."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffkit.core.grid import uniform
from diffkit.core.joint import Joint
from diffkit.core.plan import Plan, integrate
from diffkit.core.solvers import SOLVERS, Solver, reverse_diffusion, s4
from diffkit.core.types import Draw, lookup
from diffkit.graphs.gdss import denoiser, gaussian, moments, quantise, start, state, terminal
from diffkit.graphs.graph import Batch
from diffkit.graphs.sampling import Watched

if TYPE_CHECKING:
    from diffkit.graphs.checkpoints import GraphModel

CORRECTED = {solver.__name__: solver for solver in (s4, reverse_diffusion)}
"""Methods with Langevin steps."""


@dataclass(frozen=True)
class GDSSSampling:
    """How to sample; none of it needs another training.

    Args:
        method: a name of :data:`~diffkit.core.solvers.SOLVERS`: reverse_diffusion, their published sampler, s4, or any
            other that is a table.
        steps: of time, equal ones; reverse_diffusion makes two network calls in each.
        snr, scale: of the Langevin steps of those two; 0.05 and 0.7 are theirs for community-small.
        begin: ``data``, the moments of x_1 (:mod:`diffkit.graphs.gdss`), or ``normal``, theirs.

    ValueError for what is out of range.
    """

    method: str = "s4"
    steps: int = 100
    snr: float = 0.05
    scale: float = 0.7
    begin: Literal["data", "normal"] = "data"

    def __post_init__(self) -> None:
        if self.begin not in ("data", "normal"):
            raise ValueError(f"sampling begins from data or normal, not from {self.begin!r}.")
        uniform(self.steps)
        _ = self.solver

    @property
    def solver(self) -> Solver:
        """The method with its options."""
        if self.method in CORRECTED:
            return CORRECTED[self.method](self.snr, self.scale)
        found = lookup(self.method, SOLVERS, "method")()
        if not isinstance(found, Solver):
            raise ValueError(f"{self.method} is no table, and two leaves need one: take another method.")
        return found

    def plans(self, process: Joint) -> dict[str, Plan]:
        """The method's tables, by leaf."""
        return {name: self.solver(leaf, uniform(self.steps)) for name, leaf in gaussian(process).items()}

    def run(self, model: "GraphModel", batch: Batch, draw: Draw) -> Batch:
        """Graphs of the nodes and the classes that ``batch`` has. FloatingPointError as :class:`Watched` says."""
        features = model.network.features
        x = draw(-1, state(batch, features))
        if self.begin == "data":
            x = start(terminal(model.process, moments(model.population, features)), x, batch.mask)
        denoise = Watched(denoiser(model.network, model.process, batch.mask), batch.mask)
        x = integrate(denoise, x, self.plans(model.process), draw=draw)
        denoise.check()
        return quantise(x, batch)
