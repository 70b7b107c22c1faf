"""New graphs from a checkpoint: D3PM's posterior, the jumps of discrete flow matching, or the solvers of GDSS.

A graph is a function of its seed: the number of its nodes is drawn with it, and noise at its own size, so that
neither the batch nor its padding changes anything.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch.nn.functional import pad

from diffkit.core.checkpoint import pick_device
from diffkit.core.noise import Seeds
from diffkit.core.types import leaves
from diffkit.graphs import checkpoints
from diffkit.graphs.gdss_sampling import GDSSSampling
from diffkit.graphs.graph import Batch, decode, pair_mask, sizes_mask
from diffkit.graphs.sampling import Sampling, adjusted
from diffkit.graphs.task import LAWS

PAIRS = 2**19
"""Pairs of nodes in a batch at most, padding included: two graphs of 500 nodes."""


@dataclass(frozen=True)
class Own:
    """A :data:`~diffkit.core.types.Draw` of graphs: each draws at its own size, from its own seed."""

    seeds: Sequence[int]
    sizes: Sequence[int]

    def __call__(self, step: int, like: dict[str, Tensor]) -> dict[str, Tensor]:
        most = leaves(like)[0].shape[1]
        parts = [
            Seeds([seed], LAWS)(
                step, {name: _cut(leaf[i : i + 1], size, leaf) for name, leaf in like.items()}
            )
            for i, (seed, size) in enumerate(zip(self.seeds, self.sizes, strict=True))
        ]
        return {name: torch.cat([_padded(part[name], most) for part in parts]) for name in like}


def _cut(leaf: Tensor, size: int, like: Tensor) -> Tensor:
    return leaf[:, :size, :size] if like.ndim == 4 else leaf[:, :size]


def _padded(leaf: Tensor, most: int) -> Tensor:
    gap = most - leaf.shape[1]
    return pad(leaf, (0, 0) + (0, gap) * (leaf.ndim - 2))


class Generator:
    """A graph model that is ready to use; :meth:`from_pretrained` makes one."""

    def __init__(self, model: checkpoints.GraphModel, device: torch.device, *, bf16: bool = False) -> None:
        self.model, self.device, self.bf16 = model, device, bf16

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", *, bf16: bool = False) -> "Generator":
        """A generator by the name of an embedded checkpoint or by the folder of one.

        ``bf16`` runs the network in bfloat16: several times faster where the hardware has it. CheckpointError for an
        unknown or broken checkpoint, ValueError for a device that does not exist here.
        """
        where = pick_device(device)
        return cls(checkpoints.load(name, device=where), where, bf16=bf16)

    def generate(
        self,
        num: int,
        *,
        sampling: Sampling | GDSSSampling | None = None,
        seed: int = 0,
        nodes: Sequence[int] | None = None,
        batch_size: int = 64,
        advance: Callable[[int], Any] | None = None,
    ) -> list[nx.Graph]:
        """``num`` graphs, the i-th a function of ``seed`` + i.

        Args:
            sampling: by default as the checkpoint says.
            nodes: how many nodes each graph has; by default as often as in training.
            batch_size: graphs at a time, of similar size; fewer where they are large, see :data:`PAIRS`.
            advance: called with how many graphs were finished.

        Raises:
            ValueError: for no graphs, or more nodes than the model was trained for.
            FloatingPointError: the network gave values that are not finite.
        """
        if num < 1 or batch_size < 1:
            raise ValueError(f"ask for at least one graph, and one at a time, not {num} and {batch_size}.")
        population = self.model.population
        sizes = [population.draw_size(seed + i) for i in range(num)] if nodes is None else list(nodes)
        if len(sizes) != num or not all(2 <= size <= population.largest for size in sizes):
            raise ValueError(f"give {num} numbers of nodes, from 2 to the {population.largest} of the model.")
        order = sorted(range(num), key=lambda i: sizes[i])
        graphs: dict[int, nx.Graph] = {}
        for chosen in _batches(order, sizes, batch_size):
            seeds = [seed + i for i in chosen]
            batch = self.run(seeds, [sizes[i] for i in chosen], sampling or self.model.sampling)
            graphs.update(zip(chosen, decode(batch, population.classes), strict=True))
            if advance is not None:
                advance(len(chosen))
        return [graphs[i] for i in range(num)]

    @torch.inference_mode()
    def run(self, seeds: Sequence[int], sizes: Sequence[int], sampling: Sampling | GDSSSampling) -> Batch:
        """One batch of graphs of ``sizes`` nodes; what a graph becomes does not depend on the others."""
        mask = sizes_mask(torch.tensor(sizes), max(sizes)).to(self.device)
        K, C = self.model.population.classes.sizes
        nodes = torch.zeros(*mask.shape, K, device=self.device)
        nodes[..., 0] = mask
        edges = torch.zeros(*mask.shape, mask.shape[1], C, device=self.device)
        edges[..., 0] = pair_mask(mask)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return sampling.run(self.model, Batch(nodes, edges, mask), Own(seeds, sizes))


def generate(
    num: int, model: str | Path, *, device: str = "auto", seed: int = 0, bf16: bool = False, **knobs: Any
) -> list[nx.Graph]:
    """``num`` graphs of a checkpoint; ``knobs`` are those of :class:`Sampling`, where they differ from its own."""
    generator = Generator.from_pretrained(model, device, bf16=bf16)
    return generator.generate(num, sampling=adjusted(generator.model.sampling, knobs), seed=seed)


def _batches(order: Sequence[int], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """``order``, by sizes that rise, in batches of at most ``most`` graphs and, padded, :data:`PAIRS` pairs."""
    chosen: list[int] = []
    for i in order:
        if chosen and (len(chosen) == most or (len(chosen) + 1) * sizes[i] ** 2 > PAIRS):
            yield chosen
            chosen = []
        chosen.append(i)
    yield chosen
