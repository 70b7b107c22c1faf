"""What is trained, and on what."""

from pathlib import Path

import networkx as nx
import pytest
import torch

from diffkit.core.categorical import Jumps, Marginal
from diffkit.core.checkpoint import CheckpointError
from diffkit.core.testing import check_choices
from diffkit.core.train import EpochSampler
from diffkit.graphs import checkpoints, files
from diffkit.graphs.data import Alike, GraphData, Indices, split
from diffkit.graphs.graph import Batch, Classes, collate, index
from diffkit.graphs.model import GraphTransformer
from diffkit.graphs.population import Population
from diffkit.graphs.task import LAWS, GraphTask, state


def molecules(count: int = 5) -> list[nx.Graph]:
    """Paths of 4 or 5 nodes, every other labelled N, with double bonds."""
    graphs = [nx.path_graph(4 + i % 2) for i in range(count)]
    for graph in graphs:
        nx.set_node_attributes(graph, {n: "CN"[n % 2] for n in graph}, "label")
        nx.set_edge_attributes(graph, dict.fromkeys(graph.edges, 2), "label")
    return graphs


CLASSES = Classes(("C", "N"), (1, 2))


def task(classes: Classes = CLASSES) -> GraphTask:
    graphs = [index(graph, CLASSES) for graph in molecules()]
    torch.manual_seed(0)
    made = GraphTask(GraphTransformer(*classes.sizes, width=8, pair_width=4, heads=2, layers=1))
    made.learn_from(Population.of(graphs, CLASSES))
    return made


def batch() -> Batch:
    return collate([index(graph, CLASSES) for graph in molecules()], CLASSES)


def test_population_by_hand() -> None:
    found = Population.of([index(graph, CLASSES) for graph in molecules()], CLASSES)
    assert found.nodes == pytest.approx([12 / 22, 10 / 22])  # 3 of 4 nodes, two C; 2 of 5, three C
    assert found.edges == pytest.approx([1 - 17 / 38, 0, 17 / 38])
    assert found.sizes == [0, 0, 0, 0, 3, 2]
    sizes = [found.draw_size(seed) for seed in range(500)]
    assert set(sizes) == {4, 5}
    assert all(
        sizes[i : i + 16].count(4) in (9, 10) for i in range(0, 496, 16)
    )  # of 9.6, however few they are


def test_the_process_keeps_the_laws() -> None:
    process = task().process
    for leaf in process.values():
        assert isinstance(leaf, Marginal)
        check_choices(leaf)
        check_choices(Jumps(leaf, eta=3.0))
    assert list(Population(Classes(), [1.0], [0.7, 0.3], [0, 0, 1]).process()) == ["edges"]


def test_noise_is_symmetric_and_leaves_out_what_is_not_there() -> None:
    made, data = task(), batch()
    x0 = state(data, made.process)
    noise = {name: LAWS[name](torch.randn_like(leaf)) for name, leaf in x0.items()}
    x = made.process.corrupt(x0, torch.full((5,), 0.9), noise=noise)
    assert torch.equal(x["edges"], x["edges"].transpose(1, 2))
    assert not torch.equal(x["edges"], data.edges)
    for name, leaf in x.items():
        assert torch.equal(leaf.sum(-1), x0[name].sum(-1))


def test_a_step_of_training_counts_each_pair_once() -> None:
    made, data = task(), batch()
    with torch.no_grad():
        for name, p in made.network.named_parameters():
            if name.startswith(("pair_out.1.2", "node_out.1.2")):  # the last layers: logits of zero
                p.zero_()
    terms = made.loss(data)
    assert terms["edges"].item() == pytest.approx(torch.log(torch.tensor(3.0)).item(), rel=1e-5)
    assert terms["nodes"].item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx((5 * terms["edges"] + terms["nodes"]).item(), rel=1e-6)


def test_it_learns() -> None:
    """In 60 steps from 6.4 nats to 3.8, the mean of the last 20."""
    made, data = task(), batch()
    optimiser = torch.optim.Adam(made.parameters(), 1e-2)
    torch.manual_seed(0)
    losses = list[float]()
    for _ in range(60):
        optimiser.zero_grad()
        loss = made.loss(data)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.7 * losses[0]


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    trained = task()
    with torch.no_grad():
        for weight in trained.network.parameters():
            weight.add_(1.0)
    folder = str(checkpoints.save(tmp_path / "a", trained, "# A\n"))
    own = GraphTask(GraphTransformer(*CLASSES.sizes, width=8, pair_width=4, heads=2, layers=1), init=folder)
    assert own.network.training
    for weight, same in zip(trained.network.parameters(), own.network.parameters(), strict=True):
        torch.testing.assert_close(same, weight, rtol=1e-3, atol=0)  # shipped as half
    with pytest.raises(CheckpointError):
        GraphTask(GraphTransformer(*CLASSES.sizes, width=4, pair_width=4, heads=2, layers=1), init=folder)


def test_a_network_of_other_classes() -> None:
    with pytest.raises(ValueError, match="1 classes of nodes and 2 of pairs, the data 2 and 3"):
        task(Classes())


def test_batches_hold_graphs_of_like_size() -> None:
    graphs = [index(nx.path_graph(2 + i % 7), Classes()) for i in range(21)]
    data, epochs = Indices(graphs, 84), [list[int](), list[int]()]
    for rank in (0, 1):
        sampler = Alike(data, 6, EpochSampler(data, 2, rank, seed=3, drop_last=True))
        for epoch, seen in enumerate(epochs):
            sampler.set_epoch(epoch)
            order = list(sampler)
            sizes = [len(data[i].nodes) for i in order]
            spread = [max(batch) - min(batch) for batch in (sizes[i : i + 6] for i in range(0, 42, 6))]
            assert sum(spread) <= 6  # all batches together go once from the smallest to the largest
            assert sizes != sorted(sizes)
            seen += order
    for epoch, seen in enumerate(epochs):
        assert sorted(seen) == list(range(84 * epoch, 84 * (epoch + 1)))


def test_no_size_is_left_out() -> None:
    graphs = [index(nx.path_graph(2 + i), Classes()) for i in range(7)]
    sampler = Alike(data := Indices(graphs, 7), 4, EpochSampler(data, 1, 0, seed=0, drop_last=True))
    seen = set[int]()
    for epoch in range(8):  # of four graphs each; all seven are in one of them but with probability 0.01
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == 4
        seen |= {i % 7 for i in found}
    assert seen == set(range(7))


def test_splits_and_batches(tmp_path: Path) -> None:
    path = files.write(tmp_path / "a.graphml", molecules(10))
    data = GraphData(str(path), valid=0.25, batch_size=3, items=9)
    data.setup()
    assert (len(data.train_set.graphs), len(data.valid_set)) == (6, 2)
    data.trainer = None  # pyright: ignore[reportAttributeAccessIssue]
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    assert all(
        b.nodes.shape[0] == 3 and b.edges.shape[-1] == data.population.classes.sizes[1] for b in batches
    )
    assert split(range(10)) == ([2, 3, 4, 5, 6, 7, 8, 9], [0, 1])
    with pytest.raises(ValueError, match="share of test graphs"):
        split(range(10), 1.2)
    with pytest.raises(ValueError, match="leaves no graph to train on"):
        GraphData(str(path), test=1.0).setup()
