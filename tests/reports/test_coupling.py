"""What the coupling learned, on made records with known patterns, null cases included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch
from scipy import stats

from gnn_moe.figures.heat_maps import HeatMap, heat_map_figure
from gnn_moe.figures.style import Floats
from gnn_moe.reports.coupling import coupling_section
from gnn_moe.reports.coupling_figures import MOST_EDGES, edges, panels_shown
from gnn_moe.reports.coupling_questions import MEASURES_FILE
from gnn_moe.reports.couplings import DRAWS, Agreement, agreement, with_verdicts
from tests.reports.made_runs import figures, group_of, hrefs, keep_checkpoints, rendered, tables, words, write_run

EXPERTS, STEPS = 4, np.array([0, 10, 20])


def agree(change_nK: Any) -> Agreement:
    return agreement("Layer 0", np.asarray(change_nK, dtype=float), generator=np.random.default_rng(0))


def hypergraph(change_M: Floats) -> dict[str, Any]:
    """Pairs of four experts, whose weights start at 1 and end at 1 + change."""
    pairs = [(i, j) for i in range(EXPERTS) for j in range(i)]
    incidence_EM = np.array([[float(expert in pair) for pair in pairs] for expert in range(EXPERTS)])
    weight_SM = 1 + np.linspace(0, 1, len(STEPS))[:, None] * change_M
    return {"steps": STEPS, "incidence": incidence_EM, "layer_0/hyperedge_weights": weight_SM}


def test_one_pattern_in_all_seeds_agrees_and_repeats() -> None:
    pattern = np.arange(8.0)
    found = agree([pattern, 2 * pattern + 1, pattern**3])
    assert found.correlation == pytest.approx(1)
    assert found.p_value == pytest.approx(1 / (DRAWS + 1))
    (repeat,) = with_verdicts([found])
    assert repeat.verdict == "repeats between seeds"


def test_correlation_is_the_mean_over_pairs_of_spearmans() -> None:
    # 1 2 3 with 3 2 1: -1; with 1 3 2: 0.5; 3 2 1 with 1 3 2: -0.5
    found = agree([[1, 2, 3], [30, 20, 10], [1, 9, 8]])
    assert found.correlation == pytest.approx((-1 + 0.5 - 0.5) / 3)


def test_patterns_without_anything_in_common_are_noise_at_the_stated_rate() -> None:
    draw = np.random.default_rng(1)
    p_values = [agree(draw.normal(size=(3, 6))).p_value for _ in range(60)]
    below = sum(p_value is not None and p_value < 0.05 for p_value in p_values)
    assert below <= 8  # 3 are expected; 9 or more come about once in 250 times
    (repeat,) = with_verdicts([agree([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 5, 1, 4, 3]])])
    assert repeat.verdict == "noise: the pattern does not repeat between seeds"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([[1, 2, 3]], "one seed"),
        ([[1], [2]], "one connection has no pattern"),
        ([[1, 2], [3, np.nan]], "a strength is not finite"),
        ([[1, 2], [0, 0]], "in one seed all connections moved alike, or not at all"),
    ],
)
def test_what_has_no_agreement_says_why(changes: list[list[float]], reason: str) -> None:
    found = agree(changes)
    assert (found.correlation, found.reason) == (None, reason)
    assert with_verdicts([found])[0].verdict == f"cannot be told: {reason}"


def test_too_few_seeds_and_connections_are_not_called_noise() -> None:
    (repeat,) = with_verdicts([agree([[1, 2]] * 4)])
    assert repeat.agreement.smallest_p == pytest.approx(1 / 8)
    assert repeat.verdict == "cannot be told: so few connections and seeds give p 0.125 at best"
    for repeat in with_verdicts([agree([[1, 2]] * 4)] * 10):
        assert repeat.verdict.endswith("give p 0.125 at best, 1 after Holm over 10 graphs")


def test_edges_are_the_strongest_and_keep_their_direction() -> None:
    value_EE = np.array([[np.nan, 0.9], [0.1, np.nan]])  # expert 0 receives 0.9 from expert 1
    entry = HeatMap(title="", value=value_EE, broken=np.zeros((2, 2), bool), row_labels=("0", "1"), column_labels=())
    assert edges(entry, directed=True) == [(0, 1, 0.1), (1, 0, 0.9)]
    many = HeatMap(
        title="", value=np.ones((9, 9)), broken=np.zeros((9, 9), bool), row_labels=("0",) * 9, column_labels=()
    )
    assert len(edges(many, directed=True)) == MOST_EDGES
    assert len(edges(many, directed=False)) == MOST_EDGES


def test_of_many_panels_the_last_coupler_layers_are_drawn() -> None:
    titles = [f"Layer {layer}, coupler layer {number}" for layer in range(8) for number in range(3)]
    assert [titles[place] for place in panels_shown(titles)] == [f"Layer {n}, coupler layer 2" for n in range(8)]


@pytest.fixture
def hgnn(tmp_path: Path) -> Path:
    """Three seeds whose hyperedges moved in one pattern."""
    pattern_M = np.array([0.1, 0.2, 0.3, -0.1, -0.2, -0.3])
    for seed in (1, 2, 3):
        jitter_M = np.random.default_rng(seed).normal(size=6) / 1000
        write_run(tmp_path / f"s{seed}", seed=seed, coupler_type="HGNN", coupling=hypergraph(pattern_M + jitter_M))
    return tmp_path


def test_a_hypergraph_has_its_figures_and_its_verdict(hgnn: Path) -> None:
    for seed in (1, 3):
        keep_checkpoints(hgnn / f"s{seed}", "selected")
    section = coupling_section(group_of(hgnn))
    kinds = [figure.name.split("-")[1] for figure in figures(section)]
    assert kinds == ["evolution", "graph", "heat"]
    for figure in figures(section):
        assert rendered(figure)
    (row,) = tables(section)["Movement and agreement: baseline"]
    assert row[0] == "Layer 0"
    assert row[6] == "6 of 6"
    assert row[9] == "repeats between seeds"
    said = words(section)
    assert "of 6 single connections 6 are shown to have moved alike in the seeds" in said
    assert "1 of 1 graphs have a pattern that repeats" in said
    assert "are equal; the one that moved most moved by 0." in said
    assert "where they started" not in said
    for seed in (1, 3):
        asked = f"gnn-moe evaluate {hgnn / f's{seed}'} --checkpoint selected"
        assert f"{asked} --ablate coupler" in said
        assert f"{asked} --coupling --json > {hgnn / f's{seed}' / MEASURES_FILE}" in said
    assert "1 of 3 runs kept no selected checkpoint: train those again to measure it." in said
    assert f"gnn-moe evaluate {hgnn / 's2'}" not in said


def test_strong_looks_alike_in_the_graph_and_in_the_heat_map(hgnn: Path) -> None:
    _evolution, graph, heat = figures(coupling_section(group_of(hgnn)))
    (image,) = [image for axes in heat.draw().get_axes() for image in axes.get_images()]
    panel, *_ = graph.draw().get_axes()
    lines = [patch for patch in panel.patches if isinstance(patch, FancyArrowPatch)]
    colors = [to_rgba(patch.get_edgecolor()) for patch in lines]
    lightness = [sum(color[:3]) for color in colors]
    assert lightness == sorted(lightness, reverse=True), "the weakest line comes first and is the lightest"
    assert colors[-1] == image.cmap(1.0)
    assert colors[0] == image.cmap(0.0)


def test_a_graph_can_be_shown_to_have_moved_where_no_connection_is(tmp_path: Path) -> None:
    """In the first layer what one connection gains another loses, in each seed; in the second all is noise."""
    changes_nLM = []
    for seed in range(1, 6):
        draw = np.random.default_rng(seed)
        swing = 0.2 * draw.normal(size=3)
        first_M = 0.05 + np.concatenate([swing, -swing]) + 0.01 * draw.normal(size=6)
        changes_nLM.append([first_M, 0.2 * draw.normal(size=6)])
        record = hypergraph(first_M)
        record["layer_1/hyperedge_weights"] = hypergraph(changes_nLM[-1][1])["layer_0/hyperedge_weights"]
        write_run(tmp_path / f"s{seed}", seed=seed, coupler_type="HGNN", num_layers=2, coupling=record)
    common_nL = np.mean(changes_nLM, axis=2)
    alone = sorted(float(p) for p in stats.ttest_1samp(common_nL, 0).pvalue)
    assert 2 * alone[0] < 0.05 < alone[1]
    assert stats.ttest_1samp(changes_nLM, 0).pvalue.min() * 12 > 0.05
    section = coupling_section(group_of(tmp_path))
    said = words(section)
    assert "Of 2 graphs 1 is shown to have moved as a whole" in said
    assert "of 12 single connections none is shown to have moved alike in the seeds" in said
    assert "none moved" not in said
    first, second = tables(section)["Movement and agreement: baseline"]
    assert [float(row[3].replace("−", "-")) for row in (first, second)] == [
        pytest.approx(2 * alone[0], rel=0.01),
        pytest.approx(alone[1], rel=0.01),
    ]
    assert (first[6], second[6]) == ("0 of 6", "0 of 6")


def test_one_seed_is_told_in_a_sentence(tmp_path: Path) -> None:
    record = hypergraph(np.arange(6.0) / 100)
    record["layer_1/hyperedge_weights"] = hypergraph(np.arange(6.0) / 50)["layer_0/hyperedge_weights"]
    write_run(tmp_path / "s1", coupler_type="HGNN", num_layers=2, seed=1, coupling=record)
    section = coupling_section(group_of(tmp_path))
    assert (
        "One seed, 1; what it learned cannot be told from chance, nor whether a pattern repeats. From step 0 to 20 its "
        "strengths moved in the mean by +0.02500 (Layer 0) to +0.05000 (Layer 1) in 2 graphs." in words(section)
    )
    assert "Movement and agreement: baseline" not in tables(section)


@pytest.mark.parametrize("name", ["adjacency", "mixing"])
def test_matrices_that_hardly_moved_show_their_start(tmp_path: Path, name: str) -> None:
    coupler = {"adjacency": "GNN", "mixing": "sinkhorn"}[name]
    for seed in (1, 2):
        start_GEE = np.random.default_rng(seed).random((2, EXPERTS, EXPERTS))
        matrix_SGEE = np.stack([start_GEE, start_GEE + 0.001, start_GEE + 0.002])
        record = {"steps": STEPS, f"layer_0/{name}": matrix_SGEE}
        write_run(tmp_path / f"s{seed}", seed=seed, coupler_type=coupler, coupling=record)
    section = coupling_section(group_of(tmp_path))
    assert "where they started rather than what was learned, and no graph is drawn" in words(section)
    assert [figure.name.split("-")[1] for figure in figures(section)] == ["evolution", "heat"]
    assert len(tables(section)["Movement and agreement: baseline"]) == 2
    for figure in figures(section):
        assert rendered(figure)


@pytest.mark.parametrize("experts", [4, 8, 12, 16])
def test_heat_maps_of_many_layers_and_experts_fit_a_page(experts: int) -> None:
    """None is much taller than wide, nor so wide that its labels shrink away."""
    empty_EE = np.eye(experts)
    labels = tuple(map(str, range(experts)))
    maps = [
        HeatMap(title=f"Layer {n}", value=empty_EE, broken=empty_EE > 2, row_labels=labels, column_labels=labels)
        for n in range(8)
    ]
    width, height = heat_map_figure(
        maps, title="", axis_labels=("sender", "receiver"), scale_label=""
    ).get_size_inches()
    assert height <= 1.2 * width
    assert width <= 15


def test_weights_that_did_not_move_are_not_drawn_from_thin_to_thick(tmp_path: Path) -> None:
    """Weights from 0.998 to 1.002 look alike; the caption has the scale and where they lie on it."""
    record = hypergraph(np.linspace(-0.002, 0.002, 6))
    write_run(tmp_path / "a", coupler_type="HGNN", coupling=record)
    _evolution, graph, heat = figures(coupling_section(group_of(tmp_path)))
    panel, *_ = graph.draw().get_axes()
    widths = [patch.get_linewidth() for patch in panel.patches if isinstance(patch, FancyArrowPatch)]
    assert len(widths) == 6
    assert max(widths) < 1.1 * min(widths)
    for figure in (graph, heat):
        assert "on a scale from 0.9500 to 1.0500; those shown lie from 0.9980 to 1.0020" in figure.caption
    (image,) = [image for axes in heat.draw().get_axes() for image in axes.get_images()]
    assert image.get_clim() == pytest.approx((0.95, 1.05))


def test_what_is_heard_of_a_figure_of_many_graphs_is_short(tmp_path: Path) -> None:
    moved_SGEE = np.random.default_rng(0).random((3, 3, EXPERTS, EXPERTS))
    record = {"steps": STEPS} | {f"layer_{layer}/adjacency": moved_SGEE for layer in range(8)}
    for seed in (1, 2):
        write_run(tmp_path / f"s{seed}", seed=seed, num_layers=8, gnn_layers=3, coupling=record)
    found = figures(coupling_section(group_of(tmp_path)))
    assert len(found) == 3
    for figure in found:
        assert len(figure.description) < 500
    assert "; and 16 more" in found[0].description


def test_loads_of_routers_have_no_graph(tmp_path: Path) -> None:
    load_SE = np.array([[0.25] * 4, [0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
    record = {"steps": STEPS, "layer_0/expert_load": load_SE, "layer_1/expert_load": load_SE}
    write_run(tmp_path / "r", architecture="top_k", coupling=record)
    section = coupling_section(group_of(tmp_path))
    assert [figure.name.split("-")[1] for figure in figures(section)] == ["evolution", "heat"]
    assert "No model with couplers has its run folder here" in words(section)
    assert "gnn-moe evaluate" not in words(section)
    for figure in figures(section):
        assert rendered(figure)


def test_couplers_without_strengths_and_bad_records_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "mean", coupler_type="mean", coupling={"steps": STEPS})
    write_run(tmp_path / "gone", coupler_type="GNN", seed=1)
    torn = write_run(tmp_path / "torn", coupler_type="GNN", seed=2)
    (torn / "coupling.npz").write_bytes(b"PK torn")
    (torn / "ablations.json").write_text("[]", encoding="utf-8")
    (torn / MEASURES_FILE).write_text("{}", encoding="utf-8")
    write_run(tmp_path / "going", coupler_type="GNN", seed=3, summary={"status": "running"})
    section = coupling_section(group_of(tmp_path))
    said = words(section)
    for line in (
        "the coupler mean has no learned strengths",
        "1 completed run has no coupling.npz here: gone.",
        "torn: ",
        "1 run that does not count is left out here: going (running).",
        "ablations.json: is damaged",
        f"{MEASURES_FILE}: is damaged",
        "No completed run has a record of learned strengths here.",
    ):
        assert line in said
    assert figures(section) == []


def test_ablations_and_similarity_are_read_where_they_are_kept(hgnn: Path) -> None:
    for seed, lost in ((1, 0.10), (2, 0.11), (3, 0.12)):
        answer = {"coupler": {"reported_loss": 5.0, "ablated_reported_loss": 5.0 + lost}}
        (hgnn / f"s{seed}" / "ablations.json").write_text(json.dumps(answer), encoding="utf-8")
    layer = {"layer": 0, "expert_cka": 0.9, "added_cka": 0.25, "coupled_cka": None}
    kept = {"chance_cka": 0.11, "layers": [layer]}
    (hgnn / "s1" / MEASURES_FILE).write_text(json.dumps(kept), encoding="utf-8")
    section = coupling_section(group_of(hgnn))
    (lost_row,) = tables(section)["What trained models lose by an ablation"]
    assert lost_row[1:5] == ["coupler", "5.0000", "5.1100", "+0.1100"]
    assert lost_row[6] == "the trained model relies on its coupler"
    assert "takes the coupler's own maps too, not the exchange alone" in words(section)
    assert "a control that was trained without exchange (--coupler_type mean)" in words(section)
    (alike,) = tables(section)["Similarity of experts"]
    assert alike[1:6] == ["0", "0.900", "0.250", "", "0.110"]
    assert str(hgnn / "s1") in hrefs(section)


@pytest.mark.parametrize(
    ("ablation", "lost", "said"),
    [
        ("coupler", (-0.10, -0.11, -0.12), "the trained model is better without its coupler"),
        ("coupler", (-0.10, 0.11, 0.02), "no evidence that its coupler matters"),
        ("coupler", (0.25, 0.25, 0.25), "cannot be told: the seeds do not differ"),
        ("shuffle_graph", (0.10, 0.11, 0.12), "the trained model relies on where its learned strengths lie"),
        ("uniform_weights", (0.10, 0.11, 0.12), "the trained model relies on how its learned strengths differ"),
    ],
)
def test_an_ablation_says_what_a_trained_model_relies_on_and_no_more(
    hgnn: Path, ablation: str, lost: tuple[float, ...], said: str
) -> None:
    for seed, difference in enumerate(lost, 1):
        answer = {ablation: {"reported_loss": 5.0 + seed, "ablated_reported_loss": 5.0 + seed + difference}}
        (hgnn / f"s{seed}" / "ablations.json").write_text(json.dumps(answer), encoding="utf-8")
    section = coupling_section(group_of(hgnn))
    (row,) = tables(section)["What trained models lose by an ablation"]
    assert row[6] == said
    assert "coupling helps" not in words(section)
    assert ("the coupler's own maps" in words(section)) == (ablation == "coupler")


def test_only_the_best_points_are_drawn(tmp_path: Path) -> None:
    for number in range(6):
        record = hypergraph(np.arange(6.0) / 100)
        write_run(tmp_path / f"r{number}", learning_rate=0.001 * (number + 1), loss=5.0 + number, coupling=record)
    section = coupling_section(group_of(tmp_path))
    assert len(figures(section)) == 4 * 3
    assert "in tables alone: learning_rate 0.005; learning_rate 0.006" in words(section)
    assert len({figure.name for figure in figures(section)}) == 12
