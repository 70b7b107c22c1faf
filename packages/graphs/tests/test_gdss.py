"""GDSS: leaves, networks, the noisiest graphs and where sampling begins, from training to graphs."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor

from diffkit.core.checkpoint import CheckpointError
from diffkit.core.grid import uniform
from diffkit.core.joint import Joint
from diffkit.core.plan import integrate
from diffkit.core.process import VE, VP, Gaussian, SubVP
from diffkit.core.sample import plan_for
from diffkit.core.solvers import s4
from diffkit.graphs import checkpoints, files, sets
from diffkit.graphs.cli import main
from diffkit.graphs.gdss import denoiser, moments, quantise, start, state, terminal
from diffkit.graphs.gdss_model import GDSS
from diffkit.graphs.gdss_sampling import GDSSSampling
from diffkit.graphs.gdss_task import GDSSTask
from diffkit.graphs.generate import Generator, Own
from diffkit.graphs.graph import Batch, Classes, collate, encode, index
from diffkit.graphs.population import Population

TINY = {"features": 10, "width": 4, "depth": 1, "layers": 2, "channels": 2, "last": 2, "heads": 2}
PUBLISHED = VP(0.1, 1.0)


def community(count: int = 20) -> tuple[Batch, Population]:
    graphs = [index(graph, Classes()) for graph in sets.generate("community_small", count)]
    return collate(graphs, Classes()), Population.of(graphs, Classes())


def labelled() -> Batch:
    graph = nx.path_graph(4)
    nx.set_node_attributes(graph, {n: "CN"[n % 2] for n in graph}, "label")
    nx.set_edge_attributes(graph, {e: 1 + e[0] % 2 for e in graph.edges}, "label")
    return encode([graph])


def task(process: Gaussian = PUBLISHED, **changes: Any) -> GDSSTask:
    torch.manual_seed(0)
    made = GDSSTask(GDSS(**TINY | changes), process, process)
    made.learn_from(community()[1])
    return made


class TestLeaves:
    def test_degrees_are_one_hot_and_edges_are_numbers(self) -> None:
        batch = encode([nx.path_graph(3), nx.star_graph(3)])
        x = state(batch, 3)
        assert x["nodes"][0].argmax(-1).tolist()[:3] == [1, 2, 1]
        assert x["nodes"][1, 0].tolist() == [0, 0, 1]  # three neighbours, the last feature
        assert x["nodes"].sum((1, 2)).tolist() == [3, 4]
        assert torch.equal(x["edges"][..., 0], batch.edges[..., 1])

    @pytest.mark.parametrize("batch", [labelled(), encode([nx.path_graph(3), nx.star_graph(4)])])
    def test_a_pair_is_of_the_nearest_class(self, batch: Batch) -> None:
        x = state(batch, batch.nodes.shape[-1] if batch.nodes.shape[-1] > 1 else 5)
        for shift in (-0.49, 0.0, 0.49):
            found = quantise({"nodes": x["nodes"], "edges": x["edges"] + shift}, batch)
            for one, other in zip(found, batch, strict=True):
                assert torch.equal(one, other)
        assert not torch.equal(quantise({**x, "edges": x["edges"] + 0.5}, batch).edges, batch.edges)

    def test_a_network_that_knows_the_noise_denoises(self) -> None:
        batch, _ = community(3)
        x0, process, t = state(batch, 10), Joint({"nodes": SubVP(), "edges": VE()}), torch.tensor(0.4)
        noise = Own([1, 2, 3], batch.mask.sum(1).tolist())(0, x0)
        x = process.corrupt(x0, t, noise=noise)
        found = denoiser(lambda *_: (noise["nodes"], noise["edges"]), process, batch.mask)(x, t)
        for name, leaf in x0.items():
            torch.testing.assert_close(found[name], leaf, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("process", [VP(0.1, 1.0), SubVP(), VE(0.1, 1.0)])
    def test_noise_of_pairs_is_symmetric_of_the_right_variance(self, process: Gaussian) -> None:
        batch, t, count = encode([nx.path_graph(4), nx.path_graph(6)]), torch.tensor(0.6), 400
        x0 = state(batch, 3)
        draws = [Own([2 * k, 2 * k + 1], [4, 6])(5, x0) for k in range(count)]
        off = torch.stack(
            [
                (process.corrupt(x0["edges"], t, noise=n["edges"]) - process.a(t).float() * x0["edges"])[
                    ..., 0
                ]
                for n in draws
            ]
        )
        assert torch.equal(off, off.mT)
        assert not off.diagonal(dim1=-2, dim2=-1).any()
        assert not off[:, 0, 4:].any()
        pairs = off[:, 1][:, *torch.triu_indices(6, 6, 1)]
        bound = 5 * (2 / count) ** 0.5
        torch.testing.assert_close(
            pairs.var(0) / process.s(t).float() ** 2, torch.ones(15), atol=bound, rtol=0
        )
        apart = torch.corrcoef(pairs.T) - torch.eye(15)
        assert apart.abs().max() < 5 / count**0.5


def network() -> GDSS:
    torch.manual_seed(0)
    return GDSS(features=3, width=8, depth=2, layers=2, channels=4, last=2, heads=2).double()


def noisy() -> tuple[Tensor, Tensor, Tensor]:
    """Two noisy graphs of 7 and 6 nodes."""
    mask = torch.arange(7) < torch.tensor([[7], [6]])
    like = {"nodes": torch.zeros(2, 7, 3).double(), "edges": torch.zeros(2, 7, 7, 1).double()}
    x = Own([1, 2], [7, 6])(0, like)
    return x["nodes"], x["edges"], mask


class TestNetworks:
    def test_the_order_of_nodes_does_not_matter(self) -> None:
        nodes, edges, mask = noisy()
        order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
        x, e = network()(nodes, edges, mask)
        y, f = network()(nodes[:, order], edges[:, order][:, :, order], mask[:, order])
        torch.testing.assert_close(y, x[:, order], rtol=0, atol=1e-12)
        torch.testing.assert_close(f, e[:, order][:, :, order], rtol=0, atol=1e-12)
        assert min(x.std(), e.std()) > 0.01

    def test_absent_nodes_change_nothing(self) -> None:
        nodes, edges, mask = noisy()
        x, e = network()(nodes, edges, mask)
        y, f = network()(nodes[1:, :6], edges[1:, :6, :6], mask[1:, :6])
        torch.testing.assert_close(x[1:, :6], y, rtol=0, atol=1e-12)
        torch.testing.assert_close(e[1:, :6, :6], f, rtol=0, atol=1e-12)
        assert not x[1, 6:].any()
        assert not e[1, 6:].any()
        assert torch.equal(e, e.transpose(1, 2))
        assert not e.diagonal(dim1=1, dim2=2).any()

    def test_a_convolution_by_hand(self) -> None:
        """The path of three with loops has the degrees 2, 3, 2."""
        net = network().nodes.layers[0]
        A = torch.tensor(nx.to_numpy_array(nx.path_graph(3))) + torch.eye(3).double()
        x, root = torch.randn(1, 3, 3).double(), A.sum(0).rsqrt().diag()
        S = root @ A @ root
        torch.testing.assert_close(net(x, S[None, None])[0], S @ x @ net.weight[0] + net.bias[0])  # type: ignore[operator, index]
        from diffkit.graphs.gdss_model import _normalised

        torch.testing.assert_close(_normalised(A - torch.eye(3).double()), S)

    def test_everything_is_trained(self) -> None:
        net = network()
        x, e = net(*noisy())
        (x.square().sum() + e.square().sum()).backward()
        idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        # The last layer's values lead nowhere: pairs alone are read out.
        assert all(name.startswith("edges.layers.1.join") for name in idle)

    def test_a_width_that_heads_do_not_divide(self) -> None:
        with pytest.raises(ValueError, match="multiple of the heads, 3"):
            GDSS(heads=3)


class TestTheEnd:
    """x_1 of the published process, and where sampling begins."""

    def test_it_is_not_standard_normal_and_our_start_has_its_moments(self) -> None:
        batch, population = community()
        process = Joint({"nodes": PUBLISHED, "edges": PUBLISHED})
        assert PUBLISHED.terminal_mismatch().signal == pytest.approx(0.7596, abs=1e-4)
        sizes = batch.mask.sum(1).tolist()
        x0, rounds = state(batch, 10), 20
        at_end = {"nodes": list[Tensor](), "edges": list[Tensor]()}
        ours, theirs = {"nodes": list[Tensor](), "edges": list[Tensor]()}, list[Tensor]()
        i, j = torch.triu_indices(20, 20, 1)
        there = batch.mask[:, i] & batch.mask[:, j]
        end = terminal(process, moments(population, 10))
        for k in range(rounds):
            one, other = (
                Own([len(sizes) * (2 * k + h) + g for g in range(len(sizes))], sizes)(0, x0) for h in (0, 1)
            )
            for found, x in (
                (at_end, process.corrupt(x0, torch.tensor(1.0), noise=one)),
                (ours, start(end, other, batch.mask)),
            ):
                found["nodes"].append(x["nodes"][batch.mask])
                found["edges"].append(x["edges"][:, i, j, 0][there])
            theirs.append(other["edges"][:, i, j, 0][there])
        pairs, drawn, normal = (torch.cat(part) for part in (at_end["edges"], ours["edges"], theirs))
        bound = 5 * (2 / len(pairs)) ** 0.5
        assert float(end["edges"].mean) == pytest.approx(0.235, abs=0.01)  # of 0.31 edges a pair
        for found in (pairs, drawn):
            assert float(found.mean()) == pytest.approx(float(end["edges"].mean), abs=bound)
            assert float(found.var()) == pytest.approx(float(end["edges"].covariance), abs=bound)
        assert abs(float(normal.mean()) - float(pairs.mean())) > 0.2
        assert abs(float(normal.var()) - float(pairs.var())) > 0.4
        nodes = [torch.cat(part["nodes"]) for part in (at_end, ours)]
        for found in nodes:
            torch.testing.assert_close(
                found.mean(0).double(), end["nodes"].mean, atol=5 * (1 / len(found)) ** 0.5, rtol=0
            )
            torch.testing.assert_close(
                torch.cov(found.T).double(), end["nodes"].covariance, atol=5 * (2 / len(found)) ** 0.5, rtol=0
            )

    def test_a_schedule_that_reaches_the_prior(self) -> None:
        _, population = community(5)
        end = terminal(Joint(dict.fromkeys(("nodes", "edges"), VP(0.1, 20.0))), moments(population, 10))
        assert abs(float(end["edges"].mean)) < 0.003
        torch.testing.assert_close(end["nodes"].covariance, torch.eye(10).double(), atol=1e-4, rtol=0)

    def test_what_it_does_to_independent_edges(self) -> None:
        """By the exact denoiser of edges of probability 0.3: from N(0, 1) they come out too rare."""
        share, n, count = 0.3, 12, 60
        population = Population(Classes(), [1.0], [1 - share, share], [*[0] * n, 1], [1])
        process, mask = (
            Joint({"nodes": PUBLISHED, "edges": PUBLISHED}),
            torch.ones(count, n, dtype=torch.bool),
        )
        like = {"nodes": torch.zeros(count, n, 1), "edges": torch.zeros(count, n, n, 1)}
        draw = Own(range(count), [n] * count)

        def denoise(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
            a, s = PUBLISHED.a(t).float(), PUBLISHED.s(t).float()
            logit = torch.logit(torch.tensor(share)) + (2 * a * x["edges"] - a**2) / (2 * s**2)
            return {"nodes": torch.zeros_like(x["nodes"]), "edges": logit.sigmoid()}

        def edges(x: dict[str, Tensor]) -> float:
            out = integrate(denoise, x, plan_for(s4(snr=0.0), process, uniform(40)), draw=draw)
            return float(out["edges"][:, *torch.triu_indices(n, n, 1)].round().mean())

        noise = draw(-1, like)
        error = (share * (1 - share) / (count * n * (n - 1) / 2)) ** 0.5
        ours, theirs = edges(start(terminal(process, moments(population, 1)), noise, mask)), edges(noise)
        assert ours == pytest.approx(share, abs=3 * error)
        assert theirs < share - 5 * error


class TestTraining:
    def test_the_loss_is_half_the_squared_noise(self) -> None:
        """Of a network that says nothing: half the number of features of nodes, and of ordered pairs."""
        batch, _ = community(100)
        made = task()
        with torch.no_grad():
            for p in made.network.parameters():
                p.zero_()
        terms, n = made.loss(batch), batch.mask.sum(1).float()
        nodes, pairs = (5 * n).mean(), (n * (n - 1) / 2).mean()
        bound = 5 * (2 / len(n)) ** 0.5
        assert terms["nodes"].item() == pytest.approx(nodes.item(), rel=bound / (10 * 16) ** 0.5)
        assert terms["edges"].item() == pytest.approx(pairs.item(), rel=bound / (16 * 15 / 2) ** 0.5)
        assert terms["loss"].item() == pytest.approx((terms["nodes"] + terms["edges"]).item(), rel=1e-6)

    def test_it_learns(self) -> None:
        made, (batch, _) = task(), community(10)
        optimiser = torch.optim.Adam(made.parameters(), 1e-2)
        losses = list[float]()
        for _ in range(60):
            optimiser.zero_grad()
            loss = made.loss(batch)["loss"]
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) < 0.7 * sum(losses[:10])

    def test_features_that_do_not_fit(self) -> None:
        with pytest.raises(
            ValueError, match="4 features, for degrees below that, and a node of the data has 9"
        ):
            task(features=4)
        made = GDSSTask(GDSS(**TINY), PUBLISHED, PUBLISHED)
        with pytest.raises(ValueError, match="10 features and the nodes 2 labels"):
            made.learn_from(Population(Classes(("C", "N")), [0.5, 0.5], [0.7, 0.3], [0, 0, 1], [1]))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write(tmp_path_factory.mktemp("given") / "given.g6", sets.generate("community_small", 10))


@pytest.fixture(scope="module")
def checkpoint(given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two steps of the command, with the configuration that is shipped."""
    folder, config = tmp_path_factory.mktemp("run"), Path(__file__).parents[1] / "configs/gdss.yaml"
    settings: dict[str, Any] = {
        "config": config,
        "model.network.init_args": TINY,
        "data.graphs": given,
        "data.batch_size": 4,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 2,
        "trainer.default_root_dir": folder,
        "trainer.logger": False,
        "trainer.callbacks": [],
        "trainer.enable_checkpointing": False,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
    }
    assert main(["train", "gdss", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    return folder / "checkpoint"


class TestSampling:
    @pytest.mark.parametrize(
        "sampling",
        [
            GDSSSampling("reverse_diffusion", 3, begin="normal"),
            GDSSSampling("s4", 3),
            GDSSSampling("dpmpp_2m", 3),
        ],
    )
    def test_a_graph_is_a_function_of_its_seed(self, checkpoint: Path, sampling: GDSSSampling) -> None:
        generator = Generator.from_pretrained(checkpoint, "cpu")
        graphs = generator.generate(4, sampling=sampling, seed=3)
        assert len({len(graph) for graph in graphs}) > 1  # so that some are padded
        for i, graph in enumerate(graphs):
            (alone,) = generator.generate(1, sampling=sampling, seed=3 + i)
            assert nx.utils.graphs_equal(alone, graph)

    def test_from_training_to_graphs(
        self, checkpoint: Path, given: Path, tmp_path: Path, capsys: Any
    ) -> None:
        out = tmp_path / "new.g6"
        command = ["generate", "--num", "6", "--out", str(out), "--model", str(checkpoint), "--device", "cpu"]
        command += ["--steps", "2", "--no_picture"]
        assert main(command) == 0
        assert main([*command, "--overwrite", "--method", "reverse_diffusion", "--begin", "normal"]) == 0
        assert main(["evaluate", str(out), str(given), "--out", str(tmp_path / "report.json")]) == 0
        assert json.loads((tmp_path / "report.json").read_text())["graphs"] == 6
        assert checkpoints.load(checkpoint).process["edges"] == PUBLISHED
        capsys.readouterr()
        for arguments, says in (
            (["--eta", "5"], "no knob of this checkpoint 'eta'"),
            (["--method", "flow"], "no method 'flow'"),
            (["--method", "pc"], "pc is no table"),
            (["--begin", "noise"], "from data or normal, not from 'noise'"),
            (["--snr", "-1"], "must not be negative"),
        ):
            assert main([*command, "--overwrite", *arguments]) == 2
            error = capsys.readouterr().err
            assert says in error
            assert error.count("\n") == 1

    def test_weights_that_are_not_finite(self, checkpoint: Path) -> None:
        generator = Generator.from_pretrained(checkpoint, "cpu")
        with torch.no_grad():
            generator.model.network.edges.out[-1].bias.fill_(torch.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            generator.generate(1, sampling=GDSSSampling(steps=2))

    def test_leaves_that_are_not_gaussian(self) -> None:
        process = Joint({"edges": PUBLISHED})
        with pytest.raises(ValueError, match="Gaussian processes of nodes and edges"):
            denoiser(GDSS(**TINY), process, torch.ones(1, 3, dtype=torch.bool))

    def test_a_checkpoint_without_a_process(self, checkpoint: Path, tmp_path: Path) -> None:
        config = json.loads((checkpoint / "config.json").read_text())
        del config["processes"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="lacks 'schedule'"):
            checkpoints.load(tmp_path)


def test_each_network_has_its_own_clipping() -> None:
    """As they are trained apart; one norm of both would let the larger gradient shrink the other."""
    task = GDSSTask(GDSS(features=4, width=8, depth=1, layers=2), VP(0.1, 1.0), VP(0.1, 1.0))
    optimizer = torch.optim.SGD(task.parameters(), 0.0)
    parts = list(task.network.children())
    assert len(parts) == 2
    for part, size in zip(parts, (5.0, 500.0), strict=True):
        for parameter in part.parameters():
            parameter.grad = size * torch.ones_like(parameter)
    task.configure_gradient_clipping(optimizer, 1.0)
    for part in parts:
        norm = torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(1, rel=1e-4)
