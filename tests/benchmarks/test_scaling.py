"""Slopes on made points, the axes, and the figure: data first, file second."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.cases import Contestant
from benchmarks.children import Failure
from benchmarks.measure import Race
from benchmarks.scaling import AXES, Point, ScalingResult, fit_slope, scale, slopes_of
from benchmarks.scaling_figure import draw_scaling, scaling_panels
from gnn_moe.config import ModelConfig, TrainingConfig
from tests.benchmarks.test_coupling import figures

MODEL, TRAINING = ModelConfig(num_experts=4, embed_dim=64, num_layers=1, vocab_size=100), TrainingConfig(batch_size=8)


def test_a_power_law_has_its_exponent() -> None:
    assert fit_slope([(x, 5 * x**1.7) for x in (1, 2, 4, 8, 64)]) == pytest.approx(1.7)
    assert fit_slope([(3, 1.0)]) is None
    assert fit_slope([(2, 1.0), (2, 2.0)]) is None
    assert fit_slope([(0, 1.0), (1, 1.0), (2, 2.0)]) == pytest.approx(1.0)


def point(against: int, seconds: float | None, step_bytes: int | None) -> Point:
    failure = Failure(kind="killed", detail="") if seconds is None else None
    return Point(
        contestant="ours", value=against, against=against, seconds=seconds, step_bytes=step_bytes, failure=failure
    )


def test_a_constant_part_shows_in_the_lower_half_only() -> None:
    points = [point(x, 1.0 + 0.0 * x, 10 * x**2) for x in (1, 2)] + [point(x, 0.1 * x, 10 * x**2) for x in (16, 32)]
    slopes = slopes_of([*points, point(64, None, None)])
    assert slopes.seconds is not None
    assert slopes.seconds < 1
    assert slopes.seconds_upper == pytest.approx(1)
    assert slopes.memory == pytest.approx(2)


def test_an_axis_moves_its_size_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def race(contestants: dict[str, Contestant], *, rounds: int, warmup: int) -> Race:
        seen.append(contestants["ours"])
        value = contestants["ours"].model.num_experts
        return Race(figures={"ours": figures(float(value), step_bytes=value**2)}, failures={}, limit=None)

    monkeypatch.setattr(scaling, "race", race)
    result = scale(AXES["experts"], MODEL, TRAINING, kinds=["ours"], rounds=1, warmup=0, largest=16)
    assert [c.model.num_experts for c in seen] == [2, 4, 8, 16]
    assert {dataclasses.replace(c.model, num_experts=4) for c in seen} == {MODEL}
    assert result.slopes["ours"].seconds == pytest.approx(1)
    assert result.slopes["ours"].memory == pytest.approx(2)
    result = scale(AXES["all_triplets"], MODEL, TRAINING, kinds=["ours"], rounds=1, warmup=0)
    assert [p.against for p in result.points] == [4, 56, 560, 4960]


@pytest.mark.parametrize("name", AXES)
def test_every_axis_reaches_its_values(name: str) -> None:
    axis = AXES[name]
    grown = [axis.grow(MODEL, TRAINING, value) for value in axis.values]
    assert len(set(grown)) == len(axis.values)
    model, training = grown[-1]
    fields = {"experts": "num_experts", "width": "embed_dim", "layers": "num_layers", "positions": "max_seq_length"}
    expected = training.batch_size if name == "batch" else getattr(model, fields.get(name, "num_experts"))
    assert expected == axis.values[-1]


def test_the_figure_is_made_from_stored_entries(tmp_path: Path) -> None:
    points = (point(1, 1.0, 10**6), point(2, 2.0, 4 * 10**6), point(4, None, None))
    result = ScalingResult(
        axis="experts", label="experts E", model={}, training={}, points=points, slopes={"ours": slopes_of(points)}
    )
    entries = {"experts": json.loads(json.dumps(dataclasses.asdict(result)))}
    time, memory = scaling_panels(entries)
    assert (time.curves[0].x, time.curves[0].y) == ((1, 2), (1.0, 2.0))
    assert memory.curves[0].y == (1.0, 4.0)
    assert memory.curves[0].slope == pytest.approx(2)
    assert draw_scaling([time, memory], tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
