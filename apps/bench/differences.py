"""Where released code departs from the mathematics, each measured; writes docs/differences.md.

``python apps/bench/differences.py [--report docs/differences.md]``
"""

import argparse
import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffkit.core.grid import Grid, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.plan import integrate
from diffkit.core.process import EDM, VE, VP, Cosine
from diffkit.core.solvers import Solver, deis, dpmpp_3m, dpmpp_sde, pndm, sa, unipc
from diffkit.core.testing import measured_order

ROOT = Path(__file__).parents[2]
MIXTURE = Mixture.reference()


class Difference(NamedTuple):
    """``measured`` is a function, so that every number on the page is one of this run."""

    title: str
    where: str
    text: str
    ours: str
    measured: Callable[[], str]


def scheduler(name: str, **options: Any) -> Any:
    """A scheduler of diffusers that takes x0 predictions, its levels in float64."""
    import diffusers

    made = getattr(diffusers, f"{name}Scheduler")(**({"prediction_type": "sample"} | options))
    return made


def drive(made: Any, denoise: Callable[[Tensor, float], Tensor], x: Tensor, **extra: Any) -> Tensor:
    """Their loop, for a denoiser of a variance-preserving state and its level."""
    for k, t in enumerate(made.timesteps):
        sigma = float(made.sigmas[k])
        noise = {name: value[k] for name, value in extra.items()}
        x = made.step(denoise(x, sigma), t, x, **noise).prev_sample
    return x


