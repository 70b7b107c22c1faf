"""Grids, noise, seeds, joint states, the loop and the one-call sampler."""

import pytest
import torch
from core_processes import name
from torch import Tensor

from diffkit.core import noise
from diffkit.core.bridge import OUVE, SBVE, ResShift
from diffkit.core.grid import check, karras, lam_uniform, power, uniform
from diffkit.core.joint import Joint
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Recorded, Seeds, centred, key, masked, symmetric
from diffkit.core.plan import Lin, Plan, Step, integrate, stack, tabulate, vectors, walk
from diffkit.core.process import EDM, VE, VP, Gaussian, RectifiedFlow
from diffkit.core.sample import ancestral, plan_for, sample
from diffkit.core.solvers import adams, ddim, dpm_solver, dpmpp_2m, dpmpp_sde, predictor_corrector
from diffkit.core.testing import check_compiles, check_seeds

MIXTURE = Mixture.reference()


class TestGrid:
    @pytest.mark.parametrize(
        "times", [[0.0, 1.0], [1.0, 1.0, 0.0], [1.2, 0.0], [1.0, -0.1], [1.0, float("nan"), 0.0], [0.5]]
    )
    def test_bad_grids_get_one_sentence(self, times: list[float]) -> None:
        with pytest.raises(ValueError, match="a grid"):
            check(torch.tensor(times))

    def test_karras_is_equation_five(self) -> None:
        grid = karras(5)(EDM())
        sigma = EDM().s(grid)
        roots = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 5, dtype=torch.float64)
        torch.testing.assert_close(sigma[:-1], roots**7, rtol=1e-9, atol=0)
        assert float(grid[-1]) == 0
        assert len(grid) == 6

    def test_lam_uniform(self) -> None:
        lam = VP().lam(lam_uniform(7, -2.0, 3.0)(VP()))
        torch.testing.assert_close(
            lam.diff(), torch.full((7,), 5 / 7, dtype=torch.float64), rtol=1e-8, atol=0
        )


class TestNoise:
    def test_draws_are_standard_and_keyed(self) -> None:
        like = torch.zeros(2, 20_000)
        draw = Seeds([3, 4])
        first = draw(0, like)
        assert abs(float(first.mean())) < 0.03
        assert float(first.std()) == pytest.approx(1, abs=0.02)
        assert torch.equal(first, draw(0, like))
        assert not torch.equal(first, draw(1, like))
        assert not torch.equal(first[0], first[1])

    def test_keys_do_not_collide(self) -> None:
        assert len({key(seed, step) for seed in range(100) for step in range(-1, 99)}) == 10_000

    def test_laws(self) -> None:
        raw = torch.randn(500, 6, 3)
        mask = torch.ones(500, 6, dtype=torch.bool)
        mask[:, 4:] = False
        free = centred(mask)(raw)
        assert float(free.sum(1).abs().max()) < 1e-5
        assert not free[:, 4:].any()
        assert float(free[:, :4].var()) == pytest.approx(3 / 4, abs=0.05)  # one of four directions is gone
        assert float(centred()(raw).mean(1).abs().max()) < 1e-6
        square = symmetric(mask)(torch.randn(500, 6, 6))
        assert torch.equal(square, square.mT)
        assert not square.diagonal(dim1=1, dim2=2).any()
        assert not square[:, 4:].any()
        assert float(square[:, 0, 1].var()) == pytest.approx(1, abs=0.2)
        assert not masked(mask[..., None])(raw)[:, 4:].any()

    def test_wrong_number_of_seeds(self) -> None:
        with pytest.raises(ValueError, match="give one for each sample"):
            Seeds([1])(0, torch.zeros(2, 3))

    def test_leaves_draw_apart(self) -> None:
        both = Seeds([1], {"x": noise.normal, "adj": symmetric()})(
            0, {"x": torch.zeros(1, 4, 4), "adj": torch.zeros(1, 4, 4)}
        )
        assert torch.equal(both["adj"], both["adj"].mT)
        assert not torch.equal(both["x"], both["x"].mT)


