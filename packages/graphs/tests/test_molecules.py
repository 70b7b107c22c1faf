"""Molecules as graphs: there and back, and what their report says."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

pytest.importorskip("rdkit")

from diffkit.core.collect import clients
from diffkit.graphs import checkpoints, files, molecule_report, molecules
from diffkit.graphs.cli import main
from diffkit.graphs.generate import generate
from diffkit.graphs.graph import Classes
from diffkit.graphs.model import GraphTransformer
from diffkit.graphs.nspdk import features, nspdk
from diffkit.graphs.picture import draw
from diffkit.graphs.population import Population
from diffkit.graphs.sampling import Sampling
from diffkit.graphs.task import GraphTask

WORDS = [
    "CC(=O)N",
    "c1ccncc1",
    "C#N",
    "C[NH3+]",
    "CC(=O)[O-]",
    "C[N+](=O)[O-]",
    "[C-]#[O+]",
    "FC1CC1",
    "O=C=O",
]


def of(*words: str) -> list[nx.Graph]:
    return [molecules.from_mol(molecules.rdkit().MolFromSmiles(word)) for word in words]


def star(leaves: int, centre: str = "C") -> nx.Graph:
    graph = nx.star_graph(leaves)
    nx.set_node_attributes(graph, {n: "C" if n else centre for n in graph}, "label")
    nx.set_edge_attributes(graph, dict.fromkeys(graph.edges, 1), "label")
    return graph


@pytest.mark.parametrize("word", WORDS)
def test_there_and_back(word: str) -> None:
    (graph,) = of(word)
    assert molecules.smiles(graph) == molecules.rdkit().CanonSmiles(word)


@pytest.mark.parametrize(
    ("word", "plain"), [("[H]/N=C/C", "CC=N"), ("C[C@H](N)O", "CC(N)O"), ("F/C=C/F", "FC=CF")]
)
def test_stereochemistry_is_dropped_with_the_hydrogens_that_say_it(word: str, plain: str) -> None:
    (graph,) = of(word)
    assert molecules.smiles(graph) == molecules.rdkit().CanonSmiles(plain)
    assert "H" not in nx.get_node_attributes(graph, "label").values()


def test_labels_are_charges_and_kekule_orders() -> None:
    (graph,) = of("c1cc[nH+]cc1")
    assert Counter(dict(graph.nodes(data="label")).values()) == {"C": 5, "N+": 1}
    assert Counter(nx.get_edge_attributes(graph, "label").values()) == {1: 3, 2: 3}


def test_nothing_is_corrected() -> None:
    (amine,) = of("C[NH3+]")
    assert molecules.smiles(star(5)) is None  # a carbon of five bonds
    assert molecules.smiles(star(4, "N")) is None  # GDSS's decoder would give it a charge, and count it
    assert molecules.smiles(star(4, "N+")) == "C[N+](C)(C)C"
    parts = nx.disjoint_union(amine, amine)
    assert molecules.smiles(parts) is None
    assert molecules.to_mol(parts) is not None


@pytest.mark.parametrize("name", ["a.smi", "a.sdf"])
def test_files(tmp_path: Path, name: str) -> None:
    graphs = of(*WORDS)
    found = files.read(files.write(tmp_path / name, graphs))
    assert [molecules.smiles(graph) for graph in found] == [molecules.smiles(graph) for graph in graphs]
    assert Classes.of(found).edges == (1, 2, 3)
    graphs[1].nodes[0]["label"] = "F"  # of three bonds
    with pytest.raises(ValueError, match="graph 1 is no molecule that RDKit accepts"):
        files.write(tmp_path / name, graphs)
    assert len(files.read(tmp_path / name)) == len(graphs)


def test_a_file_of_smiles_has_names_and_comments(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("# of solvents\nCCO ethanol\n\nC#N\n")
    assert [molecules.smiles(graph) for graph in files.read(tmp_path / "a.smi")] == ["CCO", "C#N"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("CCO\nC(C\n", "line 2: RDKit cannot read it"),
        ("C[CH2]\n", "line 1: atom 1 is a radical"),
        ("C$C\n", "line 1: bond 0 is neither single"),
        ("CCO\nC\n", "graph 1 has 1 nodes"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.smi").write_text(text)
    with pytest.raises(ValueError, match=says):
        files.read(tmp_path / "a.smi")


@pytest.mark.parametrize(("label", "says"), [(6, "is no atom"), ("Xx", "is no element")])
def test_labels_that_are_no_atoms(label: Any, says: str) -> None:
    graph = star(1)
    graph.nodes[0]["label"] = label
    with pytest.raises(ValueError, match=says):
        molecules.to_mol(graph)


def test_orders_that_are_no_bonds() -> None:
    graph = star(1)
    graph.edges[0, 1]["label"] = 4
    with pytest.raises(ValueError, match="a bond has the order 1, 2 or 3"):
        molecules.to_mol(graph)


def test_without_rdkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(ValueError, match="pip install diffkit-graphs"):
        molecules.rdkit()


def test_nspdk_by_hand() -> None:
    (ethane, methanol) = of("CC", "CO")
    # Four blocks, r and d being 0 or 1: in each the pair and its second, twice.
    assert features(ethane) == pytest.approx(dict.fromkeys(features(ethane), 1 / np.sqrt(8)))
    assert len(features(ethane)) == 8
    assert sum(value**2 for value in features(methanol).values()) == pytest.approx(1)
    # In common at r = d = 0: C beside itself, and C, each one of four counts; at d = 1 the C, of counts 2, 1, 1.
    common = (2 / np.sqrt(4) + 1 / np.sqrt(6)) / 2 / np.sqrt(8)
    assert nspdk([ethane], [methanol]) == pytest.approx(2 - 2 * common)


def test_nspdk_is_a_discrepancy() -> None:
    some, others = of(*WORDS[:5]), of(*WORDS[5:])
    turned = [nx.relabel_nodes(graph, {n: -n for n in graph}) for graph in some]
    assert nspdk(some, turned) == pytest.approx(0, abs=1e-15)  # rounding
    assert nspdk(some, others) == pytest.approx(nspdk(others, some))
    assert nspdk(some, others) > 0.1
    with pytest.raises(ValueError, match="one of them is empty"):
        nspdk(some, [])


def test_the_report_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecule_report, "find_spec", lambda _: None)
    parts = nx.disjoint_union(*of("CC", "CC"))
    made = [*of("CCO", "OCC", "CCN"), parts, star(5)]
    found = molecule_report.report(made, of("CO", "CCO", "CCC", "CCF", "CCC"))
    assert (found["test"], found["train"]) == (1, 4)
    assert (found["accepted"], found["valid"]) == (0.8, 0.6)
    assert (found["unique"], found["novel"]) == (pytest.approx(2 / 3), 0.5)
    assert set(found["distances"]["train"]) == {"nspdk"}
    with pytest.raises(ValueError, match="real ones on both sides"):
        molecule_report.report(of("CCO"), of("CCO"))


def test_evaluate_molecules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in {"new.smi": WORDS[:3], "real.smi": WORDS}.items():
        files.write(tmp_path / name, of(*words))
    arguments = [str(tmp_path / "new.smi"), str(tmp_path / "real.smi"), "--valid", "molecule"]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "a.json")]) == 0
    assert "valid 1.0000, unique 1.0000" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "a.json").is_file()


def test_the_checkpoint_inside_makes_molecules() -> None:
    """By half of the calls that it was measured with."""
    made = [molecules.smiles(graph) for graph in generate(48, "qm9", device="cpu", steps=50)]
    assert made.count(None) < 5
    assert len(set(made)) > 40


def test_molecules_are_drawn_as_formulas(tmp_path: Path) -> None:
    """The pure red of RDKit's oxygens is in no dot, nor in the word over what it refuses."""
    from matplotlib.image import imread

    def red(graph: nx.Graph) -> int:
        draw(tmp_path / "a.png", {"one": [graph]})
        r, g, b = np.moveaxis(imread(tmp_path / "a.png")[..., :3], -1, 0)
        return int(((r > 0.9) & (g < 0.15) & (b < 0.15)).sum())

    (ozone,) = of("[O-][O+]=O")
    assert red(ozone) > 20
    nx.set_node_attributes(ozone, dict.fromkeys(ozone, "oxygen"), "label")
    assert red(ozone) == 0
    assert molecules.to_mol(crowded := star(5, "O")) is None
    assert red(crowded) > 20


