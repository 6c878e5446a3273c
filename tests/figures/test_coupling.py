"""The record of the couplers → numbers: layers, labels, shared weights, bands, what moved."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnn_moe.errors import BadInput
from gnn_moe.figures.coupling import CouplingData, HypergraphLayer, coupling_data, most_moved, quantile_bands
from gnn_moe.figures.style import Floats


def incidence(experts: int, hyperedges: list[tuple[int, ...]]) -> Floats:
    return np.array([[float(expert in members) for members in hyperedges] for expert in range(experts)])


def save(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def test_hypergraph_record(tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    weights = {f"layer_{layer}/hyperedge_weights": np.full((2, 3), float(layer)) for layer in (10, 2)}
    save(path, steps=[0, 50], incidence=incidence(3, [(0, 1), (0, 2), (1, 2)]), **weights)
    data = coupling_data(path)
    assert data.step_S.tolist() == [0, 50]
    assert [graph.layer for graph in data.hypergraphs] == [2, 10]
    assert data.hypergraphs[0].labels == ("{0,1}", "{0,2}", "{1,2}")
    assert [trace.title for trace in data.traces] == ["Layer 2", "Layer 10"]
    assert data.traces[1].value_SK.tolist() == [[10.0] * 3] * 2
    assert data.adjacencies == ()


def test_adjacency_record_keeps_direction(tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    adjacency_SGEE = np.zeros((2, 1, 3, 3))
    adjacency_SGEE[:, 0, 0, 2] = 0.7  # expert 0 receives from expert 2
    save(path, **{"steps": np.array([0, 5]), "layer_0/adjacency": adjacency_SGEE})
    (trace,) = coupling_data(path).traces
    assert trace.title == "Layer 0, coupler layer 0"
    assert len(trace.labels) == 6
    assert trace.value_SK[:, trace.labels.index("2→0")].tolist() == [0.7, 0.7]
    assert trace.value_SK.sum() == pytest.approx(1.4)


def test_mixing_record_keeps_what_an_expert_takes_from_itself(tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    save(path, **{"steps": np.array([0]), "layer_0/mixing": np.array([[[[0.9, 0.1], [0.1, 0.9]]]])})
    (layer,) = coupling_data(path).adjacencies
    assert layer.kind.title == "Mix S"
    (trace,) = coupling_data(path).traces
    assert trace.labels == ("0→0", "1→0", "0→1", "1→1")
    assert trace.value_SK.tolist() == [[0.9, 0.1, 0.1, 0.9]]


def test_loads_are_a_trace_a_layer(tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    save(path, **{"steps": np.array([0, 5]), "layer_0/expert_load": np.array([[0.5, 0.2, 0.3], [0.4, 0.3, 0.3]])})
    data = coupling_data(path)
    (trace,) = data.traces
    assert (trace.title, trace.labels) == ("Layer 0", ("0", "1", "2"))
    assert trace.value_SK.tolist() == [[0.5, 0.2, 0.3], [0.4, 0.3, 0.3]]
    assert (data.hypergraphs, data.adjacencies) == ((), ())


def test_record_without_weights_has_no_traces(tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    np.savez(path, steps=[0, 5])
    assert coupling_data(path).traces == ()


@pytest.mark.parametrize("size", [2, 3])
def test_shared_weight_equals_the_sum_over_shared_hyperedges(size: int) -> None:
    hyperedges = list(combinations(range(5), size))
    weight_M = np.random.default_rng(0).normal(size=len(hyperedges))
    layer = HypergraphLayer(layer=0, weight_SM=weight_M[None], incidence_EM=incidence(5, hyperedges))
    for i in range(5):
        for j in range(5):
            expected = sum(w for w, members in zip(weight_M, hyperedges, strict=True) if i in members and j in members)
            assert layer.shared_weight_EE[i, j] == pytest.approx(np.nan if i == j else expected, nan_ok=True)


def test_shared_weight_is_nan_without_a_shared_hyperedge_and_where_a_weight_is_not_finite() -> None:
    layer = HypergraphLayer(layer=0, weight_SM=np.array([[1.0, np.inf]]), incidence_EM=incidence(4, [(0, 1), (1, 2)]))
    finite_EE = np.isfinite(layer.shared_weight_EE)
    assert sorted(zip(*np.nonzero(finite_EE), strict=True)) == [(0, 1), (1, 0)]


def test_quantile_bands_pass_over_what_is_not_finite() -> None:
    value_SK = np.array([[0.0, 1, 2, 3, 4], [5, np.nan, 5, np.inf, 5], [np.nan] * 5])
    expected = [[0, 5, np.nan], [1, 5, np.nan], [2, 5, np.nan], [3, 5, np.nan], [4, 5, np.nan]]
    np.testing.assert_array_equal(quantile_bands(value_SK), expected)


def test_most_moved_counts_from_first_to_last_finite_value() -> None:
    value_SK = np.array([[0.0, 0, np.nan, 0, 1], [0, 9, 1, 0, np.nan], [1, 0.5, 4, np.nan, np.nan]])
    assert most_moved(value_SK, 5) == [2, 0, 1]
    assert most_moved(value_SK, 1) == [2]
    assert most_moved(value_SK[:1], 5) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"layer_0/hyperedge_weights": np.ones((1, 3))}, "steps"),
        ({"steps": np.zeros(1), "layer_0/hyperedge_weights": np.ones((1, 3))}, "incidence"),
        ({"steps": np.zeros(2), "layer_0/adjacency": np.ones((1, 1, 2, 2))}, "1 steps instead of 2"),
        ({"steps": np.zeros(1), "layer_0/adjacency": np.ones((1, 2, 3))}, r"shape \(1, 2, 3\)"),
        ({"steps": np.zeros(1), "layer_0/expert_load": np.ones((1, 2, 3))}, r"loads of shape \(1, 2, 3\)"),
        (
            {"steps": np.zeros(1), "incidence": np.ones((2, 2)), "layer_0/hyperedge_weights": np.ones((1, 3))},
            r"weights \(1, 3\) for an incidence of \(2, 2\)",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_bad_input(arrays: dict[str, Floats], message: str, tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    save(path, **arrays)
    with pytest.raises(BadInput, match=message):
        coupling_data(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn", b"\x93NUMPY"])
def test_a_file_that_is_no_record_is_bad_input(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"coupling\.npz: not a record of couplers"):
        coupling_data(path)


def test_a_truncated_record_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    np.savez(path, steps=np.arange(1000))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInput):
        coupling_data(path)


def test_a_bare_array_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "coupling.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(BadInput, match="not a record of couplers"):
        coupling_data(path)


def test_no_steps_no_traces() -> None:
    layer = HypergraphLayer(layer=0, weight_SM=np.ones((0, 1)), incidence_EM=np.ones((2, 1)))
    assert CouplingData(step_S=np.array([], dtype=np.int64), hypergraphs=(layer,)).traces == ()
