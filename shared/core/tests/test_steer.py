"""Resampling, and steering by a reward: the tilted law, its normalising constant, and what moves with a particle."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.bridge import SBVE
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.joint import Joint
from diffkit.core.mixture import Mixture
from diffkit.core.noise import centred, normal
from diffkit.core.plan import Frame, integrate
from diffkit.core.process import VE, VP
from diffkit.core.sample import plan_for, start
from diffkit.core.solvers import ddim, dpmpp_2m, dpmpp_sde, heun, sa
from diffkit.core.steer import Particles, ess, fk_steer, multinomial, select, systematic
from diffkit.core.steer import fk as module
from diffkit.core.steer.swarm import Swarm
from diffkit.core.testing import check_seeds, law_on_normal
from diffkit.core.types import each, leaves

P, MIXTURE = VP(), Mixture.reference()
LEVELS = torch.cat([lam_uniform(50, None, 5.0)(P), torch.zeros(1)])
"""50 steps to e^-5 of noise, where the laws of all solvers here are the data's to a percent, and one to 0."""


def single(mean: float, std: float) -> Mixture:
    return Mixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[mean]], [std])))


def moments(run: Particles) -> tuple[float, float]:
    """Mean and variance of one group of numbers."""
    x, w = run.x.flatten(), run.weights.flatten()
    mean = (w * x).sum()
    return float(mean), float((w * (x - mean) ** 2).sum())


def tilted(mixture: Mixture, centre: float, variance: float) -> tuple[Mixture, float]:
    """mixture exp(-(x - centre)^2/(2 variance)), which is a mixture, and the log of its mass."""
    total = mixture.stds**2 + variance
    gap = mixture.means[:, 0] - centre
    log = mixture.weights.log() - 0.5 * (gap**2 / total + (total / variance).log())
    means = (mixture.means[:, 0] * variance + centre * mixture.stds**2) / total
    stds = (mixture.stds**2 * variance / total).sqrt()
    return Mixture(log.softmax(0), means[:, None], stds), float(log.logsumexp(0))


def away(x: Tensor, weights: Tensor, truth: Mixture) -> float:
    """The energy distance of weighted numbers to a mixture, in units of what independent samples of it have.

    In one dimension it is 2 int (F - G)^2 dx of the distribution functions, 2/n int G (1 - G) on average for n.
    """
    x, order = x.flatten().sort()
    grid = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    steps = torch.cat([torch.zeros(1, dtype=torch.float64), weights.flatten()[order].cumsum(0)])
    found = steps[torch.searchsorted(x, grid, right=True)]
    wanted = (truth.weights * torch.special.ndtr((grid[:, None] - truth.means[:, 0]) / truth.stds)).sum(1)
    return float((found - wanted).square().sum() / (wanted * (1 - wanted)).sum()) * len(x)


def reward(x: Tensor, centre: float = 2.0, variance: float = 1.0) -> Tensor:
    return -(x[:, 0] - centre).square() / (2 * variance)


class TestResampling:
    WEIGHTS = torch.tensor([[0.5, 0.0, 0.23, 0.17, 0.1], [0.0, 0.9, 0.04, 0.06, 0.0]], dtype=torch.float64)

    def counts(self, resampling: Any, times: int = 4000) -> Tensor:
        """Copies of each particle ``[times, groups, particles]``."""
        groups, particles = self.WEIGHTS.shape
        uniform = torch.rand(times * groups, particles, generator=torch.Generator().manual_seed(0)).double()
        index = resampling(self.WEIGHTS.log().repeat(times, 1), uniform)
        return torch.nn.functional.one_hot(index, particles).sum(1).unflatten(0, (times, groups)).double()

    @pytest.mark.parametrize("resampling", [systematic, multinomial])
    def test_copies_are_k_w_on_average_and_none_of_weight_zero(self, resampling: Any) -> None:
        counts, wanted = self.counts(resampling), 5 * self.WEIGHTS
        assert float((counts.mean(0) - wanted).abs().max()) < 5 * math.sqrt(5 / 4 / len(counts))
        assert not counts[:, self.WEIGHTS == 0].any()

    def test_systematic_copies_differ_by_less_than_one(self) -> None:
        counts, wanted = self.counts(systematic), 5 * self.WEIGHTS
        assert float((counts - wanted).abs().max()) < 1
        torch.testing.assert_close(counts.var(0), wanted.frac() * (1 - wanted.frac()), rtol=0.1, atol=1e-9)
        alone = self.counts(multinomial).var(0)
        torch.testing.assert_close(alone, wanted * (1 - self.WEIGHTS), rtol=0.1, atol=1e-9)

    def test_extremes(self) -> None:
        log = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -2000.0, -math.inf, -3000.0]], dtype=torch.float64)
        torch.testing.assert_close(ess(log), torch.tensor([4.0, 1.0], dtype=torch.float64))
        torch.testing.assert_close(ess(log + 1e4), ess(log))
        for resampling in (systematic, multinomial):
            for value in (0.0, 0.5, 1.0):  # 1.0 is what the normal distribution function may round to
                assert resampling(log, torch.full_like(log, value))[1].tolist() == [0, 0, 0, 0]


