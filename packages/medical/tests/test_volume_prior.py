"""Stacks of slices coupled by total variation: the fused lasso of two slices, whose solution is known."""

import pytest
import torch
from torch import Tensor

from diffkit.core.grid import uniform
from diffkit.core.inverse import Mask, dds, renoised
from diffkit.core.process import Cosine
from diffkit.core.sample import sample
from diffkit.core.types import expand_as, float64, normal_like
from diffkit.medical.volume_prior import dds_tv, differences, differences_adjoint, plug_tv

PROCESS = Cosine()


def as_it_is(x: Tensor, t: Tensor) -> Tensor:
    """The denoiser that takes no noise away; without fresh noise a sampler then only repeats its correction."""
    return x / expand_as(PROCESS.a(float64(t)), x)


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_adjoint_of_differences(slices: int) -> None:
    x = normal_like(torch.empty(slices, 1, 3, 4, dtype=torch.complex128))
    q = normal_like(torch.empty(slices - 1, 1, 3, 4, dtype=torch.complex128))
    torch.testing.assert_close((differences(x).conj() * q).sum(), (x.conj() * differences_adjoint(q)).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_two_slices_are_drawn_together(dtype: torch.dtype) -> None:
    """min abs(y - x)^2/2 + weight abs(x2 - x1): both move by weight, or until they meet."""
    torch.manual_seed(0)
    y = normal_like(torch.empty(2, 1, 6, 6, dtype=dtype))
    weight, gap = 0.4, (y[1] - y[0]) / 2
    move = gap * (weight / gap.abs()).clamp(max=1)
    solver = dds_tv(Mask(torch.ones(1)), y, weight=weight, rho=1.0, eta=0.0)
    found = sample(as_it_is, PROCESS, y, solver=solver, grid=uniform(100, 0.9), seeds=[0, 1])
    torch.testing.assert_close(found, torch.stack([y[0] + move, y[1] - move]), atol=1e-6, rtol=0)


def test_plugged_slices_are_drawn_together() -> None:
    """To the same place, since a prior that takes the stack as it is adds nothing where the run rests."""
    y = torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gap = (y[1] - y[0]) / 2
    move = gap * (0.4 / gap.abs()).clamp(max=1)
    solver = plug_tv(Mask(torch.ones(1)), y, noise=0.1, weight=0.4, rho=1.0, iterations=3)
    found = sample(as_it_is, PROCESS, y, solver=solver, grid=uniform(60, 0.9), seeds=[0, 1])
    torch.testing.assert_close(found, torch.stack([y[0] + move, y[1] - move]), atol=1e-6, rtol=0)


def test_weight_0_leaves_slices_alone() -> None:
    """One iteration solves a mask exactly, of one slice as of all."""
    mask = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    y = mask * torch.randn(3, 1, 6, 6, dtype=torch.float64)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return 0.7 * x.roll(1, -1)

    alone, coupled = (
        sample(denoise, PROCESS, y, solver=solver, grid=uniform(5), seeds=[4, 5, 6])
        for solver in (renoised(dds(Mask(mask), y)), dds_tv(Mask(mask), y, weight=0.0))
    )
    torch.testing.assert_close(coupled, alone)


def test_a_sampler_starts_afresh() -> None:
    y = torch.randn(2, 1, 4, 4)
    solver = dds_tv(Mask(torch.ones(1)), y, weight=0.5)
    one, two = (
        sample(as_it_is, PROCESS, y, solver=solver, grid=uniform(3, 0.9), seeds=[0, 1]) for _ in range(2)
    )
    torch.testing.assert_close(one, two, atol=0, rtol=0)


def test_bad_numbers() -> None:
    y = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="weight of the total variation"):
        dds_tv(Mask(torch.ones(1)), y, weight=-1.0)
    with pytest.raises(ValueError, match="rho"):
        dds_tv(Mask(torch.ones(1)), y, weight=1.0, rho=0.0)
