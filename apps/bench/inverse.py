"""Error against network calls of every inverse-problem method, and of deepinv's DPS and DiffPIR, on digits.

``python apps/bench/inverse.py [--measure] [--report apps/bench/inverse.md]``

A small network learns the 8x8 digits of scikit-learn, of which 200 are held out, in about a minute on one core.
Held-out digits are restored from half of their pixels, and from the means of 2x2 blocks, both with normal
noise. Every method asks the same denoiser; calls are counted as they are made, and a backward pass, which DPS,
PiGDM and Steered Diffusion take with each, costs two more. Each method's free number is chosen for each number of
calls by the error on digits of the training set, ours and theirs alike; the three or four candidates were set by
hand, after earlier runs that also showed these held-out digits.

Three numbers: the root mean square error of one sample, with its standard error over images; the energy score,
E abs(x - truth) - E abs(x - x')/2 over pairs of samples, which in expectation no law beats but the true
posterior; and abs(A x - y) per measurement in units of the noise, which is 1 for the truth. The results are kept in
inverse.json, from which the table and the picture are drawn.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from solvers import machine
from torch import Tensor, nn

from diffkit.core.grid import kl_optimal, resolve
from diffkit.core.inverse import (
    Average,
    Mask,
    ddnm,
    ddrm,
    dds,
    diffpir,
    dps,
    flowchef,
    pigdm,
    renoise,
    renoised,
    repaint,
    steered,
)
from diffkit.core.inverse.operator import solve
from diffkit.core.predict import Preconditioned, wrap
from diffkit.core.process import VP, Gaussian, RectifiedFlow
from diffkit.core.sample import sample
from diffkit.core.solvers import ddim, unipc
from diffkit.core.train import denoising_loss
from diffkit.core.types import Denoiser, expand_as

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROCESS, SPREAD = VP(), 0.75  # the digits' standard deviation
BUDGETS, IMAGES, SAMPLES, TUNING, NOISE = (10, 20, 50), 64, 2, 64, 0.1


def digits() -> tuple[Tensor, Tensor]:
    """1,597 digits to learn and 200 others, ``[n, 1, 8, 8]`` in [-1, 1]."""
    from sklearn.datasets import load_digits

    images, _ = load_digits(return_X_y=True)
    images = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return images[200:], images[:200]


class Network(nn.Module):
    """Residual convolutions, told the noise level by a scale of each channel."""

    def __init__(self, width: int = 32, depth: int = 5):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.level = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, depth * width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(2 * depth)
        )
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        lam = PROCESS.lam(t.clamp(min=1e-5)).to(x)[:, None]
        waves = lam * torch.linspace(0.2, 3.0, 8, device=x.device)
        levels = self.level(torch.cat([waves.sin(), waves.cos()], 1)).chunk(len(self.blocks) // 2, 1)
        x = self.first(x)
        for k, level in enumerate(levels):
            inner = self.blocks[2 * k](x) * (1 + level[..., None, None])
            x = x + self.blocks[2 * k + 1](inner)
        return self.last(x)


def learn(data: Tensor, steps: int = 2000, batch: int = 64) -> Denoiser:
    """A network trained with Adam, its rate falling to 0, and averaged over the last steps."""
    torch.manual_seed(0)
    network, target = Network(), Preconditioned(0.85)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x0 = data[torch.randint(len(data), (batch,))]
        loss = denoising_loss(network, PROCESS, x0, target=target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
    return wrap(average.module.eval().requires_grad_(False), PROCESS, target)


@dataclass
class Counted:
    """A denoiser that counts its calls."""

    inner: Denoiser
    calls: int = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x, t)


@dataclass(frozen=True, eq=False)
class Problem:
    """Digits ``truth`` ``[n, 1, 8, 8]``, each as often as there are samples, and their measurements."""

    name: str
    operator: Any
    truth: Tensor
    y: Tensor

    def pseudo_inverse(self) -> Tensor:
        """A^+ y."""
        return solve(self.operator, self.operator.A_adjoint(self.y))


def problems(truth: Tensor, seed: int = 0) -> Iterator[Problem]:
    """Both problems of ``truth``, with a mask and noise for each image."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(truth.shape, generator=generator).flatten(1).argsort(1).argsort(1) < 32
    for name, operator in (
        ("half of the pixels", Mask(known.reshape(truth.shape))),
        ("2x2 means", Average(2)),
    ):
        clean = operator.A(truth)
        noise = NOISE * torch.randn(clean.shape, generator=generator)
        y = clean + (noise * operator.mask if isinstance(operator, Mask) else noise)
        yield Problem(name, operator, truth, y)


Run = Callable[[Denoiser, Problem, int, Any, Sequence[int]], Tensor]
"""(denoiser, problem, calls, the free number, seeds) -> samples."""


