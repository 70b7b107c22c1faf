"""Reconstruction from undersampled MR and CT beside what does without learning, and beside deepinv with our network.

``python apps/bench/medical.py FOLDER [--mr CHECKPOINT] [--ct ...] [--only mr-4x ...] [--slices 3]``

FOLDER is what ``diffkit-medical data`` built. Subjects are tested that trained nothing: Colin27, a block of the head CT
that is 6 mm away from what was trained on, and two other people's CT. Coil maps are estimated (ESPIRiT) outside the
clock, and every method of MR, those without learning too, is given them with the image's slow phase folded in.

Every free number was chosen on one slice of the validation subjects: weights without learning, and deepinv's, from the
candidates here, for each problem; ours once for all of them, in :mod:`diffkit.medical.methods`. Seconds are those of
one core. What was measured is kept in medical.json and not measured again, so that a run can be interrupted, and done
in parts; rows of a checkpoint count for that checkpoint only. ``--images`` keeps images and a picture of each problem.
"""

import argparse
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from _medical_problems import CT, FIRST, MR, PHOTONS, Case, cases, subject_slices
from solvers import machine
from torch import Tensor

from diffkit.core.checkpoint import locate
from diffkit.core.files import whole
from diffkit.core.types import Denoiser
from diffkit.medical.checkpoints import EMBEDDED, load
from diffkit.medical.classical import cg_sense, l1_wavelet, sart, tv, zero_filled
from diffkit.medical.dose import to_hu
from diffkit.medical.fbp import fbp
from diffkit.medical.kspace import KSpace
from diffkit.medical.methods import METHODS
from diffkit.medical.mri import to_channels, to_complex
from diffkit.medical.predictor import load as load_predictor
from diffkit.medical.reconstruct import Reconstructor
from diffkit.medical.sinogram import Sinogram
from diffkit.medical.slices import Slices, of_kspace, of_sinogram