class Forgetful(Swarm):
    """As the paper's code has it: groups that are not resampled lose their weights."""

    def resample(self, step: int) -> Tensor:
        index = super().resample(step)
        self.log_weights = torch.zeros_like(self.log_weights)
        return index


class TestLaw:
    def test_a_tilted_normal_law_and_its_mass(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """METHODS.md 4.11: mean and variance 1.0854 and .3902 for exact data; the solver's own tilted law to five
        standard errors of 2e5 particles. Forgotten weights give neither."""
        solver, count = dpmpp_sde(2), 200_000
        law = law_on_normal(solver(P, LEVELS), P, mean=0.5, std=0.8)
        truth, mass = tilted(single(float(law.mean), float(law.std)), 2.0, 1.0)

        def steer() -> Particles:
            denoise = partial(single(0.5, 0.8).denoise, P)
            options: dict[str, Any] = {
                "solver": solver,
                "grid": LEVELS,
                "rows": range(10, 50, 10),
                "seeds": [0],
            }
            return fk_steer(denoise, P, torch.empty(count, 1).double(), reward, particles=count, **options)

        run = steer()
        mean, variance = moments(run)
        assert (mean, variance) == pytest.approx((1.0854, 0.3902), abs=0.01)
        assert mean == pytest.approx(float(truth.means), abs=5 * math.sqrt(0.4 / count))
        assert variance == pytest.approx(float(truth.stds**2), abs=5 * 0.4 * math.sqrt(2 / count))
        assert float(run.log_z) == pytest.approx(mass, abs=0.005)
        monkeypatch.setattr(module, "Swarm", Forgetful)
        mean, variance = moments(steer())
        assert mean < 0.6
        assert variance > 0.5

    @pytest.mark.parametrize("threshold", [0.5, 1.0])
    @pytest.mark.parametrize("potential", ["difference", "max", "sum"])
    def test_a_tilted_mixture_by_every_potential(self, potential: Any, threshold: float) -> None:
        """As near as a tenth of as many independent samples: weights, and copies, cost some."""
        truth, mass = tilted(MIXTURE, 1.5, 1.0)
        count, judged = 20_000, {"difference": 5, "max": range(10, 50, 10), "sum": [20, 40]}[potential]
        run = fk_steer(
            partial(MIXTURE.denoise, P),
            P,
            torch.empty(count, 1).double(),
            partial(reward, centre=1.5),
            particles=count,
            potential=potential,
            rows=judged,
            threshold=threshold,
            solver=sa(),
            grid=LEVELS,
            seeds=[1],
        )
        assert away(run.x, run.weights, truth) < 10
        assert float(run.log_z) == pytest.approx(mass, abs=0.05)
        assert away(run.resampled(), torch.full_like(run.weights, 1 / count), truth) < 10
        assert away(MIXTURE.sample(count), torch.full_like(run.weights, 1 / count), truth) > 1000

    def test_multinomial_resampling_is_right_too(self) -> None:
        truth, _ = tilted(MIXTURE, 1.5, 1.0)
        options: dict[str, Any] = {
            "solver": dpmpp_sde(2),
            "grid": LEVELS,
            "seeds": [2],
            "rows": 8,
            "threshold": 1.0,
        }
        like, score = torch.empty(20_000, 1).double(), partial(reward, centre=1.5)
        denoise = partial(MIXTURE.denoise, P)
        run = fk_steer(denoise, P, like, score, particles=20_000, resampling=multinomial, **options)
        assert away(run.x, run.weights, truth) < 15

    def test_small_groups_estimate_the_mass_without_bias(self) -> None:
        """The mean of exp(log_z) over 4000 groups of 4 is the mass of the solver's tilted law."""
        groups, solver, grid = 4000, ddim(1.0), uniform(6)
        law = law_on_normal(solver(P, grid), P, mean=0.5, std=0.8)
        _, mass = tilted(single(float(law.mean), float(law.std)), 2.0, 0.5)
        run = fk_steer(
            partial(single(0.5, 0.8).denoise, P),
            P,
            torch.empty(4 * groups, 1).double(),
            partial(reward, variance=0.5),
            particles=4,
            solver=solver,
            grid=grid,
            seeds=range(groups),
        )
        share = (run.log_z - mass).exp()
        assert float(share.mean()) == pytest.approx(1, abs=4 * float(share.std()) / math.sqrt(groups))
        assert float((run.ess[:-1] < 2).any(0).double().mean()) > 0.1  # and resampling did happen
        assert run.one().shape == (groups, 1)

    def test_scale_zero_is_plain_sampling_and_forbidden_states_are_left(self) -> None:
        denoise = partial(MIXTURE.denoise, P)
        options: dict[str, Any] = {"particles": 8, "seeds": [1, 2], "grid": uniform(10)}
        plain = fk_steer(denoise, P, (16, 1), reward, scale=0.0, **options)
        assert torch.equal(plain.log_weights, torch.zeros(2, 8, dtype=torch.float64))
        run = fk_steer(
            denoise, P, (16, 1), lambda x: torch.where(x[:, 0] > 0, 0.0, -math.inf), rows=6, **options
        )
        assert float(run.resampled().min()) > 0
        assert float(run.one().min()) > 0
        assert float(plain.x.min()) < 0


class TestMemory:
    @pytest.mark.parametrize("solver", [sa(), dpmpp_sde(3)], ids=lambda s: s.name)
    @pytest.mark.parametrize("joint", [False, True])
    def test_the_whole_memory_moves(self, solver: Any, joint: bool) -> None:
        """Copying by hand in the middle and going on is the same as steering, history and all leaves included."""
        process: Any = Joint({"x": P, "adj": VE()}) if joint else P
        like: Any = {"x": torch.zeros(6, 4, 3), "adj": torch.zeros(6, 2, 2)} if joint else torch.zeros(6, 1)
        law: Any = {"x": centred(), "adj": normal} if joint else normal
        plan, best = plan_for(solver, process, uniform(8, 0.95, 0.05)), 3
        swarm = Swarm("", like, 6, [5], law, 0.5, systematic)
        seen: list[Frame] = []

        def denoise(state: Any, t: Tensor) -> Any:
            return each(lambda leaf: torch.tanh(leaf + leaf.mean()), state)

        def copy(frame: Frame) -> list[Any]:
            seen.append(frame)
            index = torch.full((6,), best) if frame.step == 4 else torch.arange(6)
            return [select(slot, index) for slot in frame.memory]

        wanted = integrate(
            denoise,
            start(process, like, swarm.draw, t=torch.tensor(0.95, dtype=torch.float64)),
            plan,
            draw=swarm.draw,
            between=copy,
        )
        chosen = torch.full((6,), -math.inf)
        chosen[best] = 0.0
        answers = iter([chosen, torch.zeros(6)])  # at the row that is judged, and at the end
        run = fk_steer(
            denoise,
            process,
            like,
            lambda x0: next(answers),
            particles=6,
            rows=[4],
            plan=plan,
            seeds=[5],
            law=law,
        )
        for found, hand in zip(leaves(run.x), leaves(wanted), strict=True):
            assert torch.equal(found, hand)
            assert float(hand.std(0).max()) > 0.01  # noise has parted the copies again
        assert len(seen[4].memory) > 2

    def test_empty_slots_stay_empty(self) -> None:
        memory = [torch.arange(3.0), None, {"a": torch.arange(3.0), "b": torch.arange(6.0).reshape(3, 2)}]
        moved = [select(slot, torch.tensor([2, 2, 0])) for slot in memory]
        assert moved[0].tolist() == [2, 2, 0]
        assert moved[1] is None
        assert moved[2]["b"].tolist() == [[4, 5], [4, 5], [0, 1]]


class TestSeeds:
    @pytest.mark.parametrize("resampling", [systematic, multinomial])
    def test_a_group_is_a_function_of_its_seed(self, resampling: Any) -> None:
        def run(seeds: Any) -> Tensor:
            like = (4 * len(seeds), 1)
            out = fk_steer(
                partial(MIXTURE.denoise, P),
                P,
                like,
                reward,
                particles=4,
                scale=3.0,
                grid=uniform(8),
                seeds=seeds,
                threshold=1.0,
                resampling=resampling,
            )
            assert float(out.ess[:-1].min()) < 3.99  # so that something is resampled
            return torch.cat([out.x.unflatten(0, (-1, 4)).flatten(1), out.one()], 1)

        check_seeds(run)

    def test_bridges_begin_and_end_in_x(self) -> None:
        y = torch.tensor([-1.0, 1.0]).repeat_interleave(4)[:, None].double()
        run = fk_steer(
            lambda x, t: 0 * x + 2,
            SBVE(),
            y,
            lambda x: x[:, 0],
            particles=4,
            y=y,
            grid=uniform(4, 0.9),
            seeds=[0, 1],
        )
        torch.testing.assert_close(run.x, torch.full_like(y, 2))


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": math.nan}, "scale of a reward must be finite"),
            ({"scale": math.inf}, "scale of a reward must be finite"),
            ({"particles": 3}, "3 particles do not divide a batch of 8"),
            ({"particles": 0}, "0 particles do not divide"),
            ({"threshold": 1.5}, "share of the particles"),
            ({"rows": 0}, "at least 1"),
            ({"potential": "product"}, "no potential 'product'"),
            ({"solver": dpmpp_2m()}, "plan without noise"),
            ({"solver": heun()}, "plan without noise"),
            ({"plan": ddim(1.0)(P, uniform(4)), "grid": uniform(4)}, "a plan is a solver on a grid"),
            ({"grid": torch.stack([uniform(4), uniform(4) ** 2] * 4)}, "one row of times"),
            ({"seeds": [1]}, "1 seeds for 2 groups"),
            ({"reward": lambda x: x}, "a value for each particle"),
            ({"reward": lambda x: x.sum()}, "a value for each particle"),
            ({"reward": lambda x: x[:, 0].tolist()}, "a value for each particle"),
            ({"reward": lambda x: x[:, 0] * math.nan}, "NaN or infinity"),
            ({"reward": lambda x: torch.full((8,), math.inf)}, "NaN or infinity"),
            ({"reward": lambda x: torch.full((8,), -math.inf)}, "every particle of a group has weight zero"),
            ({"reward": lambda x: torch.tensor([0.0] * 4 + [-math.inf] * 4)}, "every particle of a group"),
        ],
    )
    def test_one_sentence(self, options: dict[str, Any], message: str) -> None:
        arguments: dict[str, Any] = {"reward": reward, "particles": 4, "seeds": [0, 1], **options}
        judge = arguments.pop("reward")
        if "plan" not in arguments:
            arguments.setdefault("grid", uniform(4))
        with pytest.raises(ValueError, match=message):
            fk_steer(lambda x, t: torch.tanh(x), P, (8, 1), judge, **arguments)

    def test_what_is_not_finite_and_anchors_of_joint_states(self) -> None:
        with pytest.raises(FloatingPointError, match="network or the grid"):
            fk_steer(
                lambda x, t: x * math.nan, P, (4, 1), lambda x: torch.zeros(4), particles=4, grid=uniform(2)
            )
        y = {"x": torch.zeros(4, 1)}
        with pytest.raises(ValueError, match="joint process has no anchor"):
            fk_steer(lambda x, t: x, Joint({"x": VP()}), y, lambda x: torch.zeros(4), particles=4, y=y)

    def test_a_deterministic_plan_may_weigh(self) -> None:
        """Without resampling a solver without noise is importance sampling: right, if wasteful."""
        count, grid = 20_000, lam_uniform(20, None, 5.0)(P)
        run = fk_steer(
            partial(single(0.5, 0.8).denoise, P),
            P,
            torch.empty(count, 1).double(),
            reward,
            particles=count,
            threshold=0.0,
            solver=dpmpp_2m(),
            grid=grid,
            seeds=[0],
        )
        assert moments(run) == pytest.approx((1.0854, 0.3902), abs=0.03)
        assert len(run.x.unique()) == count
