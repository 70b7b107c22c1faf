"""Reverse diffusion and S4 as tables: their formulae, their order in law, joint states."""

import math

import pytest
import torch
from core_processes import name
from torch import Tensor

from diffkit.core.bridge import OUVE
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.joint import Joint
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import VE, VP, Cosine, Gaussian, RectifiedFlow, SubVP
from diffkit.core.sample import plan_for, sample
from diffkit.core.solvers import Solver, reverse_diffusion, s4
from diffkit.core.testing import law_on_normal

FREE = [s4(snr=0.0), reverse_diffusion(corrections=0)]
"""Without corrections."""


@pytest.mark.parametrize("process", [VP(), SubVP(), VE(), RectifiedFlow(), OUVE()], ids=name)
@pytest.mark.parametrize("solver", FREE, ids=lambda s: s.name)
def test_the_order_in_law_is_one(solver: Solver, process: Gaussian) -> None:
    """The variance on normal data, by recursion: what is left halves with the steps."""
    ends = process.lam(torch.tensor([0.999, 0.001])).tolist()
    errors: list[float] = []
    for n in (128, 256):
        plan = solver(process, lam_uniform(n, max(ends[0], -2.0), min(ends[1], 2.0))(process))
        truth = (0.5 * process.a(plan.end)) ** 2 + process.s(plan.end) ** 2
        errors.append(abs(float(law_on_normal(plan, process).std ** 2 - truth)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.15)


def row(plan: Plan, process: Gaussian) -> tuple[float, float, float]:
    """The weights of x, of the score and of the noise in a plan's only row: d = (x + s^2 S)/a."""
    a, s = float(process.a(plan.t)), float(process.s(plan.t))
    of_d = float(plan.B[0, 0])
    return float(plan.V[0, 0, 0]) + of_d / a, of_d * s**2 / a, float(plan.C[0, 0])


def test_s4_is_a_correction_and_a_symmetric_splitting() -> None:
    """Of VP in the closed forms of its beta; the released noise of a half step, 1 - e^-B, is another."""
    p, snr, scale, t, u = VP(0.1, 1.0), 0.05, 0.7, 0.8, 0.6
    plan = s4(snr, scale)(p, torch.tensor([t, u], dtype=torch.float64))
    of_x, of_score, of_noise = row(plan, p)

    def beta(start: float, end: float) -> float:
        return 0.1 * (start - end) + 0.45 * (start**2 - end**2)

    first, second = beta(t, 0.7), beta(0.7, u)
    step = 2 * (snr * float(p.s(plan.t))) ** 2
    grow = math.exp((first + second) / 2)
    assert of_x == pytest.approx(grow, rel=1e-12)
    scored = grow * step + math.exp(second / 2) * (first + second)
    assert of_score == pytest.approx(
        scored, rel=(first + second) ** 2
    )  # the middle of the step is that of time
    corrector = grow**2 * 2 * step * scale**2
    exact = math.exp(second) * math.expm1(first) + math.expm1(second)
    assert of_noise**2 == pytest.approx(exact + corrector, rel=1e-12)
    released = math.exp(second) * -math.expm1(-first) - math.expm1(-second)
    assert abs(released / exact - 1) > 0.05
    assert plan.nfe == 1


@pytest.mark.parametrize("process", [VP(), VE()], ids=name)
def test_reverse_diffusion_is_that_of_discrete_steps(process: Gaussian) -> None:
    t, u = torch.tensor([0.5, 0.4], dtype=torch.float64)
    if isinstance(process, VP):
        keep = float(process.a(t) / process.a(u))  # sqrt(1 - beta) of DDPM
        power = 1 - keep**2
    else:
        keep, power = 1.0, float(process.s(t) ** 2 - process.s(u) ** 2)
    plan = reverse_diffusion(corrections=0)(process, torch.stack([t, u]))
    assert row(plan, process) == pytest.approx((2 - keep, power, power**0.5), rel=1e-10)


@pytest.mark.parametrize(("snr", "scale"), [(0.3, 1.0), (0.3, 0.7)])
def test_corrections_tend_to_their_own_variance(snr: float, scale: float) -> None:
    """At one level of N(0, V): scale^2 V/(1 - step/(2 V))."""
    process, t = VP(), torch.tensor([0.3, 0.3 - 1e-9], dtype=torch.float64)
    plan = reverse_diffusion(snr, scale, 200)(process, t)
    total, step = (
        float((0.5 * process.a(t[0])) ** 2 + process.s(t[0]) ** 2),
        2 * (snr * float(process.s(t[0]))) ** 2,
    )
    expected = scale**2 * total / (1 - step / (2 * total))
    assert float(law_on_normal(plan, process).std ** 2) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("solver", FREE, ids=lambda s: s.name)
def test_two_leaves_keep_how_they_hang_together(solver: Solver) -> None:
    """Normal data of correlation 0.8 in leaves of two processes, by the denoiser of their joint law."""
    leaves, count = {"x": VP(), "adj": VE(0.01, 5.0)}, 20_000
    data = torch.tensor([[1.0, 0.4], [0.4, 0.25]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)

    def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        a, s = (torch.stack([getattr(leaf, what)(t) for leaf in leaves.values()]) for what in "as")
        known = a[:, None] * data
        gain = torch.linalg.solve(known * a + s.square().diag(), known)
        return dict(zip(state, (torch.cat(list(state.values()), 1) @ gain).split(1, 1), strict=True))

    def draw(step: int, like: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for n, leaf in like.items()}

    x = draw(-1, {n: torch.empty(count, 1, dtype=torch.float64) for n in leaves})
    x["adj"] = 5 * x["adj"]
    out = integrate(denoise, x, plan_for(solver, Joint(leaves), uniform(150)), draw=draw)
    found = torch.cov(torch.cat(list(out.values()), 1).T)
    torch.testing.assert_close(found, data, rtol=0.05, atol=0)  # 5 standard errors of a variance


@pytest.mark.parametrize("solver", [s4(), reverse_diffusion()], ids=lambda s: s.name)
def test_ends_of_the_grid(solver: Solver) -> None:
    """From pure noise, and to data, where the last row returns its prediction."""
    seen: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x / 2)
        return seen[-1]

    out = sample(denoise, Cosine(), (3, 2), solver=solver, grid=uniform(4), seeds=range(3))
    assert torch.equal(out, seen[-1])


def test_calls() -> None:
    assert s4()(VP(), uniform(10)).nfe == 10
    assert reverse_diffusion()(VP(), uniform(10)).nfe == 20
    assert reverse_diffusion(corrections=3)(VP(), uniform(10)).nfe == 40


def test_bad_arguments_get_one_sentence() -> None:
    for make in (lambda: s4(-1.0), lambda: s4(scale=math.nan), lambda: reverse_diffusion(corrections=-1)):
        with pytest.raises(ValueError, match="must not be negative"):
            make()
