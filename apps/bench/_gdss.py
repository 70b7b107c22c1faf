"""The weights that GDSS released (Jo et al. 2022, 2202.02514), in our networks.

Their files hold the parameters of two networks, with a convolution for each channel where ours has one of all. Both
give the same noise, but for rounding.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffkit.core.joint import Joint
from diffkit.core.process import VP
from diffkit.graphs.checkpoints import GraphModel
from diffkit.graphs.gdss_model import GDSS
from diffkit.graphs.gdss_sampling import GDSSSampling
from diffkit.graphs.population import Population


def released(path: Path, population: Population) -> GraphModel:
    """The model of ``gdss_NAME.pth`` of a set without labels whose processes are VP.

    ValueError for another file.
    """
    torch.serialization.add_safe_globals([(OrderedDict, "easydict.EasyDict")])
    file: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    try:
        of_nodes, of_pairs, config = file["params_x"], file["params_adj"], file["model_config"]["sde"]
        network = GDSS(
            of_nodes["max_feat_num"],
            of_nodes["nhid"],
            of_nodes["depth"],
            of_pairs["num_layers"],
            of_pairs["c_init"],
            of_pairs["c_hid"],
            of_pairs["c_final"],
            of_pairs["num_heads"],
        )
        network.load_state_dict(
            _convert(network, _plain(file["x_state_dict"]), _plain(file["adj_state_dict"]))
        )
        leaves = {"nodes": config["x"], "edges": config["adj"]}
        process = Joint({name: VP(leaf["beta_min"], leaf["beta_max"]) for name, leaf in leaves.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} holds no networks of GDSS that diffkit has: {error}.") from error
    return GraphModel(path, network.eval(), population, process, GDSSSampling(), {})


def _plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value for name, value in weights.items()}


def _convert(network: GDSS, nodes: dict[str, Tensor], pairs: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for i in range(len(network.nodes.layers)):
        found[f"nodes.layers.{i}.weight"] = nodes[f"layers.{i}.weight"][None]
        found[f"nodes.layers.{i}.bias"] = nodes[f"layers.{i}.bias"][None, None]
    for i in range(len(network.edges.layers)):
        channels = network.get_parameter(f"edges.layers.{i}.project.weight").shape[0]
        for kind in ("weight", "bias"):
            parts = [
                torch.stack([pairs[f"layers.{i}.attn.{c}.gnn_{part}.{kind}"] for c in range(channels)])
                for part in "qkv"
            ]
            joined = torch.cat(parts, -1)
            found[f"edges.layers.{i}.project.{kind}"] = joined if kind == "weight" else joined[:, None]
        for ours, theirs in (("mix", "mlp"), ("join", "multi_channel")):
            found |= _mlp(f"edges.layers.{i}.{ours}", pairs, f"layers.{i}.{theirs}", 2)
    return {**found, **_mlp("nodes.out", nodes, "final", 3), **_mlp("edges.out", pairs, "final", 3)}


def _mlp(ours: str, weights: dict[str, Tensor], theirs: str, layers: int) -> dict[str, Tensor]:
    return {
        f"{ours}.{2 * j}.{kind}": weights[f"{theirs}.linears.{j}.{kind}"]
        for j in range(layers)
        for kind in ("weight", "bias")
    }
