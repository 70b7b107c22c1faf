"""FlowChef, Patel et al. 2024 (2412.00100): guidance by a gradient that skips the network."""

import torch
from torch import Tensor

from diffkit.core.gradient import slope
from diffkit.core.inverse.checks import finite
from diffkit.core.inverse.operator import Forward, correct, residual
from diffkit.core.inverse.steps import per_step
from diffkit.core.plan import Plan
from diffkit.core.types import Guide, expand_as


def flowchef(operator: Forward, measurement: Tensor, *, scale: float, plan: Plan | None = None) -> Guide:
    """D - scale grad L(D), L the mean square of y - A D over a sample's measurement, its gradient in D.

    On a flow D = x - t v, and where v is held dD/dx = 1: no backward pass through the network. With m
    measurements a call is a step of gradient descent on abs(y - A x)^2/2, of length 2 scale/m. The published
    method moves the state by -scale grad beside each Euler step but the last: with the ``plan`` that will run it,
    ``ddim()`` on a rectified flow, that is what this does (their scale is 100 on 3x64x64).

    ``operator`` may be nonlinear. ValueError for a plan of several slots.
    """
    finite(scale, "scale")
    step = None if plan is None else per_step(plan, last=False)

    def loss(x0: Tensor) -> Tensor:
        r = residual(operator, measurement, x0)
        return (torch.view_as_real(r) if r.is_complex() else r).flatten(1).square().mean(1)

    def moved(x0: Tensor, t: Tensor) -> Tensor:
        gradient = slope(loss, x0)
        return x0 - (scale if step is None else expand_as(scale * step(t), x0)) * gradient

    return correct(moved)
