r"""Discrete flow matching: the same marginals as a memoryless process, and other jumps between them.

The marginals alpha delta_x0 + (1 - alpha) pi are those of the linear path of Campbell et al. 2024 (2402.04997) and
Gat et al. 2024 (2407.15595); they do not fix how x_u depends on x_t. Given x0, the fewest jumps that keep them go
straight to x0, at the rate -alpha'/(1 - alpha) (Gat's; Campbell's R* for uniform and masked noise). On top,
redrawing the whole element from its marginal, at any rate, is in detailed balance. Both rates together have a
solution in closed form, since after a redraw the element has its marginal for good. With

    k = (1 - alpha_u)/(1 - alpha_t),    f = exp(-(integral of the redraws' rate)):

    x_u ~ f [k x_t + (1 - k) x0] + (1 - f) [alpha_u x0 + (1 - alpha_u) pi],

linear in x0, so that a denoiser's probabilities stand in its place: no rates, no Euler steps to clamp, and no
division by p(x_t | x0), which is zero for a class that pi lacks. One step is exact whatever its length; what a
grid still decides is that elements are drawn apart within a step. It is the family of Song et al. 2021
(2010.02502, appendix A); masked, it is the remasking of Wang et al. 2025 (2503.00307).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffkit.core.categorical.d3pm import Memoryless
from diffkit.core.categorical.process import Choice
from diffkit.core.types import expand_as, float64, lookup


@dataclass(frozen=True)
class Jumps:
    """Discrete flow matching on the marginals of ``process``, to be sampled by
    :func:`~diffkit.core.sample.ancestral`, or as a leaf of a joint process.

    What a network has learnt on ``process`` it can be sampled with, whatever these are, all 0 or more:

    Args:
        eta: redraws for each unit of time: the detailed-balance rates eta p(x_t | x0) of DeFoG (Qin et al. 2024,
            2410.04263).
        stochasticity: redraws for each e-fold of the noise 1 - alpha, f = k^stochasticity. On a masked linear path
            that is the eta of Campbell et al. 2024 (2402.04997), 10 to 30 in FlowMol: tokens return to
            the mask at the rate eta.
        omega: target guidance: straight jumps come (1 + omega) times as often, and the marginals lean towards
            what is predicted. DeFoG's for uniform noise and a linear path; with a mask theirs counts half.

    Where pi is not uniform, R* of DeFoG also walks from frequent to rare classes that are not x0. Its law is the
    same at many steps; straight jumps need fewer.
    """

    process: Memoryless
    eta: float = 0.0
    stochasticity: float = 0.0
    omega: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.process, Memoryless):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError("discrete flow matching needs uniform, marginal or absorbing noise.")
        for name in ("eta", "stochasticity", "omega"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a rate, and must be 0 or more, not {getattr(self, name)}.")

    def corrupt(self, x0: Tensor, t: Tensor, *, y: None = None, noise: Tensor | None = None) -> Tensor:
        """A draw of x_t given x0; see :meth:`Categorical.corrupt`."""
        return self.process.corrupt(x0, t, y=y, noise=noise)

    def marginal(self, x0: Tensor, t: Tensor | float, *, y: None = None) -> Choice:
        """The law of x_t given x0, that of ``process``."""
        return self.process.marginal(x0, t, y=y)

    def prior(self, like: Tensor, *, y: None = None, t: Tensor | float = 1.0) -> Choice:
        """The law that sampling starts from."""
        return self.process.prior(like, y=y, t=t)

    def posterior(
        self, x: Tensor, x0: Tensor, t: Tensor | float, u: Tensor | float, *, y: None = None
    ) -> Choice:
        """The law of x_u given x_t = ``x``, for u <= t, where x0 has the law ``x0`` (see the module)."""
        t, u = float64(t), float64(u)
        p = self.process.condition(x0, x, t)
        before, after = 1 - self.process.alpha(t), 1 - self.process.alpha(u)
        k = torch.where(before > 0, after / before, 1.0)
        f = k**self.stochasticity * torch.exp(-self.eta * (t - u))
        stay = k ** (1 + self.omega)
        moved = expand_as(stay, p) * x.to(p) + expand_as(1 - stay, p) * p
        redrawn = self.marginal(p, u, y=y).probs
        return Choice(expand_as(f, p) * moved + expand_as(1 - f, p) * redrawn)


DISTORTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda t: t,
    "polydec": lambda t: t**2,
    "polyinc": lambda t: 1 - (1 - t) ** 2,
    "cosine": lambda t: (1 - torch.cos(math.pi * t)) / 2,
    "revcos": lambda t: 2 * t - (1 - torch.cos(math.pi * t)) / 2,
}


def distort(t: Tensor, name: str) -> Tensor:
    """Times under one of DeFoG's distortions: of a grid, ``distort(uniform(50), "polydec")``, or in training.

    Qin et al. 2024 (2410.04263), in our direction of time: polydec, their choice for planar graphs, takes its
    short steps at the data (it is ``grid.power(n, 2)``), polyinc at the prior, cosine at both ends, revcos in the
    middle. ValueError for another name.
    """
    return lookup(name, DISTORTIONS, "distortion")(t)
