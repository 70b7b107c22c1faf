"""The command `diffkit-medical`: parse, call, print."""

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from diffkit.core.cli import Raw, progress, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffkit-medical` and return its exit status."""
    return run(
        {
            "reconstruct": reconstruct,
            "data": data,
            "train": Raw(train, "Train a prior; `train --help` shows everything that a config can say."),
        },
        prog="diffkit-medical",
        version=metadata.version("diffkit-medical"),
        about="Reconstruct, segment and follow medical images with diffusion.",
        argv=argv,
    )


def reconstruct(
    input: Path,
    output: Path,
    model: str = "mr",
    maps: Path | None = None,
    mask: Path | None = None,
    method: str = "dds",
    steps: int = 20,
    samples: int = 1,
    noise: float = 0.0,
    start: float = 1.0,
    seed: int = 0,
    batch_size: int = 4,
    device: str = "auto",
    overwrite: bool = False,
) -> int:
    """Reconstruct MR slices from k-space that was sampled in part.

    Beside OUTPUT.nii.gz stands OUTPUT.png, and of several samples OUTPUT_doubt.nii.gz, their standard deviation.

    Args:
        input: k-space: fastMRI's .h5, or .npy, .npz with complex [slices, coils, height, width].
        output: Magnitudes, as .nii.gz, .nii or .npz, or a folder for DICOM.
        model: A prior: an embedded name, or the folder of a checkpoint.
        maps: Coil sensitivities as .npy or .npz, complex [coils, height, width]; estimated by default.
        mask: What was sampled, as .npy or .npz; by default where k-space is not zero.
        method: dds, diffpir, pigdm, dps or flowchef.
        steps: Network calls for each sample.
        samples: Of each slice; their mean is the image.
        noise: Standard deviation of a part of k-space, which diffpir and pigdm take into account.
        start: Time to begin at: below 1 from the least-squares image, for fewer calls.
        seed: Of the noise.
        batch_size: Samples worked on at a time.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        overwrite: Replace an output that exists.
    """
    from diffkit.medical import kspace, volume
    from diffkit.medical.arrays import load, tensor
    from diffkit.medical.picture import slices
    from diffkit.medical.reconstruct import Reconstructor

    name = volume.stem(output)
    if not overwrite and output.exists():
        raise ValueError(f"{output} exists already; give another name, or --overwrite true.")
    measured = kspace.read(input)
    given = {
        what: tensor(next(iter(load(path).values())))
        for what, path in (("maps", maps), ("mask", mask))
        if path
    }
    reconstructor = Reconstructor.from_pretrained(model, device)
    with progress(len(measured.data) * samples) as step:
        found = reconstructor(
            measured.data,
            mask=given.get("mask", measured.mask),
            maps=given.get("maps"),
            method=method,
            steps=steps,
            samples=samples,
            noise=noise,
            start=start,
            seed=seed,
            batch_size=batch_size,
            advance=lambda done: step(input.name, done),
        )
    image = measured.volume(found.image.abs().cpu())
    volume.write(output, image)
    shown = {input.name: image}
    if found.doubt is not None:
        shown["doubt"] = measured.volume(found.doubt.cpu())
        volume.write(output.with_name(output.name.replace(name, f"{name}_doubt", 1)), shown["doubt"])
    slices(shown, output.with_name(f"{name}.png"))
    print(f"{len(measured.data)} slices of {image.shape[0]} x {image.shape[1]} in {output}.")
    return 0


def train(args: Sequence[str]) -> None:
    """Train a prior, as `diffkit.core.train.run.train` says."""
    from diffkit.core.train.run import train
    from diffkit.medical.checkpoints import write_run
    from diffkit.medical.planes import PlaneData
    from diffkit.medical.prior import PriorTask

    train(PriorTask, PlaneData, args, write=write_run)


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


if __name__ == "__main__":
    sys.exit(main())
