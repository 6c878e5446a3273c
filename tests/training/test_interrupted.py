"""SIGINT and SIGTERM: the run saves, says how to go on, and goes on as if nothing had happened."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_runs import (
    ROOT,
    Accident,
    Commands,
    Setting,
    assert_same_run,
    interrupted,
    interrupted_and_terminated,
    interrupted_twice,
    read_json,
    read_rows,
    terminated,
    terminated_twice,
)

LOOP = "gnn_moe.training.loop"
WHERE = {
    "before the first step": (f"{LOOP}:Trainer.run", 1, 0),
    "in the first step": (f"{LOOP}:Trainer._step", 1, 1),
    "in a step after an evaluation": (f"{LOOP}:Trainer._step", 6, 6),
    "before an evaluation": (f"{LOOP}:Trainer._step", 8, 8),
    "in an evaluation": ("gnn_moe.training.progress:PlainReporter.evaluating", 5, 8),
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
    if steps:
        assert read_json(run / "checkpoints" / "last" / "state.json")["step"] == steps
    # What the message says is what is typed next.
    done = commands.run(shlex.split(message.split("go on with: gnn-moe ")[1]))
    assert done.status == 0, done.output
    assert_same_run(run, uninterrupted)
    resumed = read_json(run / "environment.json").get("resumed", [])
    assert [entry["step"] for entry in resumed] == ([steps] if steps else [])


@pytest.mark.parametrize(("stop", "status"), [(interrupted, 130), (terminated, 143)])
def test_stopped_while_the_data_is_read(
    stop: Callable[..., None], status: int, setting: Setting, commands: Commands, uninterrupted: Path
) -> None:
    stopped = commands.run(setting.flags("it"), Accident("gnn_moe.runs:load_corpus", 1, stop))
    assert stopped.status == status
    assert stopped.output == f"gnn-moe train: stopped by {'SIGINT' if status == 130 else 'SIGTERM'}\n"
    assert not setting.runs.exists()
    assert commands.run(setting.flags("it", "--resume")).status == 0
    assert_same_run(setting.runs / "it", uninterrupted)


SIGNALS_TWICE = [
    (Accident(f"{LOOP}:Trainer._backward", 6, interrupted_twice), 130),
    (Accident(f"{LOOP}:Trainer._backward", 6, terminated_twice), 143),
    (Accident(f"{LOOP}:Trainer._backward", 6, interrupted_and_terminated), 130),
]


@pytest.mark.parametrize(("moment", "status"), SIGNALS_TWICE, ids=str)
def test_a_second_signal_cuts_nothing_short(
    moment: Accident, status: int, setting: Setting, commands: Commands, uninterrupted: Path
) -> None:
    stopped = commands.run(setting.flags("it"), moment)
    assert stopped.status == status, stopped.output
    assert "Traceback" not in stopped.output
    assert stopped.output.count("stopping after this step") == 1
    summary = read_json(setting.runs / "it" / "summary.json")
    assert (summary["status"], summary["steps"]) == ("interrupted", 6)
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
    said = errors.splitlines()
    assert said[0] == "stopping after this step"
    assert len(said) == 2
    assert "--resume" in said[1]
    run = setting.runs / "it"
    summary = read_json(run / "summary.json")
    assert summary["status"] == "interrupted"
    assert read_rows(run, "train")[-1]["step"] == summary["steps"]
    assert sorted(path.name for path in (run / "figures").iterdir())
