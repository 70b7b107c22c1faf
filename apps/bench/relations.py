"""Link prediction and node classes on Debian's archive and WordNet, with and without diffusion between relations.

``python apps/bench/relations.py DATA [--set verbs] [--row LightGCN] [--seeds 3]``

DATA is what ``diffkit-graphs data DATA --set debian,wordnet`` built; the sets are these two, and a part of each:
Debian's packages for the desktop, and WordNet's verbs. Each row learns the same embeddings in the same
steps from the same edges, is stopped by the same validation edges, and ranks the same test edges; rows are kept in
relations.json as they come, and what is there is not learnt again. relations.md is drawn from it. Debian's lists change
from day to day: a set of other nodes or edges than the kept rows saw is refused.

The row of DiffGraph (2501.02313) has the perceptron, noise, loss and sampler of its released code on these embeddings;
its 200 steps of sampling are compared with one call, and the one call is taken.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from solvers import machine
from torch import Tensor, nn
from torch.nn.functional import normalize

from diffkit.core.bridge import BrownianBridge
from diffkit.core.process import VP
from diffkit.graphs import hetero_files
from diffkit.graphs.classify import head, judge, labelled, propagated
from diffkit.graphs.hetero import Hetero, Relation
from diffkit.graphs.hetero_split import EdgeSplit, split_edges
from diffkit.graphs.latent import Denoising, LatentDiffusion, Translation
from diffkit.graphs.lightgcn import LightGCN
from diffkit.graphs.link import METHODS, Linked, fit

HERE = Path(__file__).parent
STORE, REPORT = HERE / "relations.json", HERE / "relations.md"
DESKTOP = ("games", "gnome", "graphics", "kde", "sound", "video", "x11")


class Problem(NamedTuple):
    """The relation and the attribute of a kind that are predicted in a folder's graph, in so many steps.

    Of a small set, ``part`` says the attribute and the words of the nodes it has.
    """

    folder: str
    relation: str
    kind: str
    attribute: str
    steps: int
    part: tuple[str, Sequence[str]] | None = None


SETS = {
    "desktop": Problem("debian", "depends", "package", "section", 200, ("section", DESKTOP)),
    "verbs": Problem("wordnet", "hypernym", "synset", "lexname", 200, ("pos", ["verb"])),
    "debian": Problem("debian", "depends", "package", "section", 200),
    "wordnet": Problem("wordnet", "hypernym", "synset", "lexname", 100),
}
WIDTH, CALLS, HELD, PEEKED = 64, 4, 0.1, 1000


class Regression(nn.Module):
    """The same network as the diffusions', which knows neither noise nor time."""

    def __init__(self, width: int):
        super().__init__()
        self.network = Denoising(width)

    def forward(self, g: Tensor, noise: Tensor) -> Tensor:
        return self.network(torch.zeros_like(g), g.new_zeros(len(g)), g)

    def loss(self, h: Tensor, g: Tensor) -> Tensor:
        return (self(g, g) - h).square().mean()


class Released(nn.Module):
    """DiffGraph's: noise of its schedule is added to g, and the loss, weighted by SNR(t - 1) - SNR(t), is against h."""

    steps = 200

    def __init__(self, width: int):
        super().__init__()
        self.clock = nn.Linear(8, 8)
        self.layers = nn.Sequential(
            nn.Linear(width + 8, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, width),
        )
        bar = 1 - torch.linspace(1e-8, 1e-7, self.steps, dtype=torch.float64)
        self.beta = torch.cat([torch.tensor([1e-4], dtype=torch.float64), 1 - bar[1:] / bar[:-1]])
        self.kept = (1 - self.beta).cumprod(0)

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None] * torch.exp(-math.log(10000) * torch.arange(4) / 4)
        x = nn.functional.dropout(normalize(x), 0.5, self.training)
        return self.layers(torch.cat([x, self.clock(torch.cat([waves.cos(), waves.sin()], -1))], -1))

    def noisy(self, g: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.randint(self.steps, (len(g),))
        kept = self.kept[t, None].float()
        return kept.sqrt() * g + (1 - kept).sqrt() * torch.randn_like(g), t

    def forward(self, g: Tensor, noise: Tensor) -> Tensor:
        return self.network(*self.noisy(g)) if self.training else self.network(g, g.new_zeros(len(g)))

    def loss(self, h: Tensor, g: Tensor) -> Tensor:
        x, t = self.noisy(g)
        snr = self.kept / (1 - self.kept)
        weight = torch.where(t == 0, 1.0, snr[t - 1] - snr[t]).float()
        return (weight * (self.network(x, t) - h).square().mean(1)).mean()

    @torch.no_grad()
    def sampled(self, g: Tensor) -> Tensor:
        """By the mean of the posterior at every step, as released."""
        x = g
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.kept[:-1]])
        for t in reversed(range(self.steps)):
            found = self.network(x, torch.full((len(x),), float(t)))
            own = float(self.beta[t] * before[t].sqrt() / (1 - self.kept[t]))
            held = float((1 - before[t]) * (1 - self.beta[t]).sqrt() / (1 - self.kept[t]))
            x = own * found + held * x
        return x


