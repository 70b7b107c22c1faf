r"""Plug-and-play restoration: a run without noise, in which what is still wrong stands in for it, x_u = a_u D'.

With the proximal step of :func:`~diffkit.core.inverse.projection.diffpir` as D' this is half-quadratic splitting,
DPIR of Zhang et al. 2021 (2008.13751, eq. 6), with the noise level of the process for theirs. Where a sampler ends at
one sample of the posterior, whose square error is twice that of the mean, this ends near the mode: on normal data of
variance c^2 and at a constant level sigma it rests at the posterior's mean for c^2 + sigma^2.

Where that rest is far, as where much was not measured, few steps do not reach it; a step beyond, as of Nesterov's
method, x_u = a_u (D' + momentum (D' - D'_before)), rests at the same point and is there sooner.
"""

from collections.abc import Iterator
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, nodes


def plug(momentum: float = 0.0) -> Solver:
    """The module's step as a plan, of a guided denoiser: ``solver=plug()`` with ``diffpir(..., scale=1.0)``.

    No law is sampled. Published: from the adjoint's image at a level of 0.2 down to that of the measurement, and
    without ``momentum``, which is in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum lies in [0, 1), not {momentum}.")

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, before, d, _ = vectors("x before d z")
        path = nodes(process, grid)
        for k, (t, u) in enumerate(pairwise(path)):
            last = k + 2 == len(path)  # ends at D', not beyond it
            beyond = d if k == 0 or last else d + momentum * (d - before)
            yield Step(t.t, at=x, carry=(u.a * beyond, d))

    return Solver("plug", 0, steps)
