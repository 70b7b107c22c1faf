r"""DDIM whose fresh noise is a share of all noise: x_u = a_u D + s_u (sqrt(1 - eta^2) eps + eta z).

This is the eta of DDRM, DDNM, DDS and, squared, the zeta of DiffPIR; that of DDIM is a share of the posterior's
deviation. With ``eta`` 1 all noise is fresh, and with 0 both are the flow.

The share does not fall with the step, so that for ``eta`` > 0 the law at the end is not that of the data, however
many steps there are: it is narrower. On normal data of deviation 0.5 under VP it ends at 0.478, 0.436 and 0.353
for ``eta`` 0.55, 0.85 and 1. Restored images are then nearer to the mean of the posterior than its samples are.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from diffkit.core.grid import Grid, check
from diffkit.core.inverse.checks import share
from diffkit.core.plan import Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, Vector, nodes
from diffkit.core.solvers.langevin import Sampler
from diffkit.core.types import Denoiser, Draw, Guide, begin


def renoise(eta: float = 0.85) -> Solver:
    """The module's step as a plan, with eps = (x - a D)/s of the guided D: DiffPIR's (2305.08995) sampler.

    Of order 0 for ``eta`` > 0. ValueError for an ``eta`` outside [0, 1], as of :func:`renoised`.
    """
    share(eta)

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, d, z = vectors("x d z")
        for t, u in pairwise(nodes(process, grid)):
            yield Step(t.t, at=x, carry=(_step(t, u, x, d, d, z, eta),))

    return Solver("renoise", 0 if eta else 1, steps)


def renoised(guide: Guide, eta: float = 0.85) -> Sampler:
    """The module's step with D of ``guide`` and eps of the denoiser that it is given, which has no guide.

    The sampler of DDNM (2212.00490) and DDS (2303.05754). Here the guide's shift enters in full at every step,
    where a solver of the guided denoiser spreads it over all of them. For guides that change a prediction and call
    the network once, without its gradient.
    """
    share(eta)

    def sampler(denoise: Denoiser, process: Gaussian, x: Any, grid: Grid, *, draw: Draw) -> Any:
        grid = check(grid)
        path, times = nodes(process, grid), grid.to(x.device)
        for k, (t, u) in enumerate(pairwise(path)):
            d = denoise(x, times[k])
            changed = begin(guide(lambda x, t, d=d: d))(x, times[k])
            x = _step(t, u, x, d, changed, draw(k, x), eta)
        return x

    return sampler


def _step(t: Node, u: Node, x: Vector, d: Vector, changed: Vector, z: Vector, eta: float) -> Vector:
    if t.s == 0:  # eps is unknown
        return u.a * changed + u.s * z
    keep = math.sqrt(1 - eta**2) * u.s / t.s
    return u.a * changed + keep * x - (t.a * keep) * d + (eta * u.s) * z
