"""deepinv's physics are operators as they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_inverse_operators import random

from diffkit.core.grid import uniform
from diffkit.core.inverse import check_adjoint, ddnm, ddrm, dds, diffpir, dps, flowchef, pigdm
from diffkit.core.inverse.operator import decomposed, solve, spectral
from diffkit.core.process import VP
from diffkit.core.sample import sample
from diffkit.core.types import Guide

physics = pytest.importorskip("deepinv.physics", reason="needs deepinv")

MASK = (random(1, 12, 12, seed=5) > -0.5).float()
KERNEL = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.4, 0.2], [0.0, 0.1, 0.0]])[None, None]
PHYSICS: dict[str, Callable[[], Any]] = {
    "inpainting": lambda: physics.Inpainting((1, 12, 12), mask=MASK),
    "downsampling": lambda: physics.Downsampling(
        (1, 12, 12), factor=2, filter="gaussian", padding="circular"
    ),
    "blur": lambda: physics.BlurFFT((1, 12, 12), filter=KERNEL),
    "mri": lambda: physics.MRI(mask=MASK, img_size=(2, 12, 12)),
    "coils": lambda: physics.MultiCoilMRI(
        mask=MASK, coil_maps=random(1, 3, 12, 12, dtype=torch.complex64), img_size=(2, 12, 12)
    ),
}
CASES = pytest.mark.parametrize("name", PHYSICS)


@CASES
def test_operators(name: str) -> None:
    operator = PHYSICS[name]()
    x = random(2, 2 if name in ("mri", "coils") else 1, 12, 12).float()
    assert check_adjoint(operator, x) < 1e-6
    assert decomposed(operator) == (name in ("inpainting", "blur", "mri"))
    back = operator.A_adjoint(operator.A(x))
    out = solve(operator, back, 0.2)
    left = operator.A_adjoint(operator.A(out)) + 0.2 * out
    assert float((left - back).norm() / back.norm()) < 1e-4
    if decomposed(operator):
        torch.testing.assert_close(spectral(operator, torch.square, x), back, rtol=1e-5, atol=1e-5)


@CASES
def test_methods(name: str) -> None:
    """Every guide brings the end nearer to the measurement than a free sample; the exact ones, to it."""
    operator, p = PHYSICS[name](), VP()
    like = random(2, 2 if name in ("mri", "coils") else 1, 12, 12).float()
    y = operator.A(like)

    def gap(guide: Guide | None = None, **options: Any) -> float:
        denoise = (lambda x, t: torch.tanh(x)) if guide is None else guide(lambda x, t: torch.tanh(x))
        out = sample(denoise, p, like, grid=uniform(8), seeds=[1, 2], **options)
        return float((operator.A(out) - y).square().mean().sqrt())

    free = gap()
    for guide in (
        dps(operator, y, p, scale=5.0),
        flowchef(operator, y, scale=20.0),
        pigdm(operator, y, p, noise=0.1),
    ):
        assert gap(guide) < 0.9 * free
    for guide in (ddnm(operator, y), diffpir(operator, y, p, noise=0.0), dds(operator, y, iterations=60)):
        assert gap(guide) < 1e-2 * free  # in float32, of a filter whose singular values fall to 5e-5
    if decomposed(operator):
        assert gap(solver=ddrm(operator, y)) < 1e-3 * free
    else:
        with pytest.raises(ValueError, match="singular value decomposition"):
            ddrm(operator, y)
