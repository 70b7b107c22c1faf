"""Molecules as labelled graphs, and back, by RDKit.

A node is a heavy atom, whose label is its element and charge (``C``, ``N+``, ``O-``); an edge is a bond of a Kekulé
structure, whose label is its order, 1 to 3. Hydrogens are left to the valences, and stereochemistry is dropped. The
way back corrects nothing: where GDSS and others give a nitrogen of four bonds its charge afterwards, ours has to be
generated with it.
"""

import csv
import gzip
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import networkx as nx

from diffkit.graphs.graph import LABEL

ATOM = re.compile(r"([A-Z][a-z]?)(\d*)([+-]?)")


def rdkit() -> Any:
    """``rdkit.Chem``, silent. ValueError where RDKit is missing."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ValueError("molecules need RDKit: `pip install diffkit-graphs[molecules]`.") from error
    rdBase.DisableLog("rdApp.*")
    return Chem


def from_mol(mol: Any) -> nx.Graph:
    """The graph of an RDKit molecule, hydrogens left out.

    ValueError for what a graph of this kind cannot say: a radical, or a bond without an order.
    """
    Chem = rdkit()
    mol = Chem.Mol(mol)
    Chem.RemoveStereochemistry(
        mol
    )  # first: a hydrogen that says on which side of a double bond it is would stay
    mol = Chem.RemoveHs(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    graph = nx.Graph()
    for atom in mol.GetAtoms():
        if atom.GetNumRadicalElectrons():
            raise ValueError(f"atom {atom.GetIdx()} is a radical, which no label says")
        graph.add_node(atom.GetIdx(), **{LABEL: atom.GetSymbol() + _charge(atom.GetFormalCharge())})
    orders = {kind: order for order, kind in _bonds(Chem).items()}
    for bond in mol.GetBonds():
        if (kind := bond.GetBondType()) not in orders:
            raise ValueError(f"bond {bond.GetIdx()} is neither single, double nor triple")
        graph.add_edge(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), **{LABEL: orders[kind]})
    return graph


def to_mol(graph: nx.Graph) -> Any:
    """The RDKit molecule of a graph, checked by RDKit and corrected by nobody; None for what it refuses.

    ValueError for labels that name no atom or bond.
    """
    mol = unchecked(graph)
    try:
        rdkit().SanitizeMol(mol)
    except ValueError:  # RDKit's refusals are of this class
        return None
    return mol


def unchecked(graph: nx.Graph) -> Any:
    """The RDKit molecule that a graph says, whatever its valences. ValueError for labels that name no atom or bond."""
    Chem = rdkit()
    mol = Chem.RWMol()
    for node, label in graph.nodes(data=LABEL):
        found = ATOM.fullmatch(str(label))
        if found is None:
            raise ValueError(f"node {node} has the label {label!r}, which is no atom, as C, N+ or Fe2+.")
        element, size, sign = found.groups()
        try:
            atom = Chem.Atom(element)
        except RuntimeError as error:
            raise ValueError(f"node {node} has the label {label!r}, which is no element.") from error
        atom.SetFormalCharge(int(f"{sign}{size or 1}") if sign else 0)
        mol.AddAtom(atom)
    place = {node: i for i, node in enumerate(graph)}
    kinds = _bonds(Chem)
    for u, v, label in graph.edges(data=LABEL):
        if label not in kinds:
            raise ValueError(f"edge {(u, v)} has the label {label!r}; a bond has the order 1, 2 or 3.")
        mol.AddBond(place[u], place[v], kinds[label])
    return mol.GetMol()


def smiles(graph: nx.Graph) -> str | None:
    """The canonical SMILES of a graph; None for no molecule: what RDKit refuses, or what falls into parts."""
    if not nx.is_connected(graph) or (mol := to_mol(graph)) is None:
        return None
    return rdkit().MolToSmiles(mol)


def is_molecule(graph: nx.Graph) -> bool:
    """Whether the graph is one molecule that RDKit accepts as it is."""
    return smiles(graph) is not None


def read_smiles(path: Path) -> list[nx.Graph]:
    """The molecules of a file with a SMILES in each line, and maybe a name after it. ValueError names the line."""
    Chem = rdkit()
    graphs: list[nx.Graph] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if (words := line.split()) and not line.startswith("#"):
            graphs.append(_read(Chem.MolFromSmiles(words[0]), f"{path}, line {number}"))
    return graphs


def read_sdf(path: Path) -> list[nx.Graph]:
    """The molecules of an SDF. ValueError names the record."""
    found = rdkit().SDMolSupplier(str(path))
    return [_read(mol, f"{path}, molecule {i}") for i, mol in enumerate(found)]


def read_tables(paths: Sequence[Path], count: int | None = None, seed: int = 0) -> list[nx.Graph]:
    """The molecules of CSV files, or of .csv.gz, with a column SMILES, in an order that ``seed`` draws.

    Of ``count`` rows at most, drawn from all. Left out is what RDKit, :func:`from_mol` and :func:`to_mol` do not bring
    back, and what has one atom. ValueError where there is no such column.
    """
    Chem = rdkit()
    draw = random.Random(seed)
    words = [word for path in paths for word in _column(path)]
    if count is not None and count < len(words):
        words = draw.sample(words, count)
    kept: list[nx.Graph] = []
    for word in words:
        if (mol := Chem.MolFromSmiles(word)) is None:
            continue
        try:
            graph = from_mol(mol)
        except ValueError:
            continue
        Chem.RemoveStereochemistry(mol)
        if len(graph) > 1 and smiles(graph) == Chem.CanonSmiles(Chem.MolToSmiles(mol)):
            kept.append(graph)
    draw.shuffle(kept)
    return kept


def write_smiles(path: Path, graphs: Sequence[nx.Graph]) -> None:
    """A canonical SMILES in each line. ValueError for what is no molecule that RDKit accepts, parts allowed."""
    Chem = rdkit()
    path.write_text("".join(f"{Chem.MolToSmiles(mol)}\n" for mol in _molecules(graphs)))


def write_sdf(path: Path, graphs: Sequence[nx.Graph]) -> None:
    """A record for each molecule, laid out in the plane. ValueError as :func:`write_smiles`."""
    Chem = rdkit()
    from rdkit.Chem.rdDepictor import Compute2DCoords

    with Chem.SDWriter(str(path)) as writer:
        for mol in _molecules(graphs):
            Compute2DCoords(mol)
            writer.write(mol)


def _column(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="") as stream:
        rows = csv.DictReader(stream)
        if "SMILES" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has no column SMILES.")
        yield from (row["SMILES"] for row in rows)


def _bonds(Chem: Any) -> dict[int, Any]:
    """RDKit's kinds of bonds by their order."""
    return {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def _molecules(graphs: Sequence[nx.Graph]) -> Iterable[Any]:
    for i, graph in enumerate(graphs):
        if (mol := to_mol(graph)) is None:
            raise ValueError(
                f"graph {i} is no molecule that RDKit accepts: write a .graphml file, or drop it."
            )
        yield mol


def _read(mol: Any, where: str) -> nx.Graph:
    if mol is None:
        raise ValueError(f"{where}: RDKit cannot read it.")
    try:
        return from_mol(mol)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error


def _charge(charge: int) -> str:
    size = abs(charge)
    return f"{size if size > 1 else ''}{'+' if charge > 0 else '-'}" if charge else ""
