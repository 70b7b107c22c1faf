"""Error against network calls: every plan of diffkit beside every deterministic scheduler of diffusers.

``python apps/bench/calls.py [--problems '1-D' '8-D' speech] [--report docs/solvers.md]``

Three denoisers: the one-dimensional reference mixture under VP and an eight-dimensional one under rectified
flow, whose denoisers are exact, and the shipped speech checkpoint `tiny` on a quarter second of two of the
example recordings, for which of our plans those are tried that are among the best on a mixture, or on Karras'
or exponential levels. Every method
starts with the same noise at the level ``top`` = s/a, asks the same denoiser at its own levels, and is judged
by its distance from the end of the same flow at noise 0: the root mean square over that of the end.
Stochastic samplers have no path to be near and are left out. The results are
kept in calls.json, one problem at a time; the table and the picture are drawn from it.
"""

import argparse
import json
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import torch
from _schedulers import Run, settings
from _variants import named
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, exponential, karras, kl_optimal, power, resolve, shift, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import EDM, VP, Gaussian, RectifiedFlow
from diffkit.core.search import refine
from diffkit.core.solvers import (
    Solver,
    adams,
    ddim,
    deis,
    dpm_solver,
    dpmpp_2m,
    dpmpp_3m,
    ghvb,
    heun,
    ipndm,
    sa,
    unipc,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUDGETS, SEARCHED = range(4, 21), range(4, 7)
DEFAULT = "unipc(3, lower_order_final=True) on kl_optimal(0.75 std)"
"""The plan that is recommended."""

Errors: TypeAlias = dict[str, dict[str, float]]
"""By plan, then by calls."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A denoiser in z = x - b y and the noise to start from.

    Args:
        process: of the denoiser.
        top: the level s/a of the start.
        noise: standard normal values, ``[batch, ...]``.
        fresh: others, that a search may see.
        denoise: ``(x0 + sigma eps, sigma) -> E[x0 | ...]``.
        dear: a call takes long, so fewer numbers of calls are tried, and of our plans a short list.
    """

    name: str
    process: Gaussian
    top: float
    noise: Tensor
    fresh: Tensor
    denoise: Callable[[Tensor, float], Tensor]
    dear: bool = False

    @property
    def budgets(self) -> Sequence[int]:
        """Numbers of calls."""
        return (4, 5, 6, 7, 8, 10, 12, 15, 20) if self.dear else BUDGETS

    @property
    def start(self) -> float:
        """The time of the start."""
        return float(self.process.time(-math.log(self.top)))

    def table(self) -> Tensor:
        """The levels at 1000 equal times up to the start, as a discrete scheduler is given them."""
        return (-self.process.lam(self.start * torch.arange(1, 1001, dtype=torch.float64) / 1000)).exp()

    def inner(self, z: Tensor, t: Tensor) -> Tensor:
        """The denoiser as the core takes it."""
        a = float(self.process.a(t))
        return self.denoise(z / a, float(self.process.s(t)) / a)

    def run(self, plan: Plan) -> Tensor:
        """The end of a plan."""
        return integrate(self.inner, self.noise * self.process.s(plan.t[0]), plan)

    def reference(self, steps: int, solver: Solver) -> Tensor:
        """The end of the flow, by many steps that gather towards the data."""
        return self.run(solver(self.process, resolve(exponential(steps, 1e-4, self.top), self.process)))


def one() -> Problem:
    """The reference mixture, from the quantiles of the normal law."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.special.ndtri((torch.arange(128, dtype=torch.float64) + 0.5) / 128)[:, None]
    fresh = torch.randn(128, 1, generator=generator, dtype=torch.float64)
    return Problem("1-D", VP(), 150.0, noise, fresh, exact(Mixture.reference()))


def eight() -> Problem:
    """Twelve normal laws of deviation 0.1 to 0.4 about normal means."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    stds = torch.linspace(0.1, 0.4, 12, dtype=torch.float64)
    mixture = Mixture(torch.full_like(stds, 1 / 12), means, stds)
    noise, fresh = torch.randn(2, 512, 8, generator=generator, dtype=torch.float64)
    return Problem("8-D", RectifiedFlow(), 999.0, noise, fresh, exact(mixture))


def exact(mixture: Mixture) -> Callable[[Tensor, float], Tensor]:
    return lambda x, sigma: mixture.denoise(EDM(1.0), x, torch.tensor(sigma, dtype=torch.float64))


def speech() -> Problem:
    """The checkpoint `tiny` on a quarter second of two recordings, in z = x - b y of its Schrödinger bridge."""
    from diffkit.core.predict import TARGETS, anchor
    from diffkit.speech import audio
    from diffkit.speech.checkpoints import load
    from diffkit.speech.enhance import LEVEL, gated_rms
    from diffkit.speech.task import denoiser

    model, clips = load("tiny"), []
    for name in ("french-hiss.ogg", "romanian-hum.ogg"):
        path = ROOT / "packages/speech/examples" / name
        channels = next(iter(audio.blocks(path, 10**7)))  # of which one may be silent
        loudest = channels[channels.square().mean(1).argmax()][None]
        wave = audio.resample(loudest, audio.info(path).rate, 16000)
        clips.append((wave * LEVEL / gated_rms([wave], 16000))[:, 16000:20000].float())
    y = model.spectrum(torch.cat(clips))
    process = model.process
    inner = anchor(denoiser(model.network, process, y, TARGETS[model.target]), process, y)

    @torch.inference_mode()
    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = process.time(-math.log(sigma))
        return inner((x * process.a(t)).float(), t).double()

    generator = torch.Generator().manual_seed(0)
    noise, fresh = torch.randn(2, *y.shape, generator=generator, dtype=torch.float64)
    return Problem("speech", process, 6.0, noise, fresh, denoise, dear=True)


PROBLEMS = {"1-D": one, "8-D": eight, "speech": speech}

SOLVERS = named(
    (ddim,),
    (dpmpp_2m,),
    (dpmpp_3m,),
    *((adams, order) for order in (3, 4)),
    *((adams, order, {"corrector": True}) for order in (2, 3)),
    *((unipc, order) for order in (2, 3)),
    (unipc, 2, "bh1"),
    *((unipc, order, "bh1", {"lower_order_final": True}) for order in (2, 3)),
    *((unipc, order, {"lower_order_final": True}) for order in (2, 3)),
    *((deis, order) for order in (3, 4)),
    *((deis, order, "rho") for order in (3, 4)),
    *((ipndm, order) for order in (2, 3, 4)),
    (heun,),
    *((dpm_solver, order) for order in (2, 3)),
    (ghvb, 2.8),
    (sa, 3, 4, 0.0, {"legacy": True}),
)


def plans(problem: Problem, spread: float) -> dict[str, Callable[[int], Plan]]:
    """Every solver on every grid from the level of the start to 0, as functions of the number of steps.

    ``spread`` is the standard deviation of the data, in which some grids are measured.
    """
    start, top, process = problem.start, problem.top, problem.process
    grids: dict[str, Callable[[int], Grid | Schedule]] = {"uniform": lambda n: uniform(n, start)}
    for exponent in (1.1, 1.2, 1.5, 2.0, 3.0):
        grids[f"power({exponent:g})"] = lambda n, e=exponent: power(n, e, start)
    for share in (0.5, 0.75, 1.0, 1.5):
        grids[f"kl_optimal({share:g} std)"] = lambda n, d=share * spread: kl_optimal(n, top, d)
    for mu in (0.7, 0.85, 1.5):  # which takes the start to itself
        first = start / (mu - (mu - 1) * start)
        grids[f"shift({mu:g})"] = lambda n, mu=mu, first=first: shift(uniform(n, first), mu)
    for share in (0.03, 0.1):
        grids[f"karras({share:g} std)"] = lambda n, low=share * spread: karras(n, low, top)
        grids[f"exponential({share:g} std)"] = lambda n, low=share * spread: exponential(n, low, top)

    def plan(solver: Solver, grid: Callable[[int], Grid | Schedule]) -> Callable[[int], Plan]:
        return lambda n: solver(process, resolve(grid(n), process))

    pairs = product(SOLVERS.items(), grids.items())
    return {f"{method} on {where}": plan(solver, grid) for (method, solver), (where, grid) in pairs}


def at(plan: Callable[[int], Plan], calls: int) -> Plan | None:
    """The plan of exactly so many calls, if there is one."""
    for steps in dict.fromkeys((calls, (calls + 1) // 2, (calls + 2) // 3)):
        made = plan(steps)
        if made.nfe == calls:
            return made
    return None


def ours(problem: Problem, truth: Tensor, only: Collection[str] = ()) -> Iterator[tuple[str, int, float]]:
    """(plan, calls, error) of every solver on every grid, or of ``only`` some."""
    for (name, plan), calls in product(plans(problem, float(truth.std())).items(), problem.budgets):
        made = at(plan, calls) if not only or name in only else None
        if made is not None:
            yield name, calls, error(problem.run(made), truth)


def theirs(problem: Problem, truth: Tensor) -> Iterator[tuple[str, int, float]]:
    """(scheduler with its options, calls, error) of every setting."""
    table, spread = problem.table(), float(truth.std())
    for setting, calls in product(settings(), problem.budgets):
        try:
            run = Run(setting, table, spread, calls)
        except ValueError:  # it cannot make so many
            continue
        yield str(setting), calls, error(run.sample(problem.denoise, problem.noise), truth)


def searched(problem: Problem, truth: Tensor, fixed: Errors) -> Iterator[tuple[str, int, float]]:
    """(search, calls, error) of the best fixed plan, refined on other noise than it is judged by."""
    known = plans(problem, float(truth.std()))
    times = resolve(exponential(100, 1e-3, problem.top), problem.process)
    z = problem.fresh * float(problem.process.s(times[:1]))
    for calls in SEARCHED:
        first = at(known[best(fixed, calls)[0]], calls)
        plan = refine(problem.inner, problem.process, z, calls, first=first, grid=times, teacher=adams(3))
        yield "refine", calls, error(problem.run(plan), truth)


def error(end: Tensor, truth: Tensor) -> float:
    return float((end - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def best(errors: Errors, calls: int) -> tuple[str, float]:
    """The plan with the least error at so many calls."""
    found = {name: values[str(calls)] for name, values in errors.items() if str(calls) in values}
    return min(found.items(), key=lambda pair: pair[1])


def shortlist(results: dict[str, Any], count: int = 6) -> set[str]:
    """The plans of the least errors at any number of calls on the mixtures, and all on geometric levels."""
    short: set[str] = set()
    for errors, calls in product((results[name]["diffkit"] for name in ("1-D", "8-D")), map(str, BUDGETS)):
        found = {name: values[calls] for name, values in errors.items() if calls in values}
        short |= set(sorted(found, key=lambda name: found[name])[:count])
    return (
        short
        | {DEFAULT}
        | {name for name in results["1-D"]["diffkit"] if "karras" in name or "exponential" in name}
    )


def gather(rows: Iterator[tuple[str, int, float]]) -> Errors:
    errors: Errors = {}
    for plan, calls, value in rows:
        if math.isfinite(value):
            errors.setdefault(plan, {})[str(calls)] = float(f"{value:.4g}")
    return errors


SYSTEMS = ("diffkit", "searched", "diffusers")


def collect(name: str, systems: Collection[str], results: dict[str, Any]) -> Iterator[None]:
    """Fill in every error of one problem, by system, plan and calls, and how far the reference itself is sure."""
    problem = PROBLEMS[name]()
    many = 200 if problem.dear else 1500
    truth = problem.reference(many, adams(4))
    found: dict[str, Any] = results.setdefault(name, {})
    found["doubt"] = error(problem.reference(many // 4, dpm_solver(3)), truth)
    if "diffkit" in systems:
        found["diffkit"] = gather(ours(problem, truth, shortlist(results) if problem.dear else ()))
        yield
    if "searched" in systems:
        found["searched"] = gather(searched(problem, truth, found["diffkit"]))
        yield
    if "diffusers" in systems:
        found["diffusers"] = gather(theirs(problem, truth))
        yield


def tables(results: dict[str, Any]) -> list[str]:
    """For each problem the best of each system at each number of calls, and the recommended plan."""
    lines: list[str] = []
    for name, found in results.items():
        lines += ["", f"**{name}**: {(PROBLEMS[name].__doc__ or '').rstrip('.')}.", ""]
        lines += [
            "| calls | best plan | error | best scheduler of diffusers | error | recommended | searched |"
        ]
        lines += ["|---:|---|---:|---|---:|---:|---:|"]
        for calls in BUDGETS:
            if not any(str(calls) in values for values in found["diffusers"].values()):
                continue
            plan, own = best(found["diffkit"], calls)
            scheduler, other = best(found["diffusers"], calls)
            default = found["diffkit"][DEFAULT][str(calls)]
            refined = found["searched"].get("refine", {}).get(str(calls))
            mark = ["**" if value == min(own, other) else "" for value in (own, other)]
            lines.append(
                f"| {calls} | `{plan}` | {mark[0]}{own:.3g}{mark[0]} | {scheduler} | {mark[1]}{other:.3g}{mark[1]} "
                f"| {default:.3g} | {'' if refined is None else f'{refined:.3g}'} |"
            )
    return lines


def picture(results: dict[str, Any], path: Path) -> None:
    """Error against calls for each problem: the best of both systems, the recommended plan, what is searched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(results), 3.6), layout="constrained")
    for panel, (name, found) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
    ):
        families: dict[str, Errors] = {}
        for setting, values in found["diffusers"].items():
            families.setdefault(setting.split()[0], {})[setting] = values
        for errors in families.values():
            panel.plot(*_envelope(errors), color="0.8", lw=0.8)
        panel.plot(*_envelope(found["diffusers"]), color="tab:orange", label="best of diffusers")
        panel.plot(*_envelope(found["diffkit"]), color="tab:blue", label="best plan of diffkit")
        panel.plot(
            *_envelope({"": found["diffkit"][DEFAULT]}),
            "--",
            color="tab:blue",
            label=f"recommended: {DEFAULT}",
        )
        panel.plot(*_envelope(found["searched"]), "o", color="tab:green", ms=4, label="searched")
        panel.set(title=name, xlabel="network calls", yscale="log", ylim=(None, 1.0))
        panel.set_xticks(range(4, 21, 4))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120)


def _envelope(errors: Errors) -> tuple[list[int], list[float]]:
    calls = [n for n in BUDGETS if any(str(n) in values for values in errors.values())]
    return calls, [best(errors, n)[1] for n in calls]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=[], help="measure these anew")
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=SYSTEMS, help="of these")
    parser.add_argument(
        "--report", type=Path, default=ROOT / "docs/solvers.md", help="write the tables there"
    )
    options = parser.parse_args()
    from diffusers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning)  # what diffusers says of itself
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    store = HERE / "calls.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for name in options.problems:
        for _ in collect(name, options.systems, results):
            store.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    picture(results, options.report.parent / "images/calls.png")
    text = options.report.read_text()
    before, mark, rest = text.partition("<!-- table: calls -->\n")
    if not mark:
        raise ValueError(f"{options.report} has no place for the tables: <!-- table: calls -->.")
    after = rest[rest.index("<!-- /table -->") :]
    options.report.write_text(before + mark + "\n".join(tables(results)) + "\n\n" + after)


if __name__ == "__main__":
    main()
