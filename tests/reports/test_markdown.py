"""Reports as Markdown: escapes, links, tables, figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnn_moe.reports.document import Bullets, Cell, Code, Column, Document, Paragraph, Section, Span, Table
from gnn_moe.reports.markdown import escaped, line, to_markdown
from tests.reports.samples import NASTY, sample


def written(*blocks: Paragraph | Bullets | Code | Table) -> str:
    document = Document(title="T", sections=(Section(title="S", anchor="s", blocks=blocks),))
    return to_markdown(document, folder=Path("docs/reports")).split("## S\n\n")[1].rstrip("\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("num_experts", "num_experts"),
        ("_x_ *y* ~z~", r"\_x\_ \*y\* \~z\~"),
        ("<script>", r"\<script\>"),
        ("a|b", r"a\|b"),
        ("[x](y) `c`", r"\[x\](y) \`c\`"),
        ("back\\slash", r"back\\slash"),
        ("&lt; & c", "&amp;lt; & c"),
        ("two\r\nlines\nand\ttab", "two lines and tab"),
        ("https://x.org www.x.org", r"https\://x.org www\.x.org"),
        ("nul\0 turn\u202e half\udc80", "nul\ufffd turn\ufffd half\ufffd"),
        ("Größe 専門家", "Größe 専門家"),
    ],
)
def test_plain_text_is_escaped(name: str, expected: str) -> None:
    assert escaped(name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# no heading", r"\# no heading"),
        ("- no list", r"\- no list"),
        ("12. no list", r"12\. no list"),
        ("--- no rule", r"\--- no rule"),
        ("-0.5 nats", "-0.5 nats"),
        ("4.8 nats", "4.8 nats"),
    ],
)
def test_a_line_makes_no_block_of_its_own(text: str, expected: str) -> None:
    assert line(text, Path()) == expected


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("runs/a", "../../runs/a"),
        ("docs/reports/figures", "figures"),
        ("runs/study (1)/arm=GNN,seed=3", "../../runs/study%20%281%29/arm=GNN,seed=3"),
        ("docs/reports/javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("#tables", "#tables"),
    ],
)
def test_links_are_relative_to_the_report(href: str, expected: str) -> None:
    assert line(Span("x", href=href), Path("docs/reports")) == f"[x]({expected})"


def test_marks_touch_their_text() -> None:
    pieces = ("a", Span(" b ", strong=True), Span("c", href="#s", strong=True), Span(" ", strong=True))
    assert line(pieces, Path()) == "a **b** [**c**](#s)"


def test_code_is_fenced_by_more_backticks_than_it_has() -> None:
    assert line(Span("a`b", code=True), Path()) == "``a`b``"
    assert line(Span("`b", code=True), Path()) == "`` `b ``"
    assert written(Code("a\n```\nb")) == "````bash\na\n```\nb\n````"


def test_a_bar_in_code_ends_no_cell() -> None:
    assert line(Span("a|b", code=True), Path(), in_table=True) == r"`a\|b`"
    assert line(Span("a|b", code=True), Path()) == "`a|b`"


def test_asides_are_alerts_and_items_a_list() -> None:
    assert written(Paragraph("x", kind="warning")) == "> [!WARNING]\n> x"
    assert written(Bullets(("x", "- y"))) == "- x\n- \\- y"


def test_tables_have_a_cell_a_column() -> None:
    table = Table(
        caption="C",
        columns=(Column(title="name", numeric=False), Column(title="loss", explains="nats")),
        rows=((Cell("a|\nb"), Cell("1.0", 1.0)),),
        notes=("n",),
    )
    assert written(table) == "**C**\n\n| name | loss |\n| :--- | ---: |\n| a\\| b | 1.0 |\n\n- *loss*: nats\n\nn"


def test_the_whole_document_has_contents_figures_and_no_markup_of_names() -> None:
    text = to_markdown(sample(), folder=Path())
    for part in ("# Experts", "  - [Learning rate](#learning-rate)", '<a id="learning-rate"></a>'):
        assert part in text
    assert "![Three falling curves that end at 4.9 (GNN), 5.0 (HGNN) and 5.1 (attention) nats.](figures/loss" in text
    fenced = text.split("```bash\n" + NASTY[0])[1].split("```")[0]
    outside = text.replace(fenced, "").replace(f"```bash\n{NASTY[0]}", "")
    without_code = "".join(outside.split("`")[::2])
    assert "<script" not in without_code.replace(r"\<script", "")


def test_a_document_that_contradicts_itself_is_refused() -> None:
    section = Section(title="S", anchor="s", blocks=(Paragraph(Span("x", href="#nowhere")),))
    with pytest.raises(AssertionError, match="nowhere"):
        to_markdown(Document(title="T", sections=(section,)), folder=Path())
    with pytest.raises(AssertionError):
        to_markdown(Document(title="T", sections=(Section(title="S", anchor="s"),) * 2), folder=Path())