def draw(denoise: Denoiser, p: Problem, n: int, seeds: Sequence[int], solver: Any = None) -> Tensor:
    """Samples in ``n`` steps of equal angle, on a denoiser with or without guide."""
    grid = kl_optimal(n, sigma_data=SPREAD)
    return sample(denoise, PROCESS, p.truth, solver=solver, grid=grid, seeds=seeds)


def on_flow(denoise: Denoiser) -> Denoiser:
    """The denoiser on a rectified flow, of which x0 + sigma eps is the same."""

    def inner(x: Tensor, t: Tensor) -> Tensor:
        same = PROCESS.time(RectifiedFlow().lam(t))
        return denoise(x * expand_as(PROCESS.a(same) / (1 - t), x), same)

    return inner


def planned(process: Gaussian, n: int, eta: float, start: float = 1.0) -> Any:
    grid = resolve(kl_optimal(n, sigma_data=SPREAD), process)
    return ddim(eta)(process, torch.cat([grid.new_tensor([start]), grid[1:]]))


def published_dps(d: Denoiser, p: Problem, n: int, zeta: float, seeds: Sequence[int]) -> Tensor:
    plan = planned(PROCESS, n, 1.0)
    return sample(
        dps(p.operator, p.y, PROCESS, scale=zeta, plan=plan)(d), PROCESS, p.truth, plan=plan, seeds=seeds
    )


def published_flowchef(d: Denoiser, p: Problem, n: int, scale: float, seeds: Sequence[int]) -> Tensor:
    flow = RectifiedFlow()
    plan = planned(flow, n, 0.0, 0.999)
    guided = flowchef(p.operator, p.y, scale=scale, plan=plan)(on_flow(d))
    return sample(guided, flow, p.truth, plan=plan, seeds=seeds)


def travelled(d: Denoiser, p: Problem, n: int, repeats: int, seeds: Sequence[int]) -> Tensor:
    steps = (n + repeats - 1) // repeats
    return draw(d, p, steps, seeds, repaint(p.operator, p.y, jump=1, repeats=repeats))


def square(p: Problem) -> Callable[[Tensor], Tensor]:
    return lambda x0: (p.operator.A(x0) - p.y).flatten(1).square().sum(1)


NONE = (None,)
METHODS: dict[str, tuple[str, Sequence[Any], Run]] = {
    "`ddnm`, `ddim(1.0)`": (
        "",
        NONE,
        lambda d, p, n, v, s: draw(ddnm(p.operator, p.y)(d), p, n, s, ddim(1.0)),
    ),
    "`renoised(ddnm)`": (
        "eta",
        (0.85, 1.0),
        lambda d, p, n, v, s: draw(d, p, n, s, renoised(ddnm(p.operator, p.y), v)),
    ),
    "`renoised(dds)`": (
        "gamma",
        (20.0, 100.0, 1000.0),
        lambda d, p, n, v, s: draw(d, p, n, s, renoised(dds(p.operator, p.y, gamma=v))),
    ),
    "`ddrm`": (
        "eta",
        (0.85, 1.0),
        lambda d, p, n, v, s: draw(d, p, n, s, ddrm(p.operator, p.y, noise=NOISE, eta=v)),
    ),
    "`diffpir`, `renoise(0.55)`": (
        "scale",
        (0.02, 0.1, 0.5),
        lambda d, p, n, v, s: draw(
            diffpir(p.operator, p.y, PROCESS, noise=NOISE, scale=v)(d), p, n, s, renoise(0.55)
        ),
    ),
    "`repaint`, `jump` 1": ("repeats", (2, 5), travelled),
    "`flowchef`, its plan": ("scale", (10.0, 30.0, 100.0), published_flowchef),
    "`flowchef`, `unipc(3)`": (
        "scale",
        (100.0, 300.0),
        lambda d, p, n, v, s: draw(flowchef(p.operator, p.y, scale=v)(d), p, n, s, unipc(3)),
    ),
    "`steered`, `ddim(1.0)`": (
        "scale",
        (3.0, 10.0, 30.0),
        lambda d, p, n, v, s: draw(steered(square(p), PROCESS, scale=v)(d), p, n, s, ddim(1.0)),
    ),
    "`dps`, its plan": ("zeta", (0.5, 1.0, 2.0), published_dps),
    "`dps`, `ddim(1.0)`": (
        "scale",
        (15.0, 30.0, 60.0, 120.0),
        lambda d, p, n, v, s: draw(dps(p.operator, p.y, PROCESS, scale=v)(d), p, n, s, ddim(1.0)),
    ),
    "`pigdm`, `ddim(1.0)`": (
        "spread",
        (0.1, 0.2, 0.4),
        lambda d, p, n, v, s: draw(
            pigdm(p.operator, p.y, PROCESS, noise=NOISE, spread=v)(d), p, n, s, ddim(1.0)
        ),
    ),
    "`pigdm`, `unipc(3)`": (
        "spread",
        (0.1, 0.2, 0.4),
        lambda d, p, n, v, s: draw(
            pigdm(p.operator, p.y, PROCESS, noise=NOISE, spread=v)(d), p, n, s, unipc(3)
        ),
    ),
}


