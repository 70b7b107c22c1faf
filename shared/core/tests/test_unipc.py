"""UniPC against the golden table, its declared orders, DPM-Solver++, Adams, diffusers, and by DC-Solver's law."""

import math
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from core_processes import PROCESSES, name
from torch import Tensor

from diffkit.core.bridge import SBVE, Interpolant
from diffkit.core.grid import uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Frame, Plan, integrate
from diffkit.core.process import VP, Cosine, Gaussian, RectifiedFlow
from diffkit.core.solvers.adams import adams
from diffkit.core.solvers.base import Solver
from diffkit.core.solvers.dpmpp import dpmpp_2m, dpmpp_3m
from diffkit.core.solvers.unipc import unipc
from diffkit.core.testing import check_compiles, check_order, measured_order

MIXTURE = Mixture.reference()
UNEVEN = torch.tensor([0.9, 0.7, 0.62, 0.4, 0.15, 0.1], dtype=torch.float64)
SOLVERS = {
    f"{order}{variant}": unipc(order, variant)  # type: ignore[arg-type]
    for order in (1, 2, 3)
    for variant in ("bh1", "bh2", "vary_coeff")
}


def tables(plan: Plan) -> Tensor:
    return torch.cat([plan.U, plan.V.flatten(1), plan.B, plan.C], 1)


@cache
def golden_path(steps: int) -> tuple[Tensor, Tensor]:
    """Times in the golden table's lambda, -1.5 to 2 and two steps beyond, and the exact flow up to 2."""
    from scipy.integrate import solve_ivp

    p = Cosine()  # any variance-preserving process will do, and the inverse of its lambda is known
    lam = torch.linspace(-1.5, 2.0, steps + 1, dtype=torch.float64)
    times = p.time(torch.cat([lam, lam[-1:] + 0.1, lam[-1:] + 0.2]))
    scale = p.s(times[: steps + 1])[:, None]

    def field(level: float, w: object) -> object:  # with w = z/s the flow is dw/dlambda = e^lambda D
        t = torch.tensor(math.atan(math.exp(-level)) * 2 / math.pi, dtype=torch.float64)
        return math.exp(level) * MIXTURE.denoise(p, torch.as_tensor(w)[:, None] * p.s(t), t)[:, 0].numpy()

    start = (torch.linspace(-2, 2, 41, dtype=torch.float64) / scale[0]).numpy()
    found = solve_ivp(field, (-1.5, 2.0), start, "DOP853", lam.numpy(), rtol=1e-12, atol=1e-13)
    return times, (torch.as_tensor(found.y.T) * scale)[..., None]


@pytest.mark.parametrize(
    ("order", "exact", "expected"),
    [
        (2, True, (3.232e-3, 4.201e-4, 5.787e-5)),
        (3, True, (3.351e-3, 1.737e-4, 1.183e-5)),
        (2, False, (4.893e-3, 5.959e-4, 7.336e-5)),
        (3, False, (5.052e-3, 9.441e-5, 7.596e-6)),
    ],
)
def test_golden_table(order: int, exact: bool, expected: tuple[float, ...]) -> None:
    """Exact history replaces memory; there the end is corrected too, in the first half of a step beyond it."""
    p, measured = Cosine(), []
    denoise = partial(MIXTURE.denoise, p)
    for steps in (10, 20, 40):
        times, path = golden_path(steps)
        plan = unipc(order)(p, times)[: steps + 1] if exact else unipc(order)(p, times[:-2])

        def true(frame: Frame, path: Tensor = path, times: Tensor = times) -> list[Tensor]:
            k, memory = frame.step, frame.memory
            return [path[k], denoise(path[k], times[k]), *memory[2:]] if k < order else memory

        end = integrate(denoise, path[0], plan, between=true if exact else None)
        measured.append(float((end - path[-1]).abs().max()))
    assert measured == pytest.approx(expected, rel=3e-4)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), SBVE()], ids=name)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_order(solver: Solver, process: Gaussian) -> None:
    """At 40 steps the fourth order shows as 3.84 only."""
    check_order(solver, process, steps=(80, 160) if solver.order == 4 else (40, 80))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_the_predictor_alone(order: int) -> None:
    check_order(unipc(order, "bh1", corrector=False), VP())
    assert measured_order(unipc(order, corrector=False), VP()) < order + 0.15


@pytest.mark.parametrize("order", [2, 3])
def test_the_released_varying_coefficients_are_first_order(order: int) -> None:
    solver = unipc(order, "vary_coeff", legacy=True)
    assert solver.order == 1
    assert 0.85 < measured_order(solver, VP()) < 1.15
    assert measured_order(unipc(order, "vary_coeff"), VP()) > order + 0.8


