"""New edges: how they are held out, ranked and learnt."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from diffkit.core.bridge import BrownianBridge
from diffkit.core.process import VP
from diffkit.graphs import hetero_files
from diffkit.graphs.cli import main
from diffkit.graphs.embedding import train
from diffkit.graphs.hetero import Hetero, relate
from diffkit.graphs.hetero_split import folds, split_edges
from diffkit.graphs.latent import LatentDiffusion, Translation
from diffkit.graphs.lightgcn import LightGCN, RelationalGCN, adjacency, propagate
from diffkit.graphs.link import fit, link
from diffkit.graphs.link_metrics import candidates, rank
from diffkit.graphs.views import ITSELF, views


def groups(people: int = 60, films: int = 30, genres: int = 3) -> Hetero:
    """Who saw what, and who likes what: films of the genre that a person belongs to."""
    generator = torch.Generator().manual_seed(0)
    mine = torch.arange(people) % genres

    def pairs(each: int) -> list[tuple[int, int]]:
        picks = torch.randint(films // genres, (people, each), generator=generator) * genres + mine[:, None]
        return [(u, v) for u, row in enumerate(picks.tolist()) for v in row]

    nodes = {"person": [f"p{i}" for i in range(people)], "film": [f"f{i}" for i in range(films)]}
    genre = [("red", "green", "blue")[i % genres] for i in range(films)]
    seen, liked = relate("person", "film", pairs(6)), relate("person", "film", pairs(2))
    return Hetero(nodes, {"saw": seen, "likes": liked}, {"film": {"genre": genre}})


def words() -> Hetero:
    """A tree of words with an inverse relation, and a symmetric one."""
    tree = [(i, (i - 1) // 2) for i in range(1, 31)]
    alike = [pair for i in range(0, 30, 2) for pair in ((i, i + 1), (i + 1, i))]
    relations = {
        "above": relate("word", "word", tree),
        "below": relate("word", "word", [(v, u) for u, v in tree]),
        "like": relate("word", "word", alike),
    }
    return Hetero({"word": [str(i) for i in range(31)]}, relations)


def joined(edges: torch.Tensor) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in edges.T.tolist()}


def test_no_relation_tells_a_held_out_edge() -> None:
    graph = words()
    split = split_edges(graph, "above", valid=0.2, test=0.3)
    assert [part.shape[1] for part in split[1:]] == [15, 6, 9]
    held = joined(split.valid) | joined(split.test)
    assert len(held) == 15
    for name in ("above", "below", "like"):
        before, after = (joined(g.relations[name].edges) for g in (graph, split.graph))
        assert after == before - held
    assert torch.equal(split.graph.relations["above"].edges, split.train)


def test_of_a_symmetric_relation_both_directions_are_one() -> None:
    split = split_edges(words(), "like", valid=0.2, test=0.3)
    sides = [joined(part) for part in split[1:]]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert [2 * len(side) for side in sides] == [part.shape[1] for part in split[1:]]


def test_relations_of_other_kinds_stay() -> None:
    graph = groups()
    reverse = graph.relations["likes"].reversed()
    graph = Hetero(
        graph.nodes, {**graph.relations, "liked": reverse, "known": relate("film", "film", [(0, 1)])}
    )
    split = split_edges(graph, "likes", test=0.5)
    assert torch.equal(split.graph.relations["liked"].edges.flip(0), split.train)
    assert split.graph.relations["known"].edges.shape[1] == 1


def test_folds_hide_their_edges() -> None:
    graph = words()
    parts = folds(graph, "above", 4)
    assert sorted(part.edges.shape[1] for part in parts) == [7, 7, 8, 8]
    assert set().union(*(joined(part.edges) for part in parts)) == joined(graph.relations["above"].edges)
    for part in parts:
        assert not joined(part.graph.relations["below"].edges) & joined(part.edges)
    assert len(folds(split_edges(graph, "above", valid=0.0, test=0.9).graph, "above", 5)) == 3


def test_metrics_by_hand() -> None:
    """One dimension: scores are the targets themselves. Ranks: of target 3 is 2, of 0 is 3 (1 is known)."""
    sources, targets = torch.ones(2, 1), torch.tensor([[2.0], [9.0], [4.0], [3.0], [1.0]])
    edges, known = torch.tensor([[0, 0], [3, 0]]), torch.tensor([[0], [1]])
    found = rank(sources, targets, edges, known, same=False, k=2)
    best = 1 + 1 / math.log2(3)
    assert found == pytest.approx(
        {"recall": 1 / 2, "ndcg": 1 / math.log2(3) / best, "mrr": (1 / 2 + 1 / 2) / 2}
    )
    one = rank(sources, targets, edges[:, :1], known, same=False, k=1)
    assert one == {"recall": 0, "ndcg": 0, "mrr": 1 / 2}
    # Of one kind a node has no edge to itself: target 0 is not ranked for source 0.
    own = rank(sources, targets, torch.tensor([[0], [4]]), known[:, :0], same=True, k=4)
    assert own["mrr"] == 1 / 4
    assert rank(sources, targets, torch.tensor([[0], [4]]), known[:, :0], same=False, k=4)["mrr"] == 1 / 5


def test_a_constant_score_is_worth_nothing() -> None:
    edges = torch.stack([torch.arange(50), torch.arange(50)])
    found = rank(torch.zeros(50, 2), torch.zeros(1000, 2), edges, edges[:, :0], same=False)
    assert found == {"recall": 0, "ndcg": 0, "mrr": pytest.approx(1 / 500.5)}


def test_metrics_do_not_depend_on_the_chunk() -> None:
    generator = torch.Generator().manual_seed(0)
    sources, targets = (torch.randn(n, 4, generator=generator) for n in (20, 40))
    pairs = torch.randint(20, (2, 60), generator=generator).unique(dim=1)
    known, edges = pairs[:, ::2], pairs[:, 1::2]
    found = [rank(sources, targets, edges, known, same=False, k=5, chunk=chunk) for chunk in (3, 512)]
    assert found[0] == pytest.approx(found[1])


def test_candidates_are_new() -> None:
    sources, targets = torch.ones(3, 1), torch.tensor([[3.0], [2.0], [1.0]])
    known = torch.tensor([[0, 2], [1, 0]])
    found = {u: (v, scores) for u, v, scores in candidates(sources, targets, known, same=True, top=2)}
    assert found == {0: ([2], [1.0]), 1: ([0, 2], [3.0, 1.0]), 2: ([1], [2.0])}


def test_tables() -> None:
    graph = words()
    table = views(graph, "word", "word")
    assert (table.count, table.sources, table.targets) == (62, slice(0, 31), slice(31, 62))
    assert torch.equal(table.edges["above"][1] - 31, graph.relations["above"].edges[1])
    assert torch.equal(table.edges[ITSELF][1] - table.edges[ITSELF][0], torch.full((31,), 31))
    assert views(graph, "word", "word", doubled=False).count == 31
    graph = Hetero(
        {"x": ["0", "1"], "y": ["0"]}, {"r": relate("x", "x", [(0, 1)]), "s": relate("y", "x", [(0, 1)])}
    )
    table = views(graph, "x", "x")
    assert table.edges["r"].tolist() == [[0], [4]]
    assert table.edges["s"].tolist() == [[2, 2], [1, 4]]
    assert views(groups(), "person", "film").edges["saw"].min(1).values.tolist() == [0, 60]


def test_propagation_by_hand() -> None:
    """A star of three: the middle's degree is 2, and an edge that stands there twice counts once."""
    edges = torch.tensor([[0, 0, 1], [1, 2, 0]])
    root = 2**-0.5
    wanted = torch.tensor([[0, root, root], [root, 0, 0], [root, 0, 0]])
    matrix = adjacency([edges], 3)
    torch.testing.assert_close(matrix.to_dense(), wanted)
    torch.testing.assert_close(adjacency([edges, edges[:, :1]], 3).to_dense()[0, 1], torch.tensor(root + 1))
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    matrix, wanted = matrix.double(), wanted.double()
    torch.testing.assert_close(
        propagate(matrix, x, 2), (x + wanted @ x + wanted @ wanted @ x) / 3, check_dtype=False
    )
    assert torch.autograd.gradcheck(lambda x: propagate(matrix, x, 2), (x,))


