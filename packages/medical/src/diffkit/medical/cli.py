"""The command `diffkit-medical`: parse, call, print."""

import sys
from collections.abc import Sequence
from importlib import metadata
from itertools import takewhile
from json import dumps
from pathlib import Path

from diffkit.core.cli import Raw, progress, run
from diffkit.core.commands import models
from diffkit.core.files import vacant


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffkit-medical` and return its exit status."""
    return run(
        {
            "segment": segment,
            "reconstruct": reconstruct,
            "progress": progression,
            "evaluate": evaluate,
            "data": data,
            "train": Raw(
                train, "Train a prior, or `train tissue`; `train --help` shows what a config can say."
            ),
            "models": models("diffkit.medical.checkpoints"),
        },
        prog="diffkit-medical",
        version=metadata.version("diffkit-medical"),
        about="Reconstruct, segment and follow medical images with diffusion.",
        argv=_gathered(sys.argv[1:] if argv is None else argv),
    )


def segment(
    images: list[Path],
    output: Path,
    model: str = "tissue",
    samples: int = 8,
    steps: int = 2,
    seed: int = 0,
    decide: str = "probable",
    batch_size: int = 4,
    device: str = "auto",
    bf16: bool = False,
    overwrite: bool = False,
) -> int:
    """Segment a volume of one or several modalities: `segment IMAGE... OUT.nii.gz`, then options.

    On the grid of the images: OUT.nii.gz, the labels, OUT_uncertainty.nii.gz, the entropy of the samples together
    from 0 (certain) to 1, and OUT.png of both.

    Args:
        images: The modalities, in the order of the model's channels: NIfTI, DICOM or NumPy.
        output: Labels, as .nii.gz, .nii or .npz.
        model: A segmenter: an embedded name, or the folder of a checkpoint.
        samples: Masks to draw.
        steps: Of each; all share the first network call, or two where every other is of the mirrored image.
        seed: Of the noise.
        decide: The label of a voxel: probable, its most probable class, or dice, for the largest expected Dice.
        batch_size: Windows worked on at a time.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        bf16: Run the network in bfloat16, for recent GPUs, and CPUs with AMX.
        overwrite: Replace outputs that exist.
    """
    from diffkit.medical import volume
    from diffkit.medical.picture import overlay
    from diffkit.medical.segment import Segmenter

    name = volume.stem(output)
    beside = output.with_name(output.name.replace(name, f"{name}_uncertainty", 1))
    if not output.name.endswith((".nii.gz", ".nii", ".npz")):
        raise ValueError(f"{output}: labels are written as .nii.gz, .nii or .npz.")
    vacant(output, beside, overwrite=overwrite)
    if twice := next((path for path in images if images.count(path) > 1), None):
        raise ValueError(f"{twice} is given twice: each modality is an image of its own.")
    volumes = {str(path): volume.read(path) for path in images}
    segmenter = Segmenter.from_pretrained(model, device, bf16=bf16)
    with progress(segmenter.calls(samples, steps)) as step:
        found = segmenter(
            volumes,
            samples=samples,
            steps=steps,
            seed=seed,
            batch_size=batch_size,
            decide=decide,
            advance=lambda done: step(output.name, done),
        )
    classes = segmenter.model.spec["classes"]
    volume.write(output, found.labels)
    volume.write(beside, found.entropy)
    overlay(
        next(iter(volumes.values())), found.labels, found.entropy, classes, output.with_name(f"{name}.png")
    )
    millilitres = abs(float(found.labels.affine[:3, :3].det())) / 1000
    counts = found.labels.data.flatten().long().bincount(minlength=len(classes)).tolist()
    sizes = [f"{c} {n * millilitres:.1f} ml" for c, n in zip(classes, counts, strict=True)]
    print(f"{', '.join(sizes[1:])} in {output}.")
    return 0


def evaluate(
    truth: Path,
    found: Path | None = None,
    models: list[str] | None = None,
    classes: list[str] | None = None,
    samples: int = 8,
    steps: int = 2,
    seed: int = 0,
    decide: str = "probable",
    tolerance: float = 2.0,
    json: Path | None = None,
    device: str = "auto",
    bf16: bool = False,
) -> int:
    """Score segmentations against their truth: `evaluate TRUTH --found FOUND`, or models: `evaluate DATA --models A,B`.

    Dice, HD95, surface Dice, and of models the expected calibration error within 10 mm of the true foreground.

    Args:
        truth: True labels, a file or a folder; for models, the folder of the demo data, on whose test images they work.
        found: Labels on the same grids: a file, or a folder of files that are named as the truths.
        models: Segmenters: embedded names, or folders of checkpoints.
        classes: Names of the labels of files, from 0.
        samples: Masks for a model to draw.
        steps: Of each, as of `segment`.
        seed: Of the noise.
        decide: How models label voxels: probable or dice, as of `segment`.
        tolerance: Of surface Dice, mm.
        json: A file for all the numbers.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        bf16: Run the networks in bfloat16, for recent GPUs, and CPUs with AMX.
    """
    from rich.console import Console

    from diffkit.medical import segment_report as report

    if (found is None) == (models is None):
        raise ValueError("evaluate takes either --found, labels, or --models, segmenters.")
    if found is not None:
        rows, scores = report.compare(found, truth, classes, tolerance=tolerance)
    else:
        options = {"samples": samples, "steps": steps, "seed": seed, "decide": decide, "tolerance": tolerance}
        rows, scores = report.compete(models or [], truth, device=device, bf16=bf16, **options)
    if json is not None:
        report.write(json, rows, scores)
    Console().print(report.table(rows, scores))
    return 0


def reconstruct(
    input: Path,
    output: Path,
    model: str | None = None,
    predictor: str | None = None,
    maps: Path | None = None,
    mask: Path | None = None,
    method: str | None = None,
    steps: int = 20,
    samples: int = 1,
    tv: float = 0.0,
    noise: float | None = None,
    start: float | None = None,
    seed: int = 0,
    batch_size: int = 4,
    device: str = "auto",
    bf16: bool = False,
    overwrite: bool = False,
) -> int:
    """Reconstruct slices of MR from k-space, or of CT from sinograms, that were sampled in part.

    Beside OUTPUT.nii.gz stands OUTPUT.png, and of several samples OUTPUT_doubt.nii.gz, their standard deviation.

    Args:
        input: k-space: fastMRI's .h5, ISMRMRD's .h5 or .mrd with Cartesian readouts, whose noise scan whitens the
            coils, or .npy, .npz with complex [slices, coils, height, width]; or a sinogram: a .npz, .h5 with
            "sinogram" [slices, views, bins], "angles" (or "angles_degrees") and "spacing" of bins in mm.
        output: Magnitudes, or HU, as .nii.gz, .nii or .npz, or a folder for DICOM.
        model: A prior: an embedded name, or the folder of a checkpoint; by default mr or ct.
        predictor: What makes a first image of CT over less than half a turn: an embedded name, the folder of a
            checkpoint, or none; by default what goes with the model.
        maps: Coil sensitivities as .npy or .npz, complex [coils, height, width]; estimated by default.
        mask: What was sampled, as .npy or .npz; by default where k-space is not zero.
        method: plug, dds, diffpir, pigdm, dps or flowchef; by default plug, or dds for several samples.
        steps: Network calls for each sample.
        samples: Of each slice; their mean is the image.
        tv: Weight of the total variation from slice to slice, for stacks: plug and dds then find them together.
        noise: Standard deviation of a part of k-space, or of a line integral; by default from the data.
        start: Time to begin at: below 1 from the least-squares image; by default the method's.
        seed: Of the noise.
        batch_size: Samples worked on at a time.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        bf16: Run the network in bfloat16, for recent GPUs, and CPUs with AMX.
        overwrite: Replace an output that exists.
    """
    from dataclasses import replace

    from diffkit.medical import volume
    from diffkit.medical.arrays import load, tensor
    from diffkit.medical.kspace import KSpace
    from diffkit.medical.picture import slices
    from diffkit.medical.reconstruct import Reconstructor, read

    name = volume.stem(output)
    vacant(output, overwrite=overwrite)
    measured = read(input)
    given = {
        what: tensor(next(iter(load(path).values())))
        for what, path in (("maps", maps), ("mask", mask))
        if path
    }
    of_mr = isinstance(measured, KSpace)
    if "mask" in given:
        if not of_mr:
            raise ValueError(f"{input} is a sinogram, and has no mask: leave --mask out.")
        measured = replace(measured, mask=given["mask"].squeeze() != 0)
    reconstructor = Reconstructor.from_pretrained(
        model or ("mr" if of_mr else "ct"), device, predictor=predictor, bf16=bf16
    )
    with progress(len(measured.data) * samples) as step:
        found = reconstructor(
            measured,
            maps=given.get("maps"),
            method=method,
            steps=steps,
            samples=samples,
            tv=tv,
            noise=noise,
            start=start,
            seed=seed,
            batch_size=batch_size,
            advance=lambda done: step(input.name, done),
        )
    image = measured.volume((found.image.abs() if of_mr else found.image).cpu())
    volume.write(output, image)
    # of CT between fat and bone, where eyes are
    shown = {input.name: image if of_mr else image.holding((image.data + 150).clamp(0, 400))}
    if found.doubt is not None:
        shown["doubt"] = measured.volume(found.doubt.cpu())
        volume.write(output.with_name(output.name.replace(name, f"{name}_doubt", 1)), shown["doubt"])
    slices(shown, output.with_name(f"{name}.png"))
    print(f"{len(measured.data)} slices of {image.shape[0]} x {image.shape[1]} in {output}.")
    return 0


def progression(
    image: Path,
    output: Path,
    model: str = "progress",
    mask: Path | None = None,
    target: float = 2.0,
    rounds: int = 5,
    strength: float = 0.7,
    steps: int = 6,
    scale: float | None = None,
    way: str = "exact",
    ratio: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
    device: str = "auto",
    bf16: bool = False,
    overwrite: bool = False,
) -> int:
    """Show a T1-weighted head as its ventricles grow: OUTPUT is 4D, the image and a volume for each round.

    Beside OUTPUT.nii.gz stands OUTPUT.png, and with a mask OUTPUT.csv, the ventricles' volume after each round.

    Args:
        image: The head: NIfTI, DICOM or NumPy.
        output: The series, as .nii.gz, .nii or .npz.
        model: A prior that knows the ventricles' size: an embedded name, or the folder of a checkpoint.
        mask: Where it may change, on the grid of the image: the ventricles with room to grow; by default everywhere.
        target: The ventricles' last volume over that of now.
        rounds: Volumes from now to then.
        strength: The noise that each round goes to, a time in (0, 1].
        steps: Network calls on the way there, and twice as many on the way back.
        scale: Of the guidance from each stage to the next, 1 being none; by default what suits the model.
        way: To the noise: exact, approximate (of DDIM), or renoise, as PIE has it.
        ratio: The ventricles' volume in per cent of the brain's, if measured; by default by the fluid
            in the mask and a brain of 1.4 l, or without a mask by a guess of the prior.
        seed: Of the noise of renoise, and of what reads the size of now.
        batch_size: Slices worked on at a time.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        bf16: Run the network in bfloat16, for recent GPUs, and CPUs with AMX.
        overwrite: Replace outputs that exist.
    """
    from diffkit.medical import volume
    from diffkit.medical.picture import series
    from diffkit.medical.progress import Progressor, tabulated

    if not output.name.endswith((".nii.gz", ".nii", ".npz")):
        raise ValueError(f"{output}: a series is written as .nii.gz, .nii or .npz.")
    vacant(output, overwrite=overwrite)
    head, region = volume.read(image, slices=8), None if mask is None else volume.read(mask)
    progressor = Progressor.from_pretrained(model, device, bf16=bf16)
    with progress(progressor.slices(head, region) * rounds) as step:
        found = progressor(
            head,
            region,
            target=target,
            rounds=rounds,
            strength=strength,
            steps=steps,
            scale=scale,
            way=way,
            ratio=ratio,
            seed=seed,
            batch_size=batch_size,
            advance=lambda done: step(output.name, done),
        )
    volume.write(output, found.frames)
    name = volume.stem(output)
    if found.volumes is not None:
        tabulated(found, output.with_name(f"{name}.csv"))
    data = found.frames.data
    change = found.frames.holding(data - data[:1])
    rows = {image.name: found.frames, "change": change}
    series(rows, [f"round {k}" for k in range(len(data))], output.with_name(f"{name}.png"))
    grew = (
        ""
        if found.volumes is None
        else f", ventricles from {found.volumes[0]:.1f} to {found.volumes[-1]:.1f} ml"
    )
    print(f"{rounds} rounds in {output}{grew}.")
    return 0


def train(args: Sequence[str]) -> None:
    """Train a prior, or by a first word another model, as `diffkit.core.train.run.train` says."""
    from diffkit.core.train.run import train
    from diffkit.medical.checkpoints import write_run

    what, *rest = args if args and not args[0].startswith("-") else ["prior", *args]
    if what == "prior":
        from diffkit.medical.planes import PlaneData as Data
        from diffkit.medical.prior import PriorTask as Task
    elif what == "predictor":
        from diffkit.medical.predictor import PredictorTask as Task
        from diffkit.medical.predictor import ScanData as Data
    elif what == "progress":
        from diffkit.medical.covariate import CovariateTask as Task
        from diffkit.medical.covariate import GrowthData as Data
    elif what in ("tissue", "lesions", "hecktor"):
        from diffkit.medical.segment_task import SegmentTask as Task

        if what == "tissue":
            from diffkit.medical.tissue import TissueData as Data
        elif what == "lesions":
            from diffkit.medical.lesions import LesionData as Data
        else:
            from diffkit.medical.hecktor import HecktorData as Data
    else:
        kinds = "prior, predictor, progress, tissue, lesions or hecktor"
        raise ValueError(f"{what!r} is nothing to train; give {kinds}, then the options.")
    train(Task, Data, rest, write=write_run)


def data(directory: Path, sources: list[str] | None = None, reserved: bool = False) -> int:
    """Build the demo data, MRI and CT with labels, from public packages.

    A build that was interrupted goes on; manifest.json says where each file came from and its licence.

    Args:
        directory: Where the data are, or are to be.
        sources: Names of sources, such as [colin27]; by default all that are not reserved.
        reserved: Also the sources that are kept for a last judgement and never trained on.
    """
    from diffkit.core.collect import tell
    from diffkit.medical.data import build

    return tell(build(directory, sources, reserved=reserved), directory, "diffkit-medical")


def _gathered(argv: Sequence[str]) -> list[str]:
    """`segment A B OUT --model NAME` with A and B as the one list that the parser knows."""
    command, *rest = argv or [""]
    words = list(takewhile(lambda word: not word.startswith("-"), rest))
    if command != "segment" or len(words) < 2:
        return list(argv)
    return [command, dumps(words[:-1]), words[-1], *rest[len(words) :]]


if __name__ == "__main__":
    sys.exit(main())
