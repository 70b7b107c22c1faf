r"""SA-Solver: stochastic Adams methods, Xue et al. 2023 (2309.05019), in data prediction.

The reverse SDE whose noise is tau(t) times that of the usual one has, with r = 1 + tau^2 and tau constant over
the step, the solution

    x_u = (s_u/s_t) e^(-tau^2 h) x_t + a_u int_0^h r e^(r (l - h)) D(l) dl + s_u sqrt(1 - e^(-2 tau^2 h)) z.

D is replaced by the polynomial through past predictions. The corrector then swaps that for the one which also
goes through the new prediction, under the same noise: a sum of predictions is added to the predicted state.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step, vectors
from diffkit.core.process import Gaussian
from diffkit.core.solvers.adams import lagrange_integrals
from diffkit.core.solvers.base import Node, Solver, ddim_step, nodes, weigh
from diffkit.core.solvers.multistep import Known


def _weights(h: float, at: Sequence[float], rate: float, legacy: bool) -> list[float]:
    """int_0^h rate e^(rate (l - h)) l_j(l) dl; ``legacy`` puts rate h^2/2 for the mean of l with two nodes."""
    weights = [rate * w for w in lagrange_integrals(h, at, rate)]
    if legacy and len(at) == 2:
        rise = rate * h**2 / 2 / (at[0] or at[1])  # one of the two nodes is t itself, at 0
        rest = sum(weights) - rise
        return [rise, rest] if at[0] else [rest, rise]
    return weights


def sa(
    predictor: int = 3, corrector: int = 3, tau: float | Callable[[float], float] = 1.0, legacy: bool = False
) -> Solver:
    """Adams-Bashforth through ``predictor`` 1 to 4 predictions, Adams-Moulton through ``corrector`` 0 to 4 and
    the new one; one call a step, the last point not being corrected.

    Args:
        tau: how much noise, a number or a function of t read at the start of each step; 0 is the flow ODE
            (``adams``), 1 the usual reverse SDE (``dpmpp_sde``, whose eta is tau^2).
        legacy: the two-point rule of the released code and diffusers, off by O(h^3); theirs counts the new
            prediction in the corrector's order.

    Noise caps the order in law at 2, as it does for ``dpmpp_sde``.
    """
    if predictor not in (1, 2, 3, 4) or corrector not in (0, 1, 2, 3, 4):
        raise ValueError(
            f"sa predicts by 1 to 4 and corrects by 0 to 4 values, not {predictor}, {corrector}."
        )
    depth = max(predictor, corrector) if corrector else predictor - 1
    names = " ".join(["x", *(f"d{i}" for i in range(depth)), "d", "z"])

    def level(t: Node) -> float:
        value = tau(t.t) if callable(tau) else tau
        if not value >= 0:
            raise ValueError(f"tau must not be negative; it is {value} at t = {t.t:.3g}.")
        return value**2

    def drift(t: Node, u: Node, known: Known) -> Lin:
        known = [(n, d) for n, d in known if n.regular]
        weights = _weights(u.lam - t.lam, [n.lam - t.lam for n, _ in known], 1 + level(t), legacy)
        return weigh([u.a * w for w in weights], [d for _, d in known])

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        x, *past, d, z = vectors(names)
        history: list[Node] = []
        for t, u in pairwise(nodes(process, grid)):
            old = list(zip(history, past, strict=False))
            here = x
            if corrector and history and history[0].regular:
                last = history[0]
                here = x + drift(last, t, [(t, d), *old[:corrector]]) - drift(last, t, old[:predictor])
            if t.regular and u.regular:
                damped = level(t) * (u.lam - t.lam)
                ahead = here * (u.s / t.s * math.exp(-damped)) + drift(t, u, [(t, d), *old][:predictor])
                ahead = ahead + z * (u.s * math.sqrt(-math.expm1(-2 * damped)))
            else:
                ahead = ddim_step(process, t, u, here, d, z, 1.0 if level(t) else 0.0)
            yield Step(t.t, at=x, carry=(ahead, *[d, *past][:depth]))
            history = [t, *history][:depth]

    return Solver("sa", min(predictor, corrector) + 1 if corrector else predictor, steps)
