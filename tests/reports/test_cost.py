"""Cost and quality: the front, scaling and the section on made runs with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnn_moe.errors import BadInput
from gnn_moe.reports.cost import cost_section
from gnn_moe.reports.costs import (
    FLOPS,
    MINUTES,
    PARAMETERS,
    front_of,
    pareto_front,
    point_costs,
    scaling_families,
)
from gnn_moe.reports.numbers import short
from tests.reports.made_runs import figures, group_of, hrefs, rendered, tables, words, write_run


@pytest.mark.parametrize(
    ("costs", "losses", "front"),
    [
        ([], [], ()),
        ([1], [5], (0,)),
        ([1, 2, 3], [5, 4, 4], (0, 1)),  # equally good and dearer is beaten
        ([3, 2, 1], [3, 4, 5], (2, 1, 0)),
        ([1, 1, 1], [5, 4, 4], (1, 2)),  # equal in both: neither beats the other
        ([1, 2, 2, 3], [1, 2, 3, 4], (0,)),
        ([2, 1, 3], [4, 5, 4.5], (1, 0)),
    ],
)
def test_the_front_is_what_no_other_point_beats(
    costs: list[float], losses: list[float], front: tuple[int, ...]
) -> None:
    assert pareto_front(costs, losses) == front


def test_the_front_refuses_what_is_no_number() -> None:
    with pytest.raises(BadInput, match="loss nan of point 1"):
        pareto_front([1, 2], [1, float("nan")])
    with pytest.raises(BadInput, match="2 costs and 1 losses"):
        pareto_front([1, 2], [1])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two seeds of 2 and 4 experts, one of 8: the middle one is the best, the largest is beaten."""
    for experts, losses, minutes in ((2, (5.2, 5.4), 1.0), (4, (5.0, 5.1), 2.0), (8, (5.25,), 4.0)):
        for seed, loss in enumerate(losses, start=1):
            write_run(tmp_path / f"e{experts}-{seed}", num_experts=experts, seed=seed, loss=loss, minutes=minutes)
    return tmp_path


def test_the_section_has_a_figure_a_cost_and_the_front_with_links(sweep: Path) -> None:
    group = group_of(sweep)
    section = cost_section(group)
    assert [figure.name for figure in figures(section)] == ["cost-minutes", "cost-flops", "cost-parameters"]
    front = tables(section)["Points on a Pareto front"]
    assert [(row[0], row[2]) for row in front] == [("num_experts 4", "5.0500"), ("num_experts 2", "5.3000")]
    assert [each.point.label for each in front_of(point_costs(group, MINUTES)[0])] == [
        "num_experts 2",
        "num_experts 4",
    ]
    assert {Path(href).name for href in hrefs(section)} == {"e2-1", "e2-2", "e4-1", "e4-2"}
    for figure in figures(section):
        assert rendered(figure)
        assert figure.chart is not None
        json.dumps(figure.chart, allow_nan=False)
        groups = [trace.get("legendgroup") for trace in figure.chart["data"]]
        assert groups.count("num_experts 4") == 2  # its mean and its seeds
        assert groups.count("num_experts 8") == 1


def test_scaling_is_fitted_from_three_sizes_and_finds_a_law(tmp_path: Path) -> None:
    for width in (16, 32, 64):
        size = group_size(tmp_path / f"w{width}", width)
        assert size > 0
    (family,) = scaling_families(group_of(tmp_path), PARAMETERS)
    assert family.fit.exponent == pytest.approx(-0.1, abs=1e-6)
    assert family.fit.factor == pytest.approx(9.0, rel=1e-6)
    section = cost_section(group_of(tmp_path))
    rows = tables(section)["Fitted loss = a · size^b"]
    assert [row[1] for row in rows] == ["training FLOPs", "parameters"]
    assert "excludes 0" in rows[1][-1]


def test_captions_name_the_law_with_its_constants_and_charts_draw_it(tmp_path: Path) -> None:
    for number, width in enumerate((16, 32, 64, 128)):
        group_size(tmp_path / f"w{width}", width, off=(-1) ** number * 0.01)
    group = group_of(tmp_path)
    (family,) = scaling_families(group, PARAMETERS)
    fit = family.fit
    assert fit.factor is not None
    assert fit.factor_interval is not None
    assert fit.factor_interval.low < fit.factor < fit.factor_interval.high
    figure = figures(cost_section(group))[-1]
    assert "loss = a · (parameters)^b, fitted: all points, 4 points: a = " in figure.caption
    for found in (fit.factor_interval, fit.interval):
        assert found is not None
        assert f"(95 % interval {short(found.low)} to {short(found.high)})" in figure.caption
    assert figure.chart is not None
    (law,) = [trace for trace in figure.chart["data"] if trace["name"] == "power law, all points"]
    assert law["y"][0] == pytest.approx(fit.factor * law["x"][0] ** (fit.exponent or 0.0))


