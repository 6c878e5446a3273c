"""The curves: rows → series as numbers, then what the panels show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gnn_moe.figures.curves import CurveData, curve_data, curves_figure, draw_curves, running_mean

Row = dict[str, Any]


def train_row(step: int, **changes: Any) -> Row:
    row = {"kind": "train", "step": step, "epoch": 0, "tokens": 100 * step, "loss": 10 - step / 100}
    return row | {"learning_rate": 1e-3 / step, "gradient_norm": 1.0 + step, "tokens_per_second": 5.0} | changes


def eval_row(step: int, loss: float, **changes: Any) -> Row:
    row = {"kind": "eval", "step": step, "tokens": 100, "loss": loss, "perplexity": math.exp(loss)}
    return row | {"bits_per_byte": 1.0} | changes


def panel_texts(data: CurveData) -> list[str]:
    figure = curves_figure(data)
    axes = figure.get_axes()
    titles = [axis.get_title(loc=place) for axis in axes for place in ("left", "right")]
    legends = [text.get_text() for axis in axes if (legend := axis.get_legend()) for text in legend.get_texts()]
    return titles + legends + [text.get_text() for axis in axes for text in axis.texts]


def test_rows_become_series_in_step_order() -> None:
    rows = [eval_row(2, 6.0), train_row(2), train_row(1), {"kind": "note", "step": 1}, eval_row(4, 5.5)]
    data = curve_data(rows)
    assert data.train_loss.step.tolist() == [1, 2]
    np.testing.assert_allclose(data.train_loss.value, [9.99, 9.98])
    np.testing.assert_allclose(data.learning_rate.value, [1e-3, 5e-4])
    np.testing.assert_allclose(data.gradient_norm.value, [2, 3])
    assert data.evaluation_loss.step.tolist() == [2, 4]
    np.testing.assert_allclose(data.perplexity.value, np.exp([6.0, 5.5]))
    assert data.best_evaluation == (4, 5.5)


@pytest.mark.parametrize("broken", [math.nan, math.inf, None])
def test_values_that_are_not_finite_are_left_out_and_said(broken: float | None) -> None:
    rows = [
        train_row(1),
        train_row(2, loss=broken),
        train_row(3),
        eval_row(3, 5.0),
        eval_row(4, 5.0, perplexity=broken),
    ]
    data = curve_data(rows)
    assert data.train_loss.step.tolist() == [1, 3]
    assert data.train_loss.left_out.tolist() == [2]
    assert data.smoothed_loss.step.tolist() == [1, 3]
    assert data.perplexity.left_out.tolist() == [4]
    assert panel_texts(data).count("× 1 non-finite value left out") == 2


def test_nothing_finite_still_draws_and_says_so(tmp_path: Path) -> None:
    data = curve_data([train_row(1, loss=math.nan, gradient_norm=math.nan, learning_rate=math.nan)])
    assert data.best_evaluation is None
    assert "nothing recorded" in panel_texts(data)
    assert draw_curves(data, tmp_path / "curves.png") == [tmp_path / "curves.png"]


def test_absent_values_are_no_defect() -> None:
    rows = [{"kind": "train", "step": 1, "loss": 5.0}, {"kind": "train", "step": 2, "loss": 4.0, "gradient_norm": 1.0}]
    data = curve_data(rows)
    assert data.gradient_norm.step.tolist() == [2]
    assert len(data.gradient_norm.left_out) == 0
    assert not data.learning_rate


def test_running_mean_keeps_a_line_and_averages_noise() -> None:
    line = np.linspace(3.0, -97.0, 200, dtype=np.float64)
    np.testing.assert_allclose(running_mean(line), line, atol=1e-9)
    zigzag = np.tile([1.0, -1.0], 100)
    assert np.abs(running_mean(zigzag)[5:]).max() < 0.2
    assert running_mean(zigzag)[0] == 1.0
    noisy = np.random.default_rng(0).normal(size=200)
    expected = [noisy[i - 5 : i + 6].mean() for i in range(5, 195)]
    np.testing.assert_allclose(running_mean(noisy)[5:195], expected, atol=1e-12)


@pytest.mark.parametrize("size", range(45))
def test_running_mean_keeps_every_length(size: int) -> None:
    np.testing.assert_allclose(running_mean(np.ones(size)), np.ones(size))


def test_panels_name_what_they_show() -> None:
    rows = [*(train_row(step) for step in range(1, 50)), eval_row(20, 5.5), eval_row(40, 5.25)]
    texts = panel_texts(curve_data(rows))
    for title in ("Loss", "Perplexity, evaluation", "Learning rate", "Gradient norm, before clipping"):
        assert title in texts
    assert "evaluation (lowest 5.2500 at step 40)" in texts
    assert "nothing recorded" not in texts


def test_wide_perplexity_is_logarithmic_and_narrow_is_not() -> None:
    wide = curves_figure(curve_data([eval_row(1, 10.0), eval_row(2, 5.0)])).get_axes()[1]
    narrow = curves_figure(curve_data([eval_row(1, 5.5), eval_row(2, 5.0)])).get_axes()[1]
    assert (wide.get_yscale(), narrow.get_yscale()) == ("log", "linear")


@pytest.mark.parametrize(
    "rows",
    [
        [train_row(1)],
        [eval_row(0, 10.8)],
        [train_row(1), eval_row(1, 6.0)],
        [train_row(1), train_row(2, gradient_norm=0.0)],
        [*(train_row(step) for step in range(1, 400)), *(eval_row(step, 9 - step / 100) for step in range(0, 400, 50))],
    ],
    ids=["one step", "one evaluation", "one of each", "zero", "a run"],
)
def test_file_is_a_png_of_200_dpi(rows: list[Row], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "curves.png"
    assert draw_curves(curve_data(rows), path) == [path]
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert np.asarray(image.convert("L")).std() > 5


def test_no_rows_no_file(tmp_path: Path) -> None:
    assert draw_curves(curve_data([]), tmp_path / "curves.png") == []
    assert list(tmp_path.iterdir()) == []
