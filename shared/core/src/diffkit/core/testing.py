"""The laws that every process, solver and domain obeys, as functions to call from a test.

They raise AssertionError with the measured number. Ground truth is a Gaussian mixture, whose denoiser and
flow are known (:class:`diffkit.core.mixture.Mixture`).
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from diffkit.core.categorical import Categorical, Jumps
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.likelihood import log_prob
from diffkit.core.mixture import Mixture
from diffkit.core.plan import Plan, integrate, invert
from diffkit.core.process import Gaussian, Law
from diffkit.core.solvers import Solver
from diffkit.core.types import float64

_REFERENCE = Mixture.reference()


def check_marginal(
    process: Gaussian, *, t: float = 0.8, u: float = 0.3, count: int = 200_000, seed: int = 0
) -> None:
    """Law 1: a draw of ``posterior(corrupt(x0, t), x0, t, u)`` has the law of ``corrupt(x0, u)``.

    x0, y are fixed; the mean is tested within 5 standard errors and the variance likewise.
    """
    generator = torch.Generator().manual_seed(seed)
    x0, y = torch.full((count,), 0.7, dtype=torch.float64), torch.full((count,), -0.4, dtype=torch.float64)

    def noise() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    time, earlier = torch.tensor(t), torch.tensor(u)
    x_t = process.corrupt(x0, time, y=y, noise=noise())
    x_u = process.posterior(x_t, x0, time, earlier, y=y).sample(noise())
    law = process.marginal(x0, earlier, y=y)
    std = float(law.std)
    off = abs(float(x_u.mean() - law.mean[0])) / (std / math.sqrt(count))
    spread = abs(float(x_u.var() / std**2) - 1) / math.sqrt(2 / count)
    assert off < 5, f"{process}: the posterior's mean is off by {off:.1f} standard errors at {u}"
    assert spread < 5, f"{process}: the posterior's variance is off by {spread:.1f} standard errors at {u}"


def check_choices(
    process: Categorical | Jumps, *, t: float = 0.8, u: float = 0.3, classes: int | None = None
) -> None:
    """Law 1 of a categorical process, by enumeration: the posterior's law over all x_t is that of x_u, to 1e-12.

    ``classes`` are those of the data, the first of the process: without a mask.
    """
    noise = process.process if isinstance(process, Jumps) else process
    states = torch.eye(noise.size, dtype=torch.float64)
    for x0 in states[:classes]:
        posterior = process.posterior(states, x0.expand_as(states), float64(t), float64(u)).probs
        gap = noise.marginal(x0, t).probs @ posterior - noise.marginal(x0, u).probs
        assert float(gap.abs().max()) < 1e-12, (
            f"{process}: the posterior is off by {gap.abs().max():.1e} at {u}"
        )


def check_likelihood(process: Gaussian, *, mixture: Mixture | None = None, steps: int = 64) -> None:
    """Law 6: log p by the probability flow is the mixture's within 1e-3, from the law at the noisiest time."""
    mixture = mixture or _REFERENCE
    points = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64)[:, None].expand(-1, mixture.means.shape[1])
    grid = torch.cat([lam_uniform(steps - 1)(process), torch.zeros(1).double()])
    out = log_prob(
        lambda z, t: mixture.denoise(process, z, t),
        process,
        points,
        grid=grid,
        prior=lambda z: mixture.log_prob(process, z, grid[0]),
    )
    gap = float((out - mixture.log_prob(process, points, 0.0)).abs().max())
    assert gap < 1e-3, f"{process}: log p is off by {gap:.1e}"


def check_correlation(process: Gaussian, *, times: Sequence[float] = (0.9, 0.6, 0.3, 0.1)) -> None:
    """rho lies in [0, 1], is 1 at equal times, and composes: rho(t, r) = rho(t, u) rho(u, r)."""
    for t in times:
        assert abs(float(process.rho(t, t)) - 1) < 1e-12
    for t, u, r in zip(times, times[1:], times[2:], strict=False):
        whole, parts = float(process.rho(t, r)), float(process.rho(t, u) * process.rho(u, r))
        assert 0 <= whole <= 1, f"{process}: rho{t, r} = {whole}"
        assert abs(whole - parts) < 1e-10, f"{process}: rho{t, r} = {whole}, in two steps {parts}"


@cache
def flow(
    process: Gaussian, mixture: Mixture, lam: tuple[float, float], count: int = 17
) -> tuple[Tensor, Tensor]:
    """The exact probability flow of the mixture between two values of lambda, from ``count`` start points.

    Returns z at its start and end, ``[count, 1]``. With w = z/s the flow is dw/dlambda = e^lambda D, which is
    smooth even where a tabulated schedule is not. A thousand steps of the classical fourth-order method,
    whose nodes are known, need the inverse of lambda once; they agree with an adaptive method to 1e-11.
    """
    steps = 1000
    h = (lam[1] - lam[0]) / steps
    levels = torch.linspace(lam[0], lam[1], 2 * steps + 1, dtype=torch.float64)
    times, growth = process.time(levels), levels.exp().tolist()
    scales = process.s(times)

    def slope(k: int, w: Tensor) -> Tensor:
        return growth[k] * mixture.denoise(process, w * scales[k], times[k])

    first = (process.a(times[0]).square() + scales[0].square()).sqrt()
    z = torch.linspace(-1.5, 1.5, count, dtype=torch.float64)[:, None] * first
    w = z / scales[0]
    for k in range(0, 2 * steps, 2):
        one = slope(k, w)
        two = slope(k + 1, w + h / 2 * one)
        three = slope(k + 1, w + h / 2 * two)
        four = slope(k + 2, w + h * three)
        w = w + h / 6 * (one + 2 * two + 2 * three + four)
    return z, w * scales[-1]


