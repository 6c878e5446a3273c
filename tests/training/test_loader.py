"""Batches made ahead: the same ones, no more than asked for, their errors in the step, and no thread left behind."""

from __future__ import annotations

import itertools
import shlex
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gnn_moe.cli import main
from gnn_moe.data.batches import RowNumbers, collate
from gnn_moe.training import loader
from gnn_moe.training.loader import STEPS_AHEAD, LoadedBatch, load_ahead
from gnn_moe.training.loop import Trainer
from tests.data.test_unigram import samples_of
from tests.small_runs import (
    STEPS,
    Accident,
    Commands,
    Setting,
    assert_same_run,
    interrupted,
    read_json,
    read_rows,
    terminated,
)

CPU = torch.device("cpu")
SAMPLES = samples_of(*(list(range(row % 7 + 2)) for row in range(40)))
BATCHES = [np.arange(start, min(start + 6, 40)) for start in range(0, 40, 6)]


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("size", [None, 4, 6, 100])
def test_batches_are_those_of_the_rows_in_their_order(size: int | None) -> None:
    with closing(load_ahead(SAMPLES, BATCHES, micro_batch_size=size, positions=8, device=CPU)) as batches:
        loaded = list(batches)
    assert len(loaded) == len(BATCHES)
    for batch, rows in zip(loaded, BATCHES, strict=True):
        pieces = [rows[start : start + (size or 6)] for start in range(0, len(rows), size or 6)]
        assert len(batch.pieces) == len(pieces)
        for piece, piece_rows in zip(batch.pieces, pieces, strict=True):
            expected = collate(SAMPLES, piece_rows, positions=8)
            assert torch.equal(piece.input_ids, expected.input_ids)
            assert torch.equal(piece.targets, expected.targets)
        targets = [piece.targets for piece in batch.pieces]
        assert batch.predicted_tokens == float(batch.denominator) == sum(int((t != -100).sum()) for t in targets)
        assert batch.positions == sum(t.numel() for t in targets)
        padded = sum(int((t == -100).sum()) for t in targets)
        assert batch.padding_share == pytest.approx(padded / batch.positions)


def test_two_batches_are_made_ahead_and_no_more() -> None:
    asked: list[int] = []
    made_ahead = threading.Event()

    def rows() -> Iterator[RowNumbers]:
        for number in itertools.count():
            asked.append(number)
            if number == STEPS_AHEAD:
                made_ahead.set()
            yield BATCHES[0]

    with closing(load_ahead(SAMPLES, rows(), positions=8, device=CPU)) as batches:
        next(batches)
        assert made_ahead.wait(60)
        # Time enough for a third, if there were one.
        time.sleep(0.3)
        assert asked == [0, 1, 2]


def broken(*arguments: Any, **named: Any) -> Any:
    raise ZeroDivisionError("a broken row")


def test_an_error_in_the_thread_is_one_of_the_step_with_its_own_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "collate", broken)
    with (
        closing(load_ahead(SAMPLES, BATCHES, positions=8, device=CPU)) as batches,
        pytest.raises(ZeroDivisionError, match="a broken row") as caught,
    ):
        next(batches)
    assert "in broken" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert loader_threads() == []


@pytest.mark.parametrize("taken", [1, 3, len(BATCHES)])
def test_the_thread_ends_with_the_batches(taken: int) -> None:
    with closing(load_ahead(SAMPLES, BATCHES, positions=8, device=CPU)) as batches:
        list(itertools.islice(batches, taken))
        assert len(loader_threads()) == 1
    assert loader_threads() == []
    assert len(list(load_ahead(SAMPLES, BATCHES, positions=8, device=CPU))) == len(BATCHES)
    assert loader_threads() == []