def theirs() -> dict[str, tuple[str, Sequence[Any], Run]]:
    """deepinv's methods, whose images are in [0, 1]; none where it is not installed."""
    try:
        import deepinv
    except ImportError:
        return {}
    from deepinv.models import Denoiser as Base
    from deepinv.optim.data_fidelity import L2
    from deepinv.physics import GaussianNoise, LinearPhysics
    from deepinv.sampling import DPS, DiffPIR

    class Wrapped(Base):
        """Our denoiser of (x0 + sigma eps, sigma)."""

        def __init__(self, denoise: Denoiser):
            super().__init__()
            self.inner = denoise

        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            sigma = torch.as_tensor(sigma, dtype=torch.float64).flatten()[0]
            t = PROCESS.time(-(2 * sigma).log())
            state = (2 * x.float() - 1) * float(PROCESS.a(t))
            return ((self.inner(state, t) + 1) / 2).to(x)

    def physics(p: Problem) -> tuple[Any, Tensor]:
        """The operator in their class, and the measurement of (x + 1)/2."""
        made = LinearPhysics(
            A=lambda x, **_: p.operator.A(x),
            A_adjoint=lambda y, **_: p.operator.A_adjoint(y),
            noise_model=GaussianNoise(NOISE / 2),  # type: ignore[arg-type]
        )
        return made, (p.y + p.operator.A(torch.ones_like(p.truth))) / 2

    def diffpir_of_theirs(d: Denoiser, p: Problem, n: int, scale: float, seeds: Sequence[int]) -> Tensor:
        made, y = physics(p)
        return (
            2
            * DiffPIR(Wrapped(d), L2(), sigma=NOISE / 2, max_iter=n, zeta=0.3, lambda_=scale)(
                y, made, seed=seeds[0] + 1
            )
            - 1
        )

    def dps_of_theirs(d: Denoiser, p: Problem, n: int, weight: float, seeds: Sequence[int]) -> Tensor:
        made, y = physics(p)
        method = DPS(Wrapped(d), num_steps=n + 1, weight=weight)
        return (2 * method(y, made, x_init=p.truth.shape, seed=seeds[0] + 1) - 1).float()

    version = deepinv.__version__
    return {
        f"deepinv {version} DiffPIR": ("scale", (0.02, 0.1, 0.5), diffpir_of_theirs),
        f"deepinv {version} DPS": ("weight", (15.0, 30.0, 60.0, 120.0), dps_of_theirs),
    }


def scores(p: Problem, x: Tensor, samples: int) -> dict[str, float]:
    """The three numbers of ``samples`` runs of the same images."""
    x, truth = x.unflatten(0, (samples, -1)), p.truth.unflatten(0, (samples, -1))
    error = (x - truth).square().mean((2, 3, 4)).sqrt()
    rest = (p.operator.A(x.flatten(0, 1)) - p.y).square().sum() / (
        p.operator.A(torch.ones_like(p.truth)).sum()
    )
    pairs = torch.stack([(x[i] - x[j]).flatten(1).norm(dim=1) for i in range(samples) for j in range(i)])
    energy = (x - truth).flatten(2).norm(dim=2).mean(0) - pairs.mean(0) / 2
    images = error.mean(0)
    return {
        "error": float(images.mean()),
        "se": float(images.std() / math.sqrt(len(images))),
        "energy": float(energy.mean()),
        "energy_se": float(energy.std() / math.sqrt(len(images))),
        "consistency": float(rest.sqrt()) / NOISE,
    }


