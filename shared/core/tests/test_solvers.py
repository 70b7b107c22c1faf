"""Solvers against the golden table, the declared orders, and their papers' loops."""

import math
from itertools import pairwise

import pytest
import torch
from core_processes import FAMILIES, MONOTONE, PROCESSES, REPRESENTATIVE, SOLVERS, name
from torch import Tensor

from diffkit.core.bridge import SBVE, Interpolant, ResShift
from diffkit.core.grid import karras, lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Plan, integrate
from diffkit.core.process import EDM, VE, VP, Cosine, Gaussian, RectifiedFlow
from diffkit.core.solvers import Solver, adams, ddim, dpm_solver, dpmpp_2m, dpmpp_3m, dpmpp_sde, heun
from diffkit.core.testing import check_order, flow, law_on_normal, measured_order

MIXTURE = Mixture.reference()
START, END = -1.5, 2.0


def path(z: Tensor, stops: list[float]) -> Tensor:
    """The mixture's exact flow in VP from ``z`` at lambda = -1.5, at ``stops``: ``[stops, batch, 1]``."""
    from scipy.integrate import solve_ivp

    p = VP()

    def field(level: float, flat: object) -> object:
        t = p.time(level)
        return math.exp(level) * MIXTURE.denoise(p, torch.as_tensor(flat)[:, None] * p.s(t), t)[:, 0].numpy()

    w = (z[:, 0] / p.s(p.time(START))).numpy()
    found = solve_ivp(field, (START, stops[-1]), w, "DOP853", stops, rtol=1e-12, atol=1e-13)
    return torch.as_tensor(found.y.T)[..., None] * p.s(p.time(torch.tensor(stops).double()))[:, None, None]


@pytest.fixture(scope="module")
def golden() -> tuple[Tensor, Tensor]:
    """41 points of [-2, 2] as x at lambda = -1.5 in VP, and where the flow takes them."""
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    return z, path(z, [END])[0]


def error(solver: Solver, golden: tuple[Tensor, Tensor], steps: int, exact: int = 0) -> float:
    """Max error at lambda = 2; the first ``exact`` steps and their predictions are taken from the true path."""
    p = VP()
    z, truth = golden
    lam = torch.linspace(START, END, steps + 1, dtype=torch.float64)
    plan = solver(p, p.time(lam))[exact:]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return MIXTURE.denoise(p, x, t)

    true = [z] if not exact else [z, *path(z, lam[1 : exact + 1].tolist())]
    memory: list[Tensor | None] = [true[-1]] + [None] * (plan.slots - 1)
    for i in range(exact):
        memory[i + 1] = denoise(true[exact - 1 - i], p.time(lam[exact - 1 - i]))
    return float((integrate(denoise, z, plan, memory=memory) - truth).abs().max())


def test_golden_end_points(golden: tuple[Tensor, Tensor]) -> None:
    assert golden[1][[0, 20, 40], 0].tolist() == pytest.approx([-1.7653928, 0.5150900, 1.5438437], abs=5e-8)


@pytest.mark.parametrize(
    ("solver", "exact", "expected"),
    [
        (ddim(), 0, (1.230e-1, 6.461e-2, 3.297e-2)),
        (dpm_solver(2), 0, (1.512e-2, 4.118e-3, 1.075e-3)),
        (dpm_solver(2, "noise"), 0, (1.254e-2, 2.971e-3, 7.233e-4)),
        (dpm_solver(3), 0, (6.145e-4, 8.312e-5, 1.075e-5)),
        (dpm_solver(3, "noise"), 0, (2.205e-4, 2.935e-5, 3.796e-6)),
        (dpmpp_2m(), 0, (9.881e-3, 2.559e-3, 6.421e-4)),
        (dpmpp_2m(), 1, (1.537e-2, 3.715e-3, 9.069e-4)),
        (dpmpp_3m(legacy=True), 0, (2.634e-3, 4.958e-4, 1.346e-4)),
        (dpmpp_3m(legacy=True), 2, (6.863e-3, 1.219e-3, 2.736e-4)),
        (dpmpp_3m(), 0, (6.334e-3, 1.327e-3, 2.888e-4)),
        (dpmpp_3m(), 2, (6.139e-3, 4.759e-4, 6.071e-5)),
        (adams(3), 2, (6.139e-3, 4.759e-4, 6.071e-5)),
    ],
    ids=lambda v: f"{v.name}{v.order}" if isinstance(v, Solver) else str(v) if isinstance(v, int) else "",
)
def test_golden_table(
    golden: tuple[Tensor, Tensor], solver: Solver, exact: int, expected: tuple[float, ...]
) -> None:
    measured = [error(solver, golden, n, exact) for n in (10, 20, 40)]
    assert measured == pytest.approx(expected, rel=6e-4)


