"""The steps of a plan, for methods that were published as a shift of the state after each."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from diffkit.core.plan import Plan
from diffkit.core.types import float64


def per_step(plan: Plan, *, last: bool = True) -> Callable[[Tensor], Tensor]:
    """t -> 1/B, by which a guide that changes the prediction by v/B changes the state after its row by v.

    B is the weight of the prediction; without the ``last`` row, 0 there. ValueError for a plan of several slots or
    of rows for each sample, or whose rows share a time.
    """
    shared = plan.t.ndim > 1 or len(plan.t.unique()) < len(plan.t)
    if plan.slots > 1 or shared or not bool(plan.B.all()):
        raise ValueError(
            "a shift of the state at every step needs a plan of one slot that makes one call a time, as ddim's."
        )
    share = 1 / plan.B[:, 0]
    if not last:
        share[-1] = 0.0

    @cache  # a copy to the device waits for it
    def tables(device: torch.device) -> tuple[Tensor, Tensor]:
        return plan.t.to(device), share.to(device)

    def at(t: Tensor) -> Tensor:
        times, shares = tables(t.device)
        return shares[(times - float64(t)[..., None]).abs().argmin(-1)]

    return at
