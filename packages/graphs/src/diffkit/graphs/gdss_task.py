"""What GDSS is trained for: the noise of a graph's leaves."""

from typing import Any

import torch
from torch import Tensor

from diffkit.core.checkpoint import describe
from diffkit.core.joint import Joint
from diffkit.core.noise import masked, symmetric
from diffkit.core.process import Gaussian
from diffkit.core.train.loss import uniform_times
from diffkit.graphs.gdss import gaussian, state
from diffkit.graphs.gdss_model import GDSS
from diffkit.graphs.gdss_sampling import GDSSSampling
from diffkit.graphs.graph import Batch
from diffkit.graphs.population import Population
from diffkit.graphs.task import PopulationTask


class GDSSTask(PopulationTask):
    """Score matching as in GDSS (Jo et al. 2022, 2202.02514): half the squared error of both leaves' noise, summed.

    Args:
        network: of as many features as there are labels; without labels, of more than the largest degree.
        nodes, edges: the process of each leaf.
        learning_rate, weight_decay, warmup: of :class:`~diffkit.core.train.Task`.

    ValueError, when training begins, for a network of other features than the data.
    """

    sampling = GDSSSampling()

    def __init__(
        self,
        network: GDSS,
        nodes: Gaussian,
        edges: Gaussian,
        *,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-4,
        warmup: int = 0,
    ):
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        self.features, self.process = network.features, Joint({"nodes": nodes, "edges": edges})

    def learn_from(self, population: Population) -> None:
        labels = len(population.classes.nodes)
        if labels > 1 and labels != self.features:
            raise ValueError(
                f"the network has {self.features} features and the nodes {labels} labels: set features."
            )
        if labels < 2 and len(population.degrees) > self.features:
            raise ValueError(
                f"the network has {self.features} features, for degrees below that, and a node of the data has "
                f"{len(population.degrees) - 1} neighbours: set features."
            )
        super().learn_from(population)

    def described(self) -> dict[str, Any]:
        return {"processes": {name: describe(leaf) for name, leaf in gaussian(self.process).items()}}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x0 = state(batch, self.features)
        t = uniform_times(len(batch.mask), like=batch.edges)
        laws = {"nodes": masked(batch.mask[..., None]), "edges": symmetric(batch.mask, channels=True)}
        noise = {name: laws[name](torch.randn_like(leaf)) for name, leaf in x0.items()}
        x = self.process.corrupt(x0, t, noise=noise)
        found = self.network(x["nodes"], x["edges"], batch.mask)
        terms = {n: (f - noise[n]).square().sum() / (2 * len(t)) for n, f in zip(noise, found, strict=True)}
        return {"loss": terms["nodes"] + terms["edges"], **terms}
