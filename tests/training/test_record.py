"""The record's files are read back as far as they are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnn_moe.errors import BadInput
from gnn_moe.training.record import read_metrics

ROW_1, ROW_2 = (json.dumps({"kind": "train", "step": step, "loss": 0.1}) for step in (1, 2))


def test_metrics_file_is_read_up_to_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(ROW_1 + "\n\n" + ROW_2[:-9])
    assert [row["step"] for row in read_metrics(path)] == [1]


@pytest.mark.parametrize("line", ["{]", "[1]", "{"])
def test_a_broken_line_inside_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{ROW_1}\n{line}\n{ROW_2}\n")
    with pytest.raises(BadInput, match=r"metrics\.jsonl: line 2 is not a JSON object"):
        read_metrics(path)


def test_metrics_that_cannot_be_read_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")