def test_equal_methods() -> None:
    """UniP-2 is 2M, UniP-3 the consistent 3M, and what the paper solves for is Adams, on any grid."""
    p = VP()
    equal = partial(torch.testing.assert_close, atol=2e-13, rtol=0)
    equal(tables(unipc(2, corrector=False)(p, UNEVEN)), tables(dpmpp_2m()(p, UNEVEN)))
    for variant in ("bh1", "bh2"):
        predictor = unipc(3, variant, corrector=False)(p, UNEVEN)
        equal(tables(predictor)[2:], tables(dpmpp_3m()(p, UNEVEN))[2:])
        equal(tables(unipc(3, variant)(p, UNEVEN))[3:], tables(adams(3, corrector=True)(p, UNEVEN))[3:])
    equal(tables(unipc(3, "vary_coeff")(p, UNEVEN)), tables(adams(3, corrector=True)(p, UNEVEN)))
    equal(tables(unipc(1, "vary_coeff", legacy=True)(p, UNEVEN)), tables(adams(1, corrector=True)(p, UNEVEN)))


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_whole_range_is_exact_on_a_point(process: Gaussian) -> None:
    """From t = 1 to 0 with x0 = c, bridges' ends included, where the first step is not corrected."""
    if process == Interpolant("sine"):
        pytest.skip("its lambda is not monotone")
    x = torch.randn(2, 3, dtype=torch.float64)
    out = integrate(
        lambda x, t: torch.full_like(x, 0.4), x, unipc(3)(process, uniform(6)), draw=Seeds([1, 2])
    )
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)


def test_skipped_corrections() -> None:
    """Without its first correction the first step is that of the predictor, and nothing else changes."""
    p, x = VP(), torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    denoise = partial(MIXTURE.denoise, p)
    for steps in (1, 5):  # all of them skipped are UniP
        plan = unipc(2, skip=range(steps))(p, UNEVEN)
        same = torch.equal(
            integrate(denoise, x, plan), integrate(denoise, x, unipc(2, corrector=False)(p, UNEVEN))
        )
        assert same == (steps == 5)
    check_order(unipc(2, skip=[1]), VP())


@pytest.mark.parametrize("corrector", [True, False])
def test_ratios_of_one_change_nothing(corrector: bool) -> None:
    p = VP()
    plain, ones = (
        unipc(3, corrector=corrector, ratios=r, lower_order_final=True)(p, UNEVEN) for r in (None, [1.0] * 5)
    )
    assert torch.equal(tables(plain), tables(ones))


def test_ratios_move_the_newest_prediction_along_the_parabola() -> None:
    """On a prediction that is a parabola in time, ratio r uses its value at r t + (1 - r) t_prev."""
    p = VP()
    parabola: Callable[[Tensor], Tensor] = lambda t: 0.3 - 1.1 * t + 0.7 * t**2  # noqa: E731
    first, last = UNEVEN[2], UNEVEN[3]
    x = torch.ones(1, 1, dtype=torch.float64)
    denoise = lambda x, t: torch.full_like(x, float(parabola(t)))  # noqa: E731
    plan = unipc(1, corrector=False, ratios=[1, 1, 0.4, 1, 1])(p, UNEVEN)[:3]
    before = integrate(denoise, x, plan[:2])
    moved = parabola(0.4 * first + 0.6 * UNEVEN[1])
    ratio = p.s(last) / p.s(first)
    expected = ratio * before + (p.a(last) - ratio * p.a(first)) * moved
    torch.testing.assert_close(integrate(denoise, x, plan), expected, atol=1e-14, rtol=0)


def test_the_whole_loop_is_one_graph() -> None:
    net, plan = torch.nn.Linear(4, 4), unipc(2, ratios=[1, 1, 0.9, 1.1, 1])(VP(), uniform(5))
    check_compiles(
        lambda x: integrate(lambda x, t: net(x) * t.float(), x, plan),
        (torch.randn(2, 4),),
        (torch.randn(2, 4),),
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"order": 5}, "has orders 1 to 4"),
        ({"variant": "bh3"}, "has the variants"),
        ({"legacy": True}, "legacy is"),
        ({"ratios": [1.0]}, "1 ratios for 5 steps"),
    ],
)
def test_bad_arguments_get_one_sentence(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unipc(**options)(VP(), UNEVEN)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("skip", [(), (0, 3)])
def test_diffusers(order: int, variant: str, skip: tuple[int, ...]) -> None:
    """Parity on shared sigmas, float64, with the last step to zero; theirs gives NaN there for bh1."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order,
        solver_type=variant,
        prediction_type="sample",
        disable_corrector=list(skip),
        final_sigmas_type="zero" if variant == "bh2" else "sigma_min",
    )
    scheduler.set_timesteps(12)
    scheduler.sigmas = scheduler.sigmas.double()
    p = Cosine()  # variance preserving, as their sigmas are, and of any lambda
    grid = p.time(-scheduler.sigmas.log())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sample = x
    for t in scheduler.timesteps:
        sample = scheduler.step(torch.tanh(2 * sample), t, sample).prev_sample
    solver = unipc(order, variant, skip=skip, lower_order_final=True)  # type: ignore[arg-type]
    out = integrate(lambda x, t: torch.tanh(2 * x), x, solver(p, grid))
    assert float((out - sample).abs().max()) < 1e-6