def fused(translation: Callable[[int], nn.Module]) -> Callable[..., nn.Module]:
    return lambda graphs, target, count, width, **options: LatentDiffusion(
        graphs, target, count, width=width, translation=translation(width), **options
    )


def seen(graphs: Sequence[Mapping[str, Tensor]], target: str, count: int, **options: Any) -> nn.Module:
    """LightGCN as published: an edge is predicted in training from a graph that holds it."""
    return LightGCN([[graphs[0][target]]] * len(graphs), count, **options)


ROWS: dict[str, Callable[..., nn.Module]] = {
    "LightGCN, as published": seen,
    "LightGCN": METHODS["lightgcn"],
    "R-GCN": METHODS["rgcn"],
    "fused, untouched": METHODS["fused"],
    "fused, regression": fused(Regression),
    "fused, DiffGraph's schedule": fused(Released),
    "fused, VP": fused(lambda width: Translation(width, VP(), CALLS)),
    "fused, Brownian bridge": fused(lambda width: Translation(width, BrownianBridge(), CALLS)),
}


def learn(split: EdgeSplit, name: str, row: str, seed: int, steps: int) -> tuple[Linked, dict[str, Any]]:
    """Embeddings of one row, and its test metrics; of some queries also the recall where the test itself chooses."""
    known = torch.cat([split.train, split.valid], 1)
    queries = split.test[0].unique()
    queries = queries[torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:PEEKED]]
    some = split.test[:, torch.isin(split.test[0], queries)]
    peeks: list[float] = []
    made: list[nn.Module] = []

    def make(*arguments: Any, **options: Any) -> nn.Module:
        made.append(ROWS[row](*arguments, **options))
        return made[0]

    def watch(now: Linked) -> None:
        peeks.append(now.rank(some, known)["recall"])

    begun = time.process_time()
    found = fit(split, name, method=make, width=WIDTH, steps=steps, seed=seed, watch=watch)
    result = {
        "seconds": time.process_time() - begun,
        "steps": steps,
        "test": found.rank(split.test, known),
        "chosen": found.rank(some, known)["recall"],
        "peeked": max(peeks),
    }
    translation = getattr(made[0], "translation", None)
    if isinstance(translation, Released):
        g = torch.randn(1000, WIDTH, generator=torch.Generator().manual_seed(0))
        one = translation(g, g).detach()
        result["difference"] = float((translation.sampled(g) - one).norm() / one.norm())
    return found, result


def popular(split: EdgeSplit, name: str) -> Linked:
    """Every source is given the targets of most edges."""
    relation = split.graph.relations[name]
    sources, targets = (len(split.graph.nodes[kind]) for kind in (relation.source, relation.target))
    degree = torch.zeros(targets).index_add(0, split.train[1], torch.ones(split.train.shape[1]))
    same = relation.source == relation.target
    return Linked(torch.ones(sources, 1), degree[:, None], split.train, same)


