"""Grids against their papers, diffusers and each other; grids with a row for each sample or token."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from diffkit.core import predict
from diffkit.core.bridge import SBVE
from diffkit.core.grid import (
    AYS,
    GRIDS,
    ays,
    beta,
    check,
    exponential,
    few_steps,
    flux_shift,
    karras,
    kl_optimal,
    lam_uniform,
    leading,
    levels,
    linspace,
    power,
    resolve,
    shift,
    shifted,
    trailing,
    uniform,
)
from diffkit.core.joint import Joint
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate, walk
from diffkit.core.process import EDM, VE, VP, Cosine, Discrete, Gaussian, RectifiedFlow
from diffkit.core.sample import ancestral, plan_for, sample
from diffkit.core.solvers.adams import adams
from diffkit.core.solvers.base import Solver
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.dpmpp import dpmpp_sde
from diffkit.core.solvers.langevin import pc
from diffkit.core.solvers.runge_kutta import heun
from diffkit.core.testing import check_compiles
from diffkit.core.train.loss import denoising_loss, min_snr, snr_plus_one
from diffkit.core.types import expand_as, lookup


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestGrids:
    @pytest.mark.parametrize("name", GRIDS)
    @pytest.mark.parametrize(
        "process", [VP(), RectifiedFlow(), EDM(), Discrete(), SBVE()], ids=lambda p: type(p).__name__
    )
    def test_every_name_is_a_grid_of_as_many_steps(self, name: str, process: Gaussian) -> None:
        for n in (8,) if name == "few_steps" else (1, 8):
            assert len(resolve(GRIDS[name](n), process)) == n + 1

    @pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=lambda p: type(p).__name__)
    def test_exponential_is_lam_uniform_and_the_limit_of_karras(self, process: Gaussian) -> None:
        grid = exponential(9, 0.02, 40.0)(process)
        ramp = lam_uniform(8, -math.log(40.0), -math.log(0.02))(process)
        torch.testing.assert_close(grid[:-1], ramp, atol=1e-12, rtol=0)
        limit = karras(9, 0.02, 40.0, rho=1e6)(process)
        torch.testing.assert_close(limit, grid, atol=1e-5, rtol=0)
        assert float(grid[-1]) == 0

    def test_levels_beyond_the_process_are_cut_to_it(self) -> None:
        sigma = VE().s(karras(6)(VE()))  # theirs go up to 80
        torch.testing.assert_close(
            sigma[:-1], VE().s(karras(6, sigma_max=float(VE().s(double(1.0))))(VE()))[:-1]
        )
        assert float(sigma[0]) == pytest.approx(float(VE().s(double(1.0))))

    def test_levels_may_be_infinite_or_zero(self) -> None:
        assert levels([math.inf, 1.0, 0.0])(RectifiedFlow()).tolist() == pytest.approx(
            [1.0, 0.5, 0.0], abs=1e-15
        )

    @pytest.mark.parametrize("n", [1, 5, 7, 20, 50])
    @pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
    def test_discrete_spacings_are_those_of_diffusers(self, spacing: str, n: int) -> None:
        diffusers = pytest.importorskip("diffusers")
        if (spacing, n) == ("linspace", 1):
            pytest.skip("theirs calls the cleanest step alone, and ours the noisiest")
        scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=int(spacing == "leading"))
        scheduler.set_timesteps(n)
        options = {"offset": 1} if spacing == "leading" else {}
        grid = {"trailing": trailing, "leading": leading, "linspace": linspace}[spacing](n, **options)
        assert (grid[:-1] * 1000 - 1).round(decimals=9).tolist() == scheduler.timesteps.tolist()
        assert float(grid[-1]) == 0

    def test_trailing_is_uniform_where_that_has_whole_steps(self) -> None:
        torch.testing.assert_close(trailing(20), uniform(20))

    @pytest.mark.parametrize("schedule", ["linear", "scaled", "cosine"])
    def test_discrete_process_is_that_of_diffusers(self, schedule: str) -> None:
        diffusers = pytest.importorskip("diffusers")
        names = {"linear": "linear", "scaled": "scaled_linear", "cosine": "squaredcos_cap_v2"}
        first, last = (1e-4, 0.02) if schedule == "linear" else (0.00085, 0.012)
        theirs = diffusers.DDIMScheduler(beta_schedule=names[schedule], beta_start=first, beta_end=last)
        p = Discrete(schedule, first=first, last=last)  # type: ignore[arg-type]
        t = torch.arange(1, 1001, dtype=torch.float64) / 1000
        torch.testing.assert_close(p.a(t).square(), theirs.alphas_cumprod.double(), rtol=5e-4, atol=1e-9)
        assert float(p.lam(double(0.0))) == math.inf

    def test_shift_lowers_lambda_by_its_log(self) -> None:
        p, t = RectifiedFlow(), double([0.05, 0.4, 0.9])
        torch.testing.assert_close(p.lam(shift(t, 3.0)), p.lam(t) - math.log(3.0))
        torch.testing.assert_close(shift(shift(t, 2.0), 0.5), t)

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_shift_is_that_of_diffusers(self, dynamic: bool) -> None:
        diffusers = pytest.importorskip("diffusers")
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
        mu = flux_shift(1024)
        assert math.log(mu) == pytest.approx(0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256))
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12), mu=math.log(mu) if dynamic else None)
        grid = shifted(12, mu if dynamic else 3.0)
        torch.testing.assert_close(grid, scheduler.sigmas.double(), atol=1e-6, rtol=0)

    def test_beta_takes_quantiles(self) -> None:
        from scipy.stats import beta as law

        np.testing.assert_allclose(law(0.6, 0.6).cdf(beta(9).numpy()), uniform(9).numpy(), atol=1e-12)
        torch.testing.assert_close(beta(9, 1.0, 1.0), uniform(9))
        assert (
            beta(9).diff()[0] > beta(9).diff()[4]
        )  # both negative: the steps at the ends are the short ones

    def test_quadratic_is_the_default_power(self) -> None:
        torch.testing.assert_close(power(10).sqrt(), uniform(10))

    @pytest.mark.parametrize("c", [0.3, 1.0])
    def test_kl_optimal_is_the_best_for_normal_data(self, c: float) -> None:
        """DDIM's factor is off by the product of cosines, cos(theta/n)^n, and no other grid's is as near to 1."""
        p, n = EDM(), 10

        def factor(grid: Tensor) -> float:
            ends = p.s(grid[[0, -1]])
            x = (c**2 + ends[:1].square()).sqrt()
            out = integrate(lambda x, t: c**2 / (c**2 + p.s(t) ** 2) * x, x, ddim()(p, grid))
            return float(out / (c**2 + ends[1].square()).sqrt())

        grid = kl_optimal(n, sigma_data=c)(p)
        assert factor(grid) == pytest.approx(math.cos(math.atan(80 / c) / n) ** n, rel=1e-9)
        others = [factor(resolve(GRIDS[name](n), p)) for name in ("uniform", "karras", "exponential", "beta")]
        bumped = grid.clone()
        bumped[4] *= 1.03
        assert all(other < factor(grid) < 1 for other in [*others, factor(bumped)])

    def test_kl_optimal_is_uniform_on_a_quarter_circle(self) -> None:
        torch.testing.assert_close(kl_optimal(7)(Cosine()), uniform(7))

    @pytest.mark.parametrize(
        ("model", "published"),
        [
            ("sd15", [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]),
            ("sdxl", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
        ],
    )
    def test_ays_levels_are_the_published_indices(self, model: str, published: list[int]) -> None:
        index = ays(10, model)(Discrete()) * 1000 - 1
        assert index[:-1].tolist() == pytest.approx(published, abs=0.6)
        assert float(index[-1]) == pytest.approx(-1)

    def test_ays_is_log_linear_between_its_levels(self) -> None:
        p = EDM(sigma_max=1000.0)
        for model, table in AYS.items():
            sigma = p.s(ays(20, model)(p))
            torch.testing.assert_close(sigma[:-1:2], double(table[:-1]), rtol=1e-9, atol=0)
            torch.testing.assert_close(
                sigma[1:-2:2].square(), sigma[:-3:2] * sigma[2:-1:2], rtol=1e-9, atol=0
            )

    @pytest.mark.parametrize(
        ("n", "points", "rho", "last"), [(5, 8, 5.0, 6), (6, 8, 5.0, 6), (8, 12, 7.0, 9)]
    )
    def test_few_steps_are_the_published_grids(self, n: int, points: int, rho: float, last: int) -> None:
        """Their construction, on the table of Stable Diffusion: log sigma linear in the index."""
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        bar = np.cumprod(1 - betas)
        table = np.sqrt((1 - bar) / bar)
        ramp = np.linspace(table[-1] ** (1 / rho), table[0] ** (1 / rho), points) ** rho
        start, end = np.interp(np.log(ramp[[0, last]]), np.log(table), np.arange(1000))
        expected = np.linspace(start ** (1 / 1.2), end ** (1 / 1.2), n + 1) ** 1.2
        index = few_steps(n)(Discrete()) * 1000 - 1  # type: ignore[arg-type]
        np.testing.assert_allclose(index.numpy(), expected, atol=0.02)

    def test_few_steps_leave_the_noise_of_their_end(self) -> None:
        p = Discrete()
        grid = few_steps(8)(p)
        x = torch.randn(3, 2, dtype=torch.float64)
        out = integrate(lambda x, t: torch.full_like(x, 0.4), x, adams(2)(p, grid))
        a, s = p.a(grid), p.s(grid)
        assert float(s[-1]) > 0.1
        torch.testing.assert_close(out, a[-1] * 0.4 + s[-1] * (x - a[0] * 0.4) / s[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uniform(0), "at least one step"),
        (lambda: trailing(2000), "at most 1000"),
        (lambda: power(4, -1.0), "must be positive"),
        (lambda: beta(4, 0.0), "must be positive"),
        (lambda: shift(uniform(4), 0.0), "must be positive"),
        (lambda: ays(4, "sdx1"), r"no AYS model 'sdx1' \(did you mean 'sdxl'\?\); the AYS models are sd15"),
        (lambda: Discrete("sigmoid"), "the schedules are linear, scaled, cosine"),  # type: ignore[arg-type]
        (lambda: few_steps(7), "5, 6 or 8"),  # type: ignore[arg-type]
        (lambda: lookup("karas", GRIDS, "grid"), r"no grid 'karas' \(did you mean 'karras'\?\)"),
        (lambda: lookup("quux", GRIDS, "grid"), "no grid 'quux'; the grids are uniform, power"),
        (lambda: check(torch.zeros(2, 0)), "a grid is"),
        (lambda: check(torch.zeros(1, 1, 1, 3)), "a grid is"),
        (lambda: check(double([[1.0, 0.5], [0.4, 0.5]])), "descend or pause"),
        (lambda: check(double([[0.5, 0.5], [0.4, 0.4]])), "one of them must move"),
        (lambda: check(double([[1.0, math.nan], [0.5, 0.4]])), r"lie in \[0, 1\]"),
        (lambda: resolve(karras(4, sigma_max=-1.0), VP()), "must be positive and rise"),
    ],
)
def test_bad_grids_get_one_sentence(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def denoise(x: Tensor, t: Tensor) -> Tensor:
    """Of each value for itself, at times of the first axes of ``x``."""
    return torch.tanh(2 * x) * (1 - 0.5 * expand_as(t, x))


ROWS = torch.stack([uniform(5), power(5, 2.0, 1.0, 0.02), power(5, 1.5, 0.7)])
TOKENS = torch.stack(
    [
        double([1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0]),  # is finished early
        double([1.0, 1.0, 0.7, 0.7, 0.7, 0.3, 0.1]),  # waits at the start and on its way
        double([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),  # only shows itself
    ]
)


class TestRows:
    @pytest.mark.parametrize(
        "solver",
        [ddim(), ddim(1.0), adams(3), adams(2, corrector=True), dpmpp_sde(2), heun()],
        ids=lambda s: f"{s.name}{s.order}",
    )
    @pytest.mark.parametrize("bridge", [False, True], ids=["VP", "SBVE"])
    def test_each_sample_is_sampled_as_alone(self, solver: Solver, bridge: bool) -> None:
        p: Gaussian = SBVE() if bridge else VP()
        like = torch.empty(3, 4, dtype=torch.float64)
        y = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4) if bridge else None
        rows = 0.95 * ROWS if bridge else ROWS.clone()  # a corrector cannot leave a bridge's end
        rows[:, -1] += 0.01  # for Heun, whose last step has one call less if it ends at 0

        together = sample(denoise, p, like, y=y, solver=solver, grid=rows, seeds=[1, 2, 3])
        for i in range(3):
            end = None if y is None else y[i : i + 1]
            alone = sample(denoise, p, like[i : i + 1], y=end, solver=solver, grid=rows[i], seeds=[i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-12, rtol=0)

    @pytest.mark.parametrize(
        "solver", [ddim(), adams(3), adams(2, corrector=True)], ids=lambda s: f"{s.name}{s.order}"
    )
    def test_tokens_wait_and_go_on_as_if_they_had_not(self, solver: Solver) -> None:
        p = VP()
        x = torch.randn(2, 3, 4, dtype=torch.float64)
        grid = torch.stack([TOKENS, TOKENS.roll(1, 0)])
        plan = solver(p, grid)
        out = integrate(denoise, x, plan)
        torch.testing.assert_close(plan.end, grid[..., -1])
        for i in range(2):
            for j in range(3):
                times = grid[i, j].unique().flip(0)
                alone = x[i, j][None]
                if len(times) > 1:
                    alone = integrate(denoise, alone, solver(p, times))
                torch.testing.assert_close(out[i, j][None], alone, atol=1e-13, rtol=0)

    def test_what_waits_is_held_exactly_and_seen_at_its_own_time(self) -> None:
        p = VP()
        x = torch.randn(1, 3, 4)
        seen: list[Tensor] = []

        def net(x: Tensor, t: Tensor) -> Tensor:
            assert t.shape == x.shape[:2]
            seen.append(t)
            return torch.tanh(x) + x.mean(1, keepdim=True)  # tokens see each other

        frames = list(walk(predict.wrap(net, p), x, adams(2)(p, TOKENS[None])))
        torch.testing.assert_close(torch.stack(seen, -1)[0], TOKENS[:, :-1].float())
        before = [x, *(frame.memory[0] for frame in frames)]
        for k, (old, new) in enumerate(pairwise(before)):
            waits = TOKENS[:, k] == TOKENS[:, k + 1]
            assert torch.equal(new[0, waits], old[0, waits])
            assert not torch.equal(new[0, ~waits], old[0, ~waits])
        assert [frame.t for frame in frames] == pytest.approx([1.0, 1.0, 0.7, 0.7, 0.7, 0.5])

    @pytest.mark.parametrize("target", predict.TARGETS)
    def test_a_finished_token_is_finite_for_every_target(self, target: str) -> None:
        """A network is still called for it, at t = 0, as context of the others."""
        p = VP()
        y = torch.randn(1, 3, 4) if target == "residual" else None
        run = predict.wrap(lambda x, t: torch.tanh(x), p, predict.TARGETS[target], y=y)
        out = run(torch.ones(1, 3, 4), double([[0.5, 0.0, 1e-3]]))
        assert bool(out.isfinite().all())
        if target in ("eps", "score", "v", "flow"):
            assert torch.equal(out[:, 1], torch.ones(1, 4))

    def test_joint_states_take_a_row_for_each_sample(self) -> None:
        joint = Joint({"x": VP(), "adj": VE()})
        x = {"x": torch.randn(3, 4).double(), "adj": torch.randn(3, 4, 4).double()}
        out = integrate(
            lambda s, t: {n: torch.tanh(v) for n, v in s.items()}, x, plan_for(adams(2), joint, ROWS)
        )
        for i in range(3):
            alone = integrate(
                lambda s, t: {n: torch.tanh(v) for n, v in s.items()},
                {n: v[i : i + 1] for n, v in x.items()},
                plan_for(adams(2), joint, ROWS[i]),
            )
            for n in x:
                torch.testing.assert_close(out[n][i : i + 1], alone[n], atol=1e-12, rtol=0)

    def test_ancestral_takes_rows_and_waits(self) -> None:
        p, draw = VP(), Seeds([1])
        x = torch.randn(1, 3, 4, dtype=torch.float64)
        by_law = ancestral(p, lambda x, t: torch.tanh(x), x, TOKENS[None], draw=draw)
        by_plan = integrate(lambda x, t: torch.tanh(x), x, ddim(1.0)(p, TOKENS[None]), draw=draw)
        torch.testing.assert_close(by_law, by_plan, atol=1e-12, rtol=0)
        assert torch.equal(by_plan[:, 2], x[:, 2])

    def test_compiles_as_one_graph(self) -> None:
        plan = adams(2)(VP(), TOKENS[None])
        check_compiles(
            lambda x: integrate(lambda x, t: torch.tanh(x) * expand_as(t, x), x, plan),
            (torch.randn(1, 3, 4),),
            (torch.randn(1, 3, 4),),
        )

    @pytest.mark.parametrize("weight", [None, min_snr(), snr_plus_one])
    def test_training_takes_a_time_for_each_token(self, weight: object) -> None:
        """The loss over tokens is the mean of theirs alone."""
        p, x0, noise = VP(), torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
        t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(2, 3)

        def loss(rows: slice, tokens: slice) -> Tensor:
            return denoising_loss(
                lambda x, t: torch.tanh(x),
                p,
                x0[rows, tokens],
                t=t[rows, tokens],
                noise=noise[rows, tokens],
                target=predict.v,
                weight=weight,  # type: ignore[arg-type]
            )

        parts = [loss(slice(i, i + 1), slice(j, j + 1)) for i in range(2) for j in range(3)]
        torch.testing.assert_close(loss(slice(None), slice(None)), torch.stack(parts).mean())

    def test_misfits_get_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="heun takes several calls a step"):
            heun()(VP(), TOKENS)
        with pytest.raises(ValueError, match="a row for each sample"):
            sample(lambda x, t: x, VP(), (2, 4), grid=ROWS)
        with pytest.raises(ValueError, match="need a solver with a plan"):
            sample(lambda x, t: x, VP(), (3, 4), grid=ROWS, solver=pc())