def test_the_relational_gcn_by_hand() -> None:
    """One layer of identities: itself, the mean of those that go to it, and of those that it goes to."""
    encoder = RelationalGCN([{"r": torch.tensor([[0, 1], [2, 2]])}], 3, width=2, layers=1)
    with torch.no_grad():
        for parameter in encoder.layers.parameters():
            parameter.copy_(torch.eye(2))
    x = encoder.table
    wanted = torch.stack([x[0] + x[2], x[1] + x[2], x[2] + (x[0] + x[1]) / 2])
    torch.testing.assert_close(encoder(torch.arange(3))[0], wanted)


@pytest.mark.parametrize("process", [BrownianBridge(), VP()])
def test_a_translation_is_learnt(process: Any) -> None:
    """h = A g + noise of deviation 0.1: what is sampled from g must come near to A g, and with the noise's spread."""
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    g = torch.randn(2048, 4)
    h = g @ turn + 0.1 * torch.randn(2048, 4)
    translation = Translation(4, process)
    before = (translation(g, torch.randn_like(g)) - g @ turn).square().mean()
    optimiser = torch.optim.Adam(translation.parameters(), 1e-2)
    for _ in range(120):
        pick = torch.randint(2048, (256,))
        optimiser.zero_grad()
        translation.loss(h[pick], g[pick]).backward()
        optimiser.step()
    with torch.no_grad():
        error = (translation(g, torch.randn_like(g)) - g @ turn).square().mean()
    assert before > 1
    assert error < 0.05  # the noise itself has 0.01


