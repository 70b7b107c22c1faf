"""Every target through the one solve, on every process."""

import pytest
import torch
from core_processes import BRIDGES, PROCESSES, name

from diffkit.core import predict
from diffkit.core.bridge import OUVE, SBVE
from diffkit.core.process import EDM, VP, Gaussian, RectifiedFlow

ALL = {**predict.TARGETS, "preconditioned": predict.Preconditioned(0.5)}


@pytest.mark.parametrize("target", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_round_trip(process: Gaussian, target: predict.Target, dtype: torch.dtype) -> None:
    """The true F gives back the true x0 and eps."""
    x0, eps, y = torch.randn(3, 4, 5)
    t = torch.tensor([0.2, 0.413, 0.6, 0.9])
    x = process.corrupt(x0, t, y=y, noise=eps)
    output = predict.truth(target, process, x0, eps, t, y=y)
    data = predict.to_data(target, process, output, x, t, y=y)
    loose = 2e-2 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(data, x0, atol=loose, rtol=loose)
    noise = predict.to_noise(process, x0, x, t, y=y)
    torch.testing.assert_close(noise, eps, atol=loose, rtol=loose)


def test_data_and_residual_targets_need_no_noise() -> None:
    x = torch.randn(2, 3)
    zero = torch.zeros(())
    assert torch.equal(predict.to_data(predict.x0, SBVE(), x, x, zero, y=x), x)
    torch.testing.assert_close(predict.to_data(predict.residual, SBVE(), x, x, zero, y=2 * x), x)


def test_flow_is_the_time_derivative() -> None:
    p, t, h = OUVE(), torch.tensor(0.4).double(), 1e-6
    x0, eps, y = torch.randn(3, 2, 3, dtype=torch.float64)
    velocity = predict.truth(predict.flow, p, x0, eps, t, y=y)
    step = p.corrupt(x0, t + h, y=y, noise=eps) - p.corrupt(x0, t - h, y=y, noise=eps)
    torch.testing.assert_close(velocity, step / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 20.0])
def test_preconditioning_is_edm_table_one(sigma: float) -> None:
    p, d = EDM(), 0.5
    t = torch.tensor(sigma / p.sigma_max).double()
    x, output = torch.randn(2, 1, 3, dtype=torch.float64)
    root = (sigma**2 + d**2) ** 0.5
    expected = d**2 / root**2 * x + sigma * d / root * output
    target = predict.Preconditioned(d)
    torch.testing.assert_close(predict.to_data(target, p, output, x, t), expected)
    assert float(target.scale(p, t)) == pytest.approx(1 / root)


@pytest.mark.parametrize("process", [RectifiedFlow(), VP()], ids=name)
def test_preconditioned_target_has_unit_variance(process: Gaussian) -> None:
    target, t = predict.Preconditioned(0.5), torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    p, q, _ = target(process, t)
    assert torch.as_tensor(p).square().mul(0.25).add(torch.as_tensor(q).square()).tolist() == pytest.approx(
        [1] * 9
    )


@pytest.mark.parametrize("process", BRIDGES, ids=name)
def test_anchor_moves_the_denoiser_to_z(process: Gaussian) -> None:
    y, t = torch.randn(2, 3), torch.tensor(0.3)
    seen = predict.anchor(lambda x, t: x, process, y)(torch.zeros(2, 3), t)
    torch.testing.assert_close(seen, (process.b(t.double()) * y.double()).float())


def test_wrap_scales_the_input_and_expands_time() -> None:
    p, target = EDM(), predict.Preconditioned(0.5)
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.extend([x, t])
        return torch.zeros_like(x)

    x = torch.full((3, 2), 10.0)
    predict.wrap(network, p, target)(x, torch.tensor(0.1))
    assert seen[1].shape == (3,)
    torch.testing.assert_close(seen[0], x / (8**2 + 0.25) ** 0.5)
