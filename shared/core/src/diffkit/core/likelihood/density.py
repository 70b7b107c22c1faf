"""The log-density of data under a denoiser; :mod:`diffkit.core.likelihood` has the derivation."""

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule
from diffkit.core.joint import Joint
from diffkit.core.likelihood.flow import STEPS, Vectors, follow, path_of, scale, shift
from diffkit.core.noise import NoiseLaw, Seeds, normal
from diffkit.core.process import Gaussian, Law
from diffkit.core.types import Denoiser, each, expand_as, float64, leaves


def log_prob(
    denoise: Denoiser,
    process: Gaussian | Joint,
    x0: Any,
    *,
    y: Tensor | None = None,
    grid: Grid | Schedule = STEPS,
    probes: int | None = None,
    seeds: Sequence[int] | None = None,
    probe: NoiseLaw = torch.sign,
    law: NoiseLaw | Mapping[str, NoiseLaw] = normal,
    prior: Callable[[Any], Tensor] | None = None,
) -> Tensor:
    """log p(x0) in nats, float64 ``[batch]``; four calls of the denoiser a step, each differentiated.

    Args:
        denoise: in x; differentiable by autograd, and of each sample alone (no statistics of the batch).
        process: what the denoiser was trained on.
        x0: real data ``[batch, ...]``, or leaves of such.
        y: the anchor of a bridge, of the shape of ``x0``.
        grid: one row of times along which lambda rises; the module says what its ends cost.
        probes: how many vectors estimate the trace at every call (Hutchinson), without bias, at a backward pass
            each. By default the trace is exact, at as many passes as a sample has values: for small states.
        seeds: of the probes, one for each sample; random by default. Every call draws its own, so that errors
            average along the path, which those of one probe for all of it (1810.01367) do not.
        probe: from normal values to those of a probe: Rademacher's, or ``noise.normal`` for normal ones.
        law: of the noise, an orthogonal projection. ``centred()``, for molecules without centre of mass: the
            density is then that on the subspace, of its dimension (Hoogeboom et al. 2022, 2203.17003).
        prior: the log-density ``[batch]`` of the state at the first time; that of a sampler's start by default.

    Raises:
        ValueError: for complex data, data off the subspace of ``law``, a law that is no projection, a denoiser
            without gradient, a grid with rows or along which lambda does not rise.
        FloatingPointError: if the result is not finite.
    """
    if any(leaf.is_complex() for leaf in leaves(x0)):
        raise ValueError(
            "log_prob takes real data: view complex values as two channels (torch.view_as_real)."
        )
    if probes is not None and probes < 1:
        raise ValueError(f"Hutchinson's estimate needs at least one probe, not {probes}; None is exact.")
    laws: Any = dict.fromkeys(x0, law) if callable(law) and not isinstance(x0, Tensor) else law
    dims = each(_dims, x0, laws)
    if probes is None:
        vectors: Vectors = partial(_basis, laws)
    else:
        draw = Seeds([secrets.randbits(40) for _ in leaves(x0)[0]] if seeds is None else list(seeds))
        vectors = partial(_random_vectors, draw, probe, laws, probes)
    path = path_of(process, grid)[::-1]
    low, high = path[0], path[-1]
    u, trace = follow(denoise, process, path, scale(x0, low.cos), x0, y, vectors)
    x = shift(process, high.t, scale(u, high.r), y)
    stretch = each(lambda n, cos, r: n * math.log(cos * r), dims, low.cos, high.r)
    ends = prior(x) if prior else each(_log_normal, x, process.prior(x, y=y, t=high.t), dims)
    total = torch.stack([part.to(trace) for part in (trace, *leaves(stretch), *leaves(ends))]).sum(0)
    if not bool(torch.isfinite(total).all()):
        raise FloatingPointError("log p is not finite: the denoiser or the grid is at fault.")
    return total


def _log_normal(x: Tensor, law: Law, dims: Tensor) -> Tensor:
    """The log-density of a normal law on a subspace of ``dims`` dimensions, ``[batch]``."""
    std = expand_as(law.std, x)
    gap = ((x - law.mean) / std).flatten(1).square().sum(1)
    return -0.5 * gap - dims * (std * math.sqrt(2 * math.pi)).log()


def _units(like: Tensor) -> Iterator[Tensor]:
    """For each value of a sample the state ``like`` that is 1 there, and 0 elsewhere."""
    for i in range(like[0].numel()):
        unit = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
        unit.flatten(1)[:, i] = 1
        yield unit


def _dims(x: Tensor, law: NoiseLaw) -> Tensor:
    """The dimension of the subspace onto which ``law`` projects, ``[batch]``; ValueError if ``x`` is off it."""
    if law is normal:
        return float64(torch.full((len(x),), x[0].numel(), device=x.device))
    off = float((law(x) - x).abs().max())
    if not off <= 1e-4 * max(1.0, float(x.abs().max())):  # a hundred times float32's rounding
        raise ValueError(
            f"the data is off the subspace of its noise law by {off:.2g}: project it, x0 = law(x0)."
        )
    along, square = float64(torch.zeros(2, len(x), device=x.device))
    for unit in _units(x):
        image = law(unit)
        along, square = along + (image * unit).flatten(1).sum(1), square + image.square().flatten(1).sum(1)
    if not torch.allclose(along, square):
        raise ValueError(
            "the noise law is no orthogonal projection: give coordinates in which noise is normal."
        )
    return along


def _basis(laws: Any, call: int, like: Any) -> Iterator[Any]:
    """An orthonormal basis, or with laws its projections: their e^T J e sum to the trace."""
    if isinstance(like, Tensor):
        yield from (laws(unit) for unit in _units(like))
        return
    for name, leaf in like.items():
        for unit in _units(leaf):
            yield {n: laws[n](unit) if n == name else torch.zeros_like(v) for n, v in like.items()}


def _random_vectors(
    draw: Seeds, probe: NoiseLaw, laws: Any, probes: int, call: int, like: Any
) -> Iterator[Any]:
    """Random vectors of covariance 1/probes, or that projected."""
    for k in range(probes):
        yield each(
            lambda noise, law: law(probe(noise)) / math.sqrt(probes), draw(call * probes + k, like), laws
        )