class TestPlan:
    def test_not_finite(self) -> None:
        x, d, _ = vectors("x d z")
        with pytest.raises(ValueError, match="not finite"):
            tabulate([Step(1.0, x, (x * float("nan") + d,))])

    def test_evaluation_before_prediction(self) -> None:
        x, d, _ = vectors("x d z")
        with pytest.raises(ValueError, match="memory alone"):
            tabulate([Step(1.0, d, (x,))])

    def test_noise_must_come_from_somewhere(self) -> None:
        plan = ddim(1.0)(VP(), uniform(2))
        with pytest.raises(ValueError, match="draw=Seeds"):
            integrate(lambda x, t: x, torch.zeros(1, 2), plan)

    def test_linear_combinations(self) -> None:
        x, old, d, z = vectors("x old d z")
        assert (2 * x - old / 4 + d).weights == (2.0, -0.25, 1.0, 0.0)
        assert isinstance(z, Lin)

    def test_weights_for_each_element(self) -> None:
        """A stack of plans takes each sample along its own grid, exactly as that grid alone does."""
        p, x = VP(), torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None]
        grids = [power(6, exponent, 1.0, 0.01 * exponent) for exponent in (1.0, 2.0, 3.0)]
        plan = stack([adams(3)(p, grid) for grid in grids], (3,))

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return MIXTURE.denoise(p, x, t)

        alone = [integrate(denoise, x[i : i + 1], adams(3)(p, grid)) for i, grid in enumerate(grids)]
        torch.testing.assert_close(integrate(denoise, x, plan), torch.cat(alone))
        assert plan.end.tolist() == pytest.approx([0.01, 0.02, 0.03])
        assert plan[1:3].end.tolist() == [float(grid[3]) for grid in grids]
        with pytest.raises(ValueError, match="equally many rows"):
            stack([ddim()(p, uniform(2)), ddim()(p, uniform(3))], (2,))

    def test_walk_is_integrate_and_slices_go_on(self) -> None:
        plan = adams(3)(VP(), uniform(6))
        x = torch.randn(2, 3, dtype=torch.float64)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(x)

        frames = list(walk(denoise, x, plan))
        out = integrate(denoise, x, plan)
        assert torch.equal(frames[-1].memory[0], out)
        assert [f.step for f in frames] == list(range(6))
        resumed = integrate(denoise, x, plan[3:], memory=frames[2].memory)
        assert torch.equal(resumed, out)

    def test_between_edits_memory(self) -> None:
        plan = adams(2)(VP(), uniform(4))
        x = torch.randn(3, 2)
        flip = integrate(
            lambda x, t: 0.5 * x,
            x,
            plan,
            between=lambda frame: [v if v is None else v.flip(0) for v in frame.memory],
        )
        torch.testing.assert_close(flip, integrate(lambda x, t: 0.5 * x, x, plan))  # four flips are none


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), SBVE(), ResShift()], ids=name)
def test_ancestral_is_ddim_with_eta_one(process: Gaussian) -> None:
    """The same noise gives the same samples, through the posterior and through the plan."""
    grid = uniform(5, 0.95)
    y = torch.randn(3, 4, dtype=torch.float64)
    x = process.corrupt(torch.randn_like(y), grid[0], y=y)
    by_law = ancestral(process, lambda x, t: torch.tanh(x), x, grid, draw=Seeds([1, 2, 3]), y=y)
    plan = ddim(1.0)(process, grid)
    z = integrate(
        lambda z, t: torch.tanh(z + process.b(t) * y), x - process.b(grid[0]) * y, plan, draw=Seeds([1, 2, 3])
    )
    torch.testing.assert_close(z, by_law, atol=1e-10, rtol=0)


class TestSeeds:
    @pytest.mark.parametrize("solver", [ddim(), ddim(1.0), adams(2), dpmpp_sde(2)], ids=lambda s: s.name)
    def test_a_sample_is_a_function_of_its_seed(self, solver: object, dtype: torch.dtype) -> None:
        p = VP()

        def run(seeds: object) -> Tensor:
            denoise = lambda x, t: MIXTURE.denoise(p, x, t)  # noqa: E731
            return sample(denoise, p, (len(seeds), 1), solver=solver, grid=uniform(8), seeds=seeds)  # type: ignore[arg-type]

        check_seeds(run)
        assert run([1]).dtype == dtype

    def test_bridges_too(self) -> None:
        p = SBVE()

        def run(seeds: object) -> Tensor:
            y = torch.linspace(-1, 1, 5).repeat(len(seeds), 1)  # type: ignore[arg-type]
            return sample(lambda x, t: torch.tanh(x), p, y, y=y, grid=uniform(4), seeds=seeds)  # type: ignore[arg-type]

        check_seeds(run)


