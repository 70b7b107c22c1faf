"""DDIM and DDPM: Song, Meng and Ermon 2021 (2010.02502), eq. 12 and 16; Ho et al. 2020 (2006.11239)."""

from collections.abc import Iterator
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, ddim_step, nodes


def ddim(eta: float = 0.0) -> Solver:
    """``eta`` = 0 is the deterministic sampler (Euler on the flow ODE), 1 is ancestral sampling (DDPM).

    On a bridge the deterministic sampler draws noise once, when it leaves the end.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], not {eta}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, d, z = vectors("x d z")
        for t, u in pairwise(nodes(process, grid)):
            yield Step(t.t, at=x, carry=(ddim_step(process, t, u, x, d, z, eta),))

    return Solver("ddim", 1, steps)
