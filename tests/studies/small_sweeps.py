"""Small real sweeps: their flags, their records, and sweeps as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gnn_moe.training.record import read_metrics
from tests.small_runs import Setting, read_json

SIZES = {"num_experts": 2, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "gnn_layers": 1, "max_seq_length": 16}
FIT = {
    "batch_size": 8,
    "epochs": 1,
    "max_batches_per_epoch": 6,
    "eval_every": 3,
    "learning_rate": 0.01,
    "precision": "fp32",
    "device": "cpu",
}
LONG = {"epochs": 20, "max_batches_per_epoch": 20, "eval_every": 100}
"""400 steps: time enough to be killed in."""
PATIENCE_SECONDS = 480.0
"""On a machine that does other things too."""


@dataclass(frozen=True)
class Sweeps:
    """A corpus, a cache and a folder for studies."""

    setting: Setting

    def words(self, study: str, *more: str, **changes: Any) -> list[str]:
        """The words of a small sweep; a change to None leaves a flag out."""
        values = {**self.setting.data, **SIZES, **FIT, "output_dir": self.setting.runs, "study": study, **changes}
        given = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
        return ["sweep", *given, *more]

    def compare_words(self, study: str, *more: str, **changes: Any) -> list[str]:
        """The same of a comparison."""
        return ["compare", *self.words(study, *more, **changes)[1:]]

    def start(
        self, words: Sequence[str], *, data_bytes: int | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a sweep; warnings in it are errors.

        Args:
            words: of the command.
            data_bytes: memory that it and each of its trials may have.
            environment: besides ours.
        """

        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "gnn_moe", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if data_bytes is not None:
            psutil.Process(process.pid).rlimit(psutil.RLIMIT_DATA, (data_bytes, data_bytes))
        return process

    def run(
        self, words: Sequence[str], *, data_bytes: int | None = None, environment: Mapping[str, str] | None = None
    ) -> str:
        """Runs a sweep to its end, which must be a good one; returns what it printed."""
        return finish(self.start(words, data_bytes=data_bytes, environment=environment))

    def folder(self, study: str) -> Path:
        return self.setting.runs / study

    def record(self, study: str) -> dict[str, Any]:
        return read_json(self.folder(study) / "study.json")

    def trials(self, study: str) -> dict[str, dict[str, Any]]:
        """The rows of study.json by what each changes, without seed and digest."""
        return {label(trial): trial for trial in self.record(study)["trials"]}

    def starts(self, study: str) -> dict[str, int]:
        """How often each trial's process announced its training."""
        logs = (self.folder(study) / "logs").glob("*.log")
        return {log.name.split(",seed=")[0]: log.read_text(encoding="utf-8").count("\ntraining  ") for log in logs}


def label(trial: dict[str, Any]) -> str:
    return str(trial["name"]).split(",seed=")[0]


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Waits for a process, which must end with this status; returns what it printed."""
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == status, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a sweep without a word."""
    process.send_signal(signal.SIGKILL)
    finish(process, -signal.SIGKILL)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Waits until a condition holds; returns what it gave."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"in vain: {what}")


def trial_processes(sweep: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training processes of a sweep."""
    found: list[psutil.Process] = psutil.Process(sweep.pid).children()
    return found


def steps_of(folder: Path) -> list[int]:
    """The training steps in the record of a run, in the order written."""
    path = folder / "metrics.jsonl"
    return [row["step"] for row in read_metrics(path) if row["kind"] == "train"] if path.exists() else []
