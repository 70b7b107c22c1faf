"""The measured order of every solver on every process; writes docs/orders.md.

``python apps/bench/orders.py [--only NAME...] [--report docs/orders.md]``

Law 2 of the core (:func:`diffkit.core.testing.measured_order`): the slope of log error against log step on
the flow of the one-dimensional reference mixture between lambda = -1.5 and 2, with 40 and 80 steps, or 160
and 320 where the declared order does not show yet, after a graded start that stands for exact history. In
lambda all processes are one, so a method that knows them by lambda alone has one order; what a column then
shows is that the process' own functions and their inverse are exact. Where a method draws noise the slope is
that of the variance it ends with on normal data, which obeys a linear recursion, from 64 to 128 steps between
lambda = -2 and 2. Continuous integration runs the same law on four processes, and on all for one solver of
each family.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from _variants import named

from diffkit.core.bridge import (
    BBED,
    I2SB,
    IRSDE,
    OUVE,
    RDDM,
    SBVE,
    BrownianBridge,
    Interpolant,
    Resfusion,
    ResShift,
)
from diffkit.core.grid import lam_uniform
from diffkit.core.process import EDM, VE, VP, Cosine, Gaussian, RectifiedFlow, SubVP
from diffkit.core.solvers import (
    Solver,
    adams,
    bdia,
    ddim,
    deis,
    dpm_solver,
    dpmpp_2m,
    dpmpp_3m,
    dpmpp_sde,
    edict,
    ghvb,
    hb,
    heun,
    ipndm,
    plms,
    pndm,
    runge_kutta,
    sa,
    unipc,
)
from diffkit.core.solvers.runge_kutta import RULES
from diffkit.core.testing import measured_order

ROOT = Path(__file__).parents[2]
SHORT = 0.15
"""What an order may lack of the declared one, as in the core's law."""

PROCESSES: dict[str, Gaussian] = {
    type(p).__name__: p
    for p in (
        *(VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow()),
        *(OUVE(), BBED(), SBVE(), IRSDE(), ResShift(), RDDM(), Resfusion(), BrownianBridge(), I2SB()),
        Interpolant("quadratic"),
    )
}
"""All but the interpolant with a sine, whose lambda rises again; "sqrt" is the Brownian bridge."""

SOLVERS = named(
    (ddim,),
    *((adams, order) for order in (2, 3, 4)),
    *((adams, order, {"corrector": True}) for order in (1, 2, 3)),
    *((unipc, order) for order in (1, 2, 3)),
    (unipc, 3, "bh1"),
    (unipc, 3, {"lower_order_final": True}),
    (unipc, 3, "vary_coeff"),
    (unipc, 3, "vary_coeff", {"legacy": True}),
    (dpmpp_2m,),
    (dpmpp_3m,),
    (dpmpp_3m, {"legacy": True}),
    *((dpm_solver, order, kind) for order in (2, 3) for kind in ("data", "noise")),
    *((deis, order, variable) for variable in ("t", "rho", "lam") for order in (2, 3, 4)),
    *((ipndm, order) for order in (2, 3, 4)),
    (pndm, 2),
    (pndm, 4),
    (plms,),
    (heun,),
    *((runge_kutta, rule) for rule in RULES if rule not in ("euler", "heun2")),
    (hb, 2, 0.8),
    (ghvb, 1.8),
    (ghvb, 2.8),
    (bdia, 1.0),
    (bdia, 0.5),
    (edict,),
)
NOISY = named(
    (ddim, 1.0),
    *((dpmpp_sde, order) for order in (1, 2, 3)),
    (sa, {"tau": 1.0}),
    (sa, {"predictor": 1, "corrector": 0}),
)


def flow_order(solver: Solver, process: Gaussian) -> float:
    """The slope of the error on the mixture's flow."""
    order = measured_order(solver, process)
    return order if order > solver.order - SHORT else measured_order(solver, process, steps=(160, 320))


def law_order(solver: Solver, process: Gaussian, std: float = 0.5) -> float:
    """The slope of the error in the variance on normal data, by recursion of the memory's covariance."""
    errors: list[float] = []
    low, high = process.lam(torch.tensor([0.999, 0.001], dtype=torch.float64)).tolist()
    for n in (64, 128):
        plan = solver(process, lam_uniform(n, max(low, -2.0), min(high, 2.0))(process))
        first, last = plan.t[0], plan.end
        covariance = torch.zeros(plan.slots, plan.slots, dtype=torch.float64)
        covariance[0, 0] = (process.a(first) * std) ** 2 + process.s(first) ** 2
        for k, t in enumerate(plan.t):
            gain = process.a(t) * std**2 / ((process.a(t) * std) ** 2 + process.s(t) ** 2)
            step = plan.V[k] + gain * plan.B[k][:, None] * plan.U[k]
            covariance = step @ covariance @ step.T + plan.C[k][:, None] * plan.C[k]
        truth = (process.a(last) * std) ** 2 + process.s(last) ** 2
        errors.append(abs(float(covariance[0, 0] - truth)))
    return math.log2(errors[0] / errors[1])


def table(solvers: dict[str, Solver], orders: dict[str, dict[str, float]], cap: int = 4) -> list[str]:
    """Rows of solvers, columns of processes; what falls short by more than 0.15 is bold."""
    lines = [f"| solver | declared | {' | '.join(PROCESSES)} |", "|---" * (len(PROCESSES) + 2) + "|"]
    for name, solver in solvers.items():
        cells = [_cell(orders[name][process], min(solver.order, cap)) for process in PROCESSES]
        lines.append(f"| `{name}` | {solver.order} | {' | '.join(cells)} |")
    return lines


def _cell(order: float, declared: int) -> str:
    return f"{order:.2f}" if order > declared - SHORT else f"**{order:.2f}**"


def page(orders: dict[str, dict[str, float]]) -> str:
    about = (
        (__doc__ or "")
        .split("\n\n")[2]
        .replace(":func:`diffkit.core.testing.measured_order`", "`measured_order`")
    )
    lines = [
        "# Measured orders",
        "",
        about,
        "",
        "Bold is what falls short of the declared order by more than 0.15.",
        "",
    ]
    lines += ["## The flow", "", *table(SOLVERS, orders), "", "## In law", ""]
    lines += [
        "Noise caps the order at 2, whatever is declared for the flow.",
        "",
        *table(NOISY, orders, 2),
        "",
    ]
    return "\n".join([*lines, "`python apps/bench/orders.py` writes this page."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", help="measure these solvers anew, and keep the others")
    parser.add_argument("--report", type=Path, default=ROOT / "docs/orders.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Path(__file__).with_name("orders.json")
    orders: dict[str, dict[str, float]] = json.loads(store.read_text()) if options.only is not None else {}
    for solvers, measure in ((SOLVERS, flow_order), (NOISY, law_order)):
        for name, solver in solvers.items():
            if options.only is None or name in options.only or name not in orders:
                found = {p: round(measure(solver, process), 2) for p, process in PROCESSES.items()}
                orders[name] = found
                store.write_text(json.dumps(orders, indent=1) + "\n")
    options.report.write_text(page(orders))


if __name__ == "__main__":
    main()