def exact(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] of the reference mixture at a variance-preserving level."""
    a = (1 + sigma**2) ** -0.5
    return MIXTURE.denoise(EDM(1.0), x / a, torch.tensor(sigma, dtype=torch.float64))


def both_orders(released: Solver, ours: Solver, **options: Any) -> str:
    """Orders on VP with exact history."""
    orders = [measured_order(solver, VP(), **options) for solver in (released, ours)]
    return f"order {orders[0]:.2f} as released, {orders[1]:.2f} here"


def third_order() -> str:
    return both_orders(dpmpp_3m(legacy=True), dpmpp_3m(), steps=(80, 160))


def sde_sign() -> str:
    """The order in variance on normal data: theirs is read off unit impulses of each noise."""
    orders: dict[str, float] = {}
    for name in ("diffusers", "here"):
        errors: list[float] = []
        for n in (32, 64):
            sigmas = torch.linspace(2.0, -2.0, n + 1, dtype=torch.float64).exp()
            variance = _theirs(sigmas) if name == "diffusers" else _ours(Cosine().time(-sigmas.log()))
            errors.append(abs(variance - _normal(float(sigmas[-1]))))
        orders[name] = math.log2(errors[0] / errors[1])
    return f"order {orders['diffusers']:.2f} in diffusers, {orders['here']:.2f} here"


STD = 0.5


def _normal(sigma: float) -> float:
    """The variance of a variance-preserving state at a level, for data of deviation :data:`STD`."""
    return (STD**2 + sigma**2) / (1 + sigma**2)


def _shrink(sigma: float) -> float:
    return STD**2 / (STD**2 + sigma**2) * (1 + sigma**2) ** 0.5


def _theirs(sigmas: Tensor) -> float:
    n = len(sigmas) - 1
    made = scheduler(
        "DPMSolverMultistep", algorithm_type="sde-dpmsolver++", solver_order=3, lower_order_final=False
    )
    made.set_timesteps(n)
    made.sigmas = sigmas
    impulses = torch.eye(n + 1, dtype=torch.float64)
    impulses[0] *= _normal(float(sigmas[0])) ** 0.5
    end = drive(made, lambda x, sigma: _shrink(sigma) * x, impulses[0], variance_noise=impulses[1:])
    return float(end.square().sum())


def _ours(grid: Grid) -> float:
    process, plan = Cosine(), dpmpp_sde(3)(Cosine(), grid)
    impulses = torch.eye(len(grid), dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return _shrink(float(process.s(t) / process.a(t))) * x

    first = _normal(float(process.s(grid[0]) / process.a(grid[0]))) ** 0.5 * impulses[0]
    end = integrate(denoise, first, plan, draw=lambda k, like: impulses[k + 1])
    return float(end.square().sum())


def bh1_at_zero() -> str:
    made = scheduler("UniPCMultistep", solver_type="bh1")
    made.set_timesteps(10)
    end = drive(made, exact, torch.ones(1, 1, dtype=torch.float64))
    return f"its {len(made.timesteps)} default steps end at {float(end):.0f}"


def vary_coeff() -> str:
    return both_orders(unipc(2, "vary_coeff", legacy=True), unipc(2, "vary_coeff"))


def sa_rule() -> str:
    orders = both_orders(sa(2, 2, 0.0, legacy=True), sa(2, 2, 0.0))
    process, x = VP(), torch.linspace(-2.0, 2.0, 41, dtype=torch.float64)[:, None]
    plans = [sa(2, 2, 0.0, legacy=legacy)(process, uniform(5)) for legacy in (True, False)]
    ends = [integrate(lambda x, t: MIXTURE.denoise(process, x, t), x, plan) for plan in plans]
    return f"{orders}; five uniform steps end up to {float((ends[0] - ends[1]).abs().max()):.1g} apart"


def pndm_order() -> str:
    orders = [measured_order(solver, VP()) for solver in (pndm(), deis(4))]
    return f"order {orders[0]:.2f} for F-PNDM, {orders[1]:.2f} for `deis(4)`, which has exact weights"


def next_time() -> str:
    """How far DDIM's step ends from the next time, when 1000/n is no whole number."""
    made = scheduler("DDIM", clip_sample=False, timestep_spacing="trailing")
    made.set_timesteps(12)
    gaps = [abs(int(t) - 1000 // 12 - int(u)) for t, u in pairwise(made.timesteps)]
    table = made.alphas_cumprod = made.alphas_cumprod.double()
    x = torch.special.ndtri((torch.arange(64, dtype=torch.float64) + 0.5) / 64)[:, None]
    ends: list[Tensor] = []
    for own in (True, False):
        state = x
        for t, u in pairwise([*made.timesteps.tolist(), -1]):
            data = exact(state, float(1 / table[t] - 1) ** 0.5)
            if own:
                state = made.step(data, t, state).prev_sample
            else:
                a, b = float(table[t]), float(table[u]) if u >= 0 else 1.0
                state = b**0.5 * data + (1 - b) ** 0.5 * (state - a**0.5 * data) / (1 - a) ** 0.5
        ends.append(state)
    gap = float((ends[0] - ends[1]).abs().max())
    return f"{sum(gap > 0 for gap in gaps)} of 11 steps end beside the next time; the samples move by up to {gap:.1g}"


def deis_end() -> str:
    made = scheduler("DEISMultistep", use_karras_sigmas=True)
    made.set_timesteps(5)
    first, second = made.sigmas[-2:].tolist()
    return f"with 5 Karras levels the last step goes from sigma = {first:.4f} to {second:.4f}"


def ve_minimum() -> str:
    process = VE()
    extra = process.sigma_min**2
    t = torch.tensor(0.1, dtype=torch.float64)
    share = extra / float(process.s(t)) ** 2
    return (
        f"{100 * share:.0f} % too much variance at t = 0.1, and {process.sigma_min:g} of noise left at t = 0"
    )


def oms_variance() -> str:
    keep, std = 0.3, 0.5
    right = keep * std**2 + (1 - keep)
    released = keep * std**2 + (1 - keep) ** 2
    return f"variance {released:.3f} for {right:.3f} where alpha_bar = {keep}, for data of deviation {std}"


DIFFERENCES = [
    Difference(
        "The third-order weight of DPM-Solver++(3M)",
        "the authors' dpm-solver, diffusers, k-diffusion (3M SDE), MR-Sampler",
        "The second difference carries half the weight of the expansion, so the method is of second order.",
        "`dpmpp_3m()` has the whole weight and is `adams(3)`; `legacy=True` is theirs.",
        third_order,
    ),
    Difference(
        "The sign in third-order SDE-DPM-Solver++",
        "diffusers",
        "The weight of the second difference has - 1/2 for + 1/2, so that it does not vanish with the step.",
        "`dpmpp_sde(3)`; there is no option for theirs.",
        sde_sign,
    ),
    Difference(
        "UniPC's corrector with varying coefficients",
        "the authors' UniPC",
        "The sum stops one short and pairs the newest difference with the wrong row.",
        "`unipc(variant='vary_coeff')`; `legacy=True` is theirs. bh1 and bh2 have no such defect.",
        vary_coeff,
    ),
    Difference(
        "UniPC bh1 to a last level of 0",
        "diffusers, with its default `final_sigmas_type`",
        "B(h) = -h is infinite where it multiplies nothing.",
        "`unipc(variant='bh1')` ends with the prediction, as every step to s = 0 of a method in lambda.",
        bh1_at_zero,
    ),
    Difference(
        "SA-Solver's two-point rule",
        "the authors' SA-Solver, diffusers",
        "Two points get a rule that is off the integral by the third power of the step: the order stays, and with a "
        "first step of several units of lambda the samples are others.",
        "`sa()` integrates exactly; `legacy=True` is theirs.",
        sa_rule,
    ),
    Difference(
        "The order of PNDM",
        "the paper, diffusers",
        "Adams-Bashforth weights of order 4 for a step that holds eps constant, on a grid that must be uniform.",
        "`pndm()` is the paper's and declares order 2.",
        pndm_order,
    ),
    Difference(
        "Where a step of DDIM ends",
        "diffusers: DDIM, DDPM, PNDM",
        "A step goes to t - 1000//n and not to the next time of the list, which differs wherever 1000/n is no "
        "whole number.",
        "A plan's steps are those of its grid.",
        next_time,
    ),
    Difference(
        "DEIS on Karras, exponential and beta levels",
        "diffusers",
        "The last level is there twice, so that the last call changes nothing and its noise stays.",
        "Grids end at 0, and `deis` in t or rho goes there with its full order.",
        deis_end,
    ),
    Difference(
        "The variance of the VE process",
        "score_sde, SGMSE+ and what follows them",
        "sigma_min^2 r^(2t) without the - 1 of the solution that starts from the data.",
        "`VE` and `OUVE` have s(0) = 0.",
        ve_minimum,
    ),
    Difference(
        "The noise of One More Step",
        "the authors' pipeline",
        "The noise is multiplied by the variance 1 - alpha_bar instead of its root.",
        "`one_more_step()`; `legacy=True` is theirs.",
        oms_variance,
    ),
]


def page() -> str:
    import diffusers

    lines = [
        "# Where released code differs",
        "",
        "diffkit ships what the mathematics says. Where a released implementation does not, an option `legacy` gives "
        "its numbers to those who need them, and the tests hold both. Each difference is measured by "
        "`apps/bench/differences.py`, which writes this page; orders are on the reference mixture under VP with exact "
        "history. Everything else that diffusers and k-diffusion implement agrees within 1e-6 on shared grids "
        "(`shared/core/tests/test_parity.py`).",
        "",
        "| what | where | measured |",
        "|---|---|---|",
    ]
    for one in DIFFERENCES:
        lines.append(f"| {one.title} | {one.where} | {one.measured()} |")
    for one in DIFFERENCES:
        lines += ["", f"## {one.title}", "", f"{one.text} Here: {one.ours}"]
    lines += ["", f"diffusers {diffusers.__version__}; other code as read in 2026."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, default=ROOT / "docs/differences.md")
    options = parser.parse_args()
    from diffusers.utils import logging

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    options.report.write_text(page())


if __name__ == "__main__":
    main()