@pytest.mark.parametrize("process", REPRESENTATIVE, ids=name)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_order(solver: Solver, process: Gaussian) -> None:
    check_order(solver, process)


@pytest.mark.parametrize("process", [p for p in MONOTONE if p not in REPRESENTATIVE], ids=name)
@pytest.mark.parametrize("solver", [SOLVERS[n] for n in FAMILIES], ids=FAMILIES)
def test_order_on_every_process(solver: Solver, process: Gaussian) -> None:
    """A family takes a process by its nodes alone; `apps/bench/orders.py` measures every pair."""
    check_order(solver, process)


def test_the_released_third_order_weight_is_second_order() -> None:
    assert measured_order(dpmpp_3m(legacy=True), VP(), steps=(80, 160)) < 2.3
    assert measured_order(dpmpp_3m(), VP(), steps=(80, 160)) > 2.85


@pytest.mark.parametrize(("order", "expected"), [(1, 1.0), (2, 2.0), (3, 2.0)])
def test_sde_variance_order(order: int, expected: float) -> None:
    """On a normal law mean and variance obey a linear recursion; noise caps three points at order 2."""
    p, errors = VP(), []
    for n in (64, 128):
        grid = lam_uniform(n, -2.0, 2.0)(p)
        last = grid[-1]
        truth = (p.a(last) * 0.5) ** 2 + p.s(last) ** 2
        errors.append(abs(float(law_on_normal(dpmpp_sde(order)(p, grid), p).std ** 2 - truth)))
    assert math.log2(errors[0] / errors[1]) > expected - 0.15


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_sde_is_exact_on_a_point(eta: float) -> None:
    """x0 = c: a step has mean a_u c and variance s_u^2 for any h and eta."""
    p = VP()
    grid = torch.tensor([0.8, 0.2], dtype=torch.float64)
    plan = dpmpp_sde(1, eta)(p, grid)
    c, n = 0.7, torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    x = p.a(grid[0]) * c + p.s(grid[0]) * n
    mean = integrate(lambda x, t: torch.full_like(x, c), x, plan, draw=lambda k, like: torch.zeros_like(like))
    keep = (mean - p.a(grid[1]) * c) / (p.s(grid[0]) * n)
    variance = (keep[0] * p.s(grid[0])) ** 2 + plan.C[0, 0] ** 2
    assert float(variance) == pytest.approx(float(p.s(grid[1]) ** 2), rel=1e-12)


def tables(plan: Plan) -> Tensor:
    return torch.cat([plan.U[:, :1].flatten(), plan.V[:, 0, 0], plan.B[:, 0], plan.C[:, 0]])


@pytest.mark.parametrize("process", [VP(), Cosine(), RectifiedFlow(), VE(), SBVE(), ResShift()], ids=name)
def test_adams_one_is_ddim(process: Gaussian) -> None:
    grid = uniform(7, 0.95, 0.0)
    torch.testing.assert_close(
        tables(adams(1)(process, grid)), tables(ddim()(process, grid)), atol=1e-12, rtol=0
    )


def test_third_order_dpmpp_is_adams() -> None:
    p = VP()
    grid = torch.tensor([0.9, 0.7, 0.62, 0.4, 0.15, 0.1], dtype=torch.float64)
    first, second = dpmpp_3m()(p, grid), adams(3)(p, grid)
    torch.testing.assert_close(first.B[2:], second.B[2:], atol=1e-12, rtol=0)
    torch.testing.assert_close(first.V[2:], second.V[2:], atol=1e-12, rtol=0)


def test_ddim_is_euler_on_the_flow() -> None:
    grid = uniform(5)
    plan = ddim()(RectifiedFlow(), grid)
    x = torch.randn(3, 4, dtype=torch.float64)
    out = integrate(lambda x, t: torch.tanh(x) * t, x, plan)
    for t, u in pairwise(grid):
        x = x + (u - t) * (x - torch.tanh(x) * t) / t
    torch.testing.assert_close(out, x, atol=1e-13, rtol=0)


