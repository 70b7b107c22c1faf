"""Joint processes with leaves of more than one kind."""

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from diffkit.core.categorical import Absorbing, Jumps, Marginal, Uniform
from diffkit.core.grid import karras, uniform
from diffkit.core.joint import Joint
from diffkit.core.noise import Seeds, centred, normal, symmetric
from diffkit.core.plan import Frame, integrate
from diffkit.core.process import VE, VP, Cosine, RectifiedFlow
from diffkit.core.sample import ancestral, follow, plan_for, sample, start
from diffkit.core.solvers import Solver, adams, churn, ddim, dpm_solver, dpmpp_2m, dpmpp_sde, heun, pc
from diffkit.core.steer import fk_steer
from diffkit.core.testing import check_seeds

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
"""A class, and a coordinate that is normal given the class."""


class Labelled:
    """E of both, given both noisy ones."""

    def __init__(self, process: Joint):
        self.process = process
        self.calls = 0

    def __call__(self, state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        gaussian, noise = self.process["x"], self.process["a"]
        noise = noise.process if isinstance(noise, Jumps) else noise
        a, s = gaussian.a(t), gaussian.s(t)  # type: ignore[attr-defined]
        x = state["x"].double()
        variance = (a * STDS) ** 2 + s**2
        gap = x - a * MEANS
        reach = noise.backward(state["a"].double(), torch.zeros_like(t), t)[:, :3]  # type: ignore[attr-defined]
        log = WEIGHTS.log() - gap.square() / variance / 2 - variance.log() / 2 + reach.log()
        share = log.softmax(-1)
        mean = (share * (MEANS + a * STDS**2 / variance * gap)).sum(-1, keepdim=True)
        p = torch.nn.functional.pad(share, (0, state["a"].shape[-1] - 3))
        return {"x": mean.to(state["x"].dtype), "a": p.to(state["a"].dtype)}


def like(process: Joint, count: int) -> dict[str, Tensor]:
    noise = process["a"]
    noise = noise.process if isinstance(noise, Jumps) else noise
    return {"x": torch.empty(count, 1).double(), "a": torch.empty(count, noise.size).double()}  # type: ignore[attr-defined]


def drawing(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda k, state: {
        n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in state.items()
    }


def check_labelled(out: dict[str, Tensor]) -> None:
    """Frequencies within .015, means within .03, standard deviations within 6 %.

    Of 20 000 draws the standard errors are at most .0035, .008 and 1.1 %; the rest is what is left of 40 steps, of the
    120 that ancestral sampling needs for it, or of 20 with two calls each.
    """
    assert bool((out["a"].sum(-1) == 1).all())
    assert not out["a"][:, 3:].any()
    frequencies = out["a"].mean(0)[:3]
    assert float((frequencies - WEIGHTS).abs().max()) < 0.015
    for k in range(3):
        x = out["x"][out["a"][:, k] == 1]
        assert float(x.mean()) == pytest.approx(float(MEANS[k]), abs=0.03)
        assert float(x.std() / STDS[k]) == pytest.approx(1, abs=0.06)


class TestLaw:
    @pytest.mark.parametrize(
        ("noise", "solver"),
        [
            (Absorbing(4), ddim()),
            (Absorbing(4), dpmpp_2m()),
            (Marginal((0.5, 0.3, 0.2)), adams(2)),
            (Jumps(Uniform(3), eta=3), dpmpp_sde(2)),
        ],
        ids=lambda value: getattr(value, "name", repr(value)),
    )
    def test_a_plan_beside_jumps(self, noise: Any, solver: Solver) -> None:
        process = Joint({"x": Cosine(), "a": noise})
        denoise, draw, grid = Labelled(process), drawing(1), uniform(40, 1.0, 0.0)
        x = start(process, like(process, 20_000), draw)
        check_labelled(follow(denoise, process, x, plan_for(solver, process, grid), draw=draw))
        assert denoise.calls == 40

    def test_ancestral(self) -> None:
        process = Joint({"x": Cosine(), "a": Absorbing(4)})
        denoise, draw = Labelled(process), drawing(2)
        x = start(process, like(process, 20_000), draw)
        check_labelled(ancestral(process, denoise, x, uniform(120), draw=draw))
        assert denoise.calls == 120

    @pytest.mark.parametrize("solver", [heun(), dpm_solver(2)], ids=lambda s: s.name)
    def test_rows_between_and_at_grid_times(self, solver: Solver) -> None:
        """Two calls a step: the other leaves jump at the times between, or wait at repeated ones."""
        process = Joint({"x": RectifiedFlow(), "a": Absorbing(4)})
        denoise, draw = Labelled(process), drawing(3)
        x = start(process, like(process, 20_000), draw)
        plan = plan_for(solver, process, uniform(20))
        check_labelled(follow(denoise, process, x, plan, draw=draw))

    def test_both_are_steered(self) -> None:
        """exp(ln 4 [a = 0]) for the reward: the first class is four times as frequent beside the others."""
        process, noisy = Joint({"x": Cosine(), "a": Absorbing(4)}), ddim(1.0)
        run = fk_steer(
            Labelled(process),
            process,
            like(process, 20_000),
            lambda x0: math.log(4) * x0["a"][:, 0],
            particles=20_000,
            solver=noisy,
            grid=uniform(60),
            seeds=[4],
        )
        wanted = WEIGHTS * torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64)
        found = (run.weights[0][:, None] * run.x["a"]).sum(0)[:3]
        assert float((found - wanted / wanted.sum()).abs().max()) < 0.02
        chosen = run.resampled()
        for k in range(3):
            assert float(chosen["x"][chosen["a"][:, k] == 1].mean()) == pytest.approx(
                float(MEANS[k]), abs=0.1
            )

    def test_corrupt_and_posterior_map(self) -> None:
        process = Joint({"x": VP(), "a": Absorbing(4)})
        t, u = torch.tensor([0.5, 0.9]), torch.tensor([0.2, 0.3])
        x0 = {"x": torch.randn(2, 1), "a": torch.eye(4)[:2]}
        x = process.corrupt(x0, t)
        assert {n: v.shape for n, v in x.items()} == {n: v.shape for n, v in x0.items()}
        law = process.posterior(x, x0, t, u)
        torch.testing.assert_close(law["a"].probs, Absorbing(4).posterior(x["a"], x0["a"], t, u).probs)


class TestSample:
    PROCESS = Joint({"x": VP(), "a": Marginal((0.6, 0.3, 0.1)), "adj": VE()})
    LIKE: ClassVar = {"x": torch.empty(3, 4, 2), "a": torch.empty(3, 4, 4, 3), "adj": torch.empty(3, 4, 4)}
    LAWS: ClassVar = {"x": centred(), "a": symmetric(channels=True), "adj": symmetric()}

    @staticmethod
    def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        coupling = state["adj"].mean((1, 2))[:, None, None]
        return {
            "x": torch.tanh(state["x"]) + 0.1 * coupling - 0.1 * coupling.mean(1, keepdim=True),
            "a": (state["a"] + state["adj"][..., None] * torch.tensor([0.0, 0.1, 0.2])).softmax(-1),
            "adj": 0.3 * torch.tanh(state["adj"]) + 0.1 * state["a"][..., 1],
        }

    @pytest.mark.parametrize("solver", [None, dpmpp_2m(), ddim(1.0)], ids=["default", "dpmpp_2m", "noisy"])
    def test_seeds_and_laws(self, solver: Solver | None) -> None:
        def run(seeds: Any) -> dict[str, Tensor]:
            states = {n: v[: len(seeds)] for n, v in self.LIKE.items()}
            return sample(
                self.denoise,
                self.PROCESS,
                states,
                solver=solver,
                grid=uniform(6),
                seeds=seeds,
                law=self.LAWS,
            )

        for name in self.LIKE:
            check_seeds(lambda seeds, n=name: run(seeds)[n])
        out = run([1, 2, 3])
        assert torch.equal(out["a"], out["a"].transpose(1, 2))
        assert not out["a"].diagonal(dim1=1, dim2=2).any()
        assert torch.equal(out["a"].sum(-1), (1 - torch.eye(4)).expand(3, 4, 4))

    def test_uncoupled_leaves_are_sampled_as_alone(self) -> None:
        process, seeds = Joint({"x": VP(), "a": Absorbing(3)}), [5, 6]
        like, tilt = {"x": torch.empty(2, 4), "a": torch.empty(2, 7, 3)}, torch.tensor([1.0, 0.0, -99.0])

        def classes(a: Tensor, t: Tensor) -> Tensor:
            return (0 * a + tilt).softmax(-1)

        out = sample(
            lambda s, t: {"x": torch.tanh(s["x"]), "a": classes(s["a"], t)},
            process,
            like,
            solver=adams(2),
            grid=uniform(6),
            seeds=seeds,
        )
        alone = sample(
            lambda x, t: torch.tanh(x), VP(), (2, 4), solver=adams(2), grid=uniform(6), seeds=seeds
        )
        torch.testing.assert_close(out["x"], alone, atol=0, rtol=0)

        def draw(step: int, a: Tensor) -> Tensor:  # the values of the second leaf
            return Seeds(seeds)(step, like)["a"]

        start_a = start(process["a"], like["a"], draw)
        torch.testing.assert_close(out["a"], ancestral(process["a"], classes, start_a, uniform(6), draw=draw))

    def test_only_classes(self) -> None:
        process = Joint({"nodes": Uniform(3), "edges": Jumps(Marginal((0.8, 0.2)), eta=2)})
        shapes = {"nodes": torch.empty(2, 4, 3), "edges": torch.empty(2, 4, 4, 2)}
        laws = {"nodes": normal, "edges": symmetric(channels=True)}

        def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            return {n: v.softmax(-1) for n, v in state.items()}

        out = sample(denoise, process, shapes, grid=uniform(5), seeds=[1, 2], law=laws)
        assert torch.equal(out["nodes"].sum(-1), torch.ones(2, 4))
        assert torch.equal(out["edges"], out["edges"].transpose(1, 2))

    def test_plans_of_the_gaussian_leaves(self) -> None:
        plan = plan_for(dpmpp_2m(), self.PROCESS, uniform(6))
        assert isinstance(plan, dict)
        assert list(plan) == ["x", "adj"]
        options: Any = {"seeds": [1, 2, 3], "law": self.LAWS}
        by_plan = sample(self.denoise, self.PROCESS, self.LIKE, plan=plan, **options)
        by_solver = sample(
            self.denoise,
            self.PROCESS,
            self.LIKE,
            solver=dpmpp_2m(),
            grid=uniform(6),
            **options,
        )
        assert all(torch.equal(by_plan[n], by_solver[n]) for n in self.LIKE)

    def test_levels_are_those_of_a_gaussian_leaf(self) -> None:
        process = Joint({"a": Absorbing(3), "x": VP()})
        grids: list[float] = []

        def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            grids.append(float(t))
            return {"a": torch.tensor([0.5, 0.5, 0.0]).expand_as(state["a"]), "x": state["x"]}

        sample(denoise, process, {"a": torch.empty(1, 3), "x": torch.empty(1, 2)}, grid=karras(4), seeds=[0])
        assert grids == karras(4)(VP()).tolist()[:-1]

    def test_between_sees_all_leaves_and_may_permute_them(self) -> None:
        """Particles keep their leaves and their memory together."""
        process, flips = Joint({"x": VP(), "a": Absorbing(3)}), 0

        class Flip:
            def begin(self) -> "Flip":
                nonlocal flips
                flips += 1
                return Flip()

            def __call__(self, frame: Frame) -> list[object]:
                assert frame.memory[0]["a"].shape == (2, 3)
                assert frame.t > 0.25 or bool(frame.memory[0]["a"][:, 0].all())  # they have jumped already
                return [
                    v and {n: None if w is None else w.flip(0) for n, w in v.items()} for v in frame.memory
                ]

        def run(between: Any) -> dict[str, Tensor]:
            like = {"x": torch.empty(2, 2), "a": torch.empty(2, 3)}
            denoise = lambda s, t: {"x": 0.5 * s["x"], "a": torch.tensor([[1.0, 0.0, 0.0]] * 2)}  # noqa: E731
            return sample(
                denoise, process, like, solver=adams(2), grid=uniform(4), seeds=[3, 4], between=between
            )

        torch.testing.assert_close(run(Flip())["x"], run(None)["x"])  # four flips are none
        assert flips == 1


class TestBadInput:
    PROCESS = Joint({"x": VP(), "a": Absorbing(3)})
    LIKE: ClassVar = {"x": torch.empty(1, 2), "a": torch.empty(1, 3)}

    @staticmethod
    def denoise(state: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"x": state["x"], "a": torch.tensor([[1.0, 0.0, 0.0]])}

    def test_times_that_rise(self) -> None:
        with pytest.raises(
            ValueError, match="the leaves a need a plan whose times fall, with a call at each"
        ):
            sample(self.denoise, self.PROCESS, self.LIKE, solver=churn(40.0, 0.0, 1e9), grid=uniform(4, 0.9))

    def test_samplers_without_a_plan(self) -> None:
        with pytest.raises(ValueError, match="need a solver with a plan"):
            sample(self.denoise, self.PROCESS, self.LIKE, solver=pc())

    def test_one_plan_for_all(self) -> None:
        with pytest.raises(ValueError, match="with a plan for each of them"):
            sample(self.denoise, self.PROCESS, self.LIKE, plan=ddim()(VP(), uniform(2)))

    def test_anchors(self) -> None:
        with pytest.raises(ValueError, match="only a Gaussian process has an anchor"):
            sample(self.denoise, self.PROCESS, self.LIKE, y={})

    def test_no_leaves(self) -> None:
        with pytest.raises(ValueError, match="at least one leaf"):
            Joint({})

    def test_without_others_it_is_integrate(self) -> None:
        process = Joint({"x": VP(), "adj": VE()})
        x, plan = {"x": torch.randn(2, 3), "adj": torch.randn(2, 3)}, plan_for(ddim(1.0), process, uniform(4))
        denoise = lambda s, t: {n: torch.tanh(v) for n, v in s.items()}  # noqa: E731
        one, two = (
            follow(denoise, process, x, plan, draw=Seeds([1, 2])),
            integrate(denoise, x, plan, draw=Seeds([1, 2])),
        )
        assert all(torch.equal(one[n], two[n]) for n in x)
