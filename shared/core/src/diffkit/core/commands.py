"""Commands that every domain has for one import: `models`; and `search`, `calls` and `statistics`.

For the last three a domain gives one function, that makes problems of a checkpoint and inputs. It is called when a
command runs, so importing this module costs nothing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from diffkit.core.cli import progress
from diffkit.core.files import vacant

if TYPE_CHECKING:
    from diffkit.core.quality import Problem

Make: TypeAlias = Callable[[str, Path, int, str], "Sequence[Problem]"]
"""``(checkpoint, inputs, count, device) -> problems``: at least two, with about ``count`` inputs in all."""

_RIVALS = ("ddim", "dpmpp_2m", "adams")
_SAMPLING = 20  # steps to a sample that statistics are taken over


def commands(make: Make) -> dict[str, Callable[..., int]]:
    """The commands of a domain, by name."""

    def search(
        checkpoint: str,
        inputs: Path,
        out: Path = Path("plan.json"),
        method: str = "olss",
        budget: int = 6,
        solver: str | None = None,
        count: int = 16,
        device: str = "auto",
        overwrite: bool = False,
    ) -> int:
        """Search a plan of few network calls for a checkpoint, to be used with --plan.

        It is found on some of the inputs and judged on the others, by the distance from a hundred steps.

        Args:
            checkpoint: Its name, or a folder.
            inputs: What to sample for.
            out: Where the plan goes.
            method: boss, compensate, evolve, olss, refine or s3.
            budget: Network calls of the plan.
            solver: Of methods that search a grid, boss and evolve: what the grid is for; by default ddim.
            count: Inputs to use.
            device: cpu, cuda, cuda:1, mps, or auto for the best there is.
            overwrite: Replace a plan that exists.
        """
        from inspect import signature

        from diffkit.core import saved
        from diffkit.core.grid import resolve
        from diffkit.core.noise import Seeds
        from diffkit.core.plan import Plan
        from diffkit.core.quality import OWN, REFERENCE, fixed, measure, planned
        from diffkit.core.search import METHODS
        from diffkit.core.solvers import Solver, ddim
        from diffkit.core.types import lookup

        vacant(out, overwrite=overwrite)
        find = lookup(method, METHODS, "search")
        rule = ddim() if solver is None else saved.named(solver)
        options: dict[str, Any] = {"solver": rule} if "solver" in signature(find).parameters else {}
        if not isinstance(rule, Solver) or (solver is not None and not options):
            raise ValueError(f"{method} has no use for the solver {solver}: leave it out.")
        problem, *held_out = make(checkpoint, inputs, count, device)
        process = problem.process
        grid = resolve(problem.grid(REFERENCE), process)
        denoise, x = problem.centred(float(grid[0]))
        done = 0
        with progress(None) as step:

            def counted(x: Any, t: Any) -> Any:
                nonlocal done
                done += 1
                step(f"{method}: {done} network calls on {len(problem.like)} inputs", 0)
                return denoise(x, t)

            found = find(counted, process, x, budget, grid=grid, draw=Seeds(problem.seeds), **options)
            plan = found if isinstance(found, Plan) else rule(process, found)
            rivals = {name: fixed(problem, name, OWN, [budget]) for name in _RIVALS}
            mine, *others = measure(held_out, {method: [planned(plan)], **rivals})
        best = min(others, key=lambda point: point.error)
        saved.save(
            out,
            plan,
            process,
            checkpoint=problem.checkpoint,
            method=method,
            solver=solver,
            budget=budget,
            error={"before": best.error, "fixed": best.method, "after": mine.error},
            inputs={"search": len(problem.like), "held_out": sum(len(p.like) for p in held_out)},
        )
        print(
            f"{method}: {plan.nfe} calls, error {mine.error:.3g} on inputs held out; "
            f"the best fixed solver, {best.method}, has {best.error:.3g}: see {out}."
        )
        return 0

    def calls(
        checkpoint: str,
        inputs: Path,
        out: Path = Path("calls.png"),
        budgets: list[int] = [1, 2, 4, 8],  # noqa: B006 - read by the help, and never changed
        solvers: list[str] = ["ddim", "dpmpp_2m", "adams"],  # noqa: B006
        grids: list[str] = ["own"],  # noqa: B006
        plans: list[Path] = [],  # noqa: B006
        count: int = 8,
        reference: int = 100,
        device: str = "auto",
        overwrite: bool = False,
    ) -> int:
        """Draw quality against network calls, to choose how to sample: a picture, and a table as JSON.

        Quality is the distance from many steps of the same checkpoint, and the metrics where inputs have a
        known answer.

        Args:
            checkpoint: Its name, or a folder.
            inputs: What to sample for.
            out: The picture; the table stands beside it as .json.
            budgets: Numbers of network calls.
            solvers: Their names.
            grids: Names of grids; own is the checkpoint's.
            plans: Files that the search wrote.
            count: Inputs to use.
            reference: Steps of what all are compared to.
            device: cpu, cuda, cuda:1, mps, or auto for the best there is.
            overwrite: Replace a picture that exists.
        """
        from diffkit.core import quality, saved
        from diffkit.core.plan import Plan

        table = out.with_suffix(".json")
        vacant(out, table, overwrite=overwrite)
        problems = make(checkpoint, inputs, count, device)
        chosen = {
            solver if len(grids) == 1 else f"{solver} on {grid}": quality.fixed(
                problems[0], solver, grid, budgets
            )
            for grid in grids
            for solver in solvers
        }
        for path in plans:
            plan = saved.load(path, problems[0].process, checkpoint=problems[0].checkpoint)
            if not isinstance(plan, Plan):
                raise ValueError(f"{path} holds no plan, and only plans can be drawn.")
            chosen[path.stem] = [quality.planned(plan)]
        if not chosen:
            raise ValueError("there is nothing to draw: give solvers or plans.")
        total = len(problems) * (reference + sum(run.calls for own in chosen.values() for run in own))
        with progress(total) as step:
            points = quality.measure(problems, chosen, steps=reference, advance=step)
        used = sum(len(problem.like) for problem in problems)
        quality.record(points, table, checkpoint=checkpoint, inputs=used, reference=reference)
        quality.picture(points, out, title=f"{checkpoint}: quality against network calls")
        print(quality.table(points))
        print(f"See {out} and {table}.")
        return 0

    def statistics(
        checkpoint: str,
        inputs: Path,
        out: Path | None = None,
        levels: int = 120,
        count: int = 16,
        device: str = "auto",
        overwrite: bool = False,
    ) -> int:
        """Estimate the statistics that the solver dpm_v3 needs, and keep them beside the weights.

        They are taken over the checkpoint's own samples for the inputs, with two derivatives of the network at
        each level.

        Args:
            checkpoint: Its name, or a folder.
            inputs: What to sample for.
            out: Where they go; by default into the checkpoint's folder, where dpm_v3 looks for them.
            levels: How many noise levels; their slopes are taken, so that fewer than a hundred are unsafe.
            count: Inputs to use.
            device: cpu, cuda, cuda:1, mps, or auto for the best there is.
            overwrite: Replace statistics that exist.
        """
        from diffkit.core import saved
        from diffkit.core.search.statistics import estimate, save

        if out is not None:
            vacant(out, overwrite=overwrite)
        problem = make(checkpoint, inputs, count, device)[0]
        if out is None:
            if problem.checkpoint is None:
                raise ValueError("this checkpoint has no folder: say where the statistics go with --out.")
            out = problem.checkpoint / saved.STATISTICS
            vacant(out, overwrite=overwrite)
        with progress(levels) as step:

            def counted(x: Any, t: Any) -> Any:
                step("estimating", 0.5)
                return problem.denoise(x, t)

            x0 = problem.reference(_SAMPLING)
            found = estimate(counted, problem.process, x0, y=problem.y, count=levels, share=problem.share)
        save(out, found)
        print(f"Statistics at {levels} levels over {len(x0)} inputs: see {out}.")
        return 0

    return {"search": search, "calls": calls, "statistics": statistics}


def models(module: str) -> Callable[[], None]:
    """The command that lists the checkpoints of a domain, in the folder that ``module`` calls EMBEDDED."""

    def models() -> None:
        """List the checkpoints inside this package."""
        from importlib import import_module

        from diffkit.core.checkpoint import read_config

        for path in sorted(import_module(module).EMBEDDED.glob("*/config.json")):
            folder = path.parent
            card = (folder / "card.md").read_text().split("\n\n")[:2]
            about = " ".join(" ".join(card).lstrip("# ").split())
            print(f"{folder.name}  ({read_config(folder)['task']})  {about}")

    return models