def test_points_of_charts_have_the_bars_of_the_static_figure(tmp_path: Path) -> None:
    for seed, minutes in ((1, 2.0), (2, 3.0), (3, 7.0)):
        write_run(tmp_path / f"s{seed}", seed=seed, loss=5 + seed / 10, minutes=minutes)
    chart = figures(cost_section(group_of(tmp_path)))[0].chart
    assert chart is not None
    (point,) = [trace for trace in chart["data"] if "error_x" in trace]
    assert point["x"] == [3.0], "the median"
    assert point["error_x"] == {
        "type": "data",
        "symmetric": False,
        "visible": True,
        "array": [4.0],
        "arrayminus": [1.0],
    }


def group_size(folder: Path, width: int, off: float = 0.0) -> float:
    """Writes a run whose loss follows 9 · parameters^-0.1, off by so much, and gives its parameters."""
    parameters = 1000.0 * width
    loss = 9.0 * parameters**-0.1 + off
    write_run(folder, embed_dim=width, loss=loss, summary={"total_parameters": parameters})
    return parameters


def test_points_that_differ_in_more_than_sizes_share_no_law(tmp_path: Path) -> None:
    for number, (width, rate) in enumerate([(16, 0.1), (32, 0.2), (64, 0.3)]):
        write_run(tmp_path / f"r{number}", embed_dim=width, learning_rate=rate)
    assert "No scaling is fitted: no two points differ in their sizes alone." in words(cost_section(group_of(tmp_path)))


def test_how_long_a_model_trained_is_no_size_of_it(tmp_path: Path) -> None:
    """Widths swept at 1 and at 4 epochs: a law of parameters each, and one of FLOPs through all; batches never mix."""
    for epochs in (1, 4):
        for width in (16, 32, 64):
            write_run(
                tmp_path / f"w{width}-{epochs}",
                embed_dim=width,
                epochs=epochs,
                loss=9.0 * width**-0.1 / epochs,
                summary={"total_parameters": 1000.0 * width, "tokens": 1000 * epochs},
            )
    of_parameters = scaling_families(group_of(tmp_path), PARAMETERS)
    assert [(family.label, len(family.points)) for family in of_parameters] == [("epochs 1", 3), ("epochs 4", 3)]
    assert [family.fit.exponent for family in of_parameters] == pytest.approx([-0.1, -0.1])
    (of_flops,) = scaling_families(group_of(tmp_path), FLOPS)
    assert len(of_flops.points) == 6
    for width in (16, 32, 64):
        write_run(tmp_path / f"b{width}", embed_dim=width, epochs=4, batch_size=64, loss=3.0)
    assert sorted(len(family.points) for family in scaling_families(group_of(tmp_path), FLOPS)) == [3, 6]


def test_two_sizes_are_no_law_and_the_reason_is_given(tmp_path: Path) -> None:
    for width in (16, 32):
        write_run(tmp_path / f"w{width}", embed_dim=width)
    assert "2 different sizes, and a fit needs 3" in words(cost_section(group_of(tmp_path)))


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "good", num_experts=2)
    write_run(tmp_path / "going", num_experts=4, summary={"status": "running"})
    write_run(tmp_path / "no-minutes", num_experts=8, summary={"train_minutes": None})
    said = words(cost_section(group_of(tmp_path)))
    assert "num_experts 4: no completed run" in said
    assert "no-minutes: its record has no minutes" in said


def test_names_with_formulas_and_markup_stay_names(tmp_path: Path) -> None:
    for name in ("$a_$", "<b>x</b>"):
        write_run(tmp_path / name.replace("/", "_"), dataset_name="corpus", tokenizer="bpe:300", text_column=name)
    for figure in figures(cost_section(group_of(tmp_path))):
        assert rendered(figure)
        assert "<b>" not in str(figure.chart).replace("<br>", "")


def test_many_points_are_drawn_without_a_legend_of_all(tmp_path: Path) -> None:
    for number in range(12):
        write_run(
            tmp_path / f"r{number}", learning_rate=0.001 * (number + 1), loss=5 + number / 10, minutes=12 - number
        )
    figure = figures(cost_section(group_of(tmp_path)))[0].draw()
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == ["Pareto front"]


def test_flops_are_in_powers_and_other_costs_are_not(tmp_path: Path) -> None:
    """As in every table: 2.8 × 10¹³ operations, and 10.5M parameters."""
    write_run(tmp_path / "a")
    charts = {figure.name: figure.chart for figure in figures(cost_section(group_of(tmp_path)))}
    forms = {name: chart["layout"]["xaxis"]["exponentformat"] for name, chart in charts.items() if chart is not None}
    assert forms == {"cost-minutes": "SI", "cost-flops": "power", "cost-parameters": "SI"}