def test_the_released_schedule_is_one_call_of_a_network() -> None:
    """DiffGraph's betas: what is added to g is at most 1e-7 beside a first step of 1e-4, and all but the last of its
    200 steps leave the state where it is.
    """
    variance = torch.linspace(1e-4 * 1e-4, 1e-4 * 1e-3, 200, dtype=torch.float64)
    assert float(variance.max()) == pytest.approx(1e-7)
    bar = 1 - variance
    beta = torch.cat([torch.tensor([1e-4], dtype=torch.float64), 1 - bar[1:] / bar[:-1]])
    kept = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    weight = beta * before.sqrt() / (1 - kept)
    assert float(weight[0]) == pytest.approx(1)
    assert weight[1:].sum() < 1e-3
    assert (1 - kept).max() < 1.002e-4


def test_a_new_translation_is_the_auxiliary_embedding() -> None:
    graph = groups()
    edges = views(graph, "person", "film").edges
    encoder = LatentDiffusion([edges, edges], "likes", 90, width=8).eval()
    rows = torch.tensor([3, 70])
    z, loss = encoder(rows)
    own, other = (propagate(adjacency([edges[r]], 90), encoder.own.table, 3) for r in ("likes", "saw"))
    size = [x.square().mean().sqrt() for x in (own, other)]
    torch.testing.assert_close(z, (own + other * size[0] / size[1])[rows])
    assert loss == 0
    encoder.train()
    z, loss = encoder(rows, 1)
    assert loss > 0
    loss.backward()
    assert encoder.own.table.grad is None  # the denoising loss leaves embeddings alone


@pytest.mark.parametrize(
    ("method", "least"), [("fused", 0.85), ("diffusion", 0.95), ("rgcn", 0.6), ("lightgcn", 0.4)]
)
def test_every_method_finds_the_genre(method: str, least: float) -> None:
    """Of the eight films of highest score for each person, how many are of its genre: by chance a third.

    This seed gave 1, 1, 0.98 and 0.45, three others more than 0.9, 0.98, 0.68 and 0.35; LightGCN sees at most two edges
    of a person.
    """
    graph = groups()
    split = split_edges(graph, "likes", valid=0.1, test=0.2, seed=1)
    found = fit(split, "likes", method=method, width=16, steps=100, seed=1)
    assert set(found.valid) == {"recall", "ndcg", "mrr"}
    scores = found.sources @ found.targets.T
    inside = torch.arange(60)[:, None] % 3 == torch.arange(30)[None] % 3
    right = (scores.argsort(1, descending=True)[:, :8] % 3 == torch.arange(60)[:, None] % 3).double().mean()
    assert right > least
    assert scores[inside].mean() > scores[~inside].mean()


def test_what_is_popular_goes_to_who_is_unknown() -> None:
    """Nine of ten people like film 0; the tenth has no edge at all, and random rows alone would not rank it first."""
    edges = [(u, 0) for u in range(9)] + [(u, 1 + u % 3) for u in range(9)]
    graph = Hetero({"p": list("abcdefghij"), "f": list("0123456789")}, {"r": relate("p", "f", edges)})
    found = link(graph, "r", method="lightgcn", valid=0.0, width=4, steps=40)
    assert found.targets[:, -1].argmax() == 0
    assert [targets for u, targets, _ in found.candidates(1) if u == 9] == [[0]]


