"""PNDM, DEIS and momentum: identities, weights, measured orders, diffusers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_processes import name
from torch import Tensor

from diffkit.core.bridge import SBVE, ResShift
from diffkit.core.grid import power, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import Frame, Plan, integrate
from diffkit.core.process import EDM, VP, Cosine, Gaussian, RectifiedFlow, interpolate
from diffkit.core.solvers import Solver, ddim
from diffkit.core.solvers.base import eps_at, nodes, transfer
from diffkit.core.solvers.deis import deis
from diffkit.core.solvers.momentum import ghvb, ghvb_weights, hb
from diffkit.core.solvers.pndm import adams_bashforth, ipndm, plms, pndm
from diffkit.core.testing import check_order, flow

MIXTURE = Mixture.reference()
SOLVERS = {
    "F-PNDM": pndm(),
    "S-PNDM": pndm(2),
    "plms": plms(),
    **{f"ipndm {k}": ipndm(k) for k in (1, 2, 3, 4)},
    **{f"tAB{k - 1}": deis(k) for k in (1, 2, 3, 4)},
    **{f"rhoAB{k - 1}": deis(k, "rho") for k in (2, 3, 4)},
    **{f"log rho AB{k - 1}": deis(k, "lam") for k in (2, 3, 4)},
    "hb 2, 0.6": hb(2, 0.6),
    "nesterov 4, 0.6": hb(4, 0.6, nesterov=True),
    **{f"ghvb {k}": ghvb(k) for k in (0.6, 1.6, 2.6, 3.6, 5)},
}


def mixture_denoiser(process: Gaussian) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: MIXTURE.denoise(process, x, t)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_order(solver: Solver) -> None:
    check_order(solver, VP(), steps=(80, 160))


@pytest.mark.parametrize("process", [RectifiedFlow(), SBVE()], ids=name)
@pytest.mark.parametrize("family", ["F-PNDM", "tAB2", "rhoAB3", "ghvb 1.6"])
def test_order_elsewhere(family: str, process: Gaussian) -> None:
    check_order(SOLVERS[family], process, steps=(80, 160))


@pytest.mark.parametrize("process", [Cosine(), SBVE()], ids=name)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_whole_range_is_exact_on_a_point(solver: Solver, process: Gaussian) -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    plan = solver(process, uniform(7))
    out = integrate(lambda x, t: torch.full_like(x, 0.4), x, plan, draw=Seeds([1, 2]))
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)


def tables(plan: Plan) -> Tensor:
    return torch.cat([plan.V[:, :1, :1].flatten(), plan.B[:, 0], plan.C[:, 0]])


@pytest.mark.parametrize("process", [VP(), Cosine(), SBVE(), ResShift()], ids=name)
@pytest.mark.parametrize("solver", [deis(1), deis(1, "rho"), deis(1, "lam"), ipndm(1), ghvb(1)])
def test_one_prediction_is_ddim(solver: Solver, process: Gaussian) -> None:
    grid = uniform(6)
    expected = tables(ddim()(process, grid))
    torch.testing.assert_close(tables(solver(process, grid)), expected, atol=1e-12, rtol=0)


class TestPNDM:
    def test_transfer_is_equation_eleven(self) -> None:
        """The published form, in alpha_bar: METHODS.md 1.1."""
        t, u = nodes(VP(), torch.tensor([0.7, 0.6], dtype=torch.float64))
        x, eps = torch.randn(2, 50, dtype=torch.float64).unbind()
        now, then = t.a**2, u.a**2
        rise = x / (now**0.5 * (now**0.5 + then**0.5))
        fall = eps / (now**0.5 * (((1 - then) * now) ** 0.5 + ((1 - now) * then) ** 0.5))
        torch.testing.assert_close(
            transfer(t, u, x, eps), x + (then - now) * (rise - fall), atol=1e-13, rtol=0
        )

    def test_equal_history_is_ddim(self) -> None:
        p, grid = VP(), uniform(6, 0.9, 0.1)
        x = torch.randn(3, 4, dtype=torch.float64)
        plan = pndm()(p, grid)
        last = plan[plan.nfe - 1 :]
        t = nodes(p, grid)[-2]
        history = [eps_at(t, x, torch.tanh(x))] * 3
        memory: list[Any] = [x, *[None] * (last.slots - 4), *history]
        out = integrate(lambda x, t: torch.tanh(x), x, last, memory=memory)
        expected = integrate(lambda x, t: torch.tanh(x), x, ddim()(p, grid[-2:]))
        torch.testing.assert_close(out, expected, atol=1e-13, rtol=0)

    @pytest.mark.parametrize(("solver", "extra"), [(pndm(), 9), (pndm(2), 1), (plms(), 1), (ipndm(), 0)])
    def test_calls(self, solver: Solver, extra: int) -> None:
        assert solver(VP(), uniform(10, 1.0, 0.01)).nfe == 10 + extra

    def test_it_is_of_second_order_however_many_predictions(self) -> None:
        """The slopes of METHODS.md 1.1: near 3 at first, but 2 in the end."""
        p = VP()
        ends = p.lam(torch.tensor([0.9, 0.05], dtype=torch.float64)).tolist()
        z, truth = flow(p, MIXTURE, (ends[0], ends[1]))
        errors = [
            float((integrate(mixture_denoiser(p), z, pndm()(p, uniform(n, 0.9, 0.05))) - truth).abs().max())
            for n in (20, 40, 160, 320)
        ]
        assert math.log2(errors[0] / errors[1]) > 2.7
        assert math.log2(errors[2] / errors[3]) == pytest.approx(2, abs=0.2)

    def test_adams_bashforth(self) -> None:
        for k, weights in {1: [1], 2: [3, -1], 3: [23, -16, 5], 4: [55, -59, 37, -9]}.items():
            scale = (1, 2, 12, 24)[k - 1]
            assert [scale * w for w in adams_bashforth(k)] == pytest.approx(weights, abs=1e-12)


class TestDEIS:
    @pytest.mark.parametrize("end", [0.2, 0.0])
    @pytest.mark.parametrize(("variable", "k"), [("t", 0), ("t", 2), ("rho", 2)])
    def test_weights_are_the_integrals(self, variable: str, k: int, end: float) -> None:
        """C_j = int alpha_u drho/dtau L_j dtau with drho/dtau = beta/(2 alpha sigma), METHODS.md 1.2."""
        from scipy.integrate import quad

        p, grid = VP(), torch.tensor([0.8, 0.65, 0.45, end], dtype=torch.float64)
        plan = deis(3, variable)(p, grid)  # type: ignore[arg-type]
        past = grid[:3].flip(0)
        place = (lambda t: t) if variable == "t" else (lambda t: p.s(t) / p.a(t))

        def integrand(tau: float) -> float:
            t = torch.tensor(tau, dtype=torch.float64)
            basis = [
                (place(t) - place(past[i])) / (place(past[k]) - place(past[i])) for i in range(3) if i != k
            ]
            rate = (p.beta_min + tau * (p.beta_max - p.beta_min)) / (2 * p.a(t) * p.s(t))
            return float(p.a(grid[3]) * rate * math.prod(basis))

        found = float(plan.V[2, 0, 2]) if k else float(-plan.B[2, 0] * p.s(past[0]) / p.a(past[0]))
        assert found == pytest.approx(quad(integrand, 0.45, end, epsabs=1e-12)[0], abs=1e-10 if end else 1e-7)

    def test_the_last_step_is_one_like_the_others(self) -> None:
        """To s = 0 rho is finite: integrating on beats returning D, here 3.9 times at 20 steps."""
        p, grid = VP(), uniform(20, 0.999)
        z, truth = flow(p, MIXTURE, (float(p.lam(0.999)), 9.0))  # a hundredth of a percent of noise is left
        whole = integrate(mixture_denoiser(p), z, deis()(p, grid))
        head = integrate(mixture_denoiser(p), z, deis()(p, grid[:-1]))
        returned = MIXTURE.denoise(p, head, grid[-2])
        assert float((whole - truth).abs().max()) < 0.3 * float((returned - truth).abs().max())


class TestMomentum:
    @pytest.mark.parametrize("order", [1, 2, 3, 4])
    def test_beta_one_is_adams_bashforth(self, order: int) -> None:
        p, grid = VP(), power(8, 2)
        x = torch.randn(5, 1, dtype=torch.float64)
        expected = integrate(mixture_denoiser(p), x, ipndm(order)(p, grid))
        for solver in (hb(order, 1.0), hb(order, 1.0, nesterov=True), ghvb(order)):
            out = integrate(mixture_denoiser(p), x, solver(p, grid))
            torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)

    def test_ghvb_weights_are_the_papers(self) -> None:
        b = 0.7
        published = {
            1: [1],
            2: [(2 + b) / 2, -(2 - b) / 2],
            3: [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
            4: [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
            5: [1650 + 251 * b, -(3420 - 646 * b), 2880 - 264 * b, -(1380 - 106 * b), 270 - 19 * b],
        }
        for r, weights in published.items():
            scale = {1: 1.0, 5: 720 * b}.get(r, b)
            assert [scale * c for c in ghvb_weights(r, b)] == pytest.approx(weights, rel=1e-11)

    @pytest.mark.parametrize(
        ("solver", "expected"),
        [*((hb(r, 0.6), 1) for r in (1, 3)), *((ghvb(r - 0.4), r) for r in (1, 2, 3, 4)), (ghvb(4.8), 5)],
        ids=lambda v: f"{v.name}" if isinstance(v, Solver) else str(v),
    )
    def test_order_on_steps_equal_in_rho(self, solver: Solver, expected: int) -> None:
        """On a normal law, whose flow is known; the first half of the path is held on it, to fill history."""
        p, spread, errors = EDM(1.0), 0.5, []
        for n in (128, 256):
            grid = uniform(n, 1.0, 0.2)
            path = (spread**2 + grid**2).sqrt()

            def hold(frame: Frame, path: Tensor = path, n: int = n) -> list[Any]:
                k, memory = frame.step, frame.memory
                return [path[k + 1].reshape(1, 1), *memory[1:]] if k < n // 2 else memory

            out = integrate(
                lambda x, t: spread**2 / (spread**2 + t**2) * x,
                path[0].reshape(1, 1),
                solver(p, grid),
                between=hold,
            )
            errors.append(abs(float(out - path[-1])))
        assert math.log2(errors[0] / errors[1]) == pytest.approx(expected, abs=0.2)

    def test_momentum_enlarges_the_region_of_stability(self) -> None:
        """On dX/drho = X the largest stable step of AB_2 is 1; of AB_4 it is 0.3 (Butcher 2016, 407)."""

        def limit(solver: Solver) -> float:
            p, h = EDM(1.0), 1e-5
            plan = solver(p, torch.tensor([1 - h * k for k in range(9)], dtype=torch.float64))[7:]
            for k in range(1, 200):
                rate = 0.02 * k / h  # eps = rate x, so D = (1 - sigma rate) x
                update = plan.V[0] + (1 - float(plan.t[0]) * rate) * plan.B[0][:, None] * plan.U[0][None, :]
                if float(torch.linalg.eigvals(update).abs().max()) > 1 + 1e-6:
                    return 0.02 * k
            return math.inf

        assert limit(ipndm(2)) == pytest.approx(1, abs=0.03)
        assert limit(hb(2, 0.5)) == pytest.approx(3, abs=0.03)
        assert limit(ghvb(1.5)) == pytest.approx(1.5, abs=0.03)
        assert limit(ipndm(4)) == pytest.approx(0.3, abs=0.03)
        assert limit(hb(4, 0.5)) == pytest.approx(0.9, abs=0.03)
        assert limit(ghvb(3.5)) == pytest.approx(0.43, abs=0.03)


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        (pndm, {"order": 3}),
        (ipndm, {"order": 5}),
        (deis, {"order": 5}),
        (deis, {"variable": "sigma"}),
        (hb, {"beta": 0.0}),
        (ghvb, {"order": 5.5}),
    ],
)
def test_bad_arguments_get_one_sentence(factory: Callable[..., Solver], arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not ") as caught:
        factory(**arguments)
    assert str(caught.value).endswith(".")


class Table(Gaussian):
    """A discrete variance-preserving schedule: alpha_bar at steps 0 (data) to n, as ``t = step/n``."""

    def __init__(self, alpha_bar: Tensor) -> None:
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar.double()])

    def a(self, t: Tensor) -> Tensor:
        return interpolate(t, self.alpha_bar).sqrt()

    def s(self, t: Tensor) -> Tensor:
        return (1 - interpolate(t, self.alpha_bar)).sqrt()


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
class TestDiffusers:
    @pytest.mark.parametrize(("solver", "skip"), [(pndm(), False), (plms(), True)], ids=["F-PNDM", "plms"])
    def test_pndm(self, solver: Solver, skip: bool) -> None:
        diffusers = pytest.importorskip("diffusers")
        n = 20
        scheduler = diffusers.PNDMScheduler(
            skip_prk_steps=skip, set_alpha_to_one=True, prediction_type="epsilon"
        )
        scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
        scheduler.set_timesteps(n)
        x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(torch.tanh(2 * sample), int(t), sample).prev_sample
        p = Table(scheduler.alphas_cumprod)
        times = torch.cat([torch.arange(n - 1, -1, -1, dtype=torch.float64) * 50 + 1, torch.zeros(1)]) / 1000

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return (x - p.s(t) * torch.tanh(2 * x)) / p.a(t)

        plan = solver(p, times.double())
        assert plan.nfe == len(scheduler.timesteps)
        assert float((integrate(denoise, x, plan) - sample).abs().max()) < 1e-6

    def test_ipndm(self) -> None:
        """Their network predicts v. Their first step divides by a = 0 and loses the prediction: we start below."""
        diffusers = pytest.importorskip("diffusers")
        scheduler, n = diffusers.IPNDMScheduler(), 9
        sigmas = torch.sin(torch.linspace(0.9, 0, n + 1, dtype=torch.float64) * math.pi / 2)
        scheduler.set_timesteps(n)
        scheduler.betas, scheduler.alphas = sigmas, (1 - sigmas**2).sqrt()
        scheduler.timesteps = torch.arange(n)
        x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(torch.tanh(sample), t, sample).prev_sample
        p = Cosine()
        grid = torch.linspace(0.9, 0, n + 1, dtype=torch.float64)
        plan = ipndm()(p, grid)
        out = integrate(lambda x, t: p.a(t) * x - p.s(t) * torch.tanh(x), x, plan)
        assert float((out - sample).abs().max()) < 1e-6

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_deis(self, order: int) -> None:
        diffusers = pytest.importorskip("diffusers")
        scheduler = diffusers.DEISMultistepScheduler(
            solver_order=order, prediction_type="sample", lower_order_final=False
        )
        scheduler.set_timesteps(12)
        scheduler.sigmas = scheduler.sigmas.double()
        p = Cosine()
        grid = p.time(-scheduler.sigmas.log())
        x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(torch.tanh(2 * sample), t, sample).prev_sample
        out = integrate(lambda x, t: torch.tanh(2 * x), x, deis(order, "lam")(p, grid))
        assert float((out - sample).abs().max()) < 1e-6
