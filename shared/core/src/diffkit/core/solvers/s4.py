r"""Predictor and Langevin corrector as tables: reverse diffusion, and S4, which corrects without a call of its own.

The noise n = x - a x0 obeys dn = (c'/c) n dt + g dw, so that d(s^2/c^2)/dt = g^2/c^2, and a step from t to u < t has

    Delta = s_t^2/c_t^2 - s_u^2/c_u^2,

the integral of g^2/c^2 over it: exact for VP, sub-VP, VE and every other process. The score is S = (a d - x)/s^2.

The corrector is x + delta S + sqrt(2 delta) eta z with delta = 2 (r s)^2, r being the signal-to-noise ratio of Song et
al. 2021 (2011.13456, algorithms 4 and 5) and eta the ``scale`` of Jo et al. 2022 (2202.02514). Both papers have
|z|/|S|, averaged over the batch, in place of s, as :func:`~diffkit.core.solvers.langevin.predictor_corrector` has it: a
step that depends on the other samples and on the state, and is in no table. S being -eps/s of a predicted eps, the
ratio is about s: 0.95 to 1.16 times that for the edges of GDSS's own networks, at t from 0.01 to 1. On N(0, V) a
corrector alone tends to the variance eta^2 V/(1 - delta/(2 V)): eta below 1 cools.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.base import Node, Solver, ddim_step, nodes


class Stretch(NamedTuple):
    """A step from t to u: c at t, in the middle and at u, and Delta."""

    c_t: float
    c_m: float
    c_u: float
    delta: float


def reverse_diffusion(snr: float = 0.05, scale: float = 0.7, corrections: int = 1) -> Solver:
    """Langevin steps at each time, then the reverse-diffusion predictor, Song et al. 2021 (2011.13456, eq. 46).

    (2 - c_t/c_u) x + c_t^2 Delta S + c_t sqrt(Delta) z: theirs for the discrete steps of VP and VE, and to first order
    Euler-Maruyama's. ``corrections`` + 1 calls a step; the defaults are those of GDSS (2202.02514) for
    community-small. Order 1 in law without corrections, which have a bias of their own (see the module).
    ValueError for a number below 0.
    """
    _check(snr, scale, corrections)

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, d, z = vectors("x d z")
        for t, u in pairwise(nodes(process, grid)):
            if t.regular:
                step = 2 * (snr * t.s) ** 2
                corrected = x + _score(t, x, d) * step + z * (scale * math.sqrt(2 * step))
                yield from (Step(t.t, at=x, carry=(corrected,)) for _ in range(corrections))
            if t.regular and u.s > 0:
                c_t, _, c_u, delta = _stretch(process, t, u)
                moved = (
                    x * (2 - c_t / c_u) + _score(t, x, d) * (c_t**2 * delta) + z * (c_t * math.sqrt(delta))
                )
            else:
                moved = ddim_step(process, t, u, x, d, z, 1.0)
            yield Step(t.t, at=x, carry=(moved,))

    return Solver("reverse_diffusion", 1, steps)


def s4(snr: float = 0.05, scale: float = 0.7) -> Solver:
    """S4, the symmetric splitting of Jo et al. 2022 (2202.02514): correction and prediction from one score.

    The reverse SDE is its linear part, solved exactly, and its score, which is frozen at t. Half a step of the first,
    a whole one of the second and again half a step, after a Langevin step, with the same S in all:

        x' = x + delta S + sqrt(2 delta) eta z,
        x_u = c_u/c_t x' + c_u c_m Delta S + c_u sqrt(Delta) z,

    m being the middle. The noise of both half steps and of the corrector is one draw, of their summed variances. One
    call a step, and order 1 in law without correction: the frozen score allows no more. The released code gives each
    half step of VP the variance 1 - e^-B in place of e^B - 1, B being the integral of beta over it. ValueError for a
    number below 0.
    """
    _check(snr, scale, 1)

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, d, z = vectors("x d z")
        for t, u in pairwise(nodes(process, grid)):
            if t.regular and u.s > 0:
                c_t, c_m, c_u, delta = _stretch(process, t, u)
                grow, step = c_u / c_t, 2 * (snr * t.s) ** 2
                noise = math.sqrt(c_u**2 * delta + 2 * step * (grow * scale) ** 2)
                moved = x * grow + _score(t, x, d) * (c_u * c_m * delta + grow * step) + z * noise
            else:
                moved = ddim_step(process, t, u, x, d, z, 1.0)
            yield Step(t.t, at=x, carry=(moved,))

    return Solver("s4", 1, steps)


def _score(t: Node, x: Lin, d: Lin) -> Lin:
    return (d * t.a - x) / t.s**2


def _stretch(process: Gaussian, t: Node, u: Node) -> Stretch:
    times = torch.tensor([t.t, (t.t + u.t) / 2, u.t], dtype=torch.float64)
    c_t, c_m, c_u = process.c(times).tolist()
    return Stretch(c_t, c_m, c_u, (t.s / c_t) ** 2 - (u.s / c_u) ** 2)


def _check(snr: float, scale: float, corrections: int) -> None:
    if not (snr >= 0 and scale >= 0 and corrections >= 0):
        raise ValueError(
            "the signal-to-noise ratio, the scale and the number of corrections must not be negative: "
            f"{snr}, {scale}, {corrections}."
        )
