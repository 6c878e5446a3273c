"""Small real runs: their flags, their records, and commands as processes of their own.

A run here is 12 steps of a model with 16 numbers a token: two epochs of 6 batches, evaluated at steps 4, 8 and 12.
`Commands` forks each command from a process that has everything imported, so that a real process, with its own
signals and exit status, takes half a second.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    "coupler_type": "HGNN",
    "num_experts": 3,
    "embed_dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "gnn_layers": 1,
    "max_seq_length": 16,
}
FIT = {
    "batch_size": 8,
    "epochs": 2,
    "max_batches_per_epoch": 6,
    "eval_every": 4,
    "learning_rate": 0.01,
    "precision": "fp32",
    "device": "cpu",
}
STEPS, EVALUATED = 12, [4, 8, 12]
CURVE = (
    "kind",
    "step",
    "epoch",
    "tokens",
    "learning_rate",
    "loss",
    "load_balancing_loss",
    "router_z_loss",
    "gradient_norm",
    "padding_share",
    "perplexity",
    "bits_per_byte",
)
"""What an interrupted run must repeat to the bit; the rest of a row is time."""


def write_corpus(folder: Path, *, seed: int = 0, train: int = 160, valid: int = 20, test: int = 11) -> Path:
    """A folder of text in an invented language, always the same for the same arguments."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 7))) for _ in range(60)]
    folder.mkdir(parents=True)
    for name, lines in (("train", train), ("valid", valid), ("test", test)):
        text = "".join(" ".join(draw.choices(words, k=draw.randint(8, 14))) + "\n" for _ in range(lines))
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Setting:
    """A corpus, a cache and a folder for runs."""

    corpus: Path
    cache: Path
    runs: Path

    def flags(self, run_name: str, *words: str, **changes: Any) -> list[str]:
        """The words of `train` for a small run; a change to None leaves a flag out."""
        values: dict[str, Any] = {
            **self.data,
            **SIZES,
            **FIT,
            "output_dir": self.runs,
            "run_name": run_name,
            **changes,
        }
        given = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
        return ["train", *given, *words]

    def resume(self, run_name: str, *words: str) -> list[str]:
        """The words that go on with a run, and nothing else."""
        return ["train", "--run_name", run_name, "--output_dir", str(self.runs), "--resume", *words]

    @property
    def data(self) -> dict[str, Any]:
        return {"dataset_name": self.corpus, "tokenizer": "bpe:300", "cache_dir": self.cache}


