"""Checkpoints as folders: ``model.safetensors``, ``config.json`` and ``card.md``; never a pickle.

``config.json`` holds what rebuilds the model, as class paths with their arguments, and the versions that
wrote it. Only classes of diffkit are ever imported from it, so a checkpoint cannot run code of its own.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffkit.core.files import whole_folder

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence for the user."""


def describe(value: Any, **arguments: Any) -> dict[str, Any]:
    """``{"class_path", "init_args"}`` of an object: a dataclass describes itself, others need ``arguments``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        arguments = {k: describe(v) if dataclasses.is_dataclass(v) else v for k, v in own.items()}
    kind = type(value)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def construct(spec: Mapping[str, Any]) -> Any:
    """The object of a :func:`describe` record; its class must live in ``diffkit``."""
    path = spec.get("class_path")
    if not isinstance(path, str) or not path.startswith("diffkit."):
        raise CheckpointError(f"the checkpoint names the class {path!r}, which is not part of diffkit.")
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        arguments = spec.get("init_args", {})
        return kind(**{k: construct(v) if _is_spec(v) else v for k, v in arguments.items()})
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's {path} cannot be built by this version: {error}") from error


def _is_spec(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def save(
    folder: str | Path, network: nn.Module, config: Mapping[str, Any], card: str, *, half: bool = True
) -> Path:
    """Write a checkpoint folder, complete or not at all.

    Args:
        folder: where; an existing checkpoint there is replaced.
        network: its state dict is stored.
        config: JSON values, among them ``task`` (a string: what the checkpoint is for) and whatever the
            domain needs to rebuild the network.
        card: ``card.md``: data, licence, measured quality, time and machine of training.
        half: store floating-point tensors as float16.
    """
    folder = Path(folder)
    with whole_folder(folder) as beside:
        tensors = {name: _packed(tensor, half) for name, tensor in network.state_dict().items()}
        save_file(tensors, beside / "model.safetensors")
        versions = {"torch": torch.__version__, "diffkit-core": metadata.version("diffkit-core")}
        record = {"format": FORMAT, **config, "versions": versions}
        (beside / "config.json").write_text(json.dumps(record, indent=2) + "\n")
        (beside / "card.md").write_text(card)
        for item in beside.iterdir():
            item.chmod(0o644)
    return folder


def _packed(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().to("cpu").contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor


def read_config(folder: str | Path, *, task: str | None = None) -> dict[str, Any]:
    """``config.json`` of a checkpoint; ``task`` is what it must be for."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{folder} is not a diffkit checkpoint: its config.json cannot be read."
        ) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not a diffkit checkpoint of format {FORMAT}.")
    if task is not None and config.get("task") != task:
        raise CheckpointError(f"{folder} is a checkpoint for {config.get('task')!r}, not for {task!r}.")
    return config


def pick_device(name: str = "auto") -> torch.device:
    """The torch device of a name; "auto" is CUDA, else MPS, else the CPU. ValueError if it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try auto or cpu.") from error
    return device


def load_weights(folder: str | Path, network: nn.Module, *, device: str | torch.device = "cpu") -> nn.Module:
    """Fill ``network`` with the weights of a checkpoint, in float32, on ``device``, in evaluation mode."""
    path = Path(folder) / "model.safetensors"
    try:
        tensors = load_file(path)
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"the weights in {path} cannot be loaded: {reason}") from error
    return network.to(device).eval()


def locate(name: str | Path, embedded: Path) -> Path:
    """The folder of a checkpoint: a path to one, or the name of one in ``embedded``."""
    path = Path(name)
    if (path / "config.json").is_file():
        return path
    known = sorted(p.parent.name for p in embedded.glob("*/config.json"))
    if str(name) in known:
        return embedded / str(name)
    raise CheckpointError(
        f"no checkpoint {str(name)!r}: known names are {', '.join(known) or 'none'}, or a folder."
    )
