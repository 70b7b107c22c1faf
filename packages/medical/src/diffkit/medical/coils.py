r"""Receive coils: simulated sensitivities, and maps estimated from the centre of k-space.

Simulated maps have unit root-sum-of-squares, so that the image is what the coils see together. To estimate maps by
ESPIRiT from what :func:`loops` gives is no inverse crime: neither model knows of the other.
"""

import math

import torch
from torch import Tensor

from diffkit.medical.masks import central
from diffkit.medical.mri import ifft, rss


def birdcage(
    coils: int, shape: tuple[int, int], *, radius: float = 1.5, dtype: torch.dtype = torch.complex64
) -> Tensor:
    """Maps of ``coils`` straight wires on a cylinder of ``radius`` half widths: ``[coils, height, width]``.

    The transverse field of a wire at p in the plane of z = x + i y is 1/(z - p), up to a phase.
    """
    turn = torch.polar(torch.tensor(1.0, dtype=torch.float64), _angles(coils))[:, None, None]
    x, y = _plane(shape)
    return _unit(turn / (torch.complex(x, y) - radius * turn)).to(dtype)


def loops(
    coils: int,
    shape: tuple[int, int],
    *,
    radius: float = 1.4,
    size: float = 0.6,
    dtype: torch.dtype = torch.complex64,
) -> Tensor:
    r"""Maps of circular surface coils of radius ``size`` around the image, which face it: ``[coils, height, width]``.

    Their centres lie at ``radius``, both in half widths. By Biot and Savart's law with 64 straight segments,
    B = sum dl x (r - r')/abs(r - r')^3, and a coil receives B_x - i B_y.
    """
    along = torch.arange(64, dtype=torch.float64) * (2 * math.pi / 64)
    x, y = _plane(shape)
    maps: list[Tensor] = []
    for angle in _angles(coils):
        out = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)])
        across = torch.stack([-angle.sin(), angle.cos(), torch.zeros_like(angle)])
        up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        wire = radius * out + size * (along.cos()[:, None] * across + along.sin()[:, None] * up)
        step = along.cos()[:, None] * up - along.sin()[:, None] * across
        gx, gy, gz = x[..., None] - wire[:, 0], y[..., None] - wire[:, 1], -wire[:, 2]
        cubed = (gx.square() + gy.square() + gz.square()) ** 1.5
        bx = ((step[:, 1] * gz - step[:, 2] * gy) / cubed).sum(-1)
        by = ((step[:, 2] * gx - step[:, 0] * gz) / cubed).sum(-1)
        maps.append(torch.complex(bx, -by))
    return _unit(torch.stack(maps)).to(dtype)


def smooth_phase(shape: tuple[int, int], *, seed: int = 0, strength: float = math.pi / 2) -> Tensor:
    """A smooth phase ``[height, width]`` in radians, at most ``strength`` in size: half waves of random amplitude."""
    weights = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows, columns = (
        torch.cos(math.pi * torch.arange(3.0)[:, None] * (torch.arange(n) + 0.5) / n) for n in shape
    )
    phase = rows.double().mT @ weights @ columns.double()
    return (strength * phase / phase.abs().max()).float()


