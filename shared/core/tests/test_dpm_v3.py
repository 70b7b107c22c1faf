"""DPM-Solver-v3: exact on normal data, its special cases, orders under any statistics, and what statistics gain."""

import math
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from core_processes import MONOTONE, name
from torch import Tensor

from diffkit.core.bridge import OUVE, SBVE
from diffkit.core.grid import lam_uniform, uniform
from diffkit.core.mixture import Mixture
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.process import VE, VP, Gaussian, RectifiedFlow
from diffkit.core.sample import sample
from diffkit.core.search.statistics import estimate, load, save
from diffkit.core.solvers.adams import adams
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.dpm_v3 import Affine, Statistics, dpm_v3
from diffkit.core.solvers.dpmpp import dpmpp_2m, dpmpp_3m
from diffkit.core.testing import check_order, flow, graded, measured_order

MIXTURE = Mixture.reference()
NORMAL = Mixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.4]], [0.6])))
UNEVEN = torch.tensor([0.9, 0.7, 0.62, 0.4, 0.15, 0.1], dtype=torch.float64)
SILENT = Seeds([0])


def constant(*values: float) -> Statistics:
    lam = torch.tensor([-9.0, 9.0], dtype=torch.float64)
    return Statistics(lam, *(torch.full_like(lam, v) for v in values))


def made_up() -> Statistics:
    lam = torch.linspace(-2, 2.5, 300, dtype=torch.float64)
    return Statistics(lam, 0.5 + 0.3 * lam.sin(), 0.4 * lam.cos() - 0.2, 0.3 * (2 * lam).sin() + 0.1)


def exact(count: int) -> Statistics:
    """Of normal data, from -3 to 3: l = s^2/(a^2 v + s^2), f = -l mu, so that s = 0 and b = -l' mu."""
    lam = torch.linspace(-3, 3, count, dtype=torch.float64)
    l = torch.sigmoid(-2 * lam - math.log(0.36))  # noqa: E741
    return Statistics(lam, l, torch.zeros_like(l), 0.4 * 2 * l * (1 - l))


@cache
def estimated() -> Statistics:
    x0 = MIXTURE.sample(2000, torch.Generator().manual_seed(0))
    return estimate(partial(MIXTURE.denoise, VP()), VP(), x0, lam=(-3.0, 3.5), count=60, share=(1,))


def run(sampler: Affine, process: Gaussian, z: Tensor, grid: Tensor, mixture: Mixture = MIXTURE) -> Tensor:
    return sampler(partial(mixture.denoise, process), process, z, grid, draw=SILENT)


@pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=name)
def test_one_step_is_exact_on_normal_data(process: Gaussian) -> None:
    """METHODS.md 1.6, test 1: from lambda = -3 to 3 in one step; the statistics are linear between 20000 values."""
    z, truth = flow(process, NORMAL, (-3.0, 3.0))
    grid = lam_uniform(1, -3.0, 3.0)(process)
    gap = (run(dpm_v3(exact(20_000), 1, corrector=False), process, z, grid, NORMAL) - truth).abs().max()
    first = (integrate(partial(NORMAL.denoise, process), z, ddim()(process, grid)) - truth).abs().max()
    assert float(gap) < 1e-9
    assert float(first) > 0.1


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_data_form_is_a_special_case(order: int, corrector: bool) -> None:
    """(l, s, b) = (1, 0, 0): the exponential Adams method, DPM-Solver++ where that is exact."""
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    out = run(dpm_v3(constant(1.0, 0.0, 0.0), order, corrector), VP(), z, UNEVEN)
    expected = integrate(partial(MIXTURE.denoise, VP()), z, adams(order, corrector)(VP(), UNEVEN))
    torch.testing.assert_close(out, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_noise_form_is_a_special_case(order: int) -> None:
    """(l, s, b) = (0, -1, 0): x_u = (a_u/a_t) x - s_u int e^(lambda_u - lambda) eps, eps a polynomial in lambda."""
    p = VP()
    a, s, lam = p.a(UNEVEN), p.s(UNEVEN), p.lam(UNEVEN)
    x = z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    past: list[Tensor] = []
    for k in range(5):
        past = [(x - a[k] * MIXTURE.denoise(p, x, UNEVEN[k])) / s[k], *past][:order]
        h = lam[k + 1] - lam[k]
        at = torch.stack([lam[k - i] - lam[k] for i in range(len(past))])
        growth = [torch.expm1(h)]  # int tau^i e^(h - tau), by parts
        for i in range(1, len(past)):
            growth.append(i * growth[-1] - h**i)
        weights = torch.linalg.solve(at[None] ** torch.arange(len(past))[:, None], torch.stack(growth))
        x = a[k + 1] / a[k] * x - s[k + 1] * sum(w * e for w, e in zip(weights, past, strict=True))
    out = run(dpm_v3(constant(0.0, -1.0, 0.0), order, corrector=False), p, z, UNEVEN)
    torch.testing.assert_close(out, x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("process", [VP(), SBVE()], ids=name)
def test_order_with_any_statistics(process: Gaussian, order: int, corrector: bool) -> None:
    """METHODS.md 1.6, test 2, the constant term of b included."""
    sampler = dpm_v3(made_up(), order, corrector)
    assert sampler.solver.order == order + corrector
    z, truth = flow(process, MIXTURE, (-1.5, 2.0))
    steps = (80, 160) if order == 3 else (40, 80)
    errors = [
        float((run(sampler, process, z, graded(process, n, (-1.5, 2.0), 12)) - truth).abs().max())
        for n in steps
    ]
    assert math.log2(errors[0] / errors[1]) > sampler.solver.order - 0.15
    check_order(sampler.solver, process, steps=steps)  # the plan alone, which is the method of b = 0


@pytest.mark.parametrize("pseudo", [(True, False), (False, True), (True, True)])
def test_order_of_pseudo_differences(pseudo: tuple[bool, bool]) -> None:
    solver = dpm_v3(made_up(), 3, True, pseudo=pseudo).solver
    assert solver.order == (2 if pseudo[1] else 3)
    assert abs(measured_order(solver, VP(), steps=(80, 160)) - solver.order) < 0.4
    check_order(solver, VP(), steps=(80, 160))


@pytest.mark.parametrize("calls", [5, 6, 8, 10])
@pytest.mark.parametrize("lam", [(-1.5, 2.0), (-3.0, 3.5)])
def test_lower_error_than_dpmpp(lam: tuple[float, float], calls: int) -> None:
    """By estimated statistics, at the paper's order 3: at most 0.75 times the error of the better of 2M and 3M.

    Measured: 0.41, 0.51, 0.21 and 0.08 times on the first range, 0.35, 0.30, 0.65 and 0.61 on the second.
    """
    p = VP()
    z, truth = flow(p, MIXTURE, lam)
    grid = lam_uniform(calls, *lam)(p)

    def error(out: Tensor) -> float:
        return float((out - truth).square().mean().sqrt())

    plain = [integrate(partial(MIXTURE.denoise, p), z, s(p, grid)) for s in (dpmpp_2m(), dpmpp_3m())]
    assert error(run(dpm_v3(estimated()), p, z, grid)) < 0.75 * min(error(out) for out in plain)


@pytest.mark.parametrize("process", MONOTONE, ids=name)
def test_whole_range_is_exact_on_a_point(process: Gaussian) -> None:
    """From t = 1 to 0 with x0 = c, both ends of infinite lambda included."""
    x = torch.randn(2, 3, dtype=torch.float64)
    out = dpm_v3(made_up())(lambda x, t: torch.full_like(x, 0.4), process, x, uniform(6), draw=Seeds([1, 2]))
    torch.testing.assert_close(out, torch.full_like(out, 0.4), atol=1e-12, rtol=0)


def test_statistics_of_each_element() -> None:
    """Elements with statistics of their own are sampled as alone; the anchor of a bridge changes nothing."""
    p, one, two = OUVE(), made_up(), constant(0.5, -0.3, 0.2)
    pairs = [(getattr(one, k), torch.as_tensor(getattr(two, k)[:1]).expand(300)) for k in ("l", "s", "b")]
    both = Statistics(one.lam, *(torch.stack(pair, 1)[:, None] for pair in pairs))
    y = torch.full((3, 2), 0.7, dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return MIXTURE.denoise(p, (x - p.b(t) * 0.7).reshape(-1, 1), t).reshape(x.shape)

    options = {"grid": uniform(6, 0.9, 0.05), "seeds": [0, 1, 2]}
    out = sample(denoise, p, y, y=y, solver=dpm_v3(both), **options)  # type: ignore[arg-type]
    for i, statistics in enumerate((one, two)):
        alone = sample(denoise, p, y, y=y, solver=dpm_v3(statistics), **options)  # type: ignore[arg-type]
        torch.testing.assert_close(out[:, i], alone[:, i], atol=1e-12, rtol=0)


class TestEstimate:
    def test_normal_data(self) -> None:
        """l, s and b of a normal law are known, and f is the same for all samples; l' is a difference."""
        known, x0 = exact(121), NORMAL.sample(50, torch.Generator().manual_seed(0))
        for process in (VP(), VE(), RectifiedFlow()):
            denoise = partial(NORMAL.denoise, process)
            found = estimate(denoise, process, x0, lam=(-3.0, 3.0), count=121, share=(1,))
            torch.testing.assert_close(found.l, known.l, atol=1e-12, rtol=0)
            assert not found.s.any()
            torch.testing.assert_close(found.b, known.b, atol=2e-3, rtol=0)

    @pytest.mark.parametrize("process", [VE(), RectifiedFlow(), SBVE()], ids=name)
    def test_it_is_the_same_for_every_process_of_the_data(self, process: Gaussian) -> None:
        x0 = MIXTURE.sample(50, torch.Generator().manual_seed(0))
        options = {"lam": (-1.5, 3.0), "count": 9}
        first = estimate(partial(MIXTURE.denoise, VP()), VP(), x0, **options)  # type: ignore[arg-type]
        second = estimate(
            lambda x, t: MIXTURE.denoise(process, x, t),
            process,
            x0,
            batch=20,
            **options,  # type: ignore[arg-type]
        )
        for left, right in zip((first.l, first.s, first.b), (second.l, second.s, second.b), strict=True):
            torch.testing.assert_close(left, right, atol=1e-8, rtol=1e-8)

    def test_anchors_are_taken_off(self) -> None:
        p, x0 = OUVE(), MIXTURE.sample(20, torch.Generator().manual_seed(0))
        y = torch.full_like(x0, 0.7)
        options = {"lam": (0.0, 2.0), "count": 5, "batch": 10}
        plain = estimate(partial(MIXTURE.denoise, p), p, x0, **options)  # type: ignore[arg-type]
        moved = estimate(lambda x, t: MIXTURE.denoise(p, x - p.b(t) * 0.7, t), p, x0, y=y, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(plain.b, moved.b, atol=1e-10, rtol=0)
        torch.testing.assert_close(plain.s, moved.s, atol=1e-10, rtol=0)

    def test_b_is_that_of_the_mean(self) -> None:
        """For an exact denoiser f and f' average to -l mu and -l' mu, so that b vanishes for centred data."""
        two = Mixture(
            *(torch.tensor(v, dtype=torch.float64) for v in ([0.5, 0.5], [[-1.0], [1.0]], [0.4, 0.4]))
        )
        half = two.sample(20_000, torch.Generator().manual_seed(0))
        found = estimate(partial(two.denoise, VP()), VP(), torch.cat([half, -half]), lam=(-2.0, 2.0), count=9)
        assert float(found.b.abs().max()) < 0.02
        assert float(estimated().b.abs().max()) > 0.3

    @pytest.mark.parametrize(("share", "shape"), [((), (1, 3, 4)), ((2,), (1, 3, 1)), ((1, 2), ())])
    def test_what_is_shared(self, share: tuple[int, ...], shape: tuple[int, ...]) -> None:
        net = torch.nn.Conv1d(3, 3, 3, padding=1).double()
        x0 = torch.randn(16, 3, 4, dtype=torch.float64)
        found = estimate(
            lambda x, t: torch.tanh(net(x)) * (1 - t),
            VP(),
            x0,
            lam=(-2.0, 2.0),
            count=4,
            share=share,
            batch=5,
        )
        assert found.l.shape == found.s.shape == found.b.shape == (4, *shape)

    def test_hutchinson_finds_the_diagonal(self) -> None:
        """Of D = M z on 4000 samples: l = 1 - a diag M, to the noise of the other elements of M."""
        matrix = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x0 = torch.zeros(4000, 3, dtype=torch.float64)
        found = estimate(lambda x, t: x @ matrix.T, VP(), x0, lam=(0.0, 1.0), count=2)
        known = 1 - VP().a(VP().time(found.lam))[:, None] * matrix.diagonal()
        torch.testing.assert_close(found.l[:, 0], known, atol=0.1, rtol=0)

    def test_fused_recurrences_and_attention(self) -> None:
        """Networks whose kernels have no derivatives in forward mode are measured as what they compute."""
        torch.manual_seed(0)
        lstm = torch.nn.LSTM(4, 4, batch_first=True)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            out = lstm(x)[0]
            return torch.nn.functional.scaled_dot_product_attention(out, out, out) * (1 - t.float())

        x0, lam = torch.randn(64, 5, 4), (-1.0, 1.0)
        found = estimate(denoise, VP(), x0, lam=lam, count=3, share=(1, 2))
        p, t = VP(), VP().time(1.0)
        z = (p.a(t) * x0[:1] + p.s(t) * torch.randn(1, 5, 4)).float()
        jacobian = torch.autograd.functional.jacobian(lambda z: denoise(z, t), z).reshape(20, 20)
        assert float(found.l[-1]) == pytest.approx(float(1 - p.a(t) * jacobian.diagonal().mean()), abs=0.02)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"count": 1}, "at least two"),
            ({"share": (0,)}, "share names axes"),
            ({"lam": (2.0, -2.0)}, "rising pair"),
            ({"lam": (-9.0, 2.0)}, "that the process reaches"),
        ],
    )
    def test_bad_arguments_get_one_sentence(self, options: dict[str, object], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            estimate(lambda x, t: x, OUVE(), torch.zeros(4, 1), **options)  # type: ignore[arg-type]

    def test_not_finite(self) -> None:
        with pytest.raises(ValueError, match="not finite"):
            estimate(lambda x, t: x * float("nan"), VP(), torch.zeros(4, 1), lam=(0.0, 1.0), count=3)


def test_saved_beside_a_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / "ems.safetensors", estimated())
    again = load(path)
    assert all(torch.equal(getattr(again, k), getattr(estimated(), k)) for k in ("lam", "l", "s", "b"))
    assert [p.name for p in tmp_path.iterdir()] == ["ems.safetensors"]
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load(path)


def test_bad_arguments_get_one_sentence() -> None:
    lam = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="has orders 1 to 3"):
        dpm_v3(made_up(), 4)
    with pytest.raises(ValueError, match="needs one grid"):
        run(dpm_v3(made_up()), VP(), lam[:, None], UNEVEN.expand(2, -1))
    with pytest.raises(ValueError, match="rising values"):
        Statistics(lam.flip(0), lam, lam, lam)
    with pytest.raises(ValueError, match="of one shape"):
        Statistics(lam, lam, lam, lam[:1])
