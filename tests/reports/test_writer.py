"""The folder of a report: which files, the same bytes twice, never half of one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from gnn_moe.reports.document import Document, Figure
from gnn_moe.reports.outline import figures
from gnn_moe.reports.writer import write_report
from tests.reports.samples import sample


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_has_these_files_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    write_report(sample(), tmp_path / "one" / "report")
    write_report(sample(), tmp_path / "two" / "report")
    found = contents(tmp_path / "one" / "report")
    names = {f"figures/{name}.{kind}" for name in ("adjacency", "loss-curves") for kind in ("svg", "png")}
    assert set(found) == {"report.md", "report.html"} | names
    assert contents(tmp_path / "two" / "report") == found
    assert b"<dc:date>" not in found["figures/adjacency.svg"]
    with Image.open(tmp_path / "one" / "report" / "figures" / "adjacency.png") as image:
        assert image.size == (800, 800)


def test_figures_of_the_report_before_are_gone_and_other_files_stay(tmp_path: Path) -> None:
    write_report(sample(), tmp_path)
    (tmp_path / "figures" / "mine.svg").write_text("mine")
    section = sample().sections[2]
    some = tuple(block for block in section.blocks if not isinstance(block, Figure) or block.name == "adjacency")
    write_report(Document(title="T", sections=(dataclasses.replace(section, blocks=some),)), tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"adjacency.svg", "adjacency.png", "mine.svg"}


def test_a_report_that_cannot_be_written_leaves_the_old_one_whole(tmp_path: Path) -> None:
    write_report(sample(), tmp_path)
    before = contents(tmp_path)

    def fail() -> MatplotlibFigure:
        raise ValueError("no data")

    section = sample().sections[2]
    blocks = tuple(
        dataclasses.replace(block, draw=fail) if isinstance(block, Figure) else block for block in section.blocks
    )
    broken = Document(title="other", sections=(dataclasses.replace(section, blocks=blocks),))
    with pytest.raises(ValueError, match="no data"):
        write_report(broken, tmp_path)
    assert contents(tmp_path) == before


def test_figures_are_emptied_once_written(tmp_path: Path) -> None:
    drawn: list[MatplotlibFigure] = []
    (figure, *_rest) = figures(sample())

    def draw() -> MatplotlibFigure:
        drawn.append(figure.draw())
        return drawn[-1]

    section = dataclasses.replace(sample().sections[2], blocks=(dataclasses.replace(figure, draw=draw),))
    write_report(Document(title="T", sections=(section,)), tmp_path)
    assert len(drawn) == 1
    assert drawn[0].axes == []
