"""The command `diffkit-graphs`: parse, call, print."""

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from diffkit.core.cli import Raw, progress, run
from diffkit.core.commands import models


def main(argv: Sequence[str] | None = None) -> int:
    """Run `diffkit-graphs` and return its exit status."""
    return run(
        {
            "generate": generate,
            "evaluate": evaluate,
            "link": link,
            "classify": classify,
            "data": data,
            "train": Raw(
                train,
                "Train a model, or `train gdss`; --help shows everything that a config can say.",
            ),
            "models": models("diffkit.graphs.checkpoints"),
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
    snr: float | None = None,
    scale: float | None = None,
    begin: str | None = None,
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
        out: A .graphml file for all of them, .g6 where they have no labels, or of molecules .smi or .sdf, which leave
            out what RDKit refuses. OUT.png shows some.
        model: A checkpoint: a name that `diffkit-graphs models` lists, or a folder.
        like: Graphs to learn from first, a file or a folder; the model is kept in OUT.model/checkpoint.
        minutes: How long to learn.
        method: flow or d3pm, of GDSS s4, reverse_diffusion or a solver; all knobs by default as the checkpoint says.
        steps: Of time, each a network call, or two of reverse_diffusion.
        distortion: Where the steps are short: identity, polydec (at the data), polyinc, cosine, revcos.
        eta: Redraws for each unit of time.
        omega: Target guidance: how much more often classes jump to what is predicted.
        snr: Of GDSS: the signal-to-noise ratio of Langevin steps.
        scale: Of GDSS: of the noise of Langevin steps.
        begin: Of GDSS: data, the moments of the noisiest graphs, or normal, as published.
        seed: Of the first graph; the next has the next.
        device: cpu, cuda, cuda:1, mps, or auto for the best there is.
        batch_size: Graphs at a time.
        bf16: Run the network in bfloat16, for recent GPUs, and CPUs with AMX.
        picture: Draw some of the graphs, beside some of those to be like.
        overwrite: Replace files that exist.
    """
    from diffkit.core.files import vacant
    from diffkit.core.types import lookup
    from diffkit.graphs import files
    from diffkit.graphs.molecules import is_molecule, rdkit

    lookup(out.suffix, files.WRITERS, "format")
    if out.suffix in files.MOLECULES:
        rdkit()
    kept, drawing = out.with_name(f"{out.name}.model"), out.with_name(f"{out.name}.png")
    wanted = [out, *([kept] if like else []), *([drawing] if picture else [])]
    vacant(*wanted, overwrite=overwrite)
    real = None if like is None else files.read(like)
    if like is not None:
        from diffkit.graphs.fit import fit

        model = str(fit(like, kept, minutes=minutes, seed=seed, device=device))
    from diffkit.graphs.generate import Generator
    from diffkit.graphs.sampling import adjusted

    generator = Generator.from_pretrained(model, device, bf16=bf16)
    asked = {"method": method, "steps": steps, "distortion": distortion, "eta": eta, "omega": omega}
    asked |= {"snr": snr, "scale": scale, "begin": begin}
    sampling = adjusted(generator.model.sampling, {k: v for k, v in asked.items() if v is not None})
    with progress(num) as step:
        graphs = generator.generate(
            num, sampling=sampling, seed=seed, batch_size=batch_size, advance=lambda n: step("graphs", n)
        )
    if out.suffix in files.MOLECULES and not (graphs := [graph for graph in graphs if is_molecule(graph)]):
        raise ValueError(f"none of the {num} graphs is a molecule: name a .graphml file, and look at them.")
    files.write(out, graphs)
    if picture:
        from diffkit.graphs.picture import draw

        draw(drawing, {"generated": graphs, **({"given": real} if real else {})})
    print(f"{len(graphs)} graphs in {out}, of {num} by {sampling.steps} steps of {model}.")
    return 0


def evaluate(
    graphs: Path,
    reference: Path,
    test: float = 0.2,
    valid: str = "connected",
    out: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Compare generated graphs with a set: MMD by two kernels or of molecules, validity, uniqueness, novelty.

    The first graphs of the set are the test graphs, as many of the generated are compared with them, and the training
    graphs stand beside as what is within reach.

    Args:
        graphs: The generated graphs, a file or a folder.
        reference: The set that was trained on, its test graphs first.
        test: Their share; 1 if all are, and what was trained on is not known.
        valid: What makes a graph valid: connected, grid, planar, sbm, or molecule, which has measures of its own.
        out: A JSON file for the numbers.
        overwrite: Replace a file that exists.
    """
    import json

    from rich.console import Console

    from diffkit.core.files import vacant, whole
    from diffkit.graphs import molecule_report, report
    from diffkit.graphs.files import read

    if out is not None:
        vacant(out, overwrite=overwrite)
    if valid == "molecule":
        found = molecule_report.report(read(graphs), read(reference), test=test)
        shown = molecule_report.table(found)
    else:
        found = report.report(read(graphs), read(reference), test=test, valid=valid)
        shown = report.table(found)
    if out is not None:
        with whole(out) as beside:
            beside.write_text(json.dumps(found, indent=1) + "\n")
    Console().print(shown)
    return 0


def link(
    graph: Path,
    out: Path,
    relation: str | None = None,
    top: int = 20,
    method: str = "fused",
    valid: float = 0.1,
    steps: int = 200,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> int:
    """Predict new edges of a relation in a graph of several kinds of nodes.

    The table has the source, the target and the score of each new edge, the best of a source first. A share of the
    edges is held out to tell when to stop, and how well it went.

    Args:
        graph: A folder with nodes/KIND.tsv and edges/RELATION.tsv, a .graphml file with a kind of nodes and edges, or a
            .pt file with the HeteroData of PyTorch Geometric.
        out: The table, a .tsv file.
        relation: The relation, where there are several.
        top: New edges of each source.
        method: fused, diffusion, lightgcn or rgcn.
        valid: The share that is held out; with 0 all steps are made.
        steps: Of training.
        seed: Of training.
        device: cpu, or cuda.
        overwrite: Replace a file that exists.
    """
    from diffkit.core.checkpoint import pick_device
    from diffkit.core.files import vacant, whole
    from diffkit.core.types import lookup
    from diffkit.graphs import hetero_files
    from diffkit.graphs.hetero import only
    from diffkit.graphs.link import METHODS
    from diffkit.graphs.link import link as learn

    vacant(out, overwrite=overwrite)
    if top < 1 or steps < 1:
        raise ValueError(f"ask for at least one edge of a source, and one step, not {top} and {steps}.")
    known, where = hetero_files.read(graph), pick_device(device)
    name = only(relation, known.relations, "relation")
    of = known.relation(name)
    lookup(method, METHODS, "method")
    with progress(steps) as step:
        found = learn(
            known,
            name,
            valid=valid,
            method=method,
            steps=steps,
            seed=seed,
            device=where,
            advance=lambda n: step("learning", n),
        )
    source, target = known.nodes[of.source], known.nodes[of.target]
    rows = [
        (source[u], target[v], f"{score:.4f}")
        for u, targets, scores in found.candidates(top)
        for v, score in zip(targets, scores, strict=True)
    ]
    with whole(out) as beside:
        hetero_files.write_table(beside, ["source", "target", "score"], rows)
    judged = ", ".join(f"{name} {value:.3f}" for name, value in found.valid.items())
    print(f"{len(rows)} edges in {out}." + (f" Of the edges held out: {judged}." if judged else ""))
    return 0


def classify(
    graph: Path,
    out: Path,
    node: str | None = None,
    attribute: str | None = None,
    method: str = "propagation",
    relation: str | None = None,
    steps: int = 200,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> int:
    """Fill in classes of nodes that are missing, in a graph of several kinds of nodes.

    The table has each node without a class, the likeliest one, and its probability.

    Args:
        graph: As of `link`; an empty cell, or no attribute in GraphML, is a class that is missing.
        out: The table, a .tsv file.
        node: The kind of nodes, where several have attributes.
        attribute: What of them is to be known, where they have several.
        method: propagation along all relations, or a linear head on what fused, diffusion, lightgcn or rgcn learns.
        relation: Whose embeddings are learnt; by default that of most edges at the kind.
        steps: Of learning.
        seed: Of learning.
        device: cpu, or cuda.
        overwrite: Replace a file that exists.
    """
    from diffkit.core.checkpoint import pick_device
    from diffkit.core.files import vacant, whole
    from diffkit.graphs import hetero_files
    from diffkit.graphs.classify import classify as learn
    from diffkit.graphs.classify import labelled
    from diffkit.graphs.hetero import MISSING, only

    vacant(out, overwrite=overwrite)
    if steps < 1:
        raise ValueError(f"ask for at least one step, not {steps}.")
    known, where = hetero_files.read(graph), pick_device(device)
    kind = only(node, known.attributes, "kind of nodes with attributes")
    name = only(attribute, known.attributes.get(kind, {}), f"attribute of {kind}")
    words = known.attribute(kind, name)
    labelled(known, kind, name)
    with progress(steps) as step:
        found = learn(
            known,
            kind,
            name,
            method=method,
            relation=relation,
            steps=steps,
            seed=seed,
            device=where,
            advance=lambda n: step("learning", n),
        )
    rows = [
        (id, best, f"{share:.4f}")
        for id, word, best, share in zip(known.nodes[kind], words, *found.best(), strict=True)
        if word == MISSING
    ]
    with whole(out) as beside:
        hetero_files.write_table(beside, ["id", name, "probability"], rows)
    print(f"{len(rows)} of {len(words)} nodes in {out}, which had no {name}; {len(found.classes)} classes.")
    return 0


def data(directory: Path, set: list[str] | None = None, count: int | None = None, seed: int = 0) -> int:
    """Build sets of graphs: by the generators of their papers, from Debian's packages, or from a wheel.

    Sets for link and classify are debian, the archive that apt lists, and wordnet.

    Args:
        directory: Where the sets are, or are to be.
        set: Their names: community_small, grid, planar, sbm, debian_ego, mutag, qm9, moses, debian, wordnet; by default
            those that need no network.
        count: Graphs of each set that is generated; by default as many as its paper has.
        seed: Of the generators.
    """
    from diffkit.graphs.collection import build

    return build(directory, set, count=count, seed=seed)


def train(args: Sequence[str]) -> None:
    """Train a model, as `diffkit.core.train.run.train` says; `train gdss` one of GDSS."""
    from diffkit.core.train.run import train
    from diffkit.graphs.checkpoints import write_run
    from diffkit.graphs.data import GraphData
    from diffkit.graphs.gdss_task import GDSSTask
    from diffkit.graphs.task import GraphTask

    gdss = args[:1] == ["gdss"]
    train(GDSSTask if gdss else GraphTask, GraphData, args[gdss:], write=write_run)


if __name__ == "__main__":
    sys.exit(main())
