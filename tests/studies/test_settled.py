"""What data and machine decide before a comparison begins: steps, one micro-batch, minutes a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest

from gnn_moe.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from gnn_moe.plans import Calibration
from gnn_moe.studies.arguments import CompareArguments
from gnn_moe.studies.command import MINUTES_A_STEP, begin_study
from gnn_moe.studies.compare_command import resolve_comparison, settled
from gnn_moe.studies.design import config_of
from gnn_moe.studies.queue import Queue
from gnn_moe.studies.record import evidence_of
from gnn_moe.studies.storage import default_url, open_storage
from gnn_moe.studies.sweep import Sweep
from gnn_moe.studies.workers import this_worker
from tests.small_runs import Setting

MODEL = ModelConfig(num_experts=2, embed_dim=16, num_heads=2, num_layers=1, gnn_layers=1, max_seq_length=16)
TRAINING = TrainingConfig(batch_size=8, epochs=2, eval_every=10, micro_batch_size=8, precision="fp32", device="cpu")


@pytest.fixture
def asked(setting: Setting) -> Any:
    """A comparison of some arms, as its flags ask for it; the corpus has 160 training samples."""

    def make(*arms: str, training: TrainingConfig = TRAINING, **others: Any) -> Sweep:
        data = DataConfig(dataset_name=str(setting.corpus), tokenizer=setting.data["tokenizer"])
        arguments = CompareArguments(
            study="it",
            arm=arms,
            model=MODEL,
            data=data,
            training=training,
            output_dir=str(setting.runs),
            cache_dir=str(setting.cache),
            **others,
        )
        return resolve_comparison(arguments)

    return make


def configs(sweep: Sweep) -> dict[str, RunConfig]:
    return {str(point.arm): config_of(sweep.baseline, point) for point in sweep.points()}


def test_steps_are_counted_over_the_samples_of_each_arm(asked: Any) -> None:
    """Of half the samples an epoch has half the steps; a budget of steps is then two epochs for one."""
    found = configs(settled(asked("all:", "half:--num_train_samples 80"), {}, 1))
    steps = {
        "all": found["all"].training.count_steps(160),
        "half": found["half"].training.count_steps(80),
    }
    assert steps == {"all": 40, "half": 40}
    across = settled(asked("a:", "b:--coupler_type mean", across="num_train_samples=40,80", budget="flops"), {}, 1)
    for value, least in ((40, 10), (80, 20)):
        cells = {name: config.training for name, config in configs(across).items() if name.endswith(f"={value}")}
        assert cells[f"a,num_train_samples={value}"].count_steps(value) == least
        assert least < cells[f"b,num_train_samples={value}"].count_steps(value) < 2 * least


def test_a_cell_that_cannot_run_keeps_nobody_waiting(asked: Any) -> None:
    """No dense model is as small as that: a failed trial of class bad_config, in its turn."""
    arms = ("gnn:", "dense:--architecture dense --embed_dim 8", "mean:--coupler_type mean")
    found = configs(settled(asked(*arms, budget="flops"), {}, 1))
    assert found["dense"].training.max_steps == -1
    assert found["mean"].training.max_steps > 40


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What is calibrated: each takes a minute a step for each of its layers. Four samples at once fit."""
    seen: list[RunConfig] = []

    def calibrate(config: RunConfig) -> Calibration:
        seen.append(config)
        return Calibration(
            micro_batch_size=4,
            precision="fp32",
            threads=1,
            steps=10,
            evaluations=1,
            positions=16,
            train_minutes=10.0 * config.model.num_layers,
            eval_minutes=0.0,
            save_minutes=0.0,
        )

    monkeypatch.setattr("gnn_moe.studies.budgets.calibrate", calibrate)
    monkeypatch.setattr("gnn_moe.studies.compare_command.common_micro_batch", lambda *_, **__: 4)
    return seen


AUTO = TrainingConfig(batch_size=8, epochs=2, eval_every=10, precision="fp32", device="cpu")


