"""Joint processes: several quantities diffuse together, each by its own process, seen by one network.

Leaves may be of any kind, ``Joint({"x": VP(), "a": Absorbing(5)})``. :func:`~diffkit.core.sample.ancestral` draws
all from their posteriors; :func:`~diffkit.core.sample.sample` takes the Gaussian ones along a solver's plan, and the
others by their posteriors, from the same call of the network.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from diffkit.core.process import Process


class Joint(Mapping[str, Process]):
    """Leaves by name, ``Joint({"x": VP(), "adj": VE()})``; every method maps over them.

    Independent given x0: the coupling is what the network learns.
    """

    def __init__(self, leaves: Mapping[str, Process]):
        if not leaves:
            raise ValueError("a joint process needs at least one leaf.")
        self._leaves = dict(leaves)

    def __getitem__(self, name: str) -> Process:
        return self._leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    def corrupt(
        self, x0: Mapping[str, Tensor], t: Tensor, *, y: Any = None, noise: Any = None
    ) -> dict[str, Tensor]:
        """x_t of every leaf at the same time; see :meth:`~diffkit.core.process.Gaussian.corrupt`."""
        return {
            name: process.corrupt(x0[name], t, y=_leaf(y, name), noise=_leaf(noise, name))
            for name, process in self.items()
        }

    def posterior(self, x: Any, x0: Any, t: Tensor, u: Tensor, *, y: Any = None) -> dict[str, Any]:
        """The law of every leaf at u <= t; see :meth:`~diffkit.core.process.Gaussian.posterior`."""
        return {name: p.posterior(x[name], x0[name], t, u, y=_leaf(y, name)) for name, p in self.items()}

    def prior(self, like: Any, *, y: Any = None, t: Tensor | float = 1.0) -> dict[str, Any]:
        """The law that sampling starts from, leaf by leaf."""
        return {name: p.prior(like[name], y=_leaf(y, name), t=t) for name, p in self.items()}


def _leaf(value: Any, name: str) -> Any:
    return None if value is None else value.get(name)
