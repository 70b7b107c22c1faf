"""The sets that `diffkit-graphs data` builds, each a file of graphs in one folder.

Generated sets and Debian's are written here; MUTAG comes from a wheel, by :mod:`diffkit.core.collect`, whose
manifest.json says so.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffkit.core import collect
from diffkit.core.collect import Client
from diffkit.core.types import lookup
from diffkit.graphs import files, sets


@dataclass(frozen=True)
class Source:
    """One package with graphs in it: the TU ``folder`` inside."""

    name: str
    client: Client
    package: str
    version: str | None
    folder: str
    licence: str
    origin: str
    note: str = ""
    kind: str = "graphs"
    split: str = "train"


SOURCES = (
    Source(
        name="mutag",
        client="pip",
        package="grakel",
        version="0.1.11",
        folder="grakel/tests/data/MUTAG",
        licence="the data set states none; the wheel is BSD-3-Clause",
        origin="188 nitroaromatic compounds, Debnath et al. 1991, in the collection of TU Dortmund",
        note="node labels 0 to 6 are C, N, O, F, I, Cl, Br; edge labels 0 to 3 aromatic, single, double, triple",
    ),
)
LOCAL = tuple(name for name in sets.SETS if name != "debian")
"""What needs neither a network nor apt, and is built by default."""


def build(
    directory: str | Path,
    names: Iterable[str] | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> int:
    """Build sets by name, generated ones as ``directory/NAME.g6``, MUTAG in ``directory/mutag``.

    Returns the exit status of the command: 2 if a package could not be had. ValueError for an unknown set.
    """
    packages = {source.name for source in SOURCES}
    chosen = list(LOCAL if names is None else names)
    for name in chosen:
        lookup(name, dict.fromkeys((*sets.SETS, *packages)), "set")
    directory = Path(directory)
    for name in (name for name in chosen if name in sets.SETS):
        graphs = sets.generate(name, count, seed)
        print(f"{len(graphs)} graphs in {files.write(directory / f'{name}.g6', graphs)}.")
    if wanted := [name for name in chosen if name in packages]:
        report = collect.build(directory, SOURCES, _convert, wanted, progress=progress)
        return collect.tell(report, directory, "diffkit-graphs")
    return 0


def _convert(source: Source, unpacked: Path, built: Path) -> Iterator[dict[str, Any]]:
    graphs = files.read(unpacked / source.folder)
    files.write(built / source.name / f"{source.name}.graphml", graphs)
    yield {"path": f"{source.name}/{source.name}.graphml", "graphs": len(graphs)}