def test_arms_are_timed_with_the_micro_batch_that_they_run_with(asked: Any, timed: list[RunConfig]) -> None:
    arms = ("one:", "two:--num_layers 2", "small:--micro_batch_size 2")
    found = configs(settled(asked(*arms, training=AUTO, budget="minutes"), {}, 1))
    assert [config.training.micro_batch_size for config in timed] == [4, 4, 2]
    assert [config.training.micro_batch_size for config in found.values()] == [4, 4, 2]
    assert found["two"].training.max_steps == 20


def test_an_arm_whose_name_now_stands_for_other_flags_is_timed_again(asked: Any, timed: list[RunConfig]) -> None:
    def known(sweep: Sweep) -> Mapping[str, Any]:
        return sweep.facts() | {MINUTES_A_STEP: sweep.minutes_a_step}

    first = settled(asked("one:", "more:--num_layers 2", budget="minutes"), {}, 1)
    again = settled(asked("one:", "more:--num_layers 2", budget="minutes"), known(first), 1)
    assert (again.points(), len(timed)) == (first.points(), 2)
    other = settled(asked("one:", "more:--num_layers 4", budget="minutes"), known(first), 1)
    assert [config.model.num_layers for config in timed] == [1, 2, 4]
    assert configs(other)["more"].training.max_steps == 10


def open_queue(sweep: Sweep) -> Queue:
    sweep.folder.mkdir(parents=True, exist_ok=True)
    lock_file = sweep.folder / ".lock"
    storage = open_storage(default_url(sweep.folder.absolute()), heartbeat_seconds=60, lock_file=lock_file)
    return Queue(storage, sweep.study, lock_file=lock_file, worker=this_worker(), variations=())


def test_of_workers_that_begin_together_the_first_one_decides(asked: Any) -> None:
    """The memory of two machines, or of two moments, has room for other micro-batches."""
    sweep = asked("a:", "b:--coupler_type mean", training=AUTO)

    def settle(sweep: Sweep, known: Mapping[str, Any], workers: int) -> Sweep:
        size = known["baseline"]["training"]["micro_batch_size"] if known else workers
        return settled(with_micro_batch(sweep, size) if is_auto(sweep) else sweep, known, workers)

    def settle_late(sweep: Sweep, known: Mapping[str, Any], workers: int) -> Sweep:
        found = settle(sweep, known, workers)
        if not known:
            with closing(open_queue(sweep)) as other:
                assert begin_study(sweep, other, settle, 2).baseline.training.micro_batch_size == 2
        return found

    with closing(open_queue(sweep)) as queue:
        assert begin_study(sweep, queue, settle_late, 4).baseline.training.micro_batch_size == 2


def is_auto(sweep: Sweep) -> bool:
    return sweep.baseline.training.micro_batch_size == "auto"


def with_micro_batch(sweep: Sweep, size: int) -> Sweep:
    training = dataclasses.replace(sweep.baseline.training, micro_batch_size=size)
    return dataclasses.replace(sweep, baseline=dataclasses.replace(sweep.baseline, training=training))


def test_a_worker_that_was_killed_as_it_began_the_study_keeps_nobody_out(asked: Any) -> None:
    sweep = asked("a:", "b:--coupler_type mean")
    with closing(open_queue(sweep)) as queue:
        queue.begin({"baseline": sweep.facts()["baseline"]}, lambda _: None, known={})
        found = begin_study(sweep, queue, settled, 1)
        found.check_unchanged(queue.facts())
        assert queue.facts() == found.facts()


def test_what_was_tried_does_not_depend_on_which_other_arms_were_asked_for(asked: Any) -> None:
    """An arm's row has a value for every field that some arm of that command changed, at rest too."""
    both, all_arms = (
        asked("a:", "b:--coupler_type mean", seeds="1"),
        asked("a:", "b:--coupler_type mean", "c:--num_layers 2", "d:--num_layers 3", seeds="1,2"),
    )
    rows = [
        {
            "name": point.name,
            "arm": point.arm,
            "params": dict(point.params),
            "seed": point.seed,
            "state": "failed",
            "error_class": "crash",
            "error_message": "boom",
        }
        for point in (*both.points(), *all_arms.points()[1::2], *all_arms.points()[4::2])
    ]
    found = evidence_of(both, rows, [])
    assert found is not None
    assert found["questions"][0]["verdicts"][0]["configurations_tried"] == 4
