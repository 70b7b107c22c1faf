r"""DEIS: Zhang and Chen 2023 (2204.13902), Adams-Bashforth with exact weights on any grid.

With rho = s/a = e^-lambda the flow ODE is d(x/a)/drho = eps, so

    x_u = (a_u/a_t) x_t - s_u int_{lambda_t}^{lambda_u} e^(lambda_u - lambda) eps dlambda,

and eps is replaced by the polynomial through past predictions: in time (tAB), in rho (rhoAB), or in lambda,
which diffusers calls logrho. The integrals are by Gauss-Legendre in lambda, for any process; the released
ones, left Riemann sums for VP, are good to four digits.
"""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffkit.core.grid import Grid
from diffkit.core.plan import Lin, Step
from diffkit.core.process import Gaussian
from diffkit.core.solvers.adams import lagrange_integrals
from diffkit.core.solvers.base import Node, Solver, eps_at, linked, weigh
from diffkit.core.solvers.multistep import Known, multistep


def deis(order: int = 4, variable: Literal["t", "rho", "lam"] = "t") -> Solver:
    """``order`` 1 to 4 predictions, self-started: their tAB-r or rhoAB-r is order r + 1; 1 is DDIM.

    Polynomials in ``"t"`` want a process that is smooth in time, which tabulated schedules are not. In ``"t"``
    and ``"rho"`` the last step, to s = 0, is like the others; ``"lam"``, infinite there, returns D.
    """
    if order not in (1, 2, 3, 4) or variable not in ("t", "rho", "lam"):
        raise ValueError(f"deis has orders 1 to 4 in 't', 'rho' or 'lam', not {order} in {variable!r}.")

    def place(n: Node) -> float:
        return {"t": n.t, "rho": n.s / n.a, "lam": n.lam}[variable]

    def steps(process: Gaussian, grid: Grid) -> Iterator[Step]:
        def advance(t: Node, u: Node, x: Lin, known: Known) -> Lin:
            h = min(u.lam - t.lam, 37.0)  # to s = 0 lambda is infinite: e^-37 is rounding

            def along(tau: NDArray[np.float64]) -> NDArray[np.float64]:
                if variable == "t":
                    return process.time(torch.as_tensor(t.lam + tau)).numpy()
                return np.exp(-t.lam - tau) if variable == "rho" else t.lam + tau

            weights = lagrange_integrals(h, [place(n) for n, _ in known], -1.0, along)
            scale = u.a * math.exp(-t.lam - h)
            return (u.a / t.a) * x - scale * weigh(weights, [eps for _, eps in known])

        def takes(t: Node, u: Node) -> bool:
            return linked(t, u) and (u.regular or variable != "lam")

        return multistep(process, grid, order, advance, model=eps_at, linked=takes)

    return Solver("deis", order, steps)