def graded(process: Gaussian, steps: int, lam: tuple[float, float], halvings: int) -> Tensor:
    """``steps`` steps equal in lambda, the first halved ``halvings`` times.

    A multistep method starts itself with a step of low order; here that step is tiny, so what is measured is
    the method and not its start.
    """
    h = (lam[1] - lam[0]) / steps
    ramp = [lam[0]] + [lam[0] + h * 2.0 ** (k - halvings) for k in range(halvings)]
    return process.time(
        torch.tensor(ramp + [lam[0] + h * (k + 1) for k in range(steps)], dtype=torch.float64)
    )


def measured_order(
    solver: Solver,
    process: Gaussian,
    *,
    mixture: Mixture | None = None,
    steps: tuple[int, int] = (40, 80),
    lam: tuple[float, float] = (-1.5, 2.0),
    halvings: int = 12,
) -> float:
    """The slope of log error against log step on the mixture's flow between two values of lambda (law 2).

    The error is the largest over 17 start points. The range is cut to what the process reaches.
    """
    mixture = mixture or _REFERENCE
    ends = process.lam(torch.tensor([0.999, 0.001], dtype=torch.float64)).tolist()
    lam = (max(lam[0], ends[0]), min(lam[1], ends[1]))
    z, truth = flow(process, mixture, lam)
    errors: list[float] = []
    for n in steps:
        plan = solver(process, graded(process, n, lam, halvings))
        end = integrate(lambda x, t: mixture.denoise(process, x, t), z, plan)
        errors.append(float((end - truth).abs().max()))
    return math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0])


def check_order(solver: Solver, process: Gaussian, *, tolerance: float = 0.15, **options: Any) -> None:
    """Law 2: the measured order is the declared one, or better."""
    slope = measured_order(solver, process, **options)
    assert slope > solver.order - tolerance, (
        f"{solver.name} on {process}: order {slope:.2f}, not {solver.order}"
    )


def law_on_normal(plan: Plan, process: Gaussian, *, mean: float = 0.0, std: float = 0.5) -> Law:
    """The exact law of a plan's end for normal data of ``mean`` and ``std``, started from the law of its first time.

    The denoiser is affine then, so that mean and covariance of memory obey a linear recursion: the law in
    distribution of a method that draws noise, without sampling. The truth is N(a mean, a^2 std^2 + s^2).
    """
    a, s = process.a(plan.t), process.s(plan.t)
    gain = a * std**2 / ((a * std) ** 2 + s**2)
    centre = torch.zeros(plan.slots, dtype=torch.float64)
    spread = torch.zeros(plan.slots, plan.slots, dtype=torch.float64)
    centre[0], spread[0, 0] = a[0] * mean, (a[0] * std) ** 2 + s[0] ** 2
    for k, (U, V, B, C) in enumerate(zip(plan.U, plan.V, plan.B, plan.C, strict=True)):
        step = V + gain[k] * torch.outer(B, U)
        centre = step @ centre + B * (1 - gain[k] * a[k]) * mean
        spread = step @ spread @ step.T + torch.outer(C, C)
    return Law(centre[0], spread[0, 0].sqrt())


def check_round_trip(solver: Solver, process: Gaussian, *, grid: Tensor | None = None) -> None:
    """Law 4: a plan and its inverse restore noise, and data, to 1e-10 of their size.

    ``grid`` defaults to 40 uniform steps from 0.99.
    """
    plan = solver(process, uniform(40, 0.99) if grid is None else grid)
    z = torch.linspace(-1.5, 1.5, 17, dtype=torch.float64)[:, None]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return _REFERENCE.denoise(process, x, t)

    noise = z * process.s(plan.t[0])
    there = integrate(denoise, noise, plan, full=True)
    back = integrate(denoise, z, plan.inverse(), memory=there)
    out = integrate(denoise, z, plan, memory=invert(denoise, z, plan))
    for kind, start, end in (("noise", noise, back), ("data", z, out)):
        gap = float((end - start).abs().max() / start.abs().max())
        assert gap < 1e-10, f"{solver.name} on {process}: the round trip from {kind} is off by {gap:.1e}"


def check_seeds(draw_samples: Callable[[Sequence[int]], Tensor], *, atol: float = 1e-5) -> None:
    """Law 5: sample i of a batch is the sample of a batch of one with its seed."""
    together = draw_samples([11, 12, 13])
    for i, seed in enumerate((11, 12, 13)):
        alone = draw_samples([seed])
        gap = float((together[i : i + 1] - alone).abs().max())
        assert gap <= atol, f"sample {i} of the batch differs by {gap} from the batch of one"


def check_compiles(fn: Callable[..., Tensor], first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """Law 7: ``fn`` compiles without a graph break, once for two sets of arguments, and computes the same."""
    import torch._dynamo as dynamo
    from torch._dynamo.testing import CompileCounter

    dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(fn, backend=counter, fullgraph=True)
    for arguments in (first, second):
        torch.testing.assert_close(compiled(*arguments), fn(*arguments))
    assert counter.frame_count == 1, f"{counter.frame_count} compilations for two seeds"
