"""New edges of a relation: embeddings learnt by ranking the edges there are, and the pairs of highest score.

Bayesian personalised ranking (Rendle et al. 2009, 1205.2618): of an edge u -> v and a node w drawn at random, the loss
is -log sigmoid(s(u, v) - s(u, w)), s being <u, v> and a bias of v. Where w is drawn in proportion to q(w), the best s
is log p(v | u) - log q(v). Here q is how popular a node is, the edges to it and one more: what is learnt is what
popularity does not say, against the nodes that are hard to tell apart, and log q is added where nodes are ranked, as
the softmax of samples is corrected (Yi et al. 2019, RecSys). A node of which nothing is known gets what is popular.

Edges are taken fold by fold, and each is predicted from a graph that does not hold it. Otherwise a node of one edge
would be known by that edge alone, as it never is when a new one is asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from diffkit.core.types import lookup
from diffkit.graphs.embedding import train
from diffkit.graphs.hetero import Hetero, Relation
from diffkit.graphs.hetero_split import EdgeSplit, folds, split_edges
from diffkit.graphs.latent import LatentDiffusion, Untouched
from diffkit.graphs.lightgcn import LightGCN, RelationalGCN
from diffkit.graphs.link_metrics import candidates, rank
from diffkit.graphs.views import views

QUERIES = 1000
"""Nodes at most whose held-out edges say when training was best, and how good it is."""
BATCH = 8192
"""Edges of a step at most."""
REGULAR = 1e-4
"""The weight of the squared rows of the table, as of LightGCN."""

METHODS: dict[str, Callable[..., nn.Module]] = {
    "fused": lambda graphs, target, count, **options: LatentDiffusion(
        graphs, target, count, translation=Untouched(), **options
    ),
    "diffusion": LatentDiffusion,
    "lightgcn": lambda graphs, target, count, **options: LightGCN(
        [[e[target]] for e in graphs], count, **options
    ),
    "rgcn": lambda graphs, target, count, **options: RelationalGCN(graphs, count, **options),
}
"""Encoders, ``(graphs, target, count, width=, layers=)``, see :class:`~diffkit.graphs.latent.LatentDiffusion`."""


class Biased(nn.Module):
    """An encoder, and a bias for each target, beside its ``popularity`` in every graph, ``[graphs, targets]``."""

    popularity: Tensor

    def __init__(self, encoder: nn.Module, popularity: Tensor):
        super().__init__()
        self.encoder = encoder
        self.table = nn.Parameter(torch.zeros(popularity.shape[1]))
        self.register_buffer("popularity", popularity, persistent=False)

    def bias(self) -> Tensor:
        """Of all targets in the whole graph, ``[targets]``."""
        return self.table + self.popularity[0].log()


@dataclass(frozen=True, eq=False)
class Linked:
    """Embeddings ``[nodes, width + 1]`` of both ends of a relation, whose products are scores; the last is 1 or a bias.

    ``valid`` has the metrics of edges that were held out.

    ``known`` are all edges ``[2, edges]`` there are, ``same`` whether both ends are of one kind.
    """

    sources: Tensor
    targets: Tensor
    known: Tensor
    same: bool
    valid: dict[str, float] = field(default_factory=dict[str, float])

    def rank(self, edges: Tensor, known: Tensor) -> dict[str, float]:
        """:func:`~diffkit.graphs.link_metrics.rank` of held-out edges."""
        return rank(self.sources, self.targets, edges, known, same=self.same)

    def candidates(self, top: int = 20) -> Iterator[tuple[int, list[int], list[float]]]:
        """For every source its ``top`` new targets and their scores."""
        return candidates(self.sources, self.targets, self.known, same=self.same, top=top)


def link(graph: Hetero, name: str, *, valid: float = 0.1, seed: int = 0, **options: object) -> Linked:
    """Learn of the relation ``name`` from all of a graph but a share of its edges, which tells when to stop.

    ``options`` are those of :func:`fit`. ValueError for an unknown or empty relation.
    """
    return fit(split_edges(graph, name, valid=valid, test=0, seed=seed), name, seed=seed, **options)  # type: ignore[arg-type]


def fit(
    split: EdgeSplit,
    name: str,
    *,
    method: str | Callable[..., nn.Module] = "fused",
    width: int = 64,
    layers: int = 3,
    steps: int = 200,
    learning_rate: float = 0.02,
    seed: int = 0,
    device: str | torch.device = "cpu",
    watch: Callable[[Linked], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Linked:
    """Learn the relation ``name`` of a split graph.

    Args:
        split: of the graph, by :func:`~diffkit.graphs.hetero_split.split_edges`.
        name: the relation.
        method: a name of :data:`METHODS`, or an encoder's maker.
        width, layers: of embeddings, and of propagation.
        steps, learning_rate, advance: of :func:`~diffkit.graphs.embedding.train`.
        seed: of everything drawn.
        device: where to compute; embeddings come back to the CPU.
        watch: called with what there is whenever validation is.

    ValueError for an unknown method.
    """
    make = lookup(method, METHODS, "method") if isinstance(method, str) else method
    relation = split.graph.relation(name)
    table = views(split.graph, relation.source, relation.target)
    parts = folds(split.graph, name, seed=seed)
    graphs = [table.edges, *(views(f.graph, relation.source, relation.target).edges for f in parts)]
    seen, count = [split.graph, *(f.graph for f in parts)], table.targets.stop - table.targets.start
    popularity = torch.stack([_popularity(graph.relations[name], count) for graph in seen])
    same, known = relation.source == relation.target, torch.cat([split.train, split.valid, split.test], 1)
    step = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = make(graphs, name, table.count, width=width, layers=layers)
        model = Biased(encoder, popularity).to(device)
        queries = split.valid[0].unique()
        queries = queries[torch.randperm(len(queries))[:QUERIES]]
        asked = split.valid[:, torch.isin(split.valid[0], queries)]

        def loss() -> Tensor:
            nonlocal step
            part = step % len(parts)
            step += 1
            edges = parts[part].edges
            source, right = edges[:, torch.randperm(edges.shape[1])[:BATCH]].to(device)
            wrong = torch.multinomial(model.popularity[part + 1], len(source), replacement=True)
            places = source + table.sources.start, right + table.targets.start, wrong + table.targets.start
            z, own = encoder(torch.cat(places), part + 1)
            u, v, w = z.chunk(3)
            ranking = softplus((u * (w - v)).sum(-1) + model.table[wrong] - model.table[right]).mean()
            return ranking + own + REGULAR * z.square().sum(-1).mean()

        @torch.no_grad()
        def found() -> Linked:
            z = encoder(torch.arange(table.count, device=device))[0]
            u, v = z[table.sources], z[table.targets]
            u, v = torch.cat([u, torch.ones_like(u[:, :1])], 1), torch.cat([v, model.bias()[:, None]], 1)
            return Linked(u.cpu(), v.cpu(), known, same)

        def check() -> float:
            now = found()
            if watch is not None:
                watch(now)
            return now.rank(asked, split.train)["recall"]

        asks = check if asked.shape[1] else None
        train(model, loss, steps=steps, learning_rate=learning_rate, check=asks, advance=advance)
        last = found()
    return replace(last, valid=last.rank(asked, split.train)) if asks else last


def _popularity(relation: Relation, count: int) -> Tensor:
    """One more than the edges to each of ``count`` targets."""
    return torch.ones(count).index_add(0, relation.edges[1], torch.ones(relation.edges.shape[1]))
