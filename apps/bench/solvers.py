"""The loop's cost beside diffusers' scheduler, and beside the network alone; prints and writes a table.

``python apps/bench/solvers.py [--report apps/bench/solvers.md] [--device cpu]``

Overhead: a free network (the state itself) on a 4x3x32x32 tensor, 20 steps; the time of a step is then the
solver's own. Both run in the same process, interleaved, and the minimum of many runs is taken. Compiled: a
real convolutional network, the whole loop under ``torch.compile(fullgraph=True)`` against as many calls of
the same compiled network alone.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from diffkit.core.grid import uniform
from diffkit.core.plan import integrate
from diffkit.core.process import VP, Cosine
from diffkit.core.solvers import Solver, adams, ddim, deis, dpmpp_2m, dpmpp_3m, heun

STEPS, SHAPE = 20, (4, 3, 32, 32)


def interleaved(functions: dict[str, Callable[[], object]], device: str, runs: int) -> dict[str, float]:
    """Seconds of the fastest of ``runs`` calls of each function, called in turn."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(runs):
        for name, fn in functions.items():
            start = time.perf_counter()
            fn()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def overhead(device: str, runs: int) -> list[tuple[str, float, float]]:
    """(name, microseconds a step here, in diffusers) for the methods that both have."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    pairs: list[tuple[str, Solver, object]] = [
        ("DDIM", ddim(), DDIMScheduler(prediction_type="sample", clip_sample=False)),
        ("DPM-Solver++ 2M", dpmpp_2m(), DPMSolverMultistepScheduler(prediction_type="sample")),
        (
            "DPM-Solver++ 3M",
            dpmpp_3m(),
            DPMSolverMultistepScheduler(prediction_type="sample", solver_order=3),
        ),
        (
            "UniPC-2 / adams(2, corrector)",
            adams(2, corrector=True),
            UniPCMultistepScheduler(prediction_type="sample"),
        ),
        (
            "DEIS-3 in log rho",
            deis(3, "lam"),
            DEISMultistepScheduler(prediction_type="sample", solver_order=3),
        ),
        ("Heun", heun(), HeunDiscreteScheduler(prediction_type="sample")),
    ]
    x = torch.randn(SHAPE, device=device)
    rows: list[tuple[str, float, float]] = []
    for name, solver, scheduler in pairs:
        plan = solver(Cosine(), uniform(STEPS))

        def ours(plan: object = plan) -> Tensor:
            return integrate(lambda x, t: x, x, plan)  # type: ignore[arg-type]

        def theirs(scheduler: object = scheduler) -> Tensor:
            scheduler.set_timesteps(STEPS, device=device)  # type: ignore[attr-defined]
            state = x
            for t in scheduler.timesteps:  # type: ignore[attr-defined]
                state = scheduler.step(state, t, state).prev_sample  # type: ignore[attr-defined]
            return state

        def setup(scheduler: object = scheduler) -> None:
            scheduler.set_timesteps(STEPS, device=device)  # type: ignore[attr-defined]

        with torch.inference_mode():
            best = interleaved({"ours": ours, "theirs": theirs, "setup": setup}, device, runs)
        best["theirs"] -= best["setup"]  # a plan is made once too, and is not timed
        calls = {"ours": plan.nfe, "theirs": len(scheduler.timesteps)}  # type: ignore[attr-defined]
        rows.append((name, 1e6 * best["ours"] / calls["ours"], 1e6 * best["theirs"] / calls["theirs"]))
    return rows


def compiled(device: str, runs: int) -> tuple[float, float]:
    """Milliseconds of a compiled 20-step loop, and of 20 calls of the compiled network alone."""
    width = 32
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.SiLU()]
    layers += [layer for _ in range(4) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.SiLU())]
    network = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1)).to(device).eval()
    x = torch.randn(SHAPE, device=device)
    plan = dpmpp_2m()(VP(), uniform(STEPS))
    mode = "reduce-overhead" if device == "cuda" else None
    loop = torch.compile(lambda x: integrate(lambda x, t: network(x), x, plan), fullgraph=True, mode=mode)
    single = torch.compile(network, fullgraph=True, mode=mode)

    def alone() -> None:
        for _ in range(STEPS):
            single(x)

    with torch.inference_mode():
        loop(x)
        alone()
        best = interleaved({"loop": lambda: loop(x), "alone": alone}, device, runs)
    return 1e3 * best["loop"], 1e3 * best["alone"]


def report(device: str, runs: int) -> str:
    """The table as markdown."""
    lines = ["# The loop's own cost", "", f"State {'x'.join(map(str, SHAPE))}, {STEPS} steps, {device}.", ""]
    lines += ["| method | diffkit, us a step | diffusers, us a step | ratio |", "|---|---|---|---|"]
    for name, ours, theirs in overhead(device, runs):
        lines.append(f"| {name} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.3f} |")
    loop, alone = compiled(device, max(10, runs // 5))
    lines += ["", "| compiled | ms | ratio |", "|---|---|---|"]
    lines += [f"| {STEPS} network calls alone | {alone:.2f} | 1 |"]
    lines += [f"| the {STEPS}-step DPM-Solver++ 2M loop, one graph | {loop:.2f} | {loop / alone:.3f} |", ""]
    lines.append(machine(device))
    return "\n".join(lines) + "\n"


def machine(device: str) -> str:
    """What ran it, with versions."""
    import diffusers

    chip = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return f"{chip}, {torch.get_num_threads()} threads, torch {torch.__version__}, diffusers {diffusers.__version__}."


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in info.read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()


def command(about: str | None, report: Callable[[str, int], str]) -> None:
    """Print a report of a device and a number of runs, and write it where it is asked for."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0] if about else None)
    parser.add_argument("--report", type=Path, help="also write the table to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    text = report(options.device, options.runs)
    print(text)
    if options.report:
        options.report.write_text(text)


if __name__ == "__main__":
    command(__doc__, report)
