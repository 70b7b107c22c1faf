"""Missing classes of nodes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diffkit.graphs import hetero_files
from diffkit.graphs.classify import classify, head, judge, propagated
from diffkit.graphs.cli import main
from diffkit.graphs.hetero import Hetero, relate


def clubs(size: int = 12) -> Hetero:
    """Three cliques of people, of whom every third says where it belongs, who meet at their own places."""
    pairs = [(3 * i + k, 3 * j + k) for k in range(3) for i in range(size) for j in range(i)]
    club = [("red", "green", "blue")[i % 3] if i % 9 < 3 else "" for i in range(3 * size)]
    relations = {
        "knows": relate("person", "person", pairs),
        "meets": relate("person", "place", [(i, i % 3) for i in range(3 * size)]),
    }
    nodes = {"person": [f"p{i}" for i in range(3 * size)], "place": ["x", "y", "z"]}
    return Hetero(
        nodes, relations, {"person": {"club": club, "pet": ["cat"] * 3 * size}, "place": {"size": [""] * 3}}
    )


@pytest.mark.parametrize("method", ["propagation", "diffusion", "lightgcn", "rgcn"])
def test_every_method_finds_the_club(method: str) -> None:
    steps = {} if method == "propagation" else {"steps": 20}
    found = classify(clubs(), "person", "club", method=method, relation=None, **steps)
    assert found.classes == ["blue", "green", "red"]
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(36))
    best, shares = found.best()
    assert best == [("red", "green", "blue")[i % 3] for i in range(36)]
    assert min(shares) > 1 / 3


def test_propagation_by_hand() -> None:
    """On a path 0 - 1 - 2 of one label at each end the middle is even, and what nothing reaches has the shares."""
    graph = Hetero({"a": list("0123")}, {"r": relate("a", "a", [(0, 1), (1, 2)])})
    found = propagated(graph, "a", torch.tensor([0, -1, 1, -1]))
    torch.testing.assert_close(found[1], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(found[3], torch.tensor([0.5, 0.5]))
    assert found[0, 0] > 0.5
    torch.testing.assert_close(found[2, 1], found[0, 0])


def test_propagation_takes_all_relations_as_one() -> None:
    """The sum of their normalised adjacencies would grow with their number, and forget the labels."""
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4)]
    one = {"r": relate("a", "a", pairs)}
    more = {**one, "back": one["r"].reversed(), "again": relate("a", "a", pairs[:2])}
    labels = torch.tensor([0, -1, -1, -1, 1])
    found = [propagated(Hetero({"a": list("01234")}, relations), "a", labels) for relations in (one, more)]
    torch.testing.assert_close(*found)


def test_the_head_separates() -> None:
    x = torch.tensor([[0.0], [1.0], [0.1], [0.9]])
    found = head(x, torch.tensor([0, 1, -1, -1]))
    assert found.argmax(1).tolist() == [0, 1, 0, 1]


def test_scores_by_hand() -> None:
    """Of class 0: TP 1, FN 1; of 1: TP 1, FP 1; of 2: TP 0, FN 1, FP 1."""
    found = judge(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 3]))
    assert found == pytest.approx({"accuracy": 2 / 4, "macro_f1": (2 / 3 + 2 / 3 + 0) / 3})


def test_bad_requests() -> None:
    graph = clubs()
    for arguments, says in {
        ("person", "town"): "no attribute of person 'town'",
        ("animal", "club"): "no kind 'animal'",
        ("place", "size"): "no place has a 'size': there is nothing to learn from",
        ("person", "pet"): "every person that has a 'pet' has 'cat': there is nothing to tell apart",
    }.items():
        with pytest.raises(ValueError, match=says):
            classify(graph, *arguments)
    with pytest.raises(ValueError, match=r"no method 'gcn' .*propagation"):
        classify(graph, "person", "club", method="gcn")
    with pytest.raises(ValueError, match="leave the relation out, or take another method"):
        classify(graph, "person", "club", relation="knows")
    with pytest.raises(ValueError, match="no relation 'likes'"):
        classify(graph, "person", "club", relation="likes", method="rgcn")
    with pytest.raises(ValueError, match="'knows' is of person and person, not of place"):
        classify(
            Hetero(graph.nodes, graph.relations, {"place": {"size": ["s", "m", ""]}}),
            "place",
            "size",
            method="rgcn",
            relation="knows",
        )
    lonely = Hetero({**graph.nodes, "tree": ["t", "u"]}, graph.relations, {"tree": {"leaf": ["x", "y"]}})
    with pytest.raises(ValueError, match="no relation has a tree at an end"):
        classify(lonely, "tree", "leaf", method="rgcn")


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    folder, out = hetero_files.write(tmp_path / "graph", clubs()), tmp_path / "new.tsv"
    command = ["classify", str(folder), str(out), "--node", "person", "--attribute", "club"]
    assert main(command) == 0
    assert "24 of 36 nodes in" in capsys.readouterr().out
    header, *rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert header == ["id", "club", "probability"]
    assert [row[:2] for row in rows[:2]] == [["p3", "red"], ["p4", "green"]]
    assert all(1 / 3 < float(row[2]) <= 1 for row in rows)
    assert main(command) == 2
    assert "new.tsv exists" in capsys.readouterr().err
    assert (
        main([*command, "--overwrite", "--steps", "2", "--method", "diffusion", "--relation", "meets"]) == 0
    )
    assert main([*command[:-1], "town", "--overwrite"]) == 2
    assert "the attribute of persons are club, pet" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--steps", "0"]) == 2
    assert "at least one step" in capsys.readouterr().err