def espirit(kspace: Tensor, *, calibration: int = 24, threshold: float = 0.02, crop: float = 0.8) -> Tensor:
    r"""Maps ``[batch, coils, height, width]`` from the centre of k-space of that shape: Uecker et al. 2014.

    Patches of k x k x coils of the measured centre lie in a subspace, onto which P projects. In the image, P averaged
    over the patches that hold a point is a matrix G(r) of coils, of which the maps there are the eigenvector of
    eigenvalue 1:

        G_cd(r) = 1/k^2 sum_e exp(2 pi i e r) sum_(p - q = e) P_(cp)(dq).

    k is 6, or a third of a centre that is smaller than 16, which would else give too few patches.

    Args:
        kspace: zero where nothing was measured, the same of all samples and coils.
        calibration: of the largest measured rectangle at the centre, at most so many rows and columns are used.
        threshold: the subspace is that of singular values above this share of the largest.
        crop: maps are 0 where the eigenvalue is smaller, as it is where there is no signal.

    Maps have unit norm over the coils. Their common phase at each point, which no data tell, is that in which the
    coils' strongest combination at the centre of k-space is real. ValueError if the centre is smaller than 6 x 6.
    """
    batch, coils, height, width = kspace.shape
    centre = _centre(kspace, calibration)
    kernel = min(6, (min(centre.shape[-2:]) + 2) // 3)
    patches = centre.unfold(-2, kernel, 1).unfold(-2, kernel, 1)
    rows = patches.permute(0, 1, 4, 5, 2, 3).reshape(batch, coils * kernel**2, -1)
    values, vectors = torch.linalg.eigh(rows @ rows.mH)
    kept = values.clamp(min=0).sqrt() > threshold * values[:, -1:].sqrt()
    vectors = (vectors * kept[:, None]).unflatten(1, (coils, kernel, kernel))

    size = 2 * kernel - 1
    spectrum = torch.fft.fft2(vectors, s=(size, size), dim=(2, 3))
    lags = torch.fft.ifft2(torch.einsum("bcijn,bdijn->bcdij", spectrum, spectrum.conj()))
    lags = torch.fft.fftshift(lags, (-2, -1)) / kernel**2
    down, right = (_waves(n, kernel).to(kspace) for n in (height, width))
    strips = down.split(max(1, _STRIP // (batch * width * coils**2)))
    found = [torch.linalg.eigh(torch.einsum("hi,bcdij,wj->bhwcd", strip, lags, right)) for strip in strips]
    power = torch.cat([values[..., -1] for values, _ in found], 1)
    maps = torch.cat([vectors[..., -1] for _, vectors in found], 1).movedim(-1, 1)

    main = torch.linalg.eigh(torch.einsum("bchw,bdhw->bcd", centre, centre.conj()))[1][..., -1]
    phase = torch.einsum("bc,bchw->bhw", main.conj(), maps)[:, None].angle()
    return maps * torch.polar((power[:, None] > crop).to(phase), -phase)


def slow_phase(kspace: Tensor, maps: Tensor, *, calibration: int = 32) -> Tensor:
    """exp(i phase) ``[batch, 1, height, width]`` of what the centre of k-space shows of the image, windowed (Hann).

    An image divided by it is nearly real. k-space and maps are as in :func:`espirit`, and so is the error.
    """
    centre = _centre(kspace, calibration)
    rows, columns = (torch.hann_window(n + 2, periodic=False)[1:-1].to(maps.real) for n in centre.shape[-2:])
    low = torch.zeros_like(kspace)
    height, width = kspace.shape[-2:]
    inner = central(height, len(rows)), central(width, len(columns))
    low[..., inner[0], inner[1]] = centre * rows[:, None] * columns
    seen = (maps.conj() * ifft(low)).sum(1, keepdim=True)
    return torch.polar(torch.ones_like(seen.real), seen.angle())


_STRIP = 1 << 22
"""How many values of G are held at once."""


def _waves(size: int, kernel: int) -> Tensor:
    """exp(2 pi i e r/size) for places r from the middle and lags e, ``[size, 2 kernel - 1]``."""
    places, lags = torch.arange(size, dtype=torch.float64) - size // 2, torch.arange(1 - kernel, kernel)
    return torch.exp(2j * math.pi / size * torch.outer(places, lags))


def _centre(kspace: Tensor, calibration: int) -> Tensor:
    """The largest fully measured rectangle around frequency 0, of at most ``calibration`` rows and columns."""
    measured = (kspace != 0).any(1).any(0)
    outwards = [n // 2 + (i + 1) // 2 * (1 - 2 * (i % 2)) for n in measured.shape for i in [torch.arange(n)]]
    full = measured[outwards[0]][:, outwards[1]].cummin(0).values.cummin(1).values
    sizes = [(torch.arange(n) + 1).clamp(max=calibration).to(full.device) for n in full.shape]
    best = int((full * sizes[0][:, None] * sizes[1]).argmax())
    rows, columns = (
        int(size[i]) * int(full[0, 0]) for size, i in zip(sizes, divmod(best, len(sizes[1])), strict=True)
    )
    if min(rows, columns) < 6:
        raise ValueError(
            f"the fully measured centre of k-space is {rows} x {columns}, and coil maps need 6 x 6 or more: measure "
            "more central lines (ACS), or give the maps."
        )
    return kspace[..., central(kspace.shape[-2], rows), central(kspace.shape[-1], columns)]


def _angles(coils: int) -> Tensor:
    if coils < 1:
        raise ValueError(f"there must be at least one coil, not {coils}.")
    return torch.arange(coils, dtype=torch.float64) * (2 * math.pi / coils)


def _plane(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """x to the right and y upwards, in half widths of the larger side."""
    height, width = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    half = max(shape) / 2
    return (width / half).expand(shape), (-height / half)[:, None].expand(shape)


def _unit(maps: Tensor) -> Tensor:
    return maps / rss(maps)
