"""A network with its self-attention taken away, as perturbed-attention guidance wants it (2403.17377).

The map softmax(Q K^T) of the chosen layers becomes the identity, so that each token attends to itself alone.
Nothing of the network is changed: torch's attention is intercepted while a chosen layer runs.
"""

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax)


class _Identity(TorchFunctionMode):
    """Attention to oneself, wherever queries and keys are equally many; ``met`` counts it."""

    met = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].shape[-2] == args[1].shape[-2]:
            self.met += 1
            return args[2]
        if func is F.multi_head_attention_forward and args[0].shape == args[1].shape:
            self.met += 1
            return _values(**inspect.signature(func).bind(*args, **kwargs).arguments), None
        if func in _SOFTMAX and args[0].ndim > 2 and args[0].shape[-1] == args[0].shape[-2]:
            self.met += 1
            return torch.eye(args[0].shape[-1], dtype=args[0].dtype, device=args[0].device).expand_as(args[0])
        return func(*args, **kwargs)


def _values(
    *,
    value: Tensor,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    v_proj_weight: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """``nn.MultiheadAttention`` of the identity map: its two projections of the values."""
    weight = (
        in_proj_weight.chunk(3)[2] if v_proj_weight is None and in_proj_weight is not None else v_proj_weight
    )
    assert weight is not None
    values = F.linear(value, weight, None if in_proj_bias is None else in_proj_bias.chunk(3)[2])
    return F.linear(values, out_proj_weight, out_proj_bias)


def identity_attention(network: nn.Module, layers: Sequence[str]) -> Callable[..., Any]:
    """``network`` with identity self-attention in its submodules ``layers``, by their names.

    Attention is found as ``scaled_dot_product_attention``, ``nn.MultiheadAttention`` or a softmax over a square
    map; cross-attention to another number of tokens is left as it is. The paper takes the middle block of a
    U-Net. The network runs eagerly. ValueError for an unknown layer, and at the first call if one of them has
    no self-attention.
    """
    modules = dict(network.named_modules())
    for name in layers:
        if name not in modules:
            raise ValueError(
                f"the network has no layer {name!r}; it has {', '.join(n for n in modules if n)}."
            )

    def perturbed(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for name in layers:
                stack.enter_context(_within(modules[name], name))
            return network(*args, **kwargs)

    return perturbed


@contextmanager
def _within(layer: nn.Module, name: str) -> Generator[None]:
    """Identity attention whenever ``layer`` runs."""
    mode = _Identity()

    def enter(*_: Any) -> None:
        mode.__enter__()

    def leave(*_: Any) -> None:
        mode.__exit__(None, None, None)

    hooks = (layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if mode.met == 0:
        raise ValueError(f"layer {name!r} has no self-attention to take away.")