def test_heun_is_algorithm_one_of_edm() -> None:
    p = EDM()
    grid = karras(18)(p)
    x = 80 * torch.randn(5, 3, dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return MIXTURE.denoise(p, x.reshape(-1, 1), t).reshape(x.shape)

    plan = heun()(p, grid)
    out = integrate(denoise, x, plan)
    sigma = p.s(grid)
    for i in range(18):
        d = (x - denoise(x, grid[i])) / sigma[i]
        nxt = x + (sigma[i + 1] - sigma[i]) * d
        if sigma[i + 1] > 0:
            d2 = (nxt - denoise(nxt, grid[i + 1])) / sigma[i + 1]
            nxt = x + (sigma[i + 1] - sigma[i]) * (d + d2) / 2
        x = nxt
    assert plan.nfe == 35
    torch.testing.assert_close(out, x, atol=1e-11, rtol=0)


def test_mr_sampler_is_adams_in_z() -> None:
    """The published data form with its explicit mean terms, order 1 and 2 (METHODS.md 1.14)."""
    from diffkit.core.bridge import IRSDE

    p, mu = IRSDE(level=0.3), 0.7
    grid = uniform(6, 0.9, 0.2)
    a, s, lam = p.a(grid), p.s(grid), p.lam(grid)

    def data(x: Tensor) -> Tensor:
        return 0.3 * torch.sin(3 * x)

    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    z = x - p.b(grid[0]) * mu
    plan = adams(2)(p, grid)
    out = integrate(lambda z, t: data(z + p.b(t) * mu), z, plan) + p.b(grid[-1]) * mu
    old = None
    for i in range(6):
        h = lam[i + 1] - lam[i]
        phi1 = torch.expm1(-h)
        m = data(x)
        ratio = s[i + 1] / s[i]
        nxt = ratio * x - a[i + 1] * phi1 * m + mu * (1 - ratio + ratio * a[i] - a[i + 1])
        if old is not None:
            nxt = nxt + a[i + 1] * (phi1 / h + 1) * (m - old) * h / (lam[i] - lam[i - 1])
        x, old = nxt, m
    torch.testing.assert_close(out, x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_whole_range_is_exact_on_a_point(solver: Solver, process: Gaussian) -> None:
    """From t = 1 to 0 with x0 = c every method ends at c exactly, ends of infinite lambda included."""
    if process == Interpolant("sine"):
        pytest.skip("its lambda is not monotone")
    corrects = solver is SOLVERS["adams2 corrected"]
    if corrects and process.terminal_mismatch().noise == 0:
        with pytest.raises(ValueError, match="corrector cannot leave a bridge's end"):
            solver(process, uniform(6))
    start = 0.999 if corrects else 1.0
    plan = solver(process, uniform(6, start))
    x = torch.randn(2, 3, dtype=torch.float64)
    out = integrate(lambda x, t: torch.full_like(x, 0.4), x, plan, draw=Seeds([1, 2]))
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_bridges_leave_their_end_with_the_right_law(eta: float) -> None:
    """From y exactly: on a normal x0 that the denoiser knows, x_u has variance a^2 v + s^2 after one step.

    With one step the prediction at t = 1 is E[x0], so the variance is s_u^2 and the mean that of the law.
    """
    p = SBVE()
    grid = torch.tensor([1.0, 0.6], dtype=torch.float64)
    x = torch.zeros(20_000, 1, dtype=torch.float64)
    out = integrate(lambda x, t: torch.full_like(x, 0.5), x, ddim(eta)(p, grid), draw=Seeds(range(20_000)))
    assert float(out.mean()) == pytest.approx(0.5 * float(p.a(grid[1])), abs=0.02)
    assert float(out.std()) == pytest.approx(float(p.s(grid[1])), rel=0.02)


@pytest.mark.parametrize(
    ("factory", "argument"),
    [(ddim, {"eta": 1.5}), (adams, {"order": 5}), (dpm_solver, {"order": 4}), (dpmpp_sde, {"eta": 0.0})],
)
def test_bad_arguments_get_one_sentence(factory: object, argument: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must lie in|has orders"):
        factory(**argument)  # type: ignore[operator]


def test_flow_reference_agrees_with_a_normal_law() -> None:
    """One component: x_t = a m + sqrt((a^2 s0^2 + s^2)/(a'^2 s0^2 + s'^2)) (x' - a' m), METHODS.md 0.2."""
    mixture = Mixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.4]], [0.6])))
    p = RectifiedFlow()
    z, end = flow(p, mixture, (-1.0, 2.0))
    first, last = p.time(torch.tensor([-1.0, 2.0], dtype=torch.float64))
    ratio = ((p.a(last) * 0.6) ** 2 + p.s(last) ** 2) / ((p.a(first) * 0.6) ** 2 + p.s(first) ** 2)
    torch.testing.assert_close(
        end, p.a(last) * 0.4 + ratio.sqrt() * (z - p.a(first) * 0.4), atol=1e-10, rtol=0
    )
