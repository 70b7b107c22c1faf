"""Graphs of one set by several generators: how far from the test graphs, at how many network calls, in what time.

``python apps/bench/graphs.py SET.g6 [--gdss CHECKPOINT] [--released FILE.pth] [--report apps/bench/graphs.md]``

The protocol of GDSS's tables: as many graphs as there are test graphs, the first fifth of the set, of sizes drawn at
random from the training graphs; squared MMD of Gaussian-EMD kernels; of several seeds, with the deviation between
them. Rows of even sizes have those that `generate` gives, spread evenly over the seeds. Calls are those of networks, of
which GDSS has two. Time is that of one core's processor for a hundred graphs, in batches of as many as there are test
graphs.

Each seed of each row is kept in graphs.json, by set, as soon as it is there, and not run again. A model that was
trained anew wants a file without its rows.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from _gdss import released as converted
from solvers import machine

from diffkit.core.files import whole
from diffkit.core.noise import key
from diffkit.graphs import files
from diffkit.graphs.checkpoints import GraphModel, load
from diffkit.graphs.data import split
from diffkit.graphs.gdss_sampling import GDSSSampling
from diffkit.graphs.generate import Generator
from diffkit.graphs.graph import Classes, index
from diffkit.graphs.metrics import TABLE, compare
from diffkit.graphs.population import Population
from diffkit.graphs.sampling import Sampling

STORE = Path(__file__).with_suffix(".json")
COLUMNS = (*TABLE, "average")
OURS = {"flow, 100 steps": Sampling(), "flow, 50 steps": Sampling(steps=50)}
GDSS = {
    "S4, N(0, 1), 50 steps": GDSSSampling("s4", 50, begin="normal"),
    "S4, moments of x_1, 50 steps": GDSSSampling("s4", 50),
    "ancestral, N(0, 1), 50 steps": GDSSSampling("ancestral", 50, begin="normal"),
    "ancestral, moments of x_1, 50 steps": GDSSSampling("ancestral", 50),
    "PC, moments of x_1, 1000 steps": GDSSSampling("reverse_diffusion", 1000),
    "S4, N(0, 1), 1000 steps": GDSSSampling("s4", 1000, begin="normal"),
    "S4, moments of x_1, 1000 steps": GDSSSampling("s4", 1000),
}
PUBLISHED = {
    "community_small": ("PC", GDSSSampling("reverse_diffusion", 1000, begin="normal")),
    # Euler-Maruyama without corrections, which for so many steps is ancestral sampling
    "ego_small": ("predictor", GDSSSampling("ancestral", 1000, begin="normal")),
    "grid": ("PC", GDSSSampling("reverse_diffusion", 1000, snr=0.1, begin="normal")),
}
"""By set, how GDSS's configs sample."""


@dataclass(frozen=True)
class System:
    """A row of the table: what makes ``count`` graphs of a seed, and the network calls of a batch."""

    name: str
    make: Callable[[int, int], list[nx.Graph]]
    calls: int | None = None


def main(
    graphs: Path,
    ours: str = "community_small",
    gdss: Path | None = None,
    released: Path | None = None,
    seeds: int = 5,
    calls: int = 4000,
    store: Path = STORE,
    report: Path | None = None,
) -> None:
    """Compare generators on a set of graphs.

    Args:
        graphs: the set, its test graphs first.
        ours: the checkpoint of the discrete generator.
        gdss: a checkpoint of `diffkit-graphs train gdss`.
        released: a file of weights that GDSS released for this set.
        seeds: how many; each is as many graphs as there are test graphs.
        calls: of networks at most; rows of more are left out.
        store: where every seed of every row is kept.
        report: where to write the table.
    """
    if seeds < 2:
        raise ValueError("a deviation needs at least two seeds.")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    train, test = split(files.read(graphs))
    kept: dict[str, dict[str, Any]] = json.loads(store.read_text()) if store.exists() else {}
    found = kept.setdefault(graphs.stem, {})
    for system in systems(graphs.stem, train, ours, gdss, released):
        if system.calls and system.calls > calls:
            continue
        row = found.setdefault(system.name, {"calls": system.calls, "seeds": []})
        for seed in range(len(row["seeds"]), seeds):
            begun = time.process_time()
            made = system.make(seed, len(test))
            seconds = (time.process_time() - begun) * 100 / len(test)
            row["seeds"].append({**compare(test, made, ["gaussian_emd"])["gaussian_emd"], "seconds": seconds})
            row["machine"] = machine("cpu")
            with whole(store) as beside:
                beside.write_text(json.dumps(kept, indent=1) + "\n")
            print(
                f"{system.name}, seed {seed}: {row['seeds'][-1]['average']:.4f}, {seconds:.1f} s",
                file=sys.stderr,
            )
        if report is not None:
            with whole(report) as beside:
                beside.write_text("\n".join(table(name, rows) for name, rows in kept.items()))
    print(table(graphs.stem, found))


