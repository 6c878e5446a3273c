"""A report that follows a real sweep, both as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.studies.small_sweeps import Sweeps, finish, wait_for

pytestmark = pytest.mark.slow


def test_a_watched_sweep_is_reported_to_its_end_with_what_failed(sweeps: Sweeps) -> None:
    """Three heads do not divide the width: that point fails, and the sweep goes on."""
    folder = sweeps.folder("watched")
    sweep = sweeps.start(sweeps.words("watched", "--vary", "num_heads=3,4"))
    wait_for((folder / "study.json").exists, "the study")
    report = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "gnn_moe", "report", str(folder), "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    finish(sweep)
    said = finish(report).splitlines()
    assert said[-1].endswith("report.html: 3 of 3 runs have ended")
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "2 of 3 runs completed" in text
    assert "FAILED" in text
    for trial in json.loads((folder / "study.json").read_text(encoding="utf-8"))["trials"]:
        assert trial["name"] in text
        assert trial["reported_loss"] is None or f"{trial['reported_loss']:.4f}" in text
