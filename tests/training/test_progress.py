"""What the terminal shows: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from gnn_moe.cli import main
from gnn_moe.training.progress import PlainReporter
from tests.small_runs import ROOT, Setting

HEADER = r"^ +step +epoch +train loss +eval loss +perplexity +bits a byte +tokens/s +minutes$"
ROW = r"^ +(\d+)/12 +([12]) +\d\.\d{4} +\d\.\d{4} +\d+\.\d\d +\d\.\d{4} +[\d,]+ +\d+\.\d$"


def on_a_terminal(words: list[str], directory: Path) -> str:
    """The output of a command whose three streams are a terminal of 120 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_gnn_moe.py"), *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=directory,
        env=environment,
    )
    os.close(follower)
    output = b""
    while True:
        ready, _, _ = select.select([leader], [], [], 60)
        assert ready, output
        try:
            block = os.read(leader, 65536)
        except OSError:  # Linux's end of a terminal
            break
        if not block:
            break
        output += block
    os.close(leader)
    assert process.wait(60) == 0, output.decode()
    return output.decode()


@pytest.mark.slow
def test_a_live_bar_on_a_terminal_and_a_line_an_evaluation(setting: Setting, tmp_path: Path) -> None:
    shown = on_a_terminal(setting.flags("it")[1:], tmp_path)
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert re.search(r"training .*\d+/12 .*loss \d\.\d{4}  lr \d\.\de-\d\d  [\d,]+ tokens/s", plain)
    assert "━" in plain
    assert re.search(r"\d:\d\d:\d\d", plain)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain)]
    assert [m[1] for line in lines if (m := re.match(ROW, line))] == ["4", "8", "12"]
    assert sum(bool(re.match(HEADER, line)) for line in lines) == 1


@pytest.mark.slow
def test_plain_lines_with_quiet_on_a_terminal(setting: Setting, tmp_path: Path) -> None:
    shown = on_a_terminal(setting.flags("it", "--quiet")[1:], tmp_path)
    assert "\x1b[" not in shown
    assert "━" not in shown


def test_plain_lines_where_there_is_no_terminal(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(setting.flags("it")) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "\x1b" not in output.out
    assert "\r" not in output.out
    lines = output.out.splitlines()
    assert sum(bool(re.match(HEADER, line)) for line in lines) == 1
    assert [m.groups() for line in lines if (m := re.match(ROW, line))] == [("4", "1"), ("8", "2"), ("12", "2")]


def test_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr("gnn_moe.training.progress.time.monotonic", lambda: now)
    reporter = PlainReporter(1000, 500)
    row = {"step": 510, "loss": 3.0, "learning_rate": 5e-4, "tokens_per_second": 12345.6}
    now = 129.0
    reporter.training(row)
    assert capsys.readouterr().out == ""
    now = 160.0
    reporter.training(row)
    reporter.training(row)
    # 10 steps of 500 took a minute: 490 are 49 minutes.
    assert capsys.readouterr().out == "step 510/1000  loss 3.0000  lr 5.00e-04  12,346 tokens/s  49.0 min left\n"
