"""Features and network: exact counts, equivariance, masks."""

import networkx as nx
import pytest
import torch

from diffkit.graphs.features import sizes, structure
from diffkit.graphs.graph import Batch, encode
from diffkit.graphs.model import GraphTransformer


def test_cycles_as_networkx_counts_them() -> None:
    graphs = [
        nx.gnp_random_graph(9, 0.5, seed=1),
        nx.petersen_graph(),
        nx.complete_graph(6),
        nx.path_graph(4),
    ]
    batch = encode(graphs)
    found = structure(batch.edges[..., 1], batch.mask)
    for i, graph in enumerate(graphs):
        cycles = list(nx.simple_cycles(graph, 6))
        total = [sum(len(cycle) == k for cycle in cycles) for k in (3, 4, 5, 6)]
        assert found.graph[i, 2:6].expm1().tolist() == pytest.approx(total, abs=1e-3)  # float32 of up to 120
        around = [[sum(len(c) == k and v in c for c in cycles) for k in (3, 4, 5)] for v in range(len(graph))]
        assert found.nodes[i, : len(graph), 2:5].expm1().flatten().tolist() == pytest.approx(
            [n for row in around for n in row], abs=1e-3
        )


def test_walks_are_powers_of_the_normalised_adjacency() -> None:
    graph = nx.gnp_random_graph(8, 0.4, seed=2)
    batch = encode([graph])
    found = structure(batch.edges[..., 1], batch.mask, walks=3, squarings=1)
    laplacian = torch.tensor(nx.normalized_laplacian_matrix(graph).toarray(), dtype=torch.float32)
    step = torch.eye(8) - laplacian
    for k, power in enumerate((1, 2, 3, 6)):
        torch.testing.assert_close(
            found.pairs[0, ..., k], torch.linalg.matrix_power(step, power), atol=1e-6, rtol=0
        )
    assert sizes(3, 1) == tuple(part.shape[-1] for part in found)


def network(K: int = 2, C: int = 3) -> GraphTransformer:
    torch.manual_seed(0)
    return GraphTransformer(K, C, width=8, pair_width=4, heads=2, layers=2).double()


def graphs(batch: int = 2, n: int = 7) -> Batch:
    """Random labelled graphs, the second smaller than the first."""
    found: list[nx.Graph] = []
    for i in range(batch):
        graph = nx.gnp_random_graph(n - i, 0.5, seed=i)
        nx.set_node_attributes(graph, {v: v % 2 for v in graph}, "label")
        nx.set_edge_attributes(graph, {e: sum(e) % 2 for e in graph.edges}, "label")
        found.append(graph)
    nodes, edges, mask = encode(found)
    return Batch(nodes.double(), edges.double(), mask)


TIMES = torch.tensor([0.3, 0.8], dtype=torch.float64)


def test_the_order_of_nodes_does_not_matter() -> None:
    nodes, edges, mask = graphs()
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    x, e = network()(nodes, edges, mask, TIMES)
    y, f = network()(nodes[:, order], edges[:, order][:, :, order], mask[:, order], TIMES)
    torch.testing.assert_close(y, x[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(f, e[:, order][:, :, order], rtol=0, atol=1e-12)
    assert x.std() > 0.01
    assert e.std() > 0.01


def test_absent_nodes_change_nothing() -> None:
    nodes, edges, mask = graphs()
    x, e = network()(nodes, edges, mask, TIMES)
    y, f = network()(nodes[1:, :6], edges[1:, :6, :6], mask[1:, :6], TIMES[1:])
    torch.testing.assert_close(x[1:, :6], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(e[1:, :6, :6], f, rtol=0, atol=1e-12)
    assert not x[1, 6:].any()
    assert not e[1, 6:].any()


def test_pairs_are_symmetric_without_a_diagonal() -> None:
    _, e = network()(*graphs(), TIMES)
    assert torch.equal(e, e.transpose(1, 2))
    assert not e.diagonal(dim1=1, dim2=2).any()


def test_structure_tells_what_attention_cannot() -> None:
    """A hexagon and two triangles look alike to message passing."""
    two = nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))
    nodes, edges, mask = encode([nx.cycle_graph(6), two])
    x, _ = network(1, 2).float()(nodes, edges, mask, torch.full((2,), 0.5))
    assert (x[0] - x[1]).abs().max() > 1e-3


def test_everything_is_trained() -> None:
    net = network()
    x, e = net(*graphs(), TIMES)
    (x.square().sum() + e.square().sum()).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # The last layer's graph features lead nowhere.
    assert all(name.startswith("layers.1.graph_mlp") for name in idle)


def test_a_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="multiple of the heads, 3"):
        GraphTransformer(heads=3)
