"""Run folders with known contents, written file by file: nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnn_moe.config import RunConfig, to_dict
from gnn_moe.reports.document import Bullets, Code, Figure, Paragraph, Section, Table, spans
from gnn_moe.reports.points import Group
from gnn_moe.reports.sources import read_sources
from gnn_moe.studies.space import with_values

SMALL = {"embed_dim": 16, "num_layers": 1, "gnn_layers": 1, "num_experts": 4, "num_heads": 2, "vocab_size": 100}
Row = dict[str, Any]


def eval_row(step: int, loss: float | None, *, epoch: int = 1, minutes: float | None = None) -> Row:
    minutes = float(step) if minutes is None else minutes
    halves = {"selection_loss": loss, "reported_loss": loss}
    return {"kind": "eval", "step": step, "epoch": epoch, "loss": loss, **halves, "minutes": minutes}


def train_row(step: int, loss: float, *, epoch: int = 1) -> Row:
    return {"kind": "train", "step": step, "epoch": epoch, "loss": loss}


def write_run(
    folder: Path,
    *,
    loss: float = 5.0,
    minutes: float = 2.0,
    rows: Sequence[Row] | None = None,
    coupling: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A completed run; `summary` changes its summary.json, None in it takes a value away."""
    folder.mkdir(parents=True)
    config = with_values(RunConfig(), {**SMALL, **settings})
    (folder / "config.json").write_text(json.dumps(to_dict(config)), encoding="utf-8")
    rows = [train_row(10, loss + 0.1), eval_row(10, loss)] if rows is None else rows
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "status": "completed",
        "best_eval_loss": loss,
        "train_minutes": minutes,
        "eval_minutes": 0.0,
        "tokens": 1000,
    }
    (folder / "summary.json").write_text(json.dumps(values | dict(summary or {})), encoding="utf-8")
    if coupling is not None:
        np.savez(folder / "coupling.npz", **coupling)
    return folder


def keep_checkpoints(folder: Path, *names: str) -> None:
    """As a run that has not cleared them away; their contents are of no matter to a report."""
    for name in names:
        (folder / "checkpoints" / name).mkdir(parents=True)


def group_of(folder: Path) -> Group:
    (group,), notes = read_sources([folder])
    assert notes == []
    return group


def figures(section: Section) -> list[Figure]:
    own = [block for block in section.blocks if isinstance(block, Figure)]
    return own + [figure for part in section.sections for figure in figures(part)]


def rendered(figure: Figure) -> int:
    """Draws to the last pixel, where names are parsed too, and gives the number of panels."""
    drawn = figure.draw()
    drawn.canvas.draw()
    return len(drawn.get_axes())


def tables(section: Section) -> dict[str, list[list[str]]]:
    """Rows of words, by caption."""
    found = {
        block.caption: [["".join(span.text for span in spans(cell.text)) for cell in row] for row in block.rows]
        for block in section.blocks
        if isinstance(block, Table)
    }
    for part in section.sections:
        found |= tables(part)
    return found


def words(section: Section) -> str:
    """All prose of a section and those in it, a line a block."""
    lines = []
    for block in section.blocks:
        if isinstance(block, Paragraph):
            lines.append("".join(span.text for span in spans(block.text)))
        elif isinstance(block, Bullets):
            lines += ["".join(span.text for span in spans(item)) for item in block.items]
        elif isinstance(block, Code):
            lines.append(block.text)
        elif isinstance(block, Table):
            lines += ["".join(span.text for span in spans(note)) for note in block.notes]
    return "\n".join(lines + [words(part) for part in section.sections])


def hrefs(section: Section) -> set[str]:
    """What its tables link to."""
    found = {
        span.href
        for block in section.blocks
        if isinstance(block, Table)
        for row in block.rows
        for cell in row
        for span in spans(cell.text)
        if span.href is not None
    }
    return found.union(*map(hrefs, section.sections))
