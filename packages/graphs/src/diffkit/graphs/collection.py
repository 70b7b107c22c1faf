"""The sets that `diffkit-graphs data` builds: files of graphs, and heterogeneous graphs as folders.

Generated sets and Debian's are written here; MUTAG, QM9 and MOSES come from wheels, WordNet from a Debian package, by
:mod:`diffkit.core.collect`. manifest.json has origins, licences and checksums of all that was not generated.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffkit.core import collect
from diffkit.core.collect import Client
from diffkit.core.files import whole
from diffkit.core.types import lookup
from diffkit.graphs import archive, files, hetero_files, molecules, sets, wordnet


@dataclass(frozen=True)
class Source:
    """One package with graphs in it, in the ``folder`` inside.

    In TU format, of the kind "hetero" in WordNet's own, or of the kind "molecules" in ``tables`` with a column SMILES:
    patterns of files, and how many of their rows are drawn at most. Each pattern's molecules follow those before.
    """

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
    tables: tuple[tuple[str, int | None], ...] = ()


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
    Source(
        name="qm9",
        client="pip",
        package="qm9pack",
        version="1.0.3",
        folder="qm9pack/data",
        licence="the wheel is MIT; QM9 has its authors' terms, quantum-machine.org/datasets",
        origin="QM9, molecules of up to nine atoms of C, N, O and F (Ramakrishnan et al. 2014)",
        note="in an order drawn once; without what has one heavy atom, or what no graph of ours says",
        kind="molecules",
        tables=(("*_part*.csv", None),),
    ),
    Source(
        name="moses",
        client="pip",
        package="molsets",
        version="0.3.1",
        folder="moses/dataset/data",
        licence="the wheel is MIT; ZINC, of which they are, has its authors' terms, zinc.docking.org",
        origin="MOSES, drug-like molecules of ZINC's clean leads (Polykovskiy et al. 2020), as many as ZINC250k has",
        note="drawn once; the first tenth from its test set, the others from its training set",
        kind="molecules",
        tables=(("test.csv.gz", 25_000), ("train.csv.gz", 225_000)),
    ),
    Source(
        name="wordnet",
        client="apt",
        package="wordnet-base",
        version=None,
        folder="usr/share/wordnet",
        licence="WordNet 3.0 licence: any use, with its notice, which wordnet/licence holds",
        origin="117,659 synsets of Princeton's WordNet 3.0",
        note="26 relations; attributes pos and lexname",
        kind="hetero",
    ),
)
ARCHIVE = "debian"
"""The heterogeneous graph of the packages that apt lists."""
ABSENT = {
    "ego_small": "its citations, CiteSeer's, are in no package: build debian_ego, of graphs as large",
    "enzymes": "it is in no package: unpack ENZYMES of TU Dortmund, and name its folder where a set is asked for",
}
"""Sets of GDSS's tables that cannot be had here, and what to do instead."""
LOCAL = tuple(name for name in sets.SETS if name != "debian_ego")
"""What needs neither a network nor apt, and is built by default."""


def build(
    directory: str | Path,
    names: Iterable[str] | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> int:
    """Build sets by name, generated ones as ``directory/NAME.g6``, others as a folder ``directory/NAME``.

    Returns the exit status of the command: 2 if a package could not be had. ValueError for an unknown set.
    """
    packages = {source.name for source in SOURCES}
    chosen = list(LOCAL if names is None else names)
    for name in chosen:
        if name.lower() in ABSENT:
            raise ValueError(f"the set {name} cannot be built: {ABSENT[name.lower()]}.")
        lookup(name, dict.fromkeys((*sets.SETS, ARCHIVE, *packages)), "set")
    directory = Path(directory)
    for name in (name for name in chosen if name in sets.SETS):
        graphs = sets.generate(name, count, seed)
        print(f"{len(graphs)} graphs in {files.write(directory / f'{name}.g6', graphs)}.")
    if ARCHIVE in chosen:
        _archive(directory)
    if wanted := [name for name in chosen if name in packages]:
        report = collect.build(directory, SOURCES, _convert, wanted, progress=progress)
        return collect.tell(report, directory, "diffkit-graphs")
    return 0


def _convert(source: Source, unpacked: Path, built: Path) -> Iterator[dict[str, Any]]:
    if source.kind == "hetero":
        hetero_files.write(built / source.name, wordnet.graph(unpacked / source.folder))
        notice = built / source.name / "licence" / "copyright"
        notice.parent.mkdir()
        notice.write_bytes((unpacked / "usr/share/doc" / source.package / "copyright").read_bytes())
        for path in [*sorted((built / source.name).rglob("*.tsv")), notice]:
            yield {"path": path.relative_to(built).as_posix()}
    elif source.kind == "molecules":
        folder = unpacked / source.folder
        found = [
            graph
            for pattern, count in source.tables
            for graph in molecules.read_tables(sorted(folder.glob(pattern)), count)
        ]
        files.write(built / source.name / f"{source.name}.smi", found)
        yield {"path": f"{source.name}/{source.name}.smi", "graphs": len(found)}
    else:
        graphs = files.read(unpacked / source.folder)
        files.write(built / source.name / f"{source.name}.graphml", graphs)
        yield {"path": f"{source.name}/{source.name}.graphml", "graphs": len(graphs)}


def _archive(directory: Path) -> None:
    """Write the graph of the archive, and what it is into the manifest."""
    graph = archive.graph(archive.listed())
    folder = hetero_files.write(directory / ARCHIVE, graph)
    manifest = directory / collect.MANIFEST
    known: dict[str, Any] = {"sources": {}, "files": []}
    if manifest.is_file():
        known = json.loads(manifest.read_text())
    known["sources"][ARCHIVE] = {
        "kind": "hetero",
        "origin": "the lists of packages that apt has, by `apt-cache dumpavail`",
        "licence": "none is stated for the lists; names of packages and maintainers, no text of theirs",
        "status": "complete",
    }
    known["files"] = [entry for entry in known["files"] if entry["source"] != ARCHIVE] + [
        {
            "path": path.relative_to(directory).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "source": ARCHIVE,
        }
        for path in sorted(folder.rglob("*.tsv"))
    ]
    with whole(manifest) as beside:
        beside.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    edges = sum(relation.edges.shape[1] for relation in graph.relations.values())
    print(f"{sum(map(len, graph.nodes.values()))} nodes and {edges} edges in {folder}.")