def read_json(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def read_rows(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if kind in (None, row["kind"])]


def curve(run: Path) -> list[dict[str, Any]]:
    """The numbers of metrics.jsonl that do not depend on the clock."""
    return [{name: row[name] for name in CURVE if name in row} for row in read_rows(run)]


def coupling(run: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(run / "coupling.npz") as stored:
        return {name: stored[name] for name in stored.files}


def assert_same_run(run: Path, other: Path) -> None:
    """Two runs have the same curve, coupling and results, to the bit."""
    assert curve(run) == curve(other)
    ours, theirs = coupling(run), coupling(other)
    assert list(ours) == list(theirs)
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    minutes = {"train_minutes", "eval_minutes", "save_minutes"}
    clocked = {"run_name", *minutes, "tokens_per_second", "waiting_share", "peak_memory_bytes"}
    summaries = [read_json(path / "summary.json") for path in (run, other)]
    assert [{k: v for k, v in s.items() if k not in clocked} for s in summaries[:1]] == [
        {k: v for k, v in s.items() if k not in clocked} for s in summaries[1:]
    ]
    for link in ("last", "best"):
        models = [path / "checkpoints" / link / "model.safetensors" for path in (run, other)]
        assert models[0].read_bytes() == models[1].read_bytes(), link


@dataclass(frozen=True)
class Accident:
    """What happens to a process at the `call`-th call of `target` (`module:attribute.path`).

    `what` is done before the call, or instead of the rest of it, or after it, by `when`.
    """

    target: str
    call: int
    what: Callable[..., None]
    when: str = "before"

    def prepare(self) -> None:
        module_name, path = self.target.split(":")
        owner = importlib.import_module(module_name)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        original, calls = getattr(owner, name), 0

        def replacement(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call and self.when == "before":
                self.what(*arguments)
            result = original(*arguments, **named)
            if calls == self.call and self.when == "after":
                self.what(*arguments)
            return result

        setattr(owner, name, replacement)

    def __str__(self) -> str:
        action = self.what.__name__.replace("_", " ")
        return f"{action} {self.when} call {self.call} of {self.target.split(':')[1]}"


def killed(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupted_twice(*arguments: Any) -> None:
    interrupted()
    interrupted()


def terminated(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def terminated_twice(*arguments: Any) -> None:
    terminated()
    terminated()


def interrupted_and_terminated(*arguments: Any) -> None:
    interrupted()
    terminated()


def killed_with_half_a_model(folder: Path, *arguments: Any) -> None:
    """For `write_model_folder`: the file stops in the middle."""
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    killed()


def killed_with_half_a_state(folder: Path, *arguments: Any) -> None:
    """For `write_training_state`: the file stops in the middle."""
    path = folder / "training.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    killed()


def killed_with_half_a_row(metrics: Any, *arguments: Any) -> None:
    """For `Metrics.add`: the last line stops in the middle."""
    os.truncate(metrics.path, metrics.path.stat().st_size - 30)
    killed()


def file_size_limited(*arguments: Any) -> None:
    """From now on no file of this process may grow past 40 kB, as if the disk were full."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def no_figures() -> None:
    """Leaves the figures out, which take longer than the run."""
    setattr(importlib.import_module("gnn_moe.runs"), "write_figures", lambda folder: [])  # noqa: B010


PRELOADED = [
    "gnn_moe.runs",
    "gnn_moe.cli",
    "torch._dynamo",
    "tokenizers",
    "typeguard",
    "benchmarks.contestants",
    "benchmarks.loss",
    "tests.small_runs",
    # A process imports the program that started it anew: the script `pytest`.
    "pytest",
]
"""What the process that forks others has imported (conftest.py says so to it)."""


class Commands:
    """Runs commands as processes of their own, and keeps what they write."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.started: list[multiprocessing.process.BaseProcess] = []
        self.context = multiprocessing.get_context("forkserver")

    def start(
        self,
        words: Sequence[str],
        accident: Accident | None = None,
        *,
        figures: bool = False,
        folder: Path | None = None,
        terminal: str | None = None,
        variables: Mapping[str, str | None] | None = None,
    ) -> Started:
        """Starts `gnn-moe WORDS`.

        Args:
            words: of the command line.
            accident: what happens to it.
            figures: whether a run ends with its figures.
            folder: where it runs, if not here.
            terminal: what its three streams are, if not files.
            variables: of its environment; None takes one away.
        """
        logs = [self.logs / f"command_{len(self.started)}.{name}" for name in ("out", "err")]
        for log in logs:
            log.touch()
        streams = [terminal] * 3 if terminal else [os.devnull, *map(str, logs)]
        place = _Place(streams, folder, dict(variables or {}))
        process = self.context.Process(target=_command, args=(list(words), place, accident, figures))
        process.start()
        self.started.append(process)
        return Started(process, logs)

    def run(self, words: Sequence[str], accident: Accident | None = None, **others: Any) -> Finished:
        """Runs `gnn-moe WORDS` to its end; arguments as those of `start`."""
        return self.start(words, accident, **others).wait()

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.join()


@dataclass(frozen=True)
class Started:
    process: multiprocessing.process.BaseProcess
    logs: list[Path]

    def wait(self) -> Finished:
        self.process.join(120)
        status = self.process.exitcode
        assert status is not None, f"still running: {self.written}"
        return Finished(status, *self.written)

    @property
    def written(self) -> list[str]:
        """Standard output and standard error until now."""
        return [log.read_text(encoding="utf-8") for log in self.logs]


@dataclass(frozen=True)
class Finished:
    status: int
    """Exit status; −9 for a process that was killed."""
    printed: str
    """Standard output."""
    errors: str
    """Standard error."""

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        return self.printed + self.errors


@dataclass(frozen=True)
class _Place:
    """What a process finds when it begins."""

    streams: Sequence[str]
    folder: Path | None
    variables: Mapping[str, str | None]

    def enter(self) -> None:
        for descriptor, path in enumerate(self.streams):
            os.dup2(os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOCTTY), descriptor)
        sys.stdin, sys.stdout, sys.stderr = (
            open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            for descriptor, mode in enumerate("rww")
        )
        for name, value in self.variables.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if self.folder is not None:
            os.chdir(self.folder)


def _command(words: list[str], place: _Place, accident: Accident | None, figures: bool) -> None:
    place.enter()
    import torch

    from gnn_moe.cli import main

    torch.set_num_threads(1)
    if not figures:
        no_figures()
    if accident is not None:
        accident.prepare()
    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
