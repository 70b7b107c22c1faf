"""Sampling: seeds, padding, masks, and the laws of an exact denoiser."""

from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from diffkit.core.checkpoint import CheckpointError
from diffkit.graphs import checkpoints
from diffkit.graphs.generate import Generator, Own, _batches, generate
from diffkit.graphs.graph import Classes
from diffkit.graphs.model import GraphTransformer
from diffkit.graphs.population import Population
from diffkit.graphs.sampling import Sampling
from diffkit.graphs.task import GraphTask

MOLECULES = Population(Classes(("C", "N"), (1, 2)), (0.8, 0.2), (0.6, 0.3, 0.1), (0, 0, 0, 0, 2, 1, 1))
SEED = 6  # from which on graphs of 4, 5 and 6 nodes come soon
PLAIN = Population(Classes(), (1.0,), (0.7, 0.3), (0, 0, 0, 0, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    task = GraphTask(GraphTransformer(2, 3, width=8, pair_width=4, heads=2, layers=1))
    task.learn_from(MOLECULES)
    return checkpoints.save(
        tmp_path_factory.mktemp("checkpoint") / "tiny", task, "# Untrained\n", Sampling(steps=4)
    )


def edges(graph: nx.Graph) -> Any:
    return dict(graph.nodes(data="label")), set(graph.edges(data="label"))


@pytest.mark.parametrize("sampling", [Sampling("d3pm", 4), Sampling(steps=4, eta=5.0, omega=0.1)])
def test_a_graph_is_a_function_of_its_seed(folder: Path, sampling: Sampling) -> None:
    generator = Generator.from_pretrained(folder, "cpu")
    graphs = generator.generate(6, sampling=sampling, seed=SEED)
    assert {len(graph) for graph in graphs} == {4, 5, 6}  # so that some are padded
    assert len({str(edges(graph)) for graph in graphs}) == 6
    for i, graph in enumerate(graphs):
        (alone,) = generator.generate(1, sampling=sampling, seed=SEED + i)
        assert edges(alone) == edges(graph)
    assert [edges(g) for g in generator.generate(6, sampling=sampling, seed=SEED, batch_size=2)] == list(
        map(edges, graphs)
    )


def test_knobs_and_sizes(folder: Path) -> None:
    generator, seen = Generator.from_pretrained(folder, "cpu"), list[int]()
    graphs = generator.generate(3, nodes=[6, 2, 4], batch_size=2, advance=seen.append)
    assert [len(graph) for graph in graphs] == [6, 2, 4]
    assert seen == [2, 1]
    assert generator.model.sampling == Sampling(steps=4)
    assert len(generate(2, folder, device="cpu", method="d3pm", steps=2, bf16=True)) == 2
    assert Sampling(steps=2, distortion="polydec").grid.tolist() == [1, 0.25, 0]


def exact(network: nn.Module, population: Population) -> Generator:
    process = population.process()
    return Generator(
        checkpoints.GraphModel(Path("exact"), network, population, process, Sampling(), {}),
        torch.device("cpu"),
    )


class Path4(nn.Module):
    """The denoiser of a point mass on the path 0 - 1 - 2 - 3, as logits."""

    def forward(self, nodes: Tensor, edges: Tensor, mask: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        kind = torch.tensor(nx.to_numpy_array(nx.path_graph(4))).long()
        return nodes, 60 * nn.functional.one_hot(kind, 2).float().expand_as(edges)


class Independent(nn.Module):
    """The denoiser of independent edges of probability 0.9 from noise of 0.3 on a linear path, by Bayes' rule."""

    def forward(self, nodes: Tensor, edges: Tensor, mask: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()[:, None, None, None]
        noise, data = torch.tensor([0.7, 0.3]), torch.tensor([0.1, 0.9]).double()
        here = (edges * noise).sum(-1, keepdim=True)
        return nodes, torch.log(((1 - t) * edges + t * here) * data + 1e-30)  # no pairs, no logarithm of 0


SAMPLINGS = [Sampling("d3pm", 20), Sampling(steps=20), Sampling(steps=20, eta=10.0)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_point_mass_is_found(sampling: Sampling) -> None:
    graphs = exact(Path4(), PLAIN).generate(5, sampling=sampling)
    assert all(nx.utils.graphs_equal(graph, nx.path_graph(4)) for graph in graphs)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_independent_edges_have_their_law(sampling: Sampling) -> None:
    graphs = exact(Independent(), PLAIN).generate(300, sampling=sampling, batch_size=300)
    share = sum(graph.number_of_edges() for graph in graphs) / 1800
    assert share == pytest.approx(0.9, abs=5 * (0.9 * 0.1 / 1800) ** 0.5)  # 5 standard errors


def test_large_graphs_come_in_smaller_batches() -> None:
    sizes = [500, 20, 400, 30, 500, 500]
    order = sorted(range(6), key=lambda i: sizes[i])
    assert list(_batches(order, sizes, 64)) == [[1, 3, 2], [0, 4], [5]]
    assert list(_batches(order, sizes, 2)) == [[1, 3], [2, 0], [4, 5]]
    assert list(_batches([0], [1000], 8)) == [[0]]


def test_noise_does_not_know_of_padding() -> None:
    like = {"nodes": torch.zeros(2, 6, 2), "edges": torch.zeros(2, 6, 6, 3)}
    both = Own([7, 8], [4, 6])(0, like)
    alone = Own([7], [4])(0, {"nodes": torch.zeros(1, 4, 2), "edges": torch.zeros(1, 4, 4, 3)})
    assert torch.equal(both["edges"][:1, :4, :4], alone["edges"])
    assert torch.equal(both["nodes"][:1, :4], alone["nodes"])
    assert not both["edges"][0, 4:].any()
    assert not both["nodes"][0, 4:].any()
    assert torch.equal(both["edges"], both["edges"].transpose(1, 2))
    assert both["edges"][1, 0, 1].unique().numel() == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "ddim"}, "no method 'ddim'"),
        ({"method": "d3pm", "eta": 1.0}, "belong to the method flow"),
        ({"distortion": "poly"}, "no distortion 'poly'"),
        ({"steps": 0}, "step"),
        ({"eta": -1.0}, "eta is a rate"),
        ({"omega": float("nan")}, "omega is a rate"),
    ],
)
def test_bad_knobs_get_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Sampling(**options)


def test_bad_requests(folder: Path, tmp_path: Path) -> None:
    generator = Generator.from_pretrained(folder, "cpu")
    for num, batch_size in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least one graph"):
            generator.generate(num, batch_size=batch_size)
    for nodes in ([7], [1], [4, 4]):
        with pytest.raises(ValueError, match="from 2 to the 6 of the model"):
            generator.generate(1, nodes=nodes)
    with pytest.raises(CheckpointError, match="no checkpoint 'nowhere'"):
        Generator.from_pretrained("nowhere", "cpu")
    with torch.no_grad():
        generator.model.network.pair_out[1][2].bias.fill_(torch.nan)  # type: ignore[index, union-attr]
    with pytest.raises(FloatingPointError, match="not finite"):
        generator.generate(1)


def test_the_grid_inside_makes_squares() -> None:
    """And no triangles; by half of the calls that it was measured with."""
    generator = Generator.from_pretrained("grid", "cpu")
    (graph,) = generator.generate(1, nodes=[110], sampling=Sampling(steps=50))
    triangles: Any = nx.triangles(graph)
    squares: Any = nx.square_clustering(graph)
    assert sum(len(graph.adj[node]) in (3, 4) for node in graph) > 77
    assert sum(triangles.values()) < 15
    assert sum(squares.values()) > 10  # of a grid 17, and of chance 1.4