def systems(
    name: str, train: list[nx.Graph], ours: str, gdss: Path | None, released: Path | None
) -> Iterator[System]:
    """The rows, those that take long last."""
    population = Population.of([index(graph, Classes()) for graph in train], Classes())
    yield System("training graphs", lambda seed, count: _chosen(train, seed, count))
    yield System("training graphs of even sizes", lambda seed, count: _even(train, population, seed, count))
    yield System(
        "Erdos-Renyi of the training graphs' density", lambda seed, count: _random(population, seed, count)
    )
    generator = Generator.from_pretrained(ours, "cpu")
    for how, sampling in OURS.items():
        yield System(f"diffkit, {how}", _maker(generator, sampling), sampling.steps)
        yield System(f"diffkit, {how}, even sizes", _maker(generator, sampling, even=True), sampling.steps)
    models = {"GDSS, our training": load(gdss)} if gdss else {}
    if released:
        models["GDSS, released weights"] = converted(released, population)
    for title, model in models.items():
        how, published = PUBLISHED.get(name, PUBLISHED["community_small"])
        samplings = {f"published: {how}, N(0, 1), 1000 steps": published, **GDSS}
        for how, sampling in samplings.items():
            yield System(f"{title}: {how}", _maker(_generator(model), sampling), 2 * _calls(sampling, model))


def table(name: str, found: dict[str, Any]) -> str:
    """The rows of a set that have two seeds or more, as markdown."""
    lines = [
        f"# Generators of {name}",
        "",
        "Squared MMD by GDSS's protocol (Gaussian-EMD kernels, as many graphs as test graphs), mean of the seeds; the",
        "average with the deviation between seeds. Sizes are drawn at random, or spread evenly over the seeds. Calls",
        "are those of networks, of which GDSS has two; time is the processor's, for a hundred graphs.",
        "",
        f"| | seeds | calls | {' | '.join(COLUMNS)} | s for 100 |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    for title, row in found.items():
        if len(row["seeds"]) < 2:
            continue  # interrupted
        cells = [f"{statistics.fmean(seed[what] for seed in row['seeds']):.4f}" for what in COLUMNS]
        cells[-1] += f" ± {statistics.stdev(seed['average'] for seed in row['seeds']):.4f}"
        spent = f"{statistics.fmean(seed['seconds'] for seed in row['seeds']):.1f}" if row["calls"] else ""
        lines.append(
            f"| {title} | {len(row['seeds'])} | {row['calls'] or ''} | {' | '.join(cells)} | {spent} |"
        )
    return "\n".join([*lines, "", *sorted({row["machine"] for row in found.values()})]) + "\n"


def _generator(model: GraphModel) -> Generator:
    return Generator(model, torch.device("cpu"))


def _maker(
    generator: Generator, sampling: Sampling | GDSSSampling, even: bool = False
) -> Callable[[int, int], list[nx.Graph]]:
    def make(seed: int, count: int) -> list[nx.Graph]:
        nodes = None if even else _sizes(generator.model.population, seed, count)
        return generator.generate(count, sampling=sampling, seed=seed * count, nodes=nodes, batch_size=count)

    return make


def _sizes(population: Population, seed: int, count: int) -> list[int]:
    """Drawn at random, each from a seed of its own."""
    shares = torch.tensor(population.sizes, dtype=torch.float64)
    seeds = range(seed * count, (seed + 1) * count)
    return [int(shares.multinomial(1, generator=torch.Generator().manual_seed(key(s, -2)))) for s in seeds]


def _calls(sampling: GDSSSampling, model: GraphModel) -> int:
    return sampling.plans(model.process)["edges"].nfe


def _chosen(train: list[nx.Graph], seed: int, count: int) -> list[nx.Graph]:
    return [train[i] for i in np.random.default_rng(seed).choice(len(train), count, replace=False)]


def _even(train: list[nx.Graph], population: Population, seed: int, count: int) -> list[nx.Graph]:
    rng = np.random.default_rng(seed)
    sizes = [population.draw_size(s) for s in range(seed * count, (seed + 1) * count)]
    return [train[rng.choice([i for i, graph in enumerate(train) if len(graph) == size])] for size in sizes]


def _random(population: Population, seed: int, count: int) -> list[nx.Graph]:
    density = 1 - population.edges[0]
    sizes = _sizes(population, seed, count)
    return [nx.gnp_random_graph(size, density, seed=seed * count + i) for i, size in enumerate(sizes)]


if __name__ == "__main__":
    from jsonargparse import auto_cli

    try:
        auto_cli(main)
    except (ValueError, OSError) as error:
        sys.exit(f"graphs.py: {error}")
