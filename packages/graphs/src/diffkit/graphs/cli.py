"""The command `diffkit-graphs`: parse, call, print."""

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from diffkit.core.cli import Raw, progress, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffkit-graphs` and return its exit status."""
    return run(
        {
            "generate": generate,
            "evaluate": evaluate,
            "data": data,
            "train": Raw(train, "Train a model; `train --help` shows everything that a config can say."),
            "models": models,
        },
        prog="diffkit-graphs",
        version=metadata.version("diffkit-graphs"),
        about="Generate graphs with diffusion.",
        argv=argv,
    )


def generate(
    num: int = 100,
    out: Path = Path("graphs.graphml"),
    model: str = "community_small",
    like: Path | None = None,
    minutes: float = 10.0,
    method: str | None = None,
    steps: int | None = None,
    distortion: str | None = None,
    eta: float | None = None,
    omega: float | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 64,
    bf16: bool = False,
    picture: bool = True,
    overwrite: bool = False,
) -> int:
    """Generate graphs, of a trained model or like those in a file.

    Args:
        num: How many.
        out: A .graphml file for all of them, or .g6 where they have no labels. OUT.png shows some.
        model: A checkpoint: a name that `diffkit-graphs models` lists, or a folder.
        like: Graphs to learn from first, a file or a folder; the model is kept in OUT.model/checkpoint.
        minutes: How long to learn.
        method: flow or d3pm; like all knobs below by default as the checkpoint says.
        steps: Network calls.
        distortion: Where the steps are short: identity, polydec (at the data), polyinc, cosine, revcos.
        eta: Redraws for each unit of time.
        omega: Target guidance: how much more often classes jump to what is predicted.
        seed: Of the first graph; the next has the next.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        batch_size: Graphs at a time.
        bf16: Run the network in bfloat16, for recent GPUs, and CPUs with AMX.
        picture: Draw some of the graphs, beside some of those to be like.
        overwrite: Replace files that exist.
    """
    from dataclasses import replace

    from diffkit.core.types import lookup
    from diffkit.graphs import files

    lookup(out.suffix, files.WRITERS, "format")
    kept, drawing = out.with_name(f"{out.name}.model"), out.with_name(f"{out.name}.png")
    wanted = [out, *([kept] if like else []), *([drawing] if picture else [])]
    if not overwrite and (there := next((path for path in wanted if path.exists()), None)):
        raise ValueError(f"{there} exists; pass --overwrite, or name another file.")
    real = None if like is None else files.read(like)
    if like is not None:
        from diffkit.graphs.fit import fit

        model = str(fit(like, kept, minutes=minutes, seed=seed, device=device))
    from diffkit.graphs.generate import Generator

    generator = Generator.from_pretrained(model, device, bf16=bf16)
    asked = {"method": method, "steps": steps, "distortion": distortion, "eta": eta, "omega": omega}
    sampling = replace(generator.model.sampling, **{k: v for k, v in asked.items() if v is not None})
    with progress(num) as step:
        graphs = generator.generate(
            num, sampling=sampling, seed=seed, batch_size=batch_size, advance=lambda n: step("graphs", n)
        )
    files.write(out, graphs)
    if picture:
        from diffkit.graphs.picture import draw

        draw(drawing, {"generated": graphs, **({"given": real} if real else {})})
    print(f"{num} graphs in {out}, by {sampling.steps} calls of {model}.")
    return 0


def evaluate(
    graphs: Path,
    reference: Path,
    test: float = 0.2,
    valid: str = "connected",
    out: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Compare generated graphs with a set: MMD by two kernels, validity, uniqueness, novelty.

    The first graphs of the set are the test graphs, as many of the generated are compared with them, and the training
    graphs stand beside as what is within reach.

    Args:
        graphs: The generated graphs, a file or a folder.
        reference: The set that was trained on, its test graphs first.
        test: Their share; 1 if all are, and what was trained on is not known.
        valid: What makes a graph valid: connected, grid or planar.
        out: A JSON file for the numbers.
        overwrite: Replace a file that exists.
    """
    import json

    from rich.console import Console

    from diffkit.core.files import whole
    from diffkit.graphs.files import read
    from diffkit.graphs.report import report, table

    if out is not None and out.exists() and not overwrite:
        raise ValueError(f"{out} exists; pass --overwrite, or name another file.")
    found = report(read(graphs), read(reference), test=test, valid=valid)
    if out is not None:
        with whole(out) as beside:
            beside.write_text(json.dumps(found, indent=1) + "\n")
    Console().print(table(found))
    return 0


def data(directory: Path, set: list[str] | None = None, count: int | None = None, seed: int = 0) -> int:
    """Build sets of graphs: by the generators of their papers, from Debian's packages, or from a wheel.

    Args:
        directory: Where the sets are, or are to be.
        set: Their names: community_small, grid, planar, sbm, debian, mutag; by default those that need no network.
        count: Graphs of each set that is generated; by default as many as its paper has.
        seed: Of the generators.
    """
    from diffkit.graphs.collection import build

    return build(directory, set, count=count, seed=seed)


def train(args: Sequence[str]) -> None:
    """Train a model, as `diffkit.core.train.run.train` says."""
    from diffkit.core.train.run import train
    from diffkit.graphs.checkpoints import write_run
    from diffkit.graphs.data import GraphData
    from diffkit.graphs.task import GraphTask

    train(GraphTask, GraphData, args, write=write_run)


def models() -> None:
    """List the checkpoints inside this package."""
    from diffkit.graphs.checkpoints import EMBEDDED

    for path in sorted(EMBEDDED.glob("*/config.json")):
        card = (path.parent / "card.md").read_text().split("\n\n")[:2]
        print(f"{path.parent.name}  {' '.join(' '.join(card).lstrip('# ').split())}")


if __name__ == "__main__":
    sys.exit(main())