HERE = Path(__file__).parent
CALLS = 20
CHECKPOINTS = ("mr", "ct", "ct-arc")
ROW = torch.zeros(1, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Ready:
    """A case, its slices in the prior's units, and reconstructors by the name of their checkpoint."""

    case: Case
    slices: Slices
    reconstructors: dict[str, Reconstructor]

    @classmethod
    def of(cls, case: Case, reconstructors: dict[str, Reconstructor]) -> "Ready":
        if isinstance(case.measured, KSpace):
            return cls(case, of_kspace(case.measured, None, near_real=True, noise=None), reconstructors)
        return cls(case, of_sinogram(case.measured, noise=None), reconstructors)

    @property
    def reconstructor(self) -> Reconstructor:
        """That of a prior alone."""
        return self.reconstructors["mr" if isinstance(self.case.measured, KSpace) else "ct"]


Run = Callable[[Ready, Any], Tensor]
"""A case and the free number to the image ``[1, height, width]``, complex or in HU."""


@dataclass(frozen=True)
class Entry:
    """A method with the candidates for its free number, its network calls and the name of its checkpoint."""

    run: Run
    values: Sequence[Any] = (None,)
    calls: int = 0
    prior: str | None = None


def without_learning_mr(method: Callable[..., Tensor]) -> Run:
    def run(ready: Ready, value: Any) -> Tensor:
        slices = ready.slices
        options = {} if value is None else {"weight": value}
        at = slices.rows(ROW)
        return slices.image(method(at.operator, at.y, **options), ROW)[0]

    return run


def without_learning_ct(method: Callable[..., Tensor]) -> Run:
    def run(ready: Ready, value: Any) -> Tensor:
        measured = ready.case.measured
        assert isinstance(measured, Sinogram)
        options = {} if value is None else {"weight": value, "positive": True}
        return to_hu(method(measured.projector, measured.data, **options))[0]

    return run


def ours(method: str, prior: str, steps: int = CALLS) -> Entry:
    def run(ready: Ready, value: Any) -> Tensor:
        reconstruct = ready.reconstructors[prior]
        return reconstruct(ready.case.measured, maps=ready.slices.maps, method=method, steps=steps).image

    return Entry(run, calls=steps, prior=prior)


def theirs(kind: str) -> dict[str, Entry]:
    """deepinv's methods, whose images are in [0, 1], with our prior of a kind; none where it is not installed."""
    try:
        import deepinv
    except ImportError:
        return {}
    from deepinv.models import Denoiser as Base
    from deepinv.optim.data_fidelity import L2
    from deepinv.physics import GaussianNoise, LinearPhysics
    from deepinv.sampling import DPS, DiffPIR

    class Wrapped(Base):
        """Our denoiser of (u + sigma eps, sigma), the prior's x being offset + scale (2 u - 1)."""

        def __init__(self, denoise: Denoiser, process: Any, scale: float, offset: float, complex: bool):
            super().__init__()
            self.inner, self.process, self.scale, self.offset = denoise, process, scale, offset
            self.complex = complex

        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            sigma = torch.as_tensor(sigma, dtype=torch.float64).flatten()[0]
            t = self.process.time(-(2 * self.scale * sigma).log())
            state = (self.offset + self.scale * (2 * x.float() - 1)) * float(self.process.a(t))
            found = self.inner(to_complex(state) if self.complex else state, t)
            found = to_channels(found) if self.complex else found
            return ((found - self.offset) / (2 * self.scale) + 0.5).to(x)

    def problem(ready: Ready) -> tuple[Any, Tensor, Any, Callable[[Tensor], Tensor], float]:
        """The physics, the measurement of u, the denoiser, u to an image, and the noise in u."""
        slices, prior = ready.slices, ready.reconstructor.prior
        at, complex = slices.eased(ROW), prior.kind == "mr"
        scale, offset = (1.6, 0.0) if complex else (1.5, 0.5)
        size = ready.case.truth.shape

        def A(u: Tensor, **_: Any) -> Tensor:
            if not complex:
                return at.operator.A(u.float()).to(u)
            return torch.view_as_real(at.operator.A(to_complex(u.float()))).to(u)

        def A_adjoint(y: Tensor, **_: Any) -> Tensor:
            if not complex:
                return at.operator.A_adjoint(y.float()).to(y)
            return to_channels(at.operator.A_adjoint(torch.view_as_complex(y.float().contiguous()))).to(y)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=ready.reconstructor.bf16):
                return prior.denoise(x, t)

        def image(u: Tensor) -> Tensor:
            x = (offset + scale * (2 * u - 1)).float()
            return slices.image(to_complex(x) if complex else x, ROW)[0]

        first = torch.full((1, 2 if complex else 1, *size), offset - scale)
        y = torch.view_as_real(at.y) if complex else at.y
        noise = at.noise / (2 * scale)
        model: Any = GaussianNoise(noise)
        physics = LinearPhysics(A=A, A_adjoint=A_adjoint, noise_model=model, max_iter=20, tol=1e-4)
        wrapped = Wrapped(denoise, prior.process, scale, offset, complex)
        return physics, (y - A(first)) / (2 * scale), wrapped, image, noise

    @torch.no_grad()
    def diffpir(ready: Ready, value: Any) -> Tensor:
        physics, y, model, image, noise = problem(ready)
        return image(
            DiffPIR(model, L2(), sigma=noise, max_iter=CALLS, zeta=0.3, lambda_=value)(y, physics, seed=1)
        )

    def dps(calls: int) -> Run:
        def run(ready: Ready, value: Any) -> Tensor:
            physics, y, model, image, _ = problem(ready)
            shape = (1, 2 if ready.reconstructor.prior.kind == "mr" else 1, *ready.case.truth.shape)
            found = DPS(model, num_steps=calls + 1, weight=value)(y, physics, x_init=shape, seed=1)
            return image(found.detach())

        return run

    name = f"deepinv {deepinv.__version__}"
    return {
        f"{name} DiffPIR": Entry(diffpir, (0.3, 3.0, 30.0), CALLS, prior=kind),
        f"{name} DPS": Entry(dps(CALLS), (10.0, 100.0, 1000.0, 10000.0), CALLS, prior=kind),
    }


