"""What is trained: a network that names the classes of a clean graph's nodes and pairs from a noisy one.

The loss is the cross-entropy of DiGress (Vignac et al. 2022, 2209.14734). It fits every way of sampling: D3PM's
posterior and discrete flow matching have the same marginals, so their knobs need no training of their own (Qin et al.
2024, 2410.04263).
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from diffkit.core.categorical import cross_entropy, log_softmax
from diffkit.core.joint import Joint
from diffkit.core.noise import NoiseLaw, normal, symmetric
from diffkit.core.train import Task
from diffkit.core.train.loss import uniform_times
from diffkit.core.types import Denoiser
from diffkit.graphs.checkpoints import EMBEDDED
from diffkit.graphs.graph import Batch, pair_mask
from diffkit.graphs.model import GraphTransformer
from diffkit.graphs.population import Population
from diffkit.graphs.sampling import Sampling

LAWS: dict[str, NoiseLaw] = {"nodes": normal, "edges": symmetric(channels=True)}
"""The noise of each leaf; one value for a pair and class."""


def state(batch: Batch, process: Joint) -> dict[str, Tensor]:
    """The leaves that diffuse; nodes of one class do not."""
    return {name: getattr(batch, name) for name in process}


def logits(network: Callable[..., Any], batch: Batch, x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
    """The network's logits by leaf at x_t = ``x`` and ``t`` ``[batch]``, for graphs whose nodes ``batch`` says."""
    nodes, edges = network(x.get("nodes", batch.nodes), x["edges"], batch.mask, t)
    return {"nodes": nodes, "edges": edges}


def denoiser(network: nn.Module, process: Joint, batch: Batch) -> Denoiser:
    """The probabilities of the classes of x0, for graphs whose nodes ``batch`` says."""

    def denoise(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        found = logits(network, batch, x, t.to(batch.edges.dtype).expand(len(batch.mask)))
        return {name: log_softmax(leaf, found[name], x[name], t).exp() for name, leaf in process.items()}  # type: ignore[arg-type]

    return denoise


class PopulationTask(Task):
    """A task that the data module gives labels, frequencies and sizes, before training begins."""

    population: Population
    process: Joint
    sampling: ClassVar[Any]
    """How its checkpoints are sampled."""

    def setup(self, stage: str) -> None:
        self.learn_from(self.trainer.datamodule.population)  # pyright: ignore[reportAttributeAccessIssue]

    def learn_from(self, population: Population) -> None:
        """Take labels, frequencies and sizes."""
        self.population = population

    def described(self) -> dict[str, Any]:
        """What its checkpoints say of the process, as JSON."""
        raise NotImplementedError


class GraphTask(PopulationTask):
    """Generation of graphs like those of the data module, which gives labels, frequencies and sizes.

    Args:
        network: of as many classes as the data has.
        schedule: of the noise: the path of flow matching, or DiGress's cosine.
        edge_weight: of the pairs' loss against the nodes', where nodes have classes.
        init: a checkpoint, by name or folder, whose weights training starts from.
        learning_rate, weight_decay, warmup: of :class:`~diffkit.core.train.Task`.

    ValueError, when training begins, for a network of other numbers of classes than the data.
    """

    sampling = Sampling()

    def __init__(
        self,
        network: GraphTransformer,
        *,
        schedule: Literal["linear", "cosine"] = "linear",
        edge_weight: float = 5.0,
        init: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: int = 200,
    ):
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        self.start_from(init, EMBEDDED)
        self.classes = network.classes
        self.schedule = schedule
        self.edge_weight = edge_weight

    def learn_from(self, population: Population) -> None:
        own, wanted = self.classes, population.classes.sizes
        if own != wanted:
            raise ValueError(
                f"the network has {own[0]} classes of nodes and {own[1]} of pairs, the data {wanted[0]} and "
                f"{wanted[1]}: set node_classes and edge_classes."
            )
        super().learn_from(population)
        self.process = population.process(self.schedule)

    def described(self) -> dict[str, Any]:
        return {"schedule": self.schedule}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The cross-entropies in nats of a class, at random times."""
        x0 = state(batch, self.process)
        t = uniform_times(len(batch.mask), like=batch.edges)
        noise = {name: LAWS[name](torch.randn_like(leaf)) for name, leaf in x0.items()}
        found = logits(self.network, batch, self.process.corrupt(x0, t, noise=noise), t)
        once = pair_mask(batch.mask).triu(1)
        terms = {"edges": cross_entropy(found["edges"], batch.edges, mask=once)}
        if "nodes" in x0:
            terms["nodes"] = cross_entropy(found["nodes"], batch.nodes)
            return {"loss": terms["nodes"] + self.edge_weight * terms["edges"], **terms}
        return {"loss": terms["edges"]}
