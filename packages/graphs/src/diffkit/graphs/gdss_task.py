"""What GDSS is trained for: the noise of a graph's leaves."""

from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
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

    The optimiser is theirs too, Adam, and gradients are clipped for each of the two networks: AdamW as in
    :class:`~diffkit.core.train.Task` ends 5000 steps of community-small with a larger error than this at 800.

    Args:
        network: of as many features as there are labels; without labels, of more than the largest degree.
        nodes, edges: the process of each leaf.
        learning_rate, weight_decay: of Adam, the latter as a gradient.
        decay: what the learning rate is multiplied by at every step.

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
        decay: float = 0.999,
    ):
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay)
        self.decay = decay
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

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = self.network.parameters()
        optimizer = torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        for network in self.network.children():
            torch.nn.utils.clip_grad_norm_(network.parameters(), gradient_clip_val or float("inf"))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x0 = state(batch, self.features)
        t = uniform_times(len(batch.mask), like=batch.edges)
        laws = {"nodes": masked(batch.mask[..., None]), "edges": symmetric(batch.mask, channels=True)}
        noise = {name: laws[name](torch.randn_like(leaf)) for name, leaf in x0.items()}
        x = self.process.corrupt(x0, t, noise=noise)
        found = self.network(x["nodes"], x["edges"], batch.mask)
        terms = {n: (f - noise[n]).square().sum() / (2 * len(t)) for n, f in zip(noise, found, strict=True)}
        return {"loss": terms["nodes"] + terms["edges"], **terms}