def classes(labels: Tensor, predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Accuracy and macro-F1 on a fifth of the nodes with a class; ``predict`` is given the labels of the others."""
    with_class = (labels >= 0).nonzero().flatten()
    order = torch.randperm(len(with_class), generator=torch.Generator().manual_seed(0))
    test = with_class[order[: len(with_class) // 5]]
    return judge(labels[test], predict(labels.clone().index_fill_(0, test, -1))[test].argmax(1))


def restrict(graph: Hetero, kind: str, attribute: str, words: Sequence[str]) -> Hetero:
    """Of ``kind`` the nodes of some ``words``, and the edges between what is left."""
    kept = torch.tensor([word in words for word in graph.attribute(kind, attribute)])
    place = kept.cumsum(0) - 1
    relations: dict[str, Relation] = {}
    for name, relation in graph.relations.items():
        ends = list(relation.edges)
        stays = torch.ones(len(ends[0]), dtype=torch.bool)
        for i, end in enumerate((relation.source, relation.target)):
            if end == kind:
                stays &= kept[ends[i]]
                ends[i] = place[ends[i]]
        relations[name] = Relation(relation.source, relation.target, torch.stack(ends)[:, stays])

    def of(column: Sequence[str]) -> list[str]:
        return [word for word, stay in zip(column, kept.tolist(), strict=True) if stay]

    columns = {name: of(column) for name, column in graph.attributes[kind].items()}
    return Hetero({**graph.nodes, kind: of(graph.nodes[kind])}, relations, {kind: columns})


def measure(data: Path, which: str, rows: Sequence[str], seeds: int, store: dict[str, Any]) -> None:
    folder, name, kind, attribute, steps, part = SETS[which]
    graph = hetero_files.read(data / folder)
    if part is not None:
        graph = restrict(graph, kind, *part)
    size = {
        "nodes": sum(len(ids) for ids in graph.nodes.values()),
        "edges": sum(relation.edges.shape[1] for relation in graph.relations.values()),
        "relations": sum(relation.edges.shape[1] > 0 for relation in graph.relations.values()),
    }
    if store["sets"].setdefault(which, size) != size:
        raise SystemExit(
            f"{which} is {size}, and the kept rows saw {store['sets'][which]}: take them out first."
        )
    runs: dict[str, Any] = store["runs"]
    labels = labelled(graph, kind, attribute)[1]
    split = split_edges(graph, name, valid=HELD, test=HELD)
    known = torch.cat([split.train, split.valid], 1)
    simple: dict[str, Callable[[], dict[str, Any]]] = {
        "popularity": lambda: {"test": popular(split, name).rank(split.test, known)},
        "the largest class": lambda: {
            "classes": classes(labels, lambda y: nn.functional.one_hot(y[y >= 0]).sum(0).expand(len(y), -1))
        },
        "label propagation": lambda: {"classes": classes(labels, lambda y: propagated(split.graph, kind, y))},
    }
    for row in rows:
        for seed in range(1 if row in simple else seeds):
            key = f"{which}/{row}/{seed}"
            if key in runs:
                continue
            if row in simple:
                runs[key] = simple[row]()
            else:
                found, result = learn(split, name, row, seed, steps)
                x = torch.cat([found.sources, found.targets], 1)
                runs[key] = {**result, "classes": classes(labels, partial(head, x))}
            STORE.write_text(json.dumps(store, indent=1) + "\n")
            print(key, json.dumps(runs[key]), flush=True)


def tables(store: Mapping[str, Any]) -> str:
    """The report."""
    lines = [
        "# Relations",
        "",
        "Test edges are a tenth of the relation, another tenth says when to stop; no relation joins their ends in "
        "training. All nodes are ranked. All rows learn against negatives drawn by popularity: `as published` says "
        "only that LightGCN sees the edge that it predicts. Classes are those of a fifth of the nodes, by a linear "
        f"head on the same embeddings, of width {WIDTH}. `apps/bench/relations.py` says how. Where there are several "
        "seeds, numbers are means and standard deviations. Seconds are of one core. The last two columns are "
        f"Recall@20 of {PEEKED} test nodes when validation chooses the step and when the test itself does.",
    ]
    runs: dict[str, Any] = store["runs"]
    for which, size in store["sets"].items():
        _, name, kind, attribute, steps, _ = SETS[which]
        head = [
            "",
            "seeds",
            "Recall@20",
            "NDCG@20",
            "MRR",
            "accuracy",
            "macro-F1",
            "seconds",
            "chosen",
            "peeked",
        ]
        lines += ["", f"## {which}: `{name}`, and the {attribute} of a {kind}", ""]
        counts = ", ".join(f"{count} {what}" for what, count in size.items())
        lines += [f"{counts}; learnt in {steps} steps.", ""]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        names = ["popularity", "the largest class", "label propagation", *ROWS]
        for row in names:
            found = [v for k, v in runs.items() if k.rpartition("/")[0] == f"{which}/{row}"]
            if found:
                cells = [_mean(found, *path) for path in COLUMNS]
                lines.append(f"| {row} | {len(found)} | " + " | ".join(cells) + " |")
    gaps = [run["difference"] for run in runs.values() if "difference" in run]
    if gaps:
        lines += [
            "",
            f"The 200 steps of DiffGraph's sampler differ from one call by {max(gaps):.1e} of its norm at most.",
        ]
    return "\n".join(lines) + "\n"


COLUMNS = (
    *(("test", metric) for metric in ("recall", "ndcg", "mrr")),
    *(("classes", metric) for metric in ("accuracy", "macro_f1")),
    *((part,) for part in ("seconds", "chosen", "peeked")),
)


def _mean(runs: Sequence[Mapping[str, Any]], part: str, metric: str | None = None) -> str:
    if part not in runs[0]:
        return ""
    values = torch.tensor([run[part] if metric is None else run[part][metric] for run in runs])
    if part == "seconds":
        return f"{values.mean():.0f}"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "data", type=Path, nargs="?", help="where the sets are; without it only the report is drawn"
    )
    parser.add_argument("--set", action="append", choices=SETS, help="by default all")
    parser.add_argument("--row", action="append", help="by default all")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store: dict[str, Any] = json.loads(STORE.read_text()) if STORE.is_file() else {"sets": {}, "runs": {}}
    rows = options.row or ["popularity", "the largest class", "label propagation", *ROWS]
    if options.data is not None:
        for which in options.set or SETS:
            measure(options.data, which, rows, options.seeds, store)
    REPORT.write_text(tables(store) + "\n" + machine("cpu") + "\n")


if __name__ == "__main__":
    main()
