r"""Plug-and-play restoration: a run without noise, in which what is still wrong stands in for it, x_u = a_u D'.

With the proximal step of :func:`~diffkit.core.inverse.projection.diffpir` as D' this is half-quadratic splitting,
DPIR of Zhang et al. 2021 (2008.13751, eq. 6), with the noise level of the process for theirs. Where a sampler ends at
one sample of the posterior, whose square error is twice that of the mean, this ends near the mode: on normal data of
variance c^2 and at a constant level sigma it rests at the posterior's mean for c^2 + sigma^2.
"""

from collections.abc import Iterator
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Solver, nodes


def plug() -> Solver:
    """The module's step as a plan, of a guided denoiser: ``solver=plug()`` with ``diffpir(..., scale=1.0)``.

    No law is sampled. Published: from the adjoint's image at a level of 0.2 down to that of the measurement.
    """

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, d, _ = vectors("x d z")
        for t, u in pairwise(nodes(process, grid)):
            yield Step(t.t, at=x, carry=(u.a * d,))

    return Solver("plug", 0, steps)