@pytest.mark.parametrize("labels", [("C", "N"), ("F", "F-")])
def test_generated_files_hold_molecules_alone(
    tmp_path: Path, labels: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three atoms, by a network that was not trained."""
    torch.manual_seed(0)
    task = GraphTask(GraphTransformer(2, 3, width=8, pair_width=4, heads=2, layers=1))
    task.learn_from(Population(Classes(labels, (1, 2)), (0.5, 0.5), (0.5, 0.3, 0.2), (0, 0, 0, 1)))
    model = checkpoints.save(tmp_path / "tiny", task, "# Untrained\n", Sampling(steps=4))
    out = tmp_path / "new.smi"
    command = ["generate", "--num", "20", "--out", str(out), "--model", str(model), "--device", "cpu"]
    status = main([*command, "--no_picture"])
    said = capsys.readouterr()
    if labels == ("F", "F-"):  # of three, which hang together, one has two bonds
        assert (status, out.exists()) == (2, False)
        assert "none of the 20 graphs is a molecule" in said.err
    else:
        found = files.read(out)
        assert 0 < len(found) < 20
        assert all(map(molecules.is_molecule, found))
        assert f"{len(found)} graphs in {out}, of 20 by 4 steps" in said.out


def wheel(monkeypatch: pytest.MonkeyPatch, tables: dict[str, list[str]]) -> None:
    """Let what is downloaded hold these tables."""

    def download(client: str, package: str, version: str, folder: Path) -> Path:
        (folder / f"{package}-{version}-py3.whl").write_bytes(b"")
        return folder / f"{package}-{version}-py3.whl"

    def unpack(archive: Path, folder: Path) -> None:
        for name, lines in tables.items():
            path, text = folder / name, "\n".join(lines).encode()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)

    monkeypatch.setattr(clients, "download", download)
    monkeypatch.setattr(clients, "unpack", unpack)


def test_qm9_from_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = ["SMILES", *WORDS, "C", "C[CH2]", "C[C@H](N)O"]  # one atom, a radical, a stereocentre
    wheel(monkeypatch, {"qm9pack/data/qm9_part1.csv": text})
    assert main(["data", str(tmp_path), "--set", "qm9"]) == 0
    found = [molecules.smiles(graph) for graph in files.read(tmp_path / "qm9")]
    assert set(found) == {molecules.rdkit().CanonSmiles(word) for word in [*WORDS, "CC(N)O"]}
    text[0] = "NAME"
    assert main(["data", str(tmp_path / "other"), "--set", "qm9"]) == 2
    assert "has no column SMILES" in capsys.readouterr().err


def test_moses_from_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The molecules for testing come first, as every split of ours expects."""
    folder = "moses/dataset/data"
    tables = {
        "train.csv.gz": ["SMILES", *WORDS[1:]],
        "test.csv.gz": ["SMILES", WORDS[0]],
        "other.csv.gz": ["no"],
    }
    wheel(monkeypatch, {f"{folder}/{name}": lines for name, lines in tables.items()})
    assert main(["data", str(tmp_path), "--set", "moses"]) == 0
    found = [molecules.smiles(graph) for graph in files.read(tmp_path / "moses")]
    wanted = list(map(molecules.rdkit().CanonSmiles, WORDS))
    assert found[0] == wanted[0]
    assert sorted(map(str, found)) == sorted(wanted)


def test_rows_of_a_table_are_drawn_from_all(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["SMILES", *("C" * n for n in range(2, 42))]))
    found = {seed: [len(graph) for graph in molecules.read_tables([table], 10, seed)] for seed in range(20)}
    assert {size for sizes in found.values() for size in sizes} == set(range(2, 42))
    assert all(len(set(sizes)) == 10 for sizes in found.values())
    assert len({tuple(sizes) for sizes in found.values()}) == 20
