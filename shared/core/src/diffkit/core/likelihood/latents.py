"""Data as latents of the probability flow, and latents between two."""

from typing import Any

import torch
from torch import Tensor

from diffkit.core.grid import Grid, Schedule
from diffkit.core.joint import Joint
from diffkit.core.likelihood.flow import STEPS, follow, path_of, scale, shift
from diffkit.core.manifold import Sphere
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser, each, expand_as, float64


def encode(
    denoise: Denoiser,
    process: Gaussian | Joint,
    x0: Any,
    *,
    y: Tensor | None = None,
    grid: Grid | Schedule = STEPS,
) -> Any:
    """The latent of data ``x0``: the state at the first time of ``grid`` from which the flow leads to it.

    Any deterministic solver decodes it; :func:`decode` by the same steps downward. Four calls a step.
    """
    path = path_of(process, grid)[::-1]
    u, _ = follow(denoise, process, path, scale(x0, path[0].cos), x0, y)
    x = shift(process, path[-1].t, scale(u, path[-1].r), y)
    return each(lambda x, like: x.to(like.dtype), x, x0)


def decode(
    denoise: Denoiser,
    process: Gaussian | Joint,
    x: Any,
    *,
    y: Tensor | None = None,
    grid: Grid | Schedule = STEPS,
) -> Any:
    """x0 from the state ``x`` at the first time of ``grid``: :func:`encode` undone, up to the error of the steps."""
    path = path_of(process, grid)
    u = each(lambda z, r: scale(z, 1 / r), shift(process, path[0].t, x, y, -1.0), path[0].r)
    u, _ = follow(denoise, process, path, u, x, y)
    return each(lambda u, cos, like: (u / cos).to(like.dtype), u, path[-1].cos, x)


def slerp(start: Any, end: Any, share: Tensor | float) -> Any:
    """Latents between two: of each sample, and of each leaf, the direction along the great circle, the norm linearly.

    ``share`` from 0 (``start``) to 1, a number or ``[batch]``. Normal latents of many dimensions lie near a
    sphere, which a straight line between them leaves (Shoemake 1985; White 2016, 1609.04468).
    ValueError for latents of different shapes.
    """
    share = float64(share)

    def between(x: Tensor, z: Tensor) -> Tensor:
        if x.shape != z.shape:
            raise ValueError(f"latents {tuple(x.shape)} and {tuple(z.shape)} must be of one shape.")
        flat = [torch.view_as_real(v) if v.is_complex() else v for v in (x, z)]
        p, q = (v.flatten(1) for v in flat)
        n, m = (v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny) for v in (p, q))
        w = expand_as(share, p)
        way = Sphere().exp(p / n, w * Sphere().log(p / n, q / m)) * (n + w * (m - n))
        out = way.reshape(flat[0].shape)
        return torch.view_as_complex(out) if x.is_complex() else out

    return each(between, start, end)