def test_training_begins_at_popularity() -> None:
    """What is not learnt yet is the logarithm of the edges that may be seen, and one more."""
    graph = groups()
    split = split_edges(graph, "likes", valid=0.1, test=0.2, seed=1)
    found = fit(split, "likes", width=4, steps=1, learning_rate=1e-6)
    counts = torch.bincount(split.train[1], minlength=len(found.targets))
    assert torch.allclose(found.targets[:, -1], (1.0 + counts).log(), atol=1e-4)


def test_a_fit_is_a_function_of_its_seed() -> None:
    graph = groups()
    first, again, other = (link(graph, "likes", width=4, steps=3, seed=seed).sources for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_keeps_the_best_and_refuses_nan() -> None:
    encoder = LightGCN([[torch.tensor([[0], [1]])]], 2, width=2)
    values = iter([1.0, 3.0, 2.0])
    seen: list[torch.Tensor] = []

    def check() -> float:
        seen.append(encoder.table.detach().clone())
        return next(values)

    assert train(encoder, lambda: encoder.table.sum(), steps=3, check=check, every=1) == 3.0
    assert torch.equal(encoder.table, seen[1])
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        train(encoder, lambda: encoder.table.sum() * math.nan, steps=3)


def test_bad_requests() -> None:
    graph = groups()
    with pytest.raises(ValueError, match=r"no relation 'like' \(did you mean 'likes'\?\)"):
        link(graph, "like")
    with pytest.raises(ValueError, match="no method 'gcn'"):
        link(graph, "likes", method="gcn")
    with pytest.raises(ValueError, match=r"shares held out must be of \[0, 1\), not 0.6 and 0.5"):
        split_edges(graph, "likes", valid=0.6, test=0.5)
    alone = Hetero(graph.nodes, {"likes": graph.relations["likes"]})
    with pytest.raises(ValueError, match="'likes' is the only relation, and others are to tell of it"):
        link(alone, "likes")
    assert link(alone, "likes", method="lightgcn", width=2, steps=1).sources.shape == (60, 3)
    one = Hetero({"a": ["x", "y"]}, {"r": relate("a", "a", [(0, 1)])})
    assert link(one, "r", valid=0.0, width=2, steps=1).valid == {}
    with pytest.raises(ValueError, match="'r' has too few edges to hold some out"):
        split_edges(one, "r", valid=0.5, test=0.0)
    with pytest.raises(ValueError, match="no held-out edges to rank"):
        rank(
            torch.ones(1, 1), torch.ones(1, 1), torch.zeros(2, 0).long(), torch.zeros(2, 0).long(), same=False
        )


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    folder, out = hetero_files.write(tmp_path / "graph", groups()), tmp_path / "new.tsv"
    command = ["link", str(folder), str(out), "--relation", "likes", "--top", "3", "--steps", "4"]
    assert main([*command, "--valid", "0.2"]) == 0
    assert "180 edges in" in (said := capsys.readouterr().out)
    assert "Of the edges held out: recall" in said
    header, *rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert header == ["source", "target", "score"]
    assert [row[0] for row in rows[:3]] == ["p0"] * 3
    assert [float(row[2]) for row in rows[:3]] == sorted((float(row[2]) for row in rows[:3]), reverse=True)
    known = {tuple(line.split("\t")) for line in (folder / "edges/likes.tsv").read_text().splitlines()[1:]}
    assert not known & {(row[0], row[1]) for row in rows}
    assert main(command) == 2
    assert "new.tsv exists" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--valid", "0", "--method", "lightgcn"]) == 0
    assert "held out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--relation", "reads"], "the relations are likes, saw"),
        (["--relation", "likes", "--top", "0"], "ask for at least one edge"),
        (["--relation", "likes", "--method", "gcn"], "no method 'gcn'"),
        (["--relation", "likes", "--device", "gpu"], "device 'gpu' cannot be used"),
    ],
)
def test_bad_arguments_get_one_sentence(tmp_path: Path, capsys: Any, arguments: list[str], says: str) -> None:
    folder = hetero_files.write(tmp_path / "graph", groups())
    assert main(["link", str(folder), str(tmp_path / "out.tsv"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.strip().count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]
