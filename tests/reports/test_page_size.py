"""A page stays under its limit, whatever it is of, and says where it shows less."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from gnn_moe.reports.charts import chart_json
from gnn_moe.reports.document import Document, Figure, Section
from gnn_moe.reports.html import to_html
from gnn_moe.reports.outline import figures
from gnn_moe.reports.page_size import WHY, Picture, svg_url, thinned
from gnn_moe.reports.report import build_report
from gnn_moe.reports.sources import read_sources
from gnn_moe.reports.writer import write_report
from tests.reports.made_runs import eval_row, train_row, write_run

PROTOCOLS, EXPERTS, LAYERS, RECORDED, EVALUATIONS = 5, 16, 4, 30, 400
MOST_BYTES = 6_000_000


@pytest.mark.slow
def test_many_protocols_of_many_experts_stay_under_six_megabytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for protocol in range(PROTOCOLS):
        for rate in (0.001, 0.002):
            matrix_SGEE = generator.random((RECORDED, 2, EXPERTS, EXPERTS)).astype(np.float32)
            losses = 5 + generator.random(EVALUATIONS)
            rows = [train_row(1, 6.0), *(eval_row(step, float(loss)) for step, loss in enumerate(losses, 1))]
            write_run(
                tmp_path / "runs" / f"{protocol}-{rate}",
                num_eval_samples=100 + protocol,
                learning_rate=rate,
                num_experts=EXPERTS,
                coupler_type="GNN",
                gnn_layers=2,
                num_layers=LAYERS,
                rows=rows,
                coupling={
                    "steps": np.arange(RECORDED),
                    **{f"layer_{layer}/adjacency": matrix_SGEE for layer in range(LAYERS)},
                },
            )
    groups, notes = read_sources([tmp_path / "runs"], grouped=True)
    assert len(groups) == PROTOCOLS
    document = build_report(groups, title="Many", targets=(), with_reference=False, notes=notes)
    write_report(document, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_bytes()
    assert len(page) < MOST_BYTES
    assert b"figures show less here than their files" in page
    # Six points of a report are drawn, one of each part at least: 3 figures each, besides 5 of costs and of curves.
    assert len(figures(document)) == PROTOCOLS * (3 + 5)


def noise(name: str, *, side: int = 900, points: int = 0) -> tuple[Figure, Picture]:
    """A picture that no format makes small, as an SVG of three times its size, with a chart of so many points."""
    pixels = np.random.default_rng(points).integers(0, 256, (side, side, 3), dtype=np.uint8)
    png = BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    chart = {"data": [{"type": "scatter", "x": list(range(points)), "y": [value / 7 for value in range(points)]}]}
    figure = Figure(
        name=name, caption="C", description=f"what {name} shows", draw=MatplotlibFigure, chart=chart if points else None
    )
    return figure, Picture(svg=b"<svg>" + b"a" * (3 * len(png.getvalue())) + b"</svg>", png=png.getvalue())


def page_of(*drawn: tuple[Figure, Picture]) -> str:
    section = Section(title="S", anchor="s", blocks=tuple(figure for figure, _ in drawn))
    pictures = {figure.name: picture for figure, picture in drawn}
    return to_html(Document(title="T", sections=(section,)), folder=Path(), pictures=pictures)


def test_a_page_that_fits_is_whole() -> None:
    figure, picture = noise("small", side=50, points=1000)
    page = page_of((figure, picture))
    assert WHY not in page
    assert svg_url(picture.svg) in page
    assert figure.chart is not None
    assert chart_json(figure.chart) in page


def test_a_page_that_is_too_much_shows_less_and_says_so() -> None:
    page = page_of(noise("large"), noise("lines", side=50, points=50_000))
    assert len(page.encode()) < MOST_BYTES
    assert f"2 of 2 figures show less here than their files, {WHY}" in page
    assert f'The static figure is coarser here, {WHY}; it is sharp in <a href="figures/large.svg">' in page
    assert f'The chart shows at most 300 points of each line, {WHY}; all are in <a href="figures/lines.svg">' in page


def test_what_cannot_be_made_small_is_left_out_the_largest_first_and_linked() -> None:
    page = page_of(
        *(noise(f"large-{number}", side=600 + 10 * number) for number in range(20, 30)), noise("small", side=50)
    )
    assert len(page.encode()) < MOST_BYTES
    left = re.findall(r"it is <a href=\"figures/([\w-]+)\.svg", page)
    assert 0 < len(left) < 10
    assert "large-29" in left
    assert "small" not in left
    assert "<p>what large-29 shows</p>" in page


def test_lines_are_thinned_with_all_that_belongs_to_their_points_and_keep_both_ends() -> None:
    whole: dict[str, Any] = {
        "data": [
            {"x": list(range(9)), "y": np.arange(9.0), "error_y": {"array": list(range(9)), "visible": True}},
            {"x": [1, 2], "y": [3, 4]},
            {"type": "heatmap", "x": list(range(9))},
        ],
        "layout": {"title": "t"},
    }
    found = thinned(whole, 3)
    assert found["data"][0] == {"x": [0, 4, 8], "y": [0, 4, 8], "error_y": {"array": [0, 4, 8], "visible": True}}
    assert (found["data"][1:], found["layout"]) == (whole["data"][1:], whole["layout"])
