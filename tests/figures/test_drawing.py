"""Evolution and heat maps: what the panels hold, which files are written, and the whole folder of a run."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gnn_moe.figures import draw_coupling_evolution, draw_coupling_matrix, write_figures
from gnn_moe.figures.coupling import MATRIX_KINDS, AdjacencyLayer, CouplingData, HypergraphLayer, LoadLayer
from gnn_moe.figures.evolution import LEAST_SPAN, evolution_figure, spread
from gnn_moe.figures.heat_maps import adjacency_maps, decimals, heat_map_figure, hyperedge_maps, shared_weight_maps
from gnn_moe.figures.style import Floats


def hypergraph(experts: int, size: int, *, steps: int = 4, layers: int = 2) -> CouplingData:
    hyperedges = list(combinations(range(experts), size))
    incidence_EM = np.array([[float(expert in members) for members in hyperedges] for expert in range(experts)])
    draw = np.random.default_rng(0)
    weights = [1 + draw.normal(size=(steps, len(hyperedges))).cumsum(axis=0) / 50 for _ in range(layers)]
    graphs = [HypergraphLayer(layer=n, weight_SM=weight, incidence_EM=incidence_EM) for n, weight in enumerate(weights)]
    return CouplingData(step_S=np.arange(steps) * 50, hypergraphs=tuple(graphs))


def graph(experts: int, *, steps: int = 4, layers: int = 2, coupler_layers: int = 2) -> CouplingData:
    draw = np.random.default_rng(0)
    graphs: list[AdjacencyLayer] = []
    for layer in range(layers):
        adjacency_SGEE = draw.random((steps, coupler_layers, experts, experts)) * (1 - np.eye(experts))
        graphs.append(AdjacencyLayer(layer=layer, adjacency_SGEE=adjacency_SGEE))
    return CouplingData(step_S=np.arange(steps) * 50, adjacencies=tuple(graphs))


def loads(experts: int) -> CouplingData:
    load_SE = np.random.default_rng(0).dirichlet(np.ones(experts), size=4)
    return CouplingData(step_S=np.arange(4) * 50, loads=(LoadLayer(layer=0, load_SE=load_SE),))


def texts(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.get_axes()[panel].texts]


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        return image.format == "PNG" and round(image.info["dpi"][0]) == 200 and max(image.size) < 20_000


CASES = {
    "two experts, one hyperedge": (hypergraph(2, 2), 3),
    "one expert": (hypergraph(1, 1), 2),
    "pairs": (hypergraph(4, 2), 3),
    "pairs, one step": (hypergraph(4, 2, steps=1), 3),
    "too many hyperedges to list": (hypergraph(8, 2), 2),
    "many, one step": (hypergraph(8, 2, steps=1), 2),
    "twelve layers": (hypergraph(3, 2, layers=12), 3),
    "graph of two": (graph(2), 2),
    "graph of four": (graph(4, layers=5, coupler_layers=3), 2),
    "loads of four": (loads(4), 1),
    "graph of twenty, one step": (graph(20, steps=1, layers=1), 2),
}


@pytest.mark.parametrize(("data", "files"), CASES.values(), ids=CASES)
def test_files_are_pngs_and_are_returned(data: CouplingData, files: int, tmp_path: Path) -> None:
    written = draw_coupling_evolution(data, tmp_path / "evolution.png")
    written += draw_coupling_matrix(data, tmp_path / "matrix.png")
    assert len(written) == files
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert all(map(is_png, written))


def test_thousands_of_hyperedges(tmp_path: Path) -> None:
    data = hypergraph(32, 3, steps=40, layers=4)
    assert len(data.hypergraphs[0].labels) == 4960
    assert all(map(is_png, draw_coupling_evolution(data, tmp_path / "evolution.png")))
    assert draw_coupling_matrix(data, tmp_path / "matrix.png") == [tmp_path / "matrix.png"]


@pytest.mark.parametrize(
    "data",
    [CouplingData(step_S=np.array([0, 50])), hypergraph(3, 2, steps=0), graph(3, steps=0), graph(1)],
    ids=["no weights", "no steps", "no steps, graph", "graph of one"],
)
def test_nothing_to_show_writes_nothing(data: CouplingData, tmp_path: Path) -> None:
    assert draw_coupling_evolution(data, tmp_path / "evolution.png") == []
    assert draw_coupling_matrix(data, tmp_path / "matrix.png") == []
    assert list(tmp_path.iterdir()) == []


def test_few_connections_are_all_labelled() -> None:
    assert texts(evolution_figure(hypergraph(4, 2))) == ["{0,1}", "{0,2}", "{0,3}", "{1,2}", "{1,3}", "{2,3}"]


def test_many_connections_are_bands_and_the_most_moved() -> None:
    data = hypergraph(8, 2, layers=1)
    data.hypergraphs[0].weight_SM[-1, 3] += 5
    figure = evolution_figure(data)
    assert len(texts(figure)) == 5
    assert data.hypergraphs[0].labels[3] in texts(figure)
    assert len(figure.get_axes()[0].collections) == 2
    assert "middle half" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_where_nothing_moved_no_line_claims_it_did() -> None:
    assert texts(evolution_figure(hypergraph(8, 2, steps=1))) == []


def test_panels_share_one_scale() -> None:
    data = hypergraph(3, 2)
    data.hypergraphs[1].weight_SM[-1, 0] = 7.0
    limits = [axes.get_ylim() for axes in evolution_figure(data).get_axes()]
    assert limits[0] == limits[1]
    assert limits[0][1] > 7


def test_rounding_does_not_look_like_movement() -> None:
    data = hypergraph(3, 2)
    for layer in data.hypergraphs:
        layer.weight_SM[:] = 1 + np.arange(4)[:, None] * 1e-9
    low, high = evolution_figure(data).get_axes()[0].get_ylim()
    assert high - low == pytest.approx(LEAST_SPAN, rel=1e-3)


def test_values_that_are_not_finite_are_marked(tmp_path: Path) -> None:
    data = hypergraph(3, 2)
    data.hypergraphs[0].weight_SM[1:3, 0] = np.nan
    data.hypergraphs[1].weight_SM[:, 1] = np.inf
    figure = evolution_figure(data)
    first, second = figure.get_axes()[:2]
    assert first.get_title(loc="right") == "× 2 non-finite values left out"
    assert second.get_title(loc="right") == "× 4 non-finite values left out"
    marks = next(line for line in first.lines if line.get_gid() == "left-out")
    np.testing.assert_array_equal(marks.get_xdata(), [50, 100])
    shared, hyperedges = shared_weight_maps(data)[1], hyperedge_maps(data)[1]
    assert sorted(zip(*np.nonzero(shared.broken), strict=True)) == [(0, 2), (2, 0)]
    assert sorted(zip(*np.nonzero(hyperedges.broken), strict=True)) == [(0, 1), (2, 1)]
    assert len(draw_coupling_matrix(data, tmp_path / "matrix.png")) == 2


@pytest.mark.parametrize(
    "make", [lambda: hypergraph(3, 2), lambda: hypergraph(8, 2), lambda: hypergraph(3, 2, steps=1)]
)
def test_only_non_finite_values_still_draw(make: object, tmp_path: Path) -> None:
    assert callable(make)
    data = make()
    for layer in data.hypergraphs:
        layer.weight_SM[:] = np.nan
    assert draw_coupling_evolution(data, tmp_path / "evolution.png")
    assert draw_coupling_matrix(data, tmp_path / "matrix.png")


def test_hyperedge_map_holds_each_weight_in_its_members_rows() -> None:
    data = hypergraph(3, 2, layers=1)
    (entry,) = hyperedge_maps(data)
    w = data.hypergraphs[0].weight_SM[-1]
    expected = [[w[0], w[1], np.nan], [w[0], np.nan, w[2]], [np.nan, w[1], w[2]]]
    np.testing.assert_array_equal(entry.value, expected)
    assert entry.column_labels == ("{0,1}", "{0,2}", "{1,2}")


def test_adjacency_map_is_the_last_step_without_its_diagonal() -> None:
    data = graph(3, layers=1, coupler_layers=1)
    (entry,) = adjacency_maps(data)
    expected = data.adjacencies[0].adjacency_SGEE[-1, 0].copy()
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_array_equal(entry.value, expected)


def test_mixing_map_has_its_diagonal() -> None:
    (plain,) = graph(3, layers=1, coupler_layers=1).adjacencies
    mixed = dataclasses.replace(plain, kind=MATRIX_KINDS["mixing"])
    (entry,) = adjacency_maps(CouplingData(step_S=np.arange(4), adjacencies=(mixed,)))
    np.testing.assert_array_equal(entry.value, plain.adjacency_SGEE[-1, 0])


def test_cells_show_their_number_while_there_is_room() -> None:
    figure = heat_map_figure(adjacency_maps(graph(3)), title="t", axis_labels=("x", "y"), scale_label="z", columns=2)
    assert len(texts(figure)) == 6
    figure = heat_map_figure(adjacency_maps(graph(20)), title="t", axis_labels=("x", "y"), scale_label="z", columns=2)
    assert texts(figure) == []


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.9, 0.1], [0.9, 0.1]),
        ([0.52, 0.5, 0.2], [0.56, 0.46, 0.2]),
        ([1.0, 1.0, 1.0], [0.8, 0.9, 1.0]),
        ([0.0, 0.0], [0.0, 0.1]),
        ([], []),
    ],
)
def test_spread_keeps_order_and_distance(place: list[float], expected: list[float]) -> None:
    assert spread(place, 0.1) == pytest.approx(expected)


def test_spread_never_crowds() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        place: Floats = draw.random(6)
        moved = np.array(spread(place.tolist(), 0.085))
        assert np.diff(np.sort(moved)).min() > 0.085 - 1e-9
        assert (np.argsort(moved) == np.argsort(place)).all()
        assert moved.min() >= 0
        assert moved.max() <= 1 + 1e-9


def test_write_figures_of_a_run(tmp_path: Path) -> None:
    rows = [{"kind": "train", "step": 1, "loss": 5.0}, {"kind": "eval", "step": 1, "loss": 5.0, "perplexity": 148.4}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record: dict[str, Any] = {"steps": np.array([0]), "incidence": np.ones((2, 1))}
    record["layer_0/hyperedge_weights"] = np.ones((1, 1))
    np.savez(tmp_path / "coupling.npz", **record)
    names = ["curves.png", "coupling_evolution.png", "coupling_matrix.png", "coupling_matrix_hyperedges.png"]
    assert write_figures(tmp_path) == [tmp_path / "figures" / name for name in names]
    assert write_figures(tmp_path) == [tmp_path / "figures" / name for name in names]


def test_write_figures_of_a_run_that_recorded_nothing(tmp_path: Path) -> None:
    assert write_figures(tmp_path) == []
    (tmp_path / "metrics.jsonl").touch()
    np.savez(tmp_path / "coupling.npz", steps=np.array([], dtype=np.int64))
    assert write_figures(tmp_path) == []
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, 2), (0, 40, 2), (1, 1, 2), (1.0087, 1.0119, 4), (0.1, 0.14, 3)]
)
def test_numbers_in_cells_tell_a_narrow_range_apart(low: float, high: float, expected: int) -> None:
    assert decimals(low, high) == expected
