"""Training of an encoder: embeddings of all nodes of one graph, in memory."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SHARED = 0.05
"""The learning rate of networks, as a share of that of embeddings."""


def train(
    encoder: nn.Module,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float = 0.01,
    check: Callable[[], float] | None = None,
    every: int = 10,
    advance: Callable[[int], None] | None = None,
) -> float:
    """Minimise ``loss()`` with Adam, its rate falling to 0 along a cosine; leaves ``encoder`` in evaluation mode.

    ``learning_rate`` is that of tables: a row has a gradient of its own in few steps. Weights that all rows share have
    :data:`SHARED` of it.

    With ``check``, asked ``every`` so many steps and at the end, the weights of its highest value are kept, and that
    value is returned, otherwise 0. ``advance`` is called with the steps that were done.

    FloatingPointError for a loss that is not finite.
    """
    rows = [p for name, p in encoder.named_parameters() if name.endswith("table")]
    shared = [p for name, p in encoder.named_parameters() if not name.endswith("table")]
    groups: list[dict[str, Any]] = [{"params": rows}, {"params": shared, "lr": SHARED * learning_rate}]
    optimiser = torch.optim.Adam(groups, learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, kept = float("-inf"), None
    for step in range(1, steps + 1):
        encoder.train()
        value = loss()
        if not torch.isfinite(value.detach()):
            raise FloatingPointError(f"the loss is {value.item()} at step {step}: lower the learning rate.")
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if advance is not None:
            advance(1)
        if check is not None and (step % every == 0 or step == steps):
            encoder.eval()
            with torch.no_grad():
                found = check()
            if found > best:
                best, kept = found, copy.deepcopy(encoder.state_dict())
    if kept is not None:
        encoder.load_state_dict(kept)
    encoder.eval()
    return best if kept is not None else 0.0
