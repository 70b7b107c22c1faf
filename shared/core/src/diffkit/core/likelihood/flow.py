"""The probability flow in the angle between data and noise; :mod:`diffkit.core.likelihood` has the derivation."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule, lam_uniform, resolve
from diffkit.core.joint import Joint
from diffkit.core.predict import anchor
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser, begin, each, expand_as, float64, leaves

Vectors: TypeAlias = Callable[[int, Any], Iterator[Any]]
"""``(call, like) -> vectors e`` shaped as the state ``like``, whose e^T J e add up to tr J, or to an estimate of it."""

STEPS = lam_uniform(50)
"""50 steps equal in lambda, from t = 0.9999 to 0.0001."""


class Node(NamedTuple):
    """A time of the path, and numbers for the state or each leaf: r, cos(theta), the slope over cos u - D."""

    t: Tensor
    theta: float
    r: Any
    cos: Any
    gain: Any


def path_of(process: Gaussian | Joint, grid: Grid | Schedule) -> list[Node]:
    """The times of ``grid``, and between any two that of the middle angle; of a joint state the first leaf's."""
    parts = dict(process) if isinstance(process, Joint) else {"": process}
    gaussian = [part for part in parts.values() if isinstance(part, Gaussian) and part.split() is None]
    if len(gaussian) < len(parts):
        raise ValueError(
            "the flow is that of Gaussian processes whose coefficients are the same for all elements."
        )
    lead, ends = gaussian[0], resolve(grid, gaussian[0])
    theta = torch.atan2(lead.s(ends), lead.a(ends))
    if ends.ndim > 1 or bool((theta.diff() >= 0).any()):
        raise ValueError(
            "the flow is followed on one row of times along which lambda rises, below a bridge's end."
        )
    middle = (theta[:-1] + theta[1:]) / 2
    t, theta = _interleave(ends, lead.time(-middle.tan().log())), _interleave(theta, middle)

    def turn(part: Gaussian) -> Tensor:
        a, s, (da, _, ds) = part.a(t), part.s(t), part.rates(t)
        return (a * ds - s * da) / (a.square() + s.square())

    rows: list[list[tuple[float, ...]]] = []
    for part in gaussian:
        r = torch.hypot(part.a(t), part.s(t))
        gain = r / part.s(t) if part is lead else r / part.s(t) * turn(part) / turn(lead)
        rows.append(torch.stack([r, part.a(t) / r, torch.where(part.s(t) > 0, gain, 0.0)], 1).tolist())
    steps = zip(t, theta.tolist(), zip(*rows, strict=True), strict=True)
    if not isinstance(process, Joint):
        return [Node(time, angle, *row) for time, angle, (row,) in steps]
    columns = [(time, angle, zip(*row, strict=True)) for time, angle, row in steps]
    return [
        Node(time, angle, *(dict(zip(parts, v, strict=True)) for v in row)) for time, angle, row in columns
    ]


def _interleave(ends: Tensor, middles: Tensor) -> Tensor:
    return torch.cat([torch.stack([ends[:-1], middles], 1).flatten(), ends[-1:]])


def scale(state: Any, factor: Any) -> Any:
    """A state, in float64 where the device has it, times numbers."""

    def leaf(x: Tensor, factor: float) -> Tensor:
        return x.to(torch.promote_types(x.dtype, float64(x.real).dtype)) * factor

    return each(leaf, state, factor)


def follow(
    denoise: Denoiser,
    process: Gaussian | Joint,
    path: list[Node],
    u: Any,
    like: Any,
    y: Tensor | None,
    vectors: Vectors | None = None,
) -> tuple[Any, Tensor]:
    """u at the end of ``path``, by fourth-order steps in float64; with ``vectors``, the integral of the trace too."""
    if y is not None:
        if isinstance(process, Joint):
            raise ValueError("a joint process has no anchor yet: condition its network by closing over y.")
        denoise = anchor(denoise, process, y)
    denoise = begin(denoise)
    first = leaves(u)[0]
    total = torch.zeros(len(first), dtype=first.real.dtype, device=first.device)
    calls = count()

    def slope(node: Node, u: Any) -> Any:
        if float(node.t) == 0:
            return each(torch.zeros_like, u)
        z = each(lambda u, r, like: (u * r).to(like.dtype), u, node.r, like)
        d = denoise(z, node.t.to(first.device))
        if vectors is not None and not all(leaf.requires_grad for leaf in leaves(d)):
            raise ValueError(
                "the denoiser gives no gradient: call it without no_grad, detach or inference_mode."
            )
        return each(lambda u, d, cos, gain: (cos * u - d) * gain, u, d, node.cos, node.gain)

    def traced(node: Node, u: Any) -> tuple[Any, Tensor]:
        trace = torch.zeros_like(total)
        if vectors is None or float(node.t) == 0:
            return slope(node, u), trace
        with torch.enable_grad():
            u = each(lambda v: v.detach().requires_grad_(), u)
            value = slope(node, u)
        for e in vectors(next(calls), u):
            pulled = torch.autograd.grad(leaves(value), leaves(u), leaves(e), retain_graph=True)
            for row, column in zip(pulled, leaves(e), strict=True):
                trace = trace + (row * column).flatten(1).sum(1)
        return each(Tensor.detach, value), trace

    for start, middle, end in zip(path[:-1:2], path[1::2], path[2::2], strict=True):
        h = end.theta - start.theta
        one, first_trace = traced(start, u)
        two, second = traced(middle, each(lambda u, v, h=h: u + h / 2 * v, u, one))
        three, third = traced(middle, each(lambda u, v, h=h: u + h / 2 * v, u, two))
        four, fourth = traced(end, each(lambda u, v, h=h: u + h * v, u, three))
        u = each(lambda u, p, q, r, s, h=h: u + h / 6 * (p + 2 * q + 2 * r + s), u, one, two, three, four)
        total = total + h / 6 * (first_trace + 2 * second + 2 * third + fourth)
    return u, total


def shift(process: Gaussian | Joint, t: Tensor, z: Any, y: Tensor | None, sign: float = 1.0) -> Any:
    """x of z = x - b y, or with ``sign`` -1 z of x."""
    if y is None or isinstance(process, Joint):
        return z
    return z + sign * expand_as(process.b(t), z) * y
