"""What a worker makes of a trial that has a past: its folder decides before any process is started."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gnn_moe.config import ModelConfig, OutputConfig, RunConfig, TrainingConfig, to_dict
from gnn_moe.studies.engine import Engine, Slot, Watchers
from gnn_moe.studies.outcomes import Outcome
from gnn_moe.studies.queue import Claim, Queue, Row
from gnn_moe.studies.space import parse_variations
from gnn_moe.studies.storage import StorageLost, default_url, open_storage
from gnn_moe.studies.sweep import Sweep
from gnn_moe.studies.workers import this_worker
from gnn_moe.training.memory_limits import RUNS_AT_ONCE, cpu_room_bytes

VARIATIONS = parse_variations(["num_experts=2,3", "num_heads=2,3"])


def sweep_in(folder: Path, **training: Any) -> Sweep:
    baseline = RunConfig(
        model=ModelConfig(num_experts=2, embed_dim=16, num_heads=2),
        training=TrainingConfig(**training),
        output=OutputConfig(output_dir=str(folder)),
    )
    return Sweep(study="it", baseline=baseline, variations=VARIATIONS, seeds=(1,))


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    storage = open_storage(default_url(tmp_path), heartbeat_seconds=60)
    lock_file = tmp_path / ".lock"
    with closing(Queue(storage, "it", lock_file=lock_file, worker=this_worker(), variations=VARIATIONS)) as opened:
        yield opened


def begin(sweep: Sweep, queue: Queue, number: int = 0, micro_batch_size: int | None = None) -> Outcome | Slot:
    watchers = Watchers(on_rows=lambda rows: None, on_tick=lambda: None, on_notice=lambda text: None)
    engine = Engine(sweep=sweep, queue=queue, workers=1, timeout_minutes=None, heartbeat_seconds=60, watchers=watchers)
    claim = Claim(number=0, point=sweep.points()[number], micro_batch_size=micro_batch_size, outcome=None)
    return engine._begin(claim)


def stored(sweep: Sweep, micro_batch_size: int | None = None, stored_size: int = 4) -> Path:
    """A run folder of the baseline that was begun, with the micro-batch that it came down to."""
    point = sweep.points()[0]
    config = sweep.run_config(point, micro_batch_size)
    training = dataclasses.replace(config.training, micro_batch_size=stored_size)
    folder = sweep.run_folder(point, micro_batch_size)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(dataclasses.replace(config, training=training))))
    return folder


def words_of(begun: Outcome | Slot) -> list[str]:
    assert isinstance(begun, Slot)
    return list(begun.process.words)


def test_a_completed_run_is_its_result(queue: Queue, tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    folder = stored(sweep)
    (folder / "summary.json").write_text(json.dumps({"status": "completed", "best_eval_loss": 4.5}))
    begun = begin(sweep, queue)
    assert isinstance(begun, Outcome)
    assert (begun.state, begun.best_eval_loss, begun.micro_batch_size) == ("completed", 4.5, 4)


@pytest.mark.parametrize("file", ["summary.json", "config.json"])
def test_a_damaged_run_folder_is_a_crash_that_names_it(file: str, queue: Queue, tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    folder = stored(sweep)
    (folder / file).write_text("{")
    begun = begin(sweep, queue)
    assert isinstance(begun, Outcome)
    assert (begun.state, begun.error_class) == ("failed", "crash")
    assert str(folder / file) in str(begun.error_message)
    assert "--retry crash" in str(begun.error_message)


def test_an_invalid_point_starts_no_process(queue: Queue, tmp_path: Path) -> None:
    begun = begin(sweep_in(tmp_path), queue, number=2)
    assert isinstance(begun, Outcome)
    assert begun.error_class == "bad_config"
    assert "--num_heads 3" in str(begun.error_message)


def test_a_run_goes_on_with_the_micro_batch_that_it_came_down_to(queue: Queue, tmp_path: Path) -> None:
    """Left out it is the run's own; a number that was asked for gives way to it."""
    automatic = sweep_in(tmp_path / "auto")
    assert "--micro_batch_size" not in words_of(begin(automatic, queue))
    stored(automatic)
    assert "--micro_batch_size" not in words_of(begin(automatic, queue))
    explicit = sweep_in(tmp_path / "explicit", micro_batch_size=16)
    stored(explicit)
    words = words_of(begin(explicit, queue))
    assert words[words.index("--micro_batch_size") + 1] == "4"
    stored(explicit, micro_batch_size=8, stored_size=2)
    words = words_of(begin(explicit, queue, micro_batch_size=8))
    assert words[words.index("--micro_batch_size") + 1] == "2"


def test_a_record_that_lost_the_storage_is_written_at_the_next_look(queue: Queue, tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    queue.add(sweep.points())
    written: list[int] = []

    def write(rows: Sequence[Row]) -> None:
        written.append(len(rows))
        if len(written) == 1:
            raise StorageLost("gone for a moment")

    watchers = Watchers(on_rows=write, on_tick=lambda: None, on_notice=lambda text: None)
    engine = Engine(sweep=sweep, queue=queue, workers=1, timeout_minutes=None, heartbeat_seconds=60, watchers=watchers)
    with pytest.raises(StorageLost):
        engine._look()
    engine._look()
    engine._look()
    assert written == [len(sweep.points())] * 2


def test_trials_at_once_share_the_memory(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watchers = Watchers(on_rows=lambda rows: None, on_tick=lambda: None, on_notice=lambda text: None)
    alone, shared = (
        Engine(
            sweep=sweep_in(tmp_path),
            queue=queue,
            workers=workers,
            timeout_minutes=None,
            heartbeat_seconds=60,
            watchers=watchers,
        )._environment()
        for workers in (1, 4)
    )
    assert RUNS_AT_ONCE not in alone
    whole = cpu_room_bytes()
    monkeypatch.setenv(RUNS_AT_ONCE, shared[RUNS_AT_ONCE])
    assert cpu_room_bytes() == pytest.approx(whole / 4, rel=0.2)  # other processes come and go
