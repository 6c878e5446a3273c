"""Reports as a page: what is in its source. test_page.py opens it in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from gnn_moe.figures.style import BLACK, BLUE
from gnn_moe.reports.charts import DARK, chart_json
from gnn_moe.reports.document import Cell, Column, Document, Figure, Paragraph, Section, Span
from gnn_moe.reports.html import command, line, narrow, sort_key, to_html
from gnn_moe.reports.page_size import Picture
from gnn_moe.reports.writer import write_report
from tests.reports.samples import NASTY, sample

VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Source(HTMLParser):
    """Elements with their attributes and the text outside scripts and styles; a tag closed out of turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    write_report(sample(), folder)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(page: str) -> Source:
    return Source(page)


def test_the_page_reaches_for_no_network(source: Source) -> None:
    links = [
        str(attributes[name]) for _tag, attributes in source.elements for name in ("src", "href") if name in attributes
    ]
    assert links
    assert [link for link in links if "//" in link.split(",")[0]] == []
    assert all("src" not in attributes for attributes in source.of("script"))


def test_names_come_out_as_text(source: Source) -> None:
    for name in NASTY:
        assert " ".join(name.split()) in " ".join(source.text.split())
    assert all(
        "alert" not in str(value)
        for tag, attributes in source.elements
        for value in attributes.values()
        if tag != "a" and tag not in ("td", "th")
    )
    assert all(not key.startswith("on") for _tag, attributes in source.elements for key in attributes)


def test_the_page_is_under_six_megabytes(page: str) -> None:
    assert len(page.encode()) < 3_000_000


def test_plotly_is_there_once_and_only_for_charts(page: str) -> None:
    assert page.count('id="plotly"') == 1
    plain = to_html(Document(title="T"), folder=Path(), pictures={})
    assert "plotly" not in plain.lower()
    assert len(plain) < 20_000


def test_a_name_that_is_no_text_is_still_written() -> None:
    section = Section(title="\udc80\0", anchor="s", blocks=(Paragraph(Span("x", href="runs/\udc80")),))
    text = to_html(Document(title="T", sections=(section,)), folder=Path(), pictures={})
    assert b"\xef\xbf\xbd\xef\xbf\xbd" in text.encode()
    assert 'href="runs/%80"' in text


def test_chart_data_cannot_leave_its_element_and_holds_no_nan() -> None:
    chart = {"name": NASTY[1], "y": np.array([1.0, np.nan, np.inf]), "n": np.int64(3), "hovertemplate": "%{y}<br>"}
    text = chart_json(chart | {"title": "two\nlines"})
    assert not set("<>&") & set(text)
    found = json.loads(text)
    assert found["name"] == "&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;"
    assert (found["y"], found["n"], found["hovertemplate"]) == ([1.0, None, None], 3, "%{y}<br>")
    assert found["title"] == "two<br>lines"


def test_pictures_are_quoted_into_their_attribute() -> None:
    figure = Figure(name="f", caption="", description="", draw=MatplotlibFigure)
    section = Section(title="T", anchor="t", blocks=(figure,))
    picture = Picture(svg=b"<svg a=\"1\" b='#'/>", png=b"")
    page = to_html(Document(title="T", sections=(section,)), folder=Path(), pictures={"f": picture})
    assert 'src="data:image/svg+xml,%3Csvg a=%221%22 b=&#39;%23&#39;/%3E"' in page


@pytest.mark.parametrize(
    ("cell", "numeric", "key"),
    [
        (Cell("1.5", 1.5), True, 1.5),
        (Cell("–"), True, None),
        (Cell("nan", float("nan")), True, None),
        (Cell("∞", float("inf")), True, None),
        (Cell("words"), False, "words"),
        (Cell(""), False, None),
        (Cell("words", 2), False, 2),
    ],
)
def test_cells_sort_by(cell: Cell, numeric: bool, key: float | str | None) -> None:
    assert sort_key(cell, Column(title="c", numeric=numeric)) == key


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", [colour for colour in DARK if colour not in ("#9FB8C8", "#E4E4E4")])
def test_colours_of_data_stand_out_on_a_dark_page(colour: str) -> None:
    assert (luminance(DARK[colour]) + 0.05) / (luminance("#15191e") + 0.05) >= 4.5


def test_colours_of_the_figures_have_dark_ones() -> None:
    assert {BLUE, BLACK} <= set(DARK)


def test_a_command_is_one_line_of_options_whatever_line_it_went_on_in() -> None:
    found = command("gnn-moe train --a 1 \\\n  --b '<2>'\ngnn-moe report r")
    assert re.sub(r"</?span[^>]*>", "", found) == "gnn-moe train --a 1 --b &#39;&lt;2&gt;&#39;\ngnn-moe report r"
    assert found.count('<span class="command">') == 2
    assert '<span class="option">--a 1 </span>' in found


def test_identifiers_in_tables_break_between_words_and_links_stay_links() -> None:
    found = narrow(["num_experts=4 & ", Span("a_run", href="runs/num_experts=4")], Path())
    assert found == 'num_<wbr>experts=4 &amp; <a href="runs/num_experts=4">a_<wbr>run</a>'
    joined = line("95 % of 1.5 × 10, with --a_b", Path()).replace("\N{NO-BREAK SPACE}", "~")
    assert joined == '95~% of 1.5~×~10, with <span class="flag">--a_b</span>'
