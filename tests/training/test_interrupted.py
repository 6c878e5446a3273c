"""SIGINT and SIGTERM: the run saves, says how to go on, and goes on as if nothing had happened."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small_runs import (
    ROOT,
    Accident,
    Commands,
    Setting,
    assert_same_run,
    interrupted,
    interrupted_twice,
    read_json,
    read_rows,
    terminated,
)

LOOP = "gnn_moe.training.loop"
WHERE = {
    "while the data is read": ("gnn_moe.runs:load_corpus", 1, 0),
    "before the first step": (f"{LOOP}:Trainer.run", 1, 0),
    "in the first step": (f"{LOOP}:Trainer._step", 1, 1),
    "in a step after an evaluation": (f"{LOOP}:Trainer._step", 6, 6),
    "before an evaluation": (f"{LOOP}:Trainer._step", 8, 8),
    "in an evaluation": ("gnn_moe.training.evaluation:collate", 5, 8),
    "in a checkpoint": ("gnn_moe.training.checkpoints:write_checksums", 2, 8),
}


@pytest.mark.parametrize("place", WHERE)
@pytest.mark.parametrize("stop", [interrupted, terminated], ids=["SIGINT", "SIGTERM"])
def test_stopped_and_resumed(
    place: str, stop: object, setting: Setting, commands: Commands, uninterrupted: Path
) -> None:
    assert callable(stop)
    target, call, steps = WHERE[place]
    stopped = commands.run(setting.flags("it"), Accident(target, call, stop))
    number = signal.SIGINT if stop is interrupted else signal.SIGTERM
    assert stopped.status == 128 + number, stopped.output
    run = setting.runs / "it"
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["steps"]) == ("interrupted", steps)
    assert summary["error_class"] == "interrupted"
    assert "Traceback" not in stopped.output
    message = stopped.output.splitlines()[-1]
    assert message.startswith(f"gnn-moe train: stopped by {signal.Signals(number).name}; go on with: gnn-moe train ")
    assert read_json(run / "checkpoints" / "last" / "state.json")["step"] == steps
    # What the message says is what is typed next.
    done = commands.run(shlex.split(message.split("go on with: gnn-moe ")[1]))
    assert done.status == 0, done.output
    assert_same_run(run, uninterrupted)
    assert read_json(run / "environment.json")["resumed"][0]["step"] == steps


def test_a_second_signal_does_not_wait_for_the_step(setting: Setting, commands: Commands, uninterrupted: Path) -> None:
    stopped = commands.run(setting.flags("it"), Accident(f"{LOOP}:Trainer._backward", 6, interrupted_twice))
    assert stopped.status == 130, stopped.output
    assert "Traceback" not in stopped.output
    summary = read_json(setting.runs / "it" / "summary.json")
    assert (summary["status"], summary["steps"]) == ("interrupted", 5)
    done = commands.run(setting.resume("it"))
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "it", uninterrupted)


def test_a_run_folder_with_a_space_can_be_gone_on_with_as_told(
    small_corpus: Path, small_cache: Path, tmp_path: Path, one_thread: None, commands: Commands
) -> None:
    setting = Setting(small_corpus, small_cache, tmp_path / "my runs")
    stopped = commands.run(setting.flags("my run"), Accident(f"{LOOP}:Trainer._step", 2, interrupted))
    assert stopped.status == 130
    told = stopped.output.splitlines()[-1].split("go on with: gnn-moe ")[1]
    done = commands.run(shlex.split(told))
    assert done.status == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside(number: int, status: int, setting: Setting) -> None:
    words = setting.flags("it", epochs=100000, max_batches_per_epoch=-1)
    process = subprocess.Popen(
        [sys.executable, "run_gnn_moe.py", *words[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    metrics = setting.runs / "it" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > 6):
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status, output + errors
    assert errors.count("\n") == 1
    assert "--resume" in errors
    run = setting.runs / "it"
    summary = read_json(run / "summary.json")
    assert summary["status"] == "interrupted"
    assert read_rows(run, "train")[-1]["step"] == summary["steps"]
    assert sorted(path.name for path in (run / "figures").iterdir())
