"""The commands, from files to files."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from diffkit.core.collect import clients
from diffkit.graphs import checkpoints, files
from diffkit.graphs.cli import main
from diffkit.graphs.generate import Generator
from diffkit.graphs.graph import Classes

TINY = {"node_classes": 2, "edge_classes": 3, "width": 8, "pair_width": 4, "heads": 2, "layers": 1}


def molecules(count: int) -> list[nx.Graph]:
    graphs = [nx.path_graph(4 + i % 3) for i in range(count)]
    for graph in graphs:
        nx.set_node_attributes(graph, {n: "CN"[n % 2] for n in graph}, "label")
        nx.set_edge_attributes(graph, {e: 1 + e[0] % 2 for e in graph.edges}, "label")
    return graphs


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write(tmp_path_factory.mktemp("given") / "given.graphml", molecules(10))


@pytest.fixture(scope="module")
def checkpoint(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two steps of the `train` command."""
    folder = tmp_path_factory.mktemp("run")
    settings: dict[str, Any] = {
        "seed_everything": 1,
        "model.network": "diffkit.graphs.model.GraphTransformer",
        "model.network.init_args": TINY,
        "data.graphs": given,
        "data.valid": 0.25,
        "data.batch_size": 4,
        "data.items": 8,
        "trainer.accelerator": "cpu",
        "trainer.max_epochs": 1,
        "trainer.default_root_dir": folder,
        "trainer.logger": False,
        "trainer.enable_checkpointing": False,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.callbacks+": "diffkit.core.train.run.EMA",
    }
    assert main(["train", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    return folder / "checkpoint"


def test_what_was_trained_generates(checkpoint: Path, given: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "new.graphml"
    command = ["generate", "--num", "6", "--out", str(out), "--model", str(checkpoint), "--steps", "3"]
    assert main([*command, "--device", "cpu"]) == 0
    assert "6 graphs in" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.graphml", "new.graphml.png"]
    graphs = files.read(out)
    assert len(graphs) == 6
    assert all(4 <= len(graph) <= 6 for graph in graphs)
    assert set(Classes.of(graphs).nodes) == {"C", "N"}
    assert "Data: 6 graphs" in (checkpoint / "card.md").read_text()

    assert main([*command, "--device", "cpu"]) == 2
    assert "new.graphml exists" in capsys.readouterr().err
    assert main([*command, "--device", "cpu", "--overwrite", "--method", "d3pm", "--no_picture"]) == 0

    assert main(["evaluate", str(out), str(given), "--out", str(tmp_path / "report.json")]) == 0
    shown = capsys.readouterr().out
    assert "gaussian_emd" in shown
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["graphs"], report["test"], report["train"]) == (6, 2, 8)
    for kernel in ("gaussian_emd", "gaussian_tv"):
        assert set(report["mmd2"][kernel]) == {"generated", "train"}
    assert main(["evaluate", str(out), str(given), "--test", "1"]) == 2
    assert "6 graphs against 10 test graphs" in capsys.readouterr().err
    assert main(["evaluate", str(given), str(given), "--out", str(tmp_path / "report.json")]) == 2
    assert "report.json exists" in capsys.readouterr().err


def test_like_learns_first(given: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.graphml"
    command = ["generate", "--num", "3", "--out", str(out), "--like", str(given), "--steps", "2"]
    assert main([*command, "--minutes", "0.005", "--device", "cpu"]) == 0
    model = Generator.from_pretrained(tmp_path / "new.graphml.model" / "checkpoint", "cpu").model
    assert sum(model.population.sizes) == 10  # none was held out
    assert len(files.read(out)) == 3


def test_generated_sets(tmp_path: Path, capsys: Any) -> None:
    assert main(["data", str(tmp_path), "--set", "planar,grid", "--count", "2"]) == 0
    assert "2 graphs in" in capsys.readouterr().out
    assert [len(graph) for graph in files.read(tmp_path / "planar.g6")] == [64, 64]
    assert len(files.read(tmp_path)) == 4
    assert main(["data", str(tmp_path), "--set", "planer"]) == 2
    assert "no set 'planer' (did you mean 'planar'?)" in capsys.readouterr().err
    assert main(["data", str(tmp_path), "--set", "ego_small"]) == 2
    assert "in no package: build debian_ego" in capsys.readouterr().err


def test_mutag_from_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(archive: Path, folder: Path) -> None:
        inside = folder / "grakel/tests/data/MUTAG"
        inside.mkdir(parents=True)
        rows = {
            "A": "1, 2\n2, 1\n",
            "graph_indicator": "1\n1\n",
            "node_labels": "0\n1\n",
            "graph_labels": "1\n",
        }
        for what, text in rows.items():
            (inside / f"MUTAG_{what}.txt").write_text(text)

    def download(client: str, package: str, version: str, folder: Path) -> Path:
        (folder / f"{package}-{version}-py3.whl").write_bytes(b"")
        return folder / f"{package}-{version}-py3.whl"

    monkeypatch.setattr(clients, "unpack", unpack)
    monkeypatch.setattr(clients, "download", download)
    assert main(["data", str(tmp_path), "--set", "mutag"]) == 0
    (graph,) = files.read(tmp_path / "mutag")
    assert dict(graph.nodes(data="label")) == {0: 0, 1: 1}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sources"]["mutag"]["version"] == "0.1.11"


def test_models(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(checkpoints, "EMBEDDED", checkpoint.parent)
    assert main(["models"]) == 0
    assert capsys.readouterr().out.startswith("checkpoint  (graphs)  Graphs like given.graphml Trained with")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "nowhere"], "no checkpoint 'nowhere'"),
        (["--out", "a.pdf"], "no format '.pdf'"),
        (["--like", "nowhere.g6"], "nowhere.g6 does not exist"),
        (["--num", "many"], "num cannot be 'many'"),
    ],
)
def test_bad_arguments_get_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_minutes_that_are_none(given: Path, tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "a.graphml")
    assert main(["generate", "--like", str(given), "--out", out, "--minutes", "0"]) == 2
    assert "minutes to learn must be positive" in capsys.readouterr().err
