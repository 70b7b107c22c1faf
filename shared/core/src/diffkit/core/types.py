"""The words that every floor speaks: states, denoisers, and maps over the leaves of a state.

A *state* is one tensor, or a mapping of named tensors (its *leaves*) when several quantities diffuse
together, such as node features and an adjacency matrix. The first axis of every leaf is the batch.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

State: TypeAlias = Tensor | Mapping[str, Tensor]
"""One tensor ``[batch, ...]``, or a mapping of such tensors."""

Denoiser: TypeAlias = Callable[[Any, Tensor], Any]
"""``(x_t, t) -> E[x0 | x_t]``; ``t`` is a scalar, ``[batch]`` or ``[batch, tokens]`` in [0, 1], 0 is data."""

Guide: TypeAlias = Callable[[Denoiser], Denoiser]
"""A decorator of denoisers, such as classifier-free guidance."""

Draw: TypeAlias = Callable[[int, Any], Any]
"""``(step, like) -> noise`` shaped as ``like``; a pure function of its own seeds and ``step``."""

_Value = TypeVar("_Value")


def begin(part: Any) -> Any:
    """``part`` for one run: a denoiser or ``between`` that remembers its rows, as some guides do, starts afresh.

    Such a part has a method ``begin`` that returns a copy without memory; runs then share nothing. Every other
    part is returned as it is.
    """
    start = getattr(part, "begin", None)
    return part if start is None else start()


@dataclass(frozen=True)
class Through:
    """The denoiser ``change(denoise)`` of a change that keeps nothing itself, and begins as its denoiser does."""

    change: Guide
    denoise: Denoiser

    def __call__(self, x: Any, t: Tensor) -> Any:
        return self.change(self.denoise)(x, t)

    def begin(self) -> "Through":
        return Through(self.change, begin(self.denoise))


def normal_like(x: Tensor) -> Tensor:
    """Standard normal values of the shape of ``x``; of a complex tensor both parts have unit variance.

    A complex state is two real channels, as the networks that denoise it have it; torch.randn_like would give
    each half the variance.
    """
    return (
        torch.view_as_complex(torch.randn_like(torch.view_as_real(x)))
        if x.is_complex()
        else torch.randn_like(x)
    )


def leaves(state: Any) -> list[Tensor]:
    """The tensors of a state, in its own order."""
    return [state] if isinstance(state, Tensor) else list(state.values())


def each(function: Callable[..., Tensor], *states: Any) -> Any:
    """``function`` of tensors, or of the leaves of mappings with the same names."""
    if isinstance(states[0], Tensor):
        return function(*states)
    return {name: function(*(state[name] for state in states)) for name in states[0]}


def expand_as(value: Tensor, like: Tensor) -> Tensor:
    """A coefficient whose axes are the first of ``like`` (none, ``[batch]``, ``[batch, tokens]``), ready to
    multiply it: in its dtype, on its device.
    """
    value = value.to(device=like.device, dtype=like.dtype)
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def float64(t: Tensor | float) -> Tensor:
    """``t`` in float64, or float32 on a device that has none (MPS)."""
    if not isinstance(t, Tensor):
        return torch.tensor(t, dtype=torch.float64)  # as_tensor would round a number to the default dtype
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def lookup(name: str, table: Mapping[str, _Value], kind: str) -> _Value:
    """``table[name]``; else a ValueError that says what the names of a ``kind`` are, and the nearest."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"no {kind} {name!r}{hint}; the {kind}s are {', '.join(table)}.")