def measure() -> dict[str, Any]:
    """Every method on both problems at every number of calls."""
    training, held = digits()
    start = time.perf_counter()
    denoise = learn(training)
    seconds = time.perf_counter() - start
    rows: list[dict[str, Any]] = []
    shown: dict[str, dict[str, list[float]]] = {}
    truth, tuned = held[:IMAGES].repeat(SAMPLES, 1, 1, 1), training[:TUNING]
    for p, q in zip(problems(truth), problems(tuned, seed=1), strict=True):
        start_row = {"problem": p.name, "method": "the pseudo-inverse", "calls": 0, "setting": ""}
        rows.append(start_row | scores(p, p.pseudo_inverse(), SAMPLES))
        shown[p.name] = {"truth": _plain(p.truth), "measured": _plain(p.pseudo_inverse())}
        for (name, (letter, values, run)), budget in product((METHODS | theirs()).items(), BUDGETS):
            best = (
                min(values, key=lambda v: _trial(run, denoise, q, budget, v))
                if len(values) > 1
                else values[0]
            )
            counted = Counted(denoise)
            x = run(counted, p, budget, best, range(len(p.truth)))
            setting = f"{letter} {best}" if letter else ""
            rows.append(
                {
                    "problem": p.name,
                    "method": name,
                    "calls": counted.calls,
                    "budget": budget,
                    "setting": setting,
                }
                | scores(p, x, SAMPLES)
            )
            if budget == 50:
                shown[p.name][name] = _plain(x)
            print({k: v if isinstance(v, str) else round(v, 3) for k, v in rows[-1].items()}, flush=True)
    return {"machine": machine("cpu"), "training": round(seconds), "rows": rows, "shown": shown}


def _trial(run: Run, denoise: Denoiser, p: Problem, budget: int, value: Any) -> float:
    x = run(denoise, p, budget, value, range(1000, 1000 + len(p.truth)))
    error = float((x - p.truth).square().mean())
    return error if math.isfinite(error) else math.inf


def _plain(x: Tensor, count: int = 6) -> list[float]:
    return [round(v, 2) for v in x[:count].flatten().tolist()]


def tables(results: dict[str, Any]) -> str:
    """Both problems as markdown."""
    run = f"{results['machine']} Training took {results['training']} s."
    lines = [
        "# Inverse problems on digits",
        "",
        "Root mean square error of a sample (pixels in [-1, 1]) at 10, 20 and 50 network calls, plus or minus a "
        f"standard error over {IMAGES} held-out digits with {SAMPLES} samples each. At 50 calls the energy score, "
        "least for the exact posterior, the distance from the measurement in units of its noise (1 is right), and "
        "the number that was chosen on training digits. Where a method cannot make just so many calls, the number "
        "it made is in brackets. `apps/bench/inverse.py` says how. Candidates for that number were widened after a "
        "look at earlier runs; the choice among them is by training digits alone.",
    ]
    for problem in dict.fromkeys(row["problem"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["problem"] == problem]
        lines += ["", f"## {problem.capitalize()}, noise {NOISE}", ""]
        lines += ["| method | " + " | ".join(map(str, BUDGETS)) + " | energy score | distance | chosen |"]
        lines += ["|---" * (len(BUDGETS) + 4) + "|"]
        for name in dict.fromkeys(row["method"] for row in rows):
            found = {row.get("budget", 50): row for row in rows if row["method"] == name}
            cells = [_cell(found[n], n) if n in found else "" for n in BUDGETS]
            at = found[50]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {at['energy']:.2f} ± {at['energy_se']:.2f} "
                f"| {at['consistency']:.2f} | {at['setting']} |"
            )
    return "\n".join([*lines, "", run]) + "\n"


def _cell(row: dict[str, Any], budget: int) -> str:
    calls = "" if row["calls"] in (0, budget) else f" ({row['calls']})"
    return f"{row['error']:.3f} ± {row['se']:.3f}{calls}"


def picture(results: dict[str, Any], path: Path) -> None:
    """The first digits, what is measured of them, and a sample of every method at 50 calls."""
    from matplotlib.figure import Figure

    shown = results["shown"]
    height = 0.42 * max(len(rows) for rows in shown.values())
    figure = Figure(figsize=(8, height), layout="constrained")
    for panel, (name, rows) in zip(figure.subplots(1, len(shown), sharey=True), shown.items(), strict=True):
        image = torch.tensor(list(rows.values())).reshape(len(rows), -1, 8, 8)
        image = nn.functional.pad(image, (0, 1, 0, 1), value=1.0).permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
        panel.imshow(image, cmap="gray", vmin=-1, vmax=1)
        panel.set_yticks([9 * k + 4 for k in range(len(rows))], [label.replace("`", "") for label in rows])
        panel.tick_params(length=0, labelsize=8)  # the rows of both panels are the same
        panel.set_xticks([])
        panel.spines[:].set_visible(False)
        panel.set_title(name, fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--measure", action="store_true", help="measure anew")
    parser.add_argument("--report", type=Path, default=HERE / "inverse.md", help="write the tables there")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # what deepinv says of itself
    torch.set_num_threads(1)
    store = HERE / "inverse.json"
    if options.measure:
        store.write_text(json.dumps(measure(), separators=(",", ":")) + "\n")
    results: dict[str, Any] = json.loads(store.read_text())
    options.report.write_text(tables(results))
    picture(results, ROOT / "docs/images/inverse.png")


if __name__ == "__main__":
    main()
