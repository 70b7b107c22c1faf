"""What a search found, as a small JSON file beside a checkpoint.

The file holds a plan (or a grid, or seeds), the process it is for, and a fingerprint of the checkpoint's
weights, so that it is never used with another by mistake; besides, how it was found: method, budget, the
errors measured before and after, versions.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from diffkit.core.checkpoint import describe
from diffkit.core.files import whole
from diffkit.core.grid import Grid, check
from diffkit.core.joint import Joint
from diffkit.core.plan import Plan
from diffkit.core.process import Gaussian, Process
from diffkit.core.search.statistics import load as load_statistics
from diffkit.core.solvers import SOLVERS, Sampler, Solver
from diffkit.core.solvers.dpm_v3 import dpm_v3
from diffkit.core.types import lookup

FORMAT = 1

STATISTICS = "ems.safetensors"
"""The empirical model statistics of a checkpoint, in its folder."""

Found: TypeAlias = Plan | Mapping[str, Plan] | Grid | Sequence[int]
"""A plan, one for each leaf of a joint process, a grid, or seeds."""

_TABLES = ("t", "U", "V", "B", "C", "end")


def save(
    path: str | Path,
    found: Found,
    process: Gaussian | Joint,
    *,
    checkpoint: str | Path | None = None,
    **about: Any,
) -> Path:
    """Write ``found`` to ``path``, complete or not at all.

    Args:
        path: of the JSON file; one that exists is replaced.
        found: what a search returned.
        process: that it was found on.
        checkpoint: the folder of the weights that it was found with.
        about: JSON values to keep with it: ``method``, ``budget``, ``error``, ``note``.
    """
    path = Path(path)
    record = {
        "format": FORMAT,
        **_pack(found),
        "process": _identity(process),
        "checkpoint": None if checkpoint is None else fingerprint(checkpoint),
        **about,
        "versions": {"torch": torch.__version__, "diffkit-core": metadata.version("diffkit-core")},
    }
    with whole(path) as beside:
        beside.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
    return path


def load(path: str | Path, process: Gaussian | Joint, *, checkpoint: str | Path | None = None) -> Any:
    """What :func:`save` wrote: a plan, a mapping of plans, a grid, or a list of seeds.

    Args:
        path: of the file.
        process: that it will be used with.
        checkpoint: the folder of the weights that it will be used with; None does not look at the weights.

    Raises:
        ValueError: not such a file or of a later format, coefficients that are no plan, or a file for another
            process or for other weights.
        OSError: it cannot be read.
    """
    record = read(path)
    if record["process"] != (mine := _identity(process)):
        raise ValueError(
            f"{path} was found on {_brief(record['process'])} and not on {_brief(mine)}: search again."
        )
    weights = record.get("checkpoint")
    if checkpoint is not None and weights is not None and weights != fingerprint(checkpoint):
        raise ValueError(f"{path} was found with other weights than those of {checkpoint}: search again.")
    try:
        return _unpack(record)
    except (KeyError, TypeError, IndexError, RuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"{path} holds no {record.get('kind')} that can be used: {reason}.") from error


def read(path: str | Path) -> dict[str, Any]:
    """The whole record of a file, checked for its format only; raises as :func:`load`."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise ValueError(f"{path} is not the JSON of a search: {error}.") from error
    if not isinstance(record, dict) or not {"format", "kind", "process"} <= record.keys():
        raise ValueError(f"{path} is not the file of a search: it lacks a format, a kind or a process.")
    if record["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {record['format']} and this version reads {FORMAT}: update diffkit-core."
        )
    return record


def fingerprint(checkpoint: str | Path) -> str:
    """The SHA-256 of a checkpoint's weights."""
    with (Path(checkpoint) / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named(solver: str, checkpoint: str | Path | None = None) -> Solver | Sampler:
    """A solver by its name; that of ``dpm_v3`` has the statistics that stand beside the weights.

    ValueError for an unknown name, or without such statistics.
    """
    if solver != "dpm_v3":
        return lookup(solver, SOLVERS, "solver")()
    path = None if checkpoint is None else Path(checkpoint) / STATISTICS
    if path is None or not path.is_file():
        raise ValueError(
            f"dpm_v3 needs statistics of the checkpoint ({STATISTICS}): use the command statistics."
        )
    return dpm_v3(load_statistics(path))


def _pack(found: Found) -> dict[str, Any]:
    if isinstance(found, Plan):
        return {"kind": "plan", **{name: getattr(found, name).tolist() for name in _TABLES}}
    if isinstance(found, Mapping):
        return {"kind": "plans", "leaves": {name: _pack(plan) for name, plan in found.items()}}
    if isinstance(found, Tensor):
        return {"kind": "grid", "t": check(found).tolist()}
    return {"kind": "seeds", "seeds": [int(seed) for seed in found]}


def _unpack(record: Mapping[str, Any]) -> Found:
    kind = record["kind"]
    if kind == "plans":
        return {name: _plan(leaf) for name, leaf in record["leaves"].items()}
    if kind == "plan":
        return _plan(record)
    if kind == "grid":
        return check(torch.tensor(record["t"], dtype=torch.float64))
    if kind == "seeds":
        return [int(seed) for seed in record["seeds"]]
    raise ValueError(f"{kind!r} is not a kind of this version")


def _plan(record: Mapping[str, Any]) -> Plan:
    tables = {name: torch.tensor(record[name], dtype=torch.float64) for name in _TABLES}
    rows, slots = tables["U"].shape[:2]
    shapes = {"t": (rows,), "U": (rows, slots), "V": (rows, slots, slots), "B": (rows, slots)}
    for name, shape in {**shapes, "C": (rows, slots)}.items():
        if tables[name].shape[: len(shape)] != shape:
            raise ValueError(f"its table {name} has the shape {tuple(tables[name].shape)}, not {shape}")
    return Plan(**tables)


def _identity(process: Process) -> Any:
    """A process as JSON values that compare equal after a round trip."""
    if isinstance(process, Joint):
        return {name: _identity(leaf) for name, leaf in process.items()}
    return json.loads(json.dumps(describe(process), default=lambda value: value.tolist()))


def _brief(spec: Any) -> str:
    if "class_path" not in spec:
        return ", ".join(f"{name}: {_brief(leaf)}" for name, leaf in spec.items())
    arguments = ", ".join(f"{name}={value}" for name, value in spec["init_args"].items())
    return f"{spec['class_path'].rpartition('.')[2]}({arguments})"


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}, and every number of it must be finite")
