r"""Progression: an image as it may look when a disease goes on, by a prior that is told how far it went.

PIE (Liang et al. 2023, 2309.11745): N rounds, each of which takes the image to the noise level of ``strength``
and back under the condition of the next stage, keeps what lies outside of a mask at every step, and moves by shares of
the change, z + beta (z' - z), beta_1 = 0.01 outside of the mask and beta_2 = 0.75 inside. Four things differ here.

* The way to the noise is the exact inverse of the way back (BDIA, Zhang et al. 2023, 2307.10829) under the
  covariate that the image has. With that covariate a round is the identity; PIE draws fresh noise, and
  inversions of DDIM err.
* What is kept outside of the mask are the states of the way to the noise, so that it comes back as it was.
* What a round has changed is what the denoiser sees of it at a little noise, D(z', c') - D(z, c): strong guidance
  leaves speckle, which it does not see, and where nothing happened that is nothing still.
* The way back is guided from one covariate to the next, D(c) + w (D(c') - D(c)), not from "unknown" to the next: away
  from the image's own stage and from nothing else.

Stages are log-linear from the covariate c of the image to c + log(target). They are absolute, so that what a round
falls short the next ones make up for. The c of a new image is that of the fluid in its mask, in a brain of the usual
size; without a mask, the one under which the prior denoises it best (as Li et al. 2023, 2303.16203, classify).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional as F

from diffkit.core.checkpoint import pick_device
from diffkit.core.files import whole
from diffkit.core.grid import Grid, uniform
from diffkit.core.guide import Conditional, cfg
from diffkit.core.noise import Seeds
from diffkit.core.plan import integrate
from diffkit.core.types import Draw, lookup
from diffkit.medical.checkpoints import Prior, load
from diffkit.medical.covariate import covariate
from diffkit.medical.inversion import WAYS, Way, hold
from diffkit.medical.planes import bright
from diffkit.medical.prior import denoiser
from diffkit.medical.volume import Volume, check_grids
from diffkit.medical.volumetry import curve

_DARK, _MARGIN = 0.1, 8  # of bright tissue, what is air; pixels about the room
_LOOK = 0.1  # the time at which a round's change is seen, and speckle of the guidance is not
_LEVELS = (0.3, 0.5, 0.7)  # times at which a covariate is read
_READINGS = 17  # covariates that are tried


@dataclass(frozen=True)
class Progression:
    """``frames`` on the image's grid, a channel for each round after the image itself; ``covariates`` are theirs.

    ``volumes`` are those of the ventricles in ml by intensity in the mask (:func:`~diffkit.medical.volumetry.curve`),
    None without one.
    """

    frames: Volume
    covariates: list[float]
    volumes: list[float] | None


class Progressor:
    """Lets the ventricles of a T1-weighted head grow, slice by slice.

    Args:
        prior: of kind "progress"; see :func:`~diffkit.medical.checkpoints.load`.
        bf16: run the network in bfloat16: several times faster on recent GPUs, and on CPUs with AMX.

    >>> found = Progressor.from_pretrained("progress")(image, mask, target=1.8)
    """

    def __init__(self, prior: Prior, *, bf16: bool = False) -> None:
        if prior.kind != "progress":
            raise ValueError(f"{prior.folder} is a prior of {prior.kind} slices, and knows no covariate.")
        self.prior = prior
        self.device = next(prior.network.parameters()).device
        self.spacing = float(prior.config["data"]["spacing"])
        self.scale = float(prior.config.get("scale", 1.0))
        self.range: tuple[float, float] = tuple(prior.config["data"]["covariate"])
        inner = denoiser(prior.network, prior.process, prior.config["sigma_data"], complex=False)

        def denoise(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                return inner(x, t, c)

        self.denoise = denoise

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "progress", device: str = "auto", *, bf16: bool = False
    ) -> "Progressor":
        """With an embedded checkpoint, or one in a folder; CheckpointError if there is none."""
        return cls(load(name, device=pick_device(device)), bf16=bf16)

    def slices(self, image: Volume, mask: Volume | None = None) -> int:
        """How many slices of an image are worked on; ValueError as of a call."""
        return int(_room(image, mask).oriented("RAS").data[0].flatten(0, 1).any(0).sum())

    @torch.no_grad()
    def __call__(
        self,
        image: Volume,
        mask: Volume | None = None,
        *,
        target: float = 2.0,
        rounds: int = 5,
        strength: float = 0.7,
        steps: int = 6,
        scale: float | None = None,
        inside: float = 0.75,
        outside: float = 0.01,
        way: str = "exact",
        ratio: float | None = None,
        seed: int = 0,
        batch_size: int = 8,
        advance: Callable[[int], None] = lambda done: None,
    ) -> Progression:
        """The image and ``rounds`` later ones.

        Args:
            image: T1-weighted, of one channel. What changes is found at the prior's spacing, and added to the voxels.
            mask: where it may change, as far as its edge, on the image's grid; by default everywhere. Only slices
                across the mask are worked on: a region around the ventricles, with room to grow.
            target: the ventricles' volume after all rounds over that of now, of which a share of ``inside`` of the last
                round is yet to come.
            rounds: N.
            strength: the noise that each round goes to, as a time in (0, 1].
            steps: network calls on the way there; twice as many are made on the way back.
            scale: w of the guidance, of which 1 is none; by default what the prior's config says, or 1. A prior that
                hardly listens to its covariate needs more.
            inside, outside: PIE's beta_2 and beta_1, the share of a round's change that is kept; the prior sees the
                mask's surroundings, and beyond these nothing changes.
            way: a name of :data:`~diffkit.medical.inversion.WAYS`.
            ratio: of the ventricles to the brain now, in per cent of volume, where it was measured; by default the
                fluid in the mask, over a brain of :data:`~diffkit.medical.covariate.BRAIN` ml, or without a mask what
                the prior reads from the slices.
            seed: of the noise of ``renoise``; a slice's own is added.
            batch_size: slices at a time.
            advance: told how many slices are done with a round.

        ValueError for an image that is no real volume of one channel, a mask that is empty or on another grid, an
        unknown way, a number out of range, or a target beyond what the prior has seen.
        """
        lead = lookup(way, WAYS, "way")
        if (
            min(rounds, steps, batch_size) < 1
            or not 0 < strength <= 1
            or not min(target, 1.0 if ratio is None else ratio) > 0
        ):
            raise ValueError(
                "rounds, steps and batch_size are at least 1, target and ratio above 0, and strength lies in (0, 1]."
            )
        scale = self.scale if scale is None else scale
        free = _room(image, mask)
        turned = image.oriented("RAS")
        level = float(bright(turned.data[0].float().abs()))
        planes = _planes(turned.data[0].float() / level)
        allowed = _planes(free.oriented("RAS").data[0].float())
        chosen = allowed.flatten(1).any(1).nonzero()[:, 0]
        size = [
            round(n * mm / self.spacing)
            for n, mm in zip(planes.shape[-2:], turned.spacing[1::-1], strict=True)
        ]
        x0, room = (_resized(values[chosen, None], size) for values in (planes, allowed))
        if not bool((x0 > _DARK).any()):
            raise ValueError("there is no head in the slices across the mask: do the two belong together?")
        seen = _window(x0, room, int(self.prior.config["data"]["size"]))
        x0, room = (values[seen].to(self.device) for values in (x0, room))
        if ratio is not None:
            start, by = math.log(ratio), ""
        elif mask is not None:
            start, by = covariate(curve(image, mask)[0]), " by the fluid in the mask"
        else:
            start, by = self.read(x0, seed=seed), " by a guess from the image"
        stages = [start + math.log(target) * k / rounds for k in range(rounds + 1)]
        if not self.range[0] <= stages[-1] <= self.range[1]:
            low, high = (math.exp(end - start) for end in self.range)
            raise ValueError(
                f"the ventricles have {math.exp(start):.2g} per cent of the brain's volume{by}; from there the prior "
                f"knows targets from {low:.2g} to {high:.2g}, and {target:g} is beyond."
            )
        grid = uniform(steps, strength)
        changes = torch.zeros(rounds + 1, *planes.shape)
        for part in torch.arange(len(chosen)).split(batch_size):
            first = x = x0[part]
            keep = outside + (inside - outside) * room[part]
            draw = Seeds([seed + int(chosen[k]) for k in part])
            for k in range(rounds):
                x = x + keep * (self._round(lead, x, room[part], stages[k : k + 2], grid, scale, draw) - x)
                change = torch.zeros(len(part), 1, *size)
                change[seen] = (x - first).cpu()
                changes[k + 1, chosen[part]] = _resized(change, list(planes.shape[-2:]))[:, 0]
                advance(len(part))
        if not bool(torch.isfinite(changes).all()):
            raise FloatingPointError(
                "the progression has values that are not finite: lower the strength or the scale."
            )
        moved = replace(turned, data=level * changes.flip(2).permute(0, 3, 2, 1)).oriented(image.orientation)
        found = replace(image, data=image.data.float() + moved.data)
        return Progression(found, stages, None if mask is None else curve(found, mask))

    def _round(
        self,
        lead: Way,
        x: Tensor,
        room: Tensor,
        stages: Sequence[float],
        grid: Grid,
        scale: float,
        draw: Draw,
    ) -> Tensor:
        """There under the first of two covariates, and back under the second, outside of ``room`` as it came."""
        now, later = (Conditional(self.denoise, torch.full((len(x),), c, device=x.device)) for c in stages)
        process = self.prior.process
        solver, states = lead(now, process, x, grid, draw)
        guided, plan = cfg(scale, now)(later), solver(process, grid)
        found = integrate(guided, x, plan, memory=states[0], between=hold(room, states))
        t = torch.tensor(_LOOK, dtype=torch.float64)
        a = float(process.a(t))
        return x + room * (later(a * found, t) - now(a * x, t))

    @torch.no_grad()
    def read(self, slices: Tensor, *, count: int = 8, seed: int = 0) -> float:
        """The covariate of a head, from ``count`` of its slices ``[n, 1, height, width]`` in the prior's units.

        It is the one of least error of the denoiser at three levels of noise, by a parabola through the least of
        17 and its neighbours.
        """
        chosen = slices[torch.linspace(0, len(slices) - 1, min(count, len(slices))).round().long()]
        draw = Seeds([seed + k for k in range(len(chosen))])
        tried = torch.linspace(*self.range, _READINGS, dtype=torch.float64)
        errors = torch.zeros(_READINGS, dtype=torch.float64)
        for k, t in enumerate(torch.tensor(_LEVELS, dtype=torch.float64, device=slices.device)):
            x = self.prior.process.corrupt(chosen, t, noise=draw(k, chosen))
            for j, c in enumerate(tried.tolist()):
                found = self.denoise(x, t, torch.full((len(x),), c, device=x.device))
                errors[j] += (found - chosen).square().mean(dtype=torch.float64).cpu()
        j = min(max(int(errors.argmin()), 1), _READINGS - 2)
        low, middle, high = errors[j - 1 : j + 2].tolist()
        bend = low - 2 * middle + high
        shift = min(max(0.5 * (low - high) / bend, -1.0), 1.0) if bend > 0 else 0.0
        return float(tried[j] + shift * (tried[1] - tried[0]))


def tabulated(found: Progression, path: Path) -> None:
    """Write the rounds, covariates, volumes in ml and factors of a progression in a mask, as .csv."""
    assert found.volumes is not None
    rows = [
        f"{k},{c:.4f},{ml:.4f},{ml / found.volumes[0]:.4f}\n"
        for k, (c, ml) in enumerate(zip(found.covariates, found.volumes, strict=True))
    ]
    with whole(path) as beside:
        beside.write_text("round,covariate,volume_ml,factor\n" + "".join(rows))


def _room(image: Volume, mask: Volume | None) -> Volume:
    """Where an image may change, as 0 and 1; ValueError as of a call."""
    if len(image.data) != 1 or image.data.is_complex():
        raise ValueError("a progression is that of one real image: give a single channel of magnitudes.")
    if min(image.shape) < 8:
        size = " x ".join(map(str, image.shape))
        raise ValueError(f"{size} voxels are no volume: at least 8 are needed along each axis.")
    if not bool(torch.isfinite(image.data).all()):
        raise ValueError("the image has voxels that are not finite: mend or mask them first.")
    low, high = float(image.data.min()), float(image.data.max())
    if high <= 0 or low < -0.1 * high:  # interpolation by splines may have left a little below 0
        raise ValueError(
            f"the image has values from {low:g} to {high:g}, and so no magnitudes of MR: give a T1-weighted head."
        )
    if mask is None:
        return image.holding(torch.ones(1, *image.shape))
    check_grids({"the image": image, "the mask": mask})
    if not bool((mask.data[0] > 0).any()):
        raise ValueError(
            "the mask is empty, so that nothing may change: mark the ventricles, with room to grow."
        )
    return mask.holding((mask.data[:1] > 0).float())


def _planes(values: Tensor) -> Tensor:
    """Slices ``[z, y, x]`` of ``[x, y, z]`` in RAS, their rows from the front, as the prior has seen them."""
    return values.permute(2, 1, 0).flip(1)


def _window(slices: Tensor, room: Tensor, least: int) -> tuple[slice | EllipsisType, ...]:
    """The part of ``[n, 1, height, width]`` with the room that lies in the head, of ``least`` pixels where there are.

    That is what the prior has learnt from, and a wide field of view costs no more than a narrow one.
    """
    head, free = (_ends((values > dark)[:, 0].any(0)) for values, dark in ((slices, _DARK), (room, 0)))
    spans = []
    for (top, bottom), (first, last) in zip(head, free, strict=True):
        first, last = max(first, top), min(last, bottom)
        grow = max(_MARGIN, -(-(least - (last - first)) // 2))
        spans.append(slice(max(first - grow, 0), max(last + grow, 0)))
    return ..., *spans


def _ends(where: Tensor) -> list[list[int]]:
    """Of ``[height, width]`` the first and the last row, and column, that have any, the last counted past."""
    return [(where.any(1 - axis).nonzero()[[0, -1], 0] + torch.tensor([0, 1])).tolist() for axis in (0, 1)]


def _resized(slices: Tensor, size: list[int]) -> Tensor:
    if list(slices.shape[-2:]) == size:
        return slices
    return F.interpolate(slices, size, mode="bilinear", antialias=True)
