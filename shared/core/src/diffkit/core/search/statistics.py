r"""Empirical model statistics for DPM-Solver-v3: Zheng et al. 2023 (2310.13268).

Along the flow of w = x/a the three vectors w, D and its total derivative D' = dD/dlambda give, with kappa = 1 - l,

    f = kappa w - D,    f' = (kappa' - kappa) w + kappa D - D',

so that their means and products over data, at each lambda, say everything: l from the diagonal of dD/dw, by
Hutchinson's v (dD/dw v) with random signs v, and then s and b by regressing f' on f. The paper writes it for
variance-preserving processes and eps; in w and D it holds for every Gaussian one. For an exact denoiser the means
of f and f' are those of the data alone, and b is zero for centred data.

Data, noise and signs are the same at every lambda, which makes kappa smooth enough to differentiate.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.backends import cudnn, mkldnn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffkit.core.files import whole
from diffkit.core.predict import anchor
from diffkit.core.process import Gaussian
from diffkit.core.solvers.dpm_v3 import Statistics
from diffkit.core.types import Denoiser

_NAMES = ("lam", "l", "s", "b")


@torch.no_grad()
def estimate(
    denoise: Denoiser,
    process: Gaussian,
    x0: Tensor,
    *,
    y: Tensor | None = None,
    lam: tuple[float, float] | None = None,
    count: int = 120,
    share: Sequence[int] = (),
    batch: int | None = None,
    seed: int = 0,
) -> Statistics:
    """Statistics of a denoiser at ``count`` equal steps of lambda, for any process of the same data.

    Args:
        denoise: ``(x_t, t) -> E[x0 | x_t]``, differentiable in both in forward mode; two derivatives for each
            lambda and sample. Conditions are closed over, and hold for every batch.
        process: of the denoiser.
        x0: data ``[samples, ...]``; the paper takes 1024 for 1200 lambdas, 4096 for 120.
        y: anchors of the data, on a bridge.
        lam: the range; by default that of :func:`diffkit.core.grid.lam_uniform`, t = 0.9999 to 0.0001.
        share: axes of the state, from 1, whose elements share their statistics (frames, pixels); all of them
            give one number for each lambda.
        batch: samples at a time; all by default.
        seed: of noise and signs.

    ValueError if the denoiser gives values that are not finite, or for fewer than two samples or lambdas.
    """
    if len(x0) < 2 or count < 2:
        raise ValueError("statistics need at least two samples of data and two values of lambda.")
    if not all(0 < axis < x0.ndim for axis in share):
        raise ValueError(f"share names axes of the state from 1 to {x0.ndim - 1}, not {tuple(share)}.")
    ends = lam or (float(process.lam(0.9999)), float(process.lam(0.0001)))
    if not process.lam(1.0) <= ends[0] < ends[1] <= process.lam(0.0):
        raise ValueError(f"lam must be a rising pair that the process reaches, not {ends}.")
    levels = torch.linspace(*ends, count, dtype=torch.float64)
    generator = torch.Generator(x0.device).manual_seed(seed)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    signs = torch.randint(0, 2, x0.shape, generator=generator, dtype=x0.dtype, device=x0.device) * 2 - 1
    parts = range(0, len(x0), batch or len(x0))
    rows: list[list[Tensor]] = []
    with _unfused():
        for t in process.time(levels):
            total: list[Tensor] = []
            for part in (slice(i, i + (batch or len(x0))) for i in parts):
                z = process.marginal(x0[part], t).sample(noise[part])
                model = denoise if y is None else anchor(denoise, process, y[part])
                sums = _sums(model, process, t, z, signs[part])
                total = [p + q for p, q in zip(total, sums, strict=True)] if total else sums
            rows.append([_pooled(value / len(x0), x0.ndim, share) for value in total])
    return _regress(levels, *(torch.stack(column) for column in zip(*rows, strict=True)))


@contextmanager
def _unfused() -> Generator[None]:
    """Without fused recurrences and attention, which have no derivatives in forward mode; their parts have."""
    before = mkldnn.enabled, cudnn.enabled
    mkldnn.enabled = cudnn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mkldnn.enabled, cudnn.enabled = before


def _sums(model: Denoiser, process: Gaussian, t: Tensor, z: Tensor, signs: Tensor) -> list[Tensor]:
    """Over the batch: the diagonal of dD/dw ``[...]``, (w, D, D') ``[3, ...]``, their products ``[3, 3, ...]``."""
    a, s = float(process.a(t)), float(process.s(t))
    da, _, ds = (float(rate) for rate in process.rates(t))
    pace = 1 / (da / a - ds / s)  # dt/dlambda
    t = t.to(z.device, torch.float32 if z.device.type == "mps" else torch.float64)
    d, along = cast(tuple[Tensor, Tensor], torch.func.jvp(lambda z: model(z, t), (z,), (signs,)))
    w = z / a
    flow = da * pace * w + a * (d - w)  # dz/dlambda
    total = torch.func.jvp(model, (z, t), (flow, torch.full_like(t, pace)))[1]
    vectors = torch.stack([w, d, total]).cpu().double()
    diagonal = (a * signs * along).cpu().double()
    return [diagonal.sum(0), vectors.sum(1), torch.einsum("in...,jn...->ij...", vectors, vectors)]


def _pooled(value: Tensor, axes: int, share: Sequence[int]) -> Tensor:
    """The mean over the shared axes, with an axis for the batch; one number if all are shared."""
    lead = value.ndim - (axes - 1)
    if len(set(share)) == axes - 1:
        return value.flatten(lead).mean(lead) if axes > 1 else value
    pooled = value.mean([axis - axes for axis in share], keepdim=True) if share else value
    return pooled.unsqueeze(lead)


def _regress(lam: Tensor, kappa: Tensor, mean: Tensor, square: Tensor) -> Statistics:
    """l, s and b from the moments at every lambda."""
    slope = torch.gradient(kappa, spacing=(lam,), dim=0, edge_order=min(2, len(lam) - 1))[0]
    f = torch.stack([kappa, -torch.ones_like(kappa), torch.zeros_like(kappa)], 1)
    rate = torch.stack([slope - kappa, kappa, -torch.ones_like(kappa)], 1)
    covariance = square - mean[:, :, None] * mean[:, None]

    def product(left: Tensor, right: Tensor) -> Tensor:
        return torch.einsum("ni...,nij...,nj...->n...", left, covariance, right)

    variance = product(f, f)
    # f hardly varies for normal data, where rounding is all that a regression would find.
    floor = 1e-12 * (f.square() * square.diagonal(dim1=1, dim2=2).movedim(-1, 1)).sum(1)
    s = torch.where(variance > floor, product(rate, f) / variance, 0.0)
    return Statistics(lam, 1 - kappa, s, (rate * mean).sum(1) - s * (f * mean).sum(1))


def save(path: str | Path, statistics: Statistics) -> Path:
    """Write ``statistics``, complete or not at all: ``ems.safetensors`` beside a checkpoint's weights."""
    path = Path(path)
    with whole(path) as beside:
        save_file({name: getattr(statistics, name).contiguous() for name in _NAMES}, beside)
    return path


def load(path: str | Path) -> Statistics:
    """What :func:`save` wrote; ValueError if the file holds no statistics, OSError if it cannot be read."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}.") from error
    if set(tensors) != set(_NAMES):
        raise ValueError(
            f"{path} holds {', '.join(sorted(tensors))} and not the statistics {', '.join(_NAMES)}."
        )
    return Statistics(**tensors)