def test_waiting_is_the_time_between_asking_and_having(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 10.5, 20.0, 23.0])
    monkeypatch.setattr(loader, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    with closing(load_ahead(SAMPLES, BATCHES, positions=8, device=CPU)) as batches:
        assert [batch.waited_seconds for batch in itertools.islice(batches, 2)] == [0.5, 3.0]


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.device, list[str]]:
    """A device that looks like a GPU, and what is done to the tensors that are to go there."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: closing(SimpleNamespace(close=lambda: None)))

    def pin(values: torch.Tensor) -> torch.Tensor:
        done.append(f"pinned by {threading.current_thread().name.split('_')[0]}")
        return values

    def to(values: torch.Tensor, device: torch.device, *, non_blocking: bool = False) -> torch.Tensor:
        done.append(f"copied to {device.type}, {non_blocking=}, by {threading.current_thread().name.split('_')[0]}")
        return values

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    return torch.device("cuda"), done


def test_a_gpu_is_fed_from_pinned_memory_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    device, done = on_a_gpu(monkeypatch)
    with closing(load_ahead(SAMPLES, BATCHES[:1], micro_batch_size=3, positions=8, device=device)) as batches:
        list(batches)
    # Inputs and targets of two pieces, and the denominator.
    assert done == ["pinned by loader"] * 5 + ["copied to cuda, non_blocking=True, by MainThread"] * 5


def test_a_failing_loader_fails_the_run(setting: Setting, commands: Commands) -> None:
    failed = commands.run(setting.flags("it"), Accident("gnn_moe.training.loader:collate", 6, broken))
    assert failed.status == 1
    assert "in broken" in failed.output
    summary = read_json(setting.runs / "it" / "summary.json")
    assert (summary["status"], summary["error_message"]) == ("failed", "ZeroDivisionError: a broken row")


@pytest.mark.parametrize(("stop", "status"), [(interrupted, 130), (terminated, 143)])
def test_a_signal_that_comes_while_a_batch_is_made(
    stop: Any, status: int, setting: Setting, commands: Commands, uninterrupted: Path
) -> None:
    stopped = commands.run(setting.flags("it"), Accident("gnn_moe.training.loader:collate", 5, stop))
    assert stopped.status == status, stopped.output
    assert "Traceback" not in stopped.output
    assert read_json(setting.runs / "it" / "summary.json")["steps"] < STEPS
    told = stopped.output.splitlines()[-1].split("go on with: gnn-moe ")[1]
    assert commands.run(shlex.split(told)).status == 0
    assert_same_run(setting.runs / "it", uninterrupted)


def test_shares_of_waiting_and_padding_are_recorded_and_survive_a_stop(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step waits 2⁻²⁰ seconds, by a clock that every reading moves; its rows are of many lengths."""
    ticks = itertools.count(0, 2**-20)
    monkeypatch.setattr(loader, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    step = Trainer._step

    def stopped_in_step_7(trainer: Trainer, batch: LoadedBatch) -> bool:
        if trainer.progress.step == 6:
            interrupted()
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped_in_step_7)
        assert main(setting.flags("it", max_seq_length=60, batch_size=5)) == 130
    assert main(setting.resume("it")) == 0
    run = setting.runs / "it"
    rows, summary = read_rows(run, "train"), read_json(run / "summary.json")
    assert len(rows) == STEPS
    assert read_rows(run, "memory") == []
    for row in rows:
        assert 0 < row["waiting_share"] < 1
        assert 0 <= row["padding_share"] < 1
    waited = summary["waiting_share"] * summary["train_minutes"] * 60
    assert waited == pytest.approx(STEPS * 2**-20)
    tokens = np.diff([0, *(row["tokens"] for row in rows)])
    positions = tokens / (1 - np.array([row["padding_share"] for row in rows]))
    assert positions == pytest.approx(np.round(positions))
    assert summary["padding_share"] == pytest.approx(1 - tokens.sum() / positions.sum())
    line = f"batches           {summary['padding_share']:.1%} padding; {summary['waiting_share']:.1%} of training"
    assert line in capsys.readouterr().out