def methods(problem: str) -> dict[str, Entry]:
    """What runs on a problem, by the name in its table."""
    if problem in MR:
        plain = {
            "zero-filled": Entry(without_learning_mr(zero_filled)),
            "CG-SENSE": Entry(without_learning_mr(cg_sense)),
            "L1-wavelet": Entry(without_learning_mr(l1_wavelet), (3e-4, 1e-3, 3e-3, 1e-2)),
            "TV": Entry(without_learning_mr(tv), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
        }
    else:
        plain = {
            "FBP, Hann": Entry(without_learning_ct(lambda p, y: fbp(p, y, window="hann"))),
            "SART": Entry(without_learning_ct(sart)),
            "TV": Entry(without_learning_ct(tv), (0.01, 0.03, 0.1, 0.3, 1.0)),
        }
    kind = "mr" if problem in MR else "ct"
    own = {f"`{name}`": ours(name, kind) for name in METHODS}
    if kind == "ct" and CT[problem][1] < 180:
        own["`plug`, predicted start"] = ours("plug", "ct-arc")
    published = {"`dps` as published": ours("dps", kind, 1000)} if problem in ("mr-4x", "ct-20") else {}
    return {**plain, **own, **published, **theirs(kind)}


class Store:
    """Rows by key in a JSON file, written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.rows:
            self.rows[key] = make()
            with whole(self.path) as beside:
                beside.write_text(json.dumps(self.rows, indent=0, sort_keys=True) + "\n")
        return self.rows[key]


def measured(
    problem: str,
    data: Path,
    count: int,
    reconstructors: dict[str, Reconstructor],
    digests: dict[str, str],
    store: Store,
    images: Path | None,
    names: Sequence[str],
) -> None:
    """Fill the store with the rows of a problem."""

    def prepared(tuning: bool) -> Iterator[Ready]:
        return (Ready.of(case, reconstructors) for case in cases(problem, data, count, tuning=tuning))

    tuning: list[Ready] = []
    ready = list(prepared(False))
    for name, entry in methods(problem).items():
        if names and not any(part in name for part in names):
            continue
        tail = f"{name}|{digests[entry.prior]}" if entry.prior else name

        def choose(entry: Entry = entry, name: str = name) -> dict[str, Any]:
            tuning.extend(() if tuning else prepared(True))
            found = {value: _score(entry, tuning[0], value)[0]["psnr"] for value in entry.values}
            print(problem, name, {k: round(v, 2) for k, v in found.items()}, flush=True)
            return {"value": max(found, key=lambda value: found[value])}

        value = store.get(f"{problem}|chosen|{tail}", choose)["value"] if len(entry.values) > 1 else None
        for one in ready:

            def measure(
                entry: Entry = entry, one: Ready = one, name: str = name, value: Any = value
            ) -> dict[str, Any]:
                scores, image = _score(entry, one, value)
                print(problem, one.case.name, name, {k: round(v, 3) for k, v in scores.items()}, flush=True)
                _keep(images, problem, one.case, name, image)
                return {**scores, "calls": entry.calls, "value": value}

            store.get(f"{problem}|{one.case.name}|{tail}", measure)


def _score(entry: Entry, ready: Ready, value: Any) -> tuple[dict[str, float], Tensor]:
    start = time.process_time()
    image = entry.run(ready, value)
    seconds = time.process_time() - start
    return {**ready.case.scores(image), "seconds": seconds}, image


def _keep(folder: Path | None, problem: str, case: Case, name: str, image: Tensor) -> None:
    """The magnitude, or HU + 1000, beside the truth."""
    if folder is None:
        return
    place = folder / problem / case.name
    place.mkdir(parents=True, exist_ok=True)
    torch.save(case.truth.half(), place / "truth.pt")
    shown = image.abs() if image.is_complex() else image.clamp(min=-1000) + 1000
    torch.save(shown[0].half(), place / f"{name.replace('`', '')}.pt")


def table(problem: str, rows: dict[str, dict[str, Any]], digests: dict[str, str]) -> list[str]:
    """A problem in markdown: median, least and largest over the first slices, other people one by one, and gains."""
    what = MR.get(problem) or "{} views over {} degrees".format(*CT[problem])
    found: dict[str, dict[str, dict[str, Any]]] = {}
    entries = methods(problem)
    for key, row in rows.items():
        where, case, name, *mine = key.split("|")
        if where != problem or case == "chosen" or name not in entries:
            continue
        prior = entries[name].prior
        if mine == ([digests[prior]] if prior else []):
            found.setdefault(name, {})[case] = row
    if not found:
        return []
    people = [p for p in ("cq500-310", "supria") if any(p in row for row in found.values())]
    head = ["method", "calls", "PSNR, dB", "SSIM", "NMSE", "s", *(f"{p}, dB" for p in people), "chosen"]
    lines = ["", f"## {problem}: {what}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in entries:
        if name not in found:
            continue
        own = [row for case, row in found[name].items() if case in subject_slices(problem)[:FIRST]]
        cells = [
            name,
            str(own[0]["calls"] or ""),
            *(
                _spread([row[k] for row in own], f)
                for k, f in (("psnr", ".1f"), ("ssim", ".3f"), ("nmse", ".4f"))
            ),
            f"{median(row['seconds'] for row in own):.1f}",
            *(f"{found[name][p]['psnr']:.1f}" if p in found[name] else "" for p in people),
            "" if own[0]["value"] is None else f"{own[0]['value']:g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines + gains(problem, found)


def gains(problem: str, found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """What `plug` has above each method without learning on the same slices, where there are more than the first."""
    plain = [name for name, entry in methods(problem).items() if not entry.calls and name in found]
    mine = found.get("`plug`", {})
    lines: list[str] = []
    for name in plain:
        both = [case for case in subject_slices(problem) if case in mine and case in found[name]]
        own = [mine[case]["psnr"] - found[name][case]["psnr"] for case in both]
        if len(own) > FIRST:
            lines += [
                "",
                f"`plug` above {name}, slice by slice of {len(own)}: {fmean(own):.1f} dB in the mean, "
                f"{_spread(own, '.1f')} in the median.",
            ]
    return lines


def _spread(values: list[float], form: str) -> str:
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:{form}}" + (f" ({low:{form}} to {high:{form}})" if len(values) > 1 else "")


def picture(problem: str, folder: Path) -> None:
    """Every method on each kept slice of a problem, and its error below, as bright as a tenth of the image."""
    from matplotlib.figure import Figure

    places = sorted(place for place in (folder / problem).glob("*") if place.is_dir())
    for place in places:
        truth = torch.load(place / "truth.pt").float()
        order = [name.replace("`", "") for name in methods(problem)]
        names = [name for name in order if (place / f"{name}.pt").exists()]
        figure = Figure(figsize=(2.1 * (len(names) + 1), 4.5), layout="constrained")
        axes = figure.subplots(2, len(names) + 1)
        top = float(truth.quantile(0.999)) if problem in MR else 1150.0
        low = 0.0 if problem in MR else 850.0  # HU -150 to 150
        for axis in axes.flat:
            axis.set_axis_off()
        for column, name in enumerate(["truth", *names]):
            image = torch.load(place / f"{name}.pt").float()
            axes[0, column].imshow(image, cmap="gray", vmin=low, vmax=top)
            axes[0, column].set_title(name, fontsize=8)
            if column:
                axes[1, column].imshow(
                    (image - truth).abs(), cmap="inferno", vmin=0, vmax=float(truth.max()) / 10
                )
        figure.savefig(place.with_name(f"{place.name}.png"), dpi=110)


def report(store: Store, digests: dict[str, str]) -> str:
    text = [
        "# Reconstruction beside its peers",
        "",
        "Median over slices of subjects that trained nothing, with the least and the largest; PSNR, SSIM and NMSE as "
        "fastMRI defines them, on magnitudes of MR, and on HU + 1000 of CT; seconds of one core a slice. Calls are "
        "those of the network. Chosen is the free number that did best on a slice of the validation subject, among the "
        "candidates in `apps/bench/medical.py`. MR: Colin27 on 256 x 256, eight coils, maps estimated from the data, "
        f"noise 0.002 of the brightest pixel. CT: parallel beams of 367 bins, {PHOTONS:g} photons a bin; two other "
        "people, a slice each, in columns of their own.",
    ]
    for problem in (*MR, *CT):
        text += table(problem, store.rows, digests)
    return "\n".join([*text, "", machine("cpu")]) + "\n"


def _digest(*names: str) -> str:
    """Of the weights of checkpoints."""
    found = hashlib.sha256()
    for name in names:
        found.update((locate(name, EMBEDDED) / "model.safetensors").read_bytes())
    return found.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="the demo data")
    for name in CHECKPOINTS:
        parser.add_argument(f"--{name}", default=name, help="a checkpoint, a name or a folder", dest=name)
    parser.add_argument("--only", nargs="*", default=[*MR, *CT], help="problems", choices=[*MR, *CT])
    parser.add_argument("--methods", nargs="*", default=[], help="parts of their names; all by default")
    parser.add_argument("--slices", type=int, default=FIRST, help="of each subject; more for gains alone")
    parser.add_argument("--images", type=Path, help="a folder for images and pictures")
    parser.add_argument("--report", type=Path, default=HERE / "medical.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # what deepinv says of itself
    torch.set_num_threads(1)
    store = Store(HERE / "medical.json")
    priors = {kind: load(getattr(options, kind)) for kind in ("mr", "ct")}
    reconstructors = {kind: Reconstructor(prior, bf16=True) for kind, prior in priors.items()}
    predictor = load_predictor(getattr(options, "ct-arc"))
    reconstructors["ct-arc"] = Reconstructor(priors["ct"], predictor, bf16=True)
    digests = {kind: _digest(getattr(options, kind)) for kind in ("mr", "ct")}
    digests["ct-arc"] = _digest(options.ct, getattr(options, "ct-arc"))
    for problem in options.only:
        measured(
            problem,
            options.data,
            options.slices,
            reconstructors,
            digests,
            store,
            options.images,
            options.methods,
        )
        if options.images:
            picture(problem, options.images)
    options.report.write_text(report(store, digests))


if __name__ == "__main__":
    main()
