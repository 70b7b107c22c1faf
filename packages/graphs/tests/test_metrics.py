"""Discrepancies and V.U.N. on cases that can be worked out by hand."""

import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from diffkit.graphs import files
from diffkit.graphs.data import split
from diffkit.graphs.metrics import SIGMA, clustering, compare, degree, mmd, orbit, pruned, spectral, vun


def test_descriptors_by_hand() -> None:
    star = nx.star_graph(3)
    assert degree(star).tolist() == [0, 0.75, 0, 0.25]
    assert clustering(star)[0] == 1
    assert clustering(nx.complete_graph(3))[99] == 1
    # Orbits of a star's nodes: ends and middles of edges (0), of paths (1, 2), of the star (6, 7).
    counts = orbit(star)
    assert {i: counts[i] * 4 for i in range(15) if counts[i]} == {0: 6, 1: 6, 2: 3, 6: 3, 7: 1}
    # The normalised Laplacian of a star has the eigenvalues 0, 1, 1, 2.
    assert {i: share for i, share in enumerate(spectral(star)) if share} == {0: 0.25, 100: 0.5, 199: 0.25}
    assert spectral(nx.empty_graph(3))[0] == 1


def test_kernels_by_hand() -> None:
    """Two histograms with all mass two bins apart: d = 2 bins for Wasserstein, 1 for total variation."""
    x, y = [np.array([1.0])], [np.array([0.0, 0.0, 1.0])]
    assert mmd(x, y, "degree", "gaussian_emd") == pytest.approx(2 - 2 * math.exp(-(2**2) / 2))
    assert mmd(x, y, "degree", "gaussian_tv") == pytest.approx(2 - 2 * math.exp(-1 / 2))
    assert mmd(x, y, "clustering", "gaussian_emd") == pytest.approx(2 - 2 * math.exp(-(0.02**2) / 0.02))
    assert mmd(x, y, "clustering", "gaussian_tv") == pytest.approx(2 - 2 * math.exp(-1 / 0.02))
    a, b = [np.array([30.0, 0.0])], [np.array([0.0, 40.0])]
    assert mmd(a, b, "orbit", "gaussian_emd") == pytest.approx(2 - 2 * math.exp(-(50**2) / 1800))
    assert mmd(a, b, "orbit", "gaussian_tv") == pytest.approx(2 - 2 * math.exp(-(35**2) / 1800))
    assert mmd([*x, *y], [*x, *y], "degree", "gaussian_emd") == pytest.approx(0, abs=1e-15)
    assert mmd([*x, *y], x, "degree", "gaussian_emd") == pytest.approx(  # V-statistic: equal pairs count
        (2 + 2 * math.exp(-2)) / 4 + 1 - (1 + math.exp(-2))
    )


def test_distances_as_scipy_has_them() -> None:
    x, y = np.random.default_rng(0).dirichlet(np.ones(7), 2)
    places = np.arange(7)
    for what, unit in (("degree", 1), ("clustering", 100)):
        distance = wasserstein_distance(places, places, x, y) / unit
        expected = 2 - 2 * math.exp(-(distance**2) / (2 * SIGMA[what] ** 2))
        assert mmd([x], [y], what, "gaussian_emd") == pytest.approx(expected)


def test_training_against_test_graphs_of_community_small(benchmark: Path) -> None:
    """As evaluated for the GDSS table, and by polygraph-benchmark 1.1.0 with the other kernel."""
    train, test = split(files.read(benchmark / "community_small.g6"))
    found = compare(test, train)
    assert [round(found["gaussian_emd"][k], 3) for k in ("degree", "clustering", "orbit")] == [
        0.003,
        0.009,
        0.001,
    ]
    assert found["gaussian_emd"]["average"] == pytest.approx(0.0045, abs=5e-5)
    polygraph = {
        "orbit": 0.0015836950481049605,
        "clustering": 0.04817592037655222,
        "degree": 0.002299811001951868,
        "spectral": 0.011850772540363819,
    }
    assert {name: found["gaussian_tv"][name] for name in polygraph} == pytest.approx(polygraph, rel=1e-9)


def test_isolated_nodes_count_for_one_kernel_only() -> None:
    graph = nx.path_graph(3)
    more = nx.path_graph(3)
    more.add_nodes_from([3, 4])
    found = compare([graph], [more])
    assert found["gaussian_emd"]["average"] == pytest.approx(0, abs=1e-15)
    assert found["gaussian_tv"]["degree"] > 0.1
    assert len(pruned(nx.empty_graph(4))) == 1
    compare([graph], [nx.empty_graph(4)])


def test_vun_by_hand() -> None:
    train = [nx.path_graph(4)]
    renamed = nx.relabel_nodes(nx.cycle_graph(4), {0: 2, 2: 0, 1: 3, 3: 1})
    apart = nx.disjoint_union(nx.path_graph(2), nx.path_graph(2))
    graphs = [nx.cycle_graph(4), renamed, nx.path_graph(4), apart]
    assert vun(graphs, train) == {"valid": 0.75, "unique": 0.75, "novel": 0.75, "vun": 0.25}


def test_labels_make_graphs_different() -> None:
    one, other = nx.path_graph(2), nx.path_graph(2)
    nx.set_node_attributes(one, dict.fromkeys(one, "C"), "label")
    nx.set_node_attributes(other, dict.fromkeys(other, "N"), "label")
    assert vun([one, other], [])["unique"] == 1
    single, double = nx.path_graph(2), nx.path_graph(2)
    single.edges[0, 1]["label"], double.edges[0, 1]["label"] = 1, 2
    assert vun([single, double], [single]) == {"valid": 1, "unique": 1, "novel": 0.5, "vun": 0.5}
    alike = nx.cycle_graph(6), nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))  # of one hash
    assert vun(alike, [])["unique"] == 1


def test_bad_comparisons() -> None:
    with pytest.raises(ValueError, match="one of them is empty"):
        compare([], [nx.path_graph(2)])
    with pytest.raises(ValueError, match="no kernel 'emd'"):
        compare([nx.path_graph(2)], [nx.path_graph(2)], ["emd"])
    with pytest.raises(ValueError, match="no graphs to judge"):
        vun([], [])
