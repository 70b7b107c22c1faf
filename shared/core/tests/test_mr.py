"""MR-Sampler (Li et al. 2025) is this core's solvers in z: METHODS.md 1.14, each formula with its mean term."""

import pytest
import torch
from torch import Tensor

from diffkit.core.bridge import IRSDE
from diffkit.core.grid import uniform
from diffkit.core.noise import Recorded
from diffkit.core.plan import integrate
from diffkit.core.process import Cosine
from diffkit.core.solvers import Solver, adams, ddim, dpm_solver, dpmpp_sde
from diffkit.core.solvers.deis import deis
from diffkit.core.solvers.sa import sa
from diffkit.core.testing import measured_order

P, MU = IRSDE(level=0.3), 0.7
GRID = uniform(6, 0.9, 0.2)
A, S, LAM = P.a(GRID), P.s(GRID), P.lam(GRID)
START = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
NOISE = torch.randn(6, 5, 1, generator=torch.Generator().manual_seed(0)).double()


def data(x: Tensor) -> Tensor:
    return 0.3 * torch.sin(3 * x)


def ours(solver: Solver) -> Tensor:
    plan = solver(P, GRID)
    z = integrate(lambda z, t: data(z + P.b(t) * MU), START - P.b(GRID[0]) * MU, plan, draw=Recorded(NOISE))
    return z + P.b(GRID[-1]) * MU


def theirs(kind: str, order: int) -> Tensor:
    x, old = START, START
    for i in range(6):
        h, a, s = LAM[i + 1] - LAM[i], A[i + 1], S[i + 1]
        d = data(x)
        second = order == 2 and i > 0
        slope, old = (d - old) * h / (LAM[i] - LAM[i - 1]), d if kind != "ode noise" else old
        if kind == "ode data":
            phi1, ratio = torch.expm1(-h), s / S[i]
            x = ratio * x - a * phi1 * d + MU * (1 - ratio + ratio * A[i] - a)
            x = x + a * (phi1 / h + 1) * slope * second
        elif kind == "ode noise":
            eps = (x - A[i] * d - (1 - A[i]) * MU) / S[i]
            slope = (eps - old) * h / (LAM[i] - LAM[i - 1])
            old, psi1 = eps, torch.expm1(h)
            x = a / A[i] * x - s * (psi1 * eps + (psi1 / h - 1) * slope * second) + MU * (1 - a / A[i])
        else:
            share, decay = -torch.expm1(-2 * h), torch.exp(-h)
            mean = MU * (1 - a / A[i] * torch.exp(-2 * h) - a * share)
            x = s / S[i] * decay * x + a * share * d + mean + s * share.sqrt() * NOISE[i]
            x = x + a * (1 - share / (2 * h)) * slope * second
    return x


@pytest.mark.parametrize(
    ("kind", "order", "solver"),
    [
        ("ode data", 1, ddim()),
        ("ode data", 1, adams(1)),
        ("ode data", 2, adams(2)),
        ("ode noise", 1, ddim()),
        ("ode noise", 1, dpm_solver(1, "noise")),
        ("ode noise", 2, deis(2, "lam")),
        ("sde data", 1, dpmpp_sde(1)),
        ("sde data", 2, sa(2, 0)),
    ],
)
def test_the_published_formulas(kind: str, order: int, solver: Solver) -> None:
    torch.testing.assert_close(ours(solver), theirs(kind, order), atol=1e-13, rtol=0)


@pytest.mark.parametrize(("solver", "order"), [(ddim(), 1), (adams(2), 2), (deis(2, "lam"), 2)])
def test_their_orders(solver: Solver, order: int) -> None:
    """METHODS.md measured .99 and 1.94 on a mixture with mu = .7 and a noise of .3, where z has no mu."""
    assert measured_order(solver, P) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", [ddim(), adams(2), dpmpp_sde(1)], ids=lambda s: s.name)
def test_with_unit_noise_they_are_those_of_variance_preserving_diffusion(solver: Solver) -> None:
    mean_reverting, preserving = IRSDE(level=1.0), Cosine()
    one, other = solver(mean_reverting, GRID), solver(preserving, preserving.time(mean_reverting.lam(GRID)))
    for name in "UVBC":
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-12, rtol=0)


def test_the_first_order_sde_is_exact_on_a_point() -> None:
    plan = dpmpp_sde(1)(P, GRID[[0, -1]])
    point = torch.full((1, 1), 0.4, dtype=torch.float64)
    mean = integrate(lambda z, t: point, A[0] * point, plan, draw=Recorded(torch.zeros(1, 1, 1).double()))
    kept = plan.V[0, 0, 0] * S[0]
    assert float(mean) == pytest.approx(float(A[-1] * 0.4), abs=1e-15)
    assert float(kept**2 + plan.C[0, 0] ** 2) == pytest.approx(float(S[-1] ** 2), abs=1e-15)