class TestJoint:
    JOINT = Joint({"x": VP(), "adj": VE()})

    def denoise(self, state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        coupling = state["adj"].mean((1, 2))[:, None, None]
        return {"x": torch.tanh(state["x"]) + 0.1 * coupling, "adj": 0.3 * torch.tanh(state["adj"])}

    def test_sampling_leaves_with_their_own_laws(self) -> None:
        like = {"x": torch.zeros(2, 4, 3), "adj": torch.zeros(2, 4, 4)}
        out = sample(
            self.denoise,
            self.JOINT,
            like,
            solver=adams(2),
            grid=uniform(6),
            seeds=[1, 2],
            law={"x": centred(), "adj": symmetric()},
        )
        assert out["x"].shape == (2, 4, 3)
        assert torch.allclose(out["adj"], out["adj"].mT, atol=1e-6)

    def test_uncoupled_leaves_are_sampled_as_alone(self) -> None:
        x = {"x": torch.randn(2, 3).double(), "adj": torch.randn(2, 3).double()}
        plans = plan_for(ddim(), self.JOINT, uniform(5))
        both = integrate(lambda s, t: {n: torch.tanh(v) for n, v in s.items()}, x, plans)
        for leaf, process in self.JOINT.items():
            alone = integrate(lambda v, t: torch.tanh(v), x[leaf], ddim()(process, uniform(5)))  # type: ignore[arg-type]
            torch.testing.assert_close(both[leaf], alone, atol=0, rtol=0)

    def test_corrupt_and_posterior_map(self) -> None:
        x0 = {"x": torch.randn(2, 3), "adj": torch.randn(2, 3, 3)}
        t, u = torch.tensor(0.5), torch.tensor(0.2)
        x = self.JOINT.corrupt(x0, t)
        law = self.JOINT.posterior(x, x0, t, u)
        assert {n: law[n].mean.shape for n in law} == {n: v.shape for n, v in x0.items()}

    def test_nodes_between_grid_times_are_refused(self) -> None:
        plans = plan_for(dpm_solver(2), self.JOINT, uniform(4, 0.9))
        with pytest.raises(ValueError, match="solver on grid times"):
            integrate(self.denoise, {"x": torch.zeros(1, 3), "adj": torch.zeros(1, 3, 3)}, plans)


class TestSample:
    def test_the_law_of_samples(self) -> None:
        p, count = VP(), 4000
        out = sample(
            lambda x, t: MIXTURE.denoise(p, x, t),
            p,
            torch.empty(count, 1).double(),
            solver=dpmpp_2m(),
            grid=lam_uniform(30, -5.0, 5.0),
            seeds=range(count),
        )
        mean = float((MIXTURE.weights[:, None] * MIXTURE.means).sum())
        share = float((out < -0.2).double().mean())
        truth = float((MIXTURE.sample(400_000) < -0.2).double().mean())
        assert float(out.mean()) == pytest.approx(mean, abs=0.06)
        assert share == pytest.approx(truth, abs=0.03)

    def test_warm_start_begins_at_the_anchor(self) -> None:
        y = torch.ones(2, 3)
        out = sample(lambda x, t: x, OUVE(), y, y=y, grid=uniform(2, 0.5, 0.4), seeds=[0, 1])
        assert float((out - 1).abs().max()) < 1.0

    def test_not_finite_is_an_error(self) -> None:
        with pytest.raises(FloatingPointError, match="not finite"):
            sample(lambda x, t: x * float("nan"), VP(), (1, 2), grid=uniform(2))

    def test_bf16_states(self) -> None:
        out = sample(lambda x, t: torch.tanh(x), VP(), torch.empty(2, 8, dtype=torch.bfloat16), seeds=[0, 1])
        assert out.dtype == torch.bfloat16


@pytest.mark.parametrize("snr", [0.16, 0.3])
def test_langevin_inflates_the_variance_as_derived(snr: float) -> None:
    """On N(0, V I) in many dimensions the corrector's stationary variance is V/(1 - snr^2)."""
    p, dims = VE(), 4096
    grid = torch.tensor([0.5, 0.5 - 1e-9], dtype=torch.float64)
    total = float(1 + p.s(grid[0]) ** 2)
    x = total**0.5 * torch.randn(8, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = predictor_corrector(
        lambda x, t: x / (1 + p.s(t) ** 2), p, x, grid, draw=Seeds(range(8)), snr=snr, corrections=200
    )
    assert float(out.var()) / total == pytest.approx(1 / (1 - snr**2), rel=0.015)


def test_predictor_keeps_the_marginal() -> None:
    """Reverse diffusion without corrections on normal data of variance .25 ends at it."""
    p, count = OUVE(), 20_000
    grid = uniform(200, 1.0, 0.03)
    variance = lambda t: 0.25 * p.a(t) ** 2 + p.s(t) ** 2  # noqa: E731
    x = variance(grid[0]).sqrt() * torch.randn(
        count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    generator = torch.Generator().manual_seed(2)
    out = predictor_corrector(
        lambda x, t: 0.25 * p.a(t) / variance(t) * x,
        p,
        x,
        grid,
        corrections=0,
        draw=lambda k, like: torch.randn(like.shape, dtype=like.dtype, generator=generator),
    )
    assert float(out.var()) == pytest.approx(float(variance(grid[-1])), rel=0.04)


class TestCompile:
    @pytest.mark.parametrize(
        "solver", [ddim(), adams(2), adams(2, corrector=True), dpmpp_2m()], ids=lambda s: f"{s.name}{s.order}"
    )
    def test_the_whole_loop_is_one_graph(self, solver: object) -> None:
        net = torch.nn.Linear(4, 4)
        plan: Plan = solver(VP(), uniform(5))  # type: ignore[operator]
        check_compiles(
            lambda x: integrate(lambda x, t: net(x) * t.float(), x, plan),
            (torch.randn(2, 4),),
            (torch.randn(2, 4),),
        )

    def test_with_noise_drawn_before(self) -> None:
        plan = ddim(1.0)(VP(), uniform(5))

        def run(x: Tensor, noise: Tensor) -> Tensor:
            return integrate(lambda x, t: torch.tanh(x), x, plan, draw=Recorded(noise))

        first, second = ((torch.randn(2, 4), torch.randn(5, 2, 4)) for _ in range(2))
        check_compiles(run, first, second)
