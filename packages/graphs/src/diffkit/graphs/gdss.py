r"""GDSS (Jo et al. 2022, 2202.02514): the features of nodes and the adjacency as one system of two diffusions.

A graph is two real leaves: ``nodes`` ``[batch, n, F]``, one-hot labels or, where there are none, one-hot degrees; and
``edges`` ``[batch, n, n, 1]``, the number of a pair's class, 0 being no edge. Each has a Gaussian process of its own,

    x_t = a(t) x0 + s(t) eps,

with symmetric noise for the edges: a pair has one value. They are coupled in the score of their joint law, which is
one network call. A pair that was sampled is of the nearest class: an edge from 0.5 on.

Their x_1 is not what they sample from. GDSS's processes keep a(1) = 0.76 of a graph beside noise of s(1) = 0.65 (VP of
beta 0.1 to 1), and it starts from N(0, 1). The law of x_1 has the mean a(1) m and the covariance a(1)^2 C + s(1)^2, m
and C being those of the data, and :func:`start` draws from the normal law of these moments: right for a node and for
a pair. How pairs hang together, which x_1 still shows, no independent draw has. To leave nothing in x_1, train with
VP of beta 0.1 to 20.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from diffkit.core import predict
from diffkit.core.joint import Joint
from diffkit.core.process import Gaussian
from diffkit.core.types import Denoiser
from diffkit.graphs.graph import Batch, pair_mask
from diffkit.graphs.population import Population


class Moments(NamedTuple):
    """The mean ``[F]`` and the covariance ``[F, F]`` of one node's features, or of one pair (F = 1), float64."""

    mean: Tensor
    covariance: Tensor


def state(batch: Batch, features: int) -> dict[str, Tensor]:
    """The real leaves of graphs; where nodes have no labels they have ``features``, of which the last counts all
    higher degrees.
    """
    numbers = torch.arange(batch.edges.shape[-1], dtype=batch.edges.dtype, device=batch.edges.device)
    nodes = batch.nodes
    if nodes.shape[-1] == 1:
        degree = batch.edges[..., 1:].sum((-1, -2)).long().clamp(max=features - 1)
        nodes = one_hot(degree, features).to(nodes) * batch.mask[..., None]
    return {"nodes": nodes, "edges": (batch.edges * numbers).sum(-1, keepdim=True)}


def quantise(x: dict[str, Tensor], batch: Batch) -> Batch:
    """The graphs of real leaves ``x``, of the classes and the nodes that ``batch`` has."""
    K, C = batch.nodes.shape[-1], batch.edges.shape[-1]
    kinds = (x["edges"][..., 0] + 0.5).floor().clamp(0, C - 1).long()
    edges = one_hot(kinds, C).to(batch.edges) * pair_mask(batch.mask)[..., None]
    nodes = (
        one_hot(x["nodes"].argmax(-1), K).to(batch.nodes) * batch.mask[..., None] if K > 1 else batch.nodes
    )
    return Batch(nodes, edges, batch.mask)


def gaussian(process: Joint) -> dict[str, Gaussian]:
    """The leaves of ``process``. ValueError for one that is not Gaussian."""
    found = {name: leaf for name, leaf in process.items() if isinstance(leaf, Gaussian)}
    if set(found) != {"nodes", "edges"}:
        raise ValueError(f"GDSS has Gaussian processes of nodes and edges, not {dict(process)}.")
    return found


def denoiser(network: Callable[..., Any], process: Joint, mask: Tensor) -> Denoiser:
    """E[x0 | x_t] of both leaves, of a ``network`` of their noise, for graphs whose nodes ``mask`` says."""
    leaves = gaussian(process)

    def denoise(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        nodes, edges = network(x["nodes"], x["edges"], mask)
        noise = {"nodes": nodes, "edges": edges}
        return {n: predict.to_data(predict.eps, leaf, noise[n], x[n], t) for n, leaf in leaves.items()}

    return denoise


def moments(population: Population, features: int) -> dict[str, Moments]:
    """Those of the data, by leaf; ``features`` as in :func:`state`."""
    share = torch.tensor(population.features(features), dtype=torch.float64)
    kinds = torch.tensor(population.edges, dtype=torch.float64)
    numbers = torch.arange(len(kinds), dtype=torch.float64)
    mean = kinds @ numbers
    variance = kinds @ (numbers - mean).square()
    return {
        "nodes": Moments(share, share.diag() - share.outer(share)),
        "edges": Moments(mean[None], variance[None, None]),
    }


def terminal(process: Joint, data: dict[str, Moments]) -> dict[str, Moments]:
    """Those of x_1, by leaf, of those of the ``data``."""
    one, found = torch.ones((), dtype=torch.float64), dict[str, Moments]()
    for name, leaf in gaussian(process).items():
        a, s = leaf.a(one), leaf.s(one)
        eye = torch.eye(len(data[name].mean), dtype=torch.float64)
        found[name] = Moments(a * data[name].mean, a.square() * data[name].covariance + s.square() * eye)
    return found


def start(end: dict[str, Moments], noise: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Normal leaves of the moments ``end``, made of standard normal ``noise``, for graphs whose nodes ``mask`` says."""
    here = {"nodes": mask[..., None], "edges": pair_mask(mask)[..., None]}
    return {
        name: (z @ torch.linalg.cholesky(end[name].covariance).mT.to(z) + end[name].mean.to(z)) * here[name]
        for name, z in noise.items()
    }
