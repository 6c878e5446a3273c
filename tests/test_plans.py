"""What a run will take, foretold: held to what real small runs then take."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from gnn_moe import plans
from gnn_moe.cli import main
from gnn_moe.config import DataConfig, ModelConfig, OutputConfig, RunConfig, TrainingConfig
from gnn_moe.data.corpus import load_corpus
from gnn_moe.errors import RunFailed
from gnn_moe.plans import Calibration, calibrate, plan_memory
from gnn_moe.run_folder import RunFolder
from gnn_moe.training.record import read_metrics, write_json
from tests.small_runs import Setting, read_json

MODEL = ModelConfig(num_experts=3, embed_dim=16, num_heads=2, num_layers=2, gnn_layers=1, max_seq_length=16)


def config_of(setting: Setting, **training: Any) -> RunConfig:
    return RunConfig(
        model=MODEL,
        data=DataConfig(dataset_name=str(setting.corpus), tokenizer="bpe:300"),
        training=TrainingConfig(**{"batch_size": 8, "precision": "fp32", "device": "cpu", **training}),
        output=OutputConfig(cache_dir=str(setting.cache)),
    )


def test_steps_and_evaluations_are_those_of_the_run(setting: Setting, forked: None) -> None:
    flags = {"batch_size": 7, "micro_batch_size": 3, "epochs": 3, "eval_every": 4}
    found = calibrate(config_of(setting, **flags))
    assert main(setting.flags("it", max_batches_per_epoch=-1, **flags)) == 0
    rows = [json.loads(line) for line in (setting.runs / "it" / "metrics.jsonl").read_text().splitlines()]
    assert found.steps == read_json(setting.runs / "it" / "summary.json")["steps"]
    assert found.evaluations == sum(row["kind"] == "eval" for row in rows)
    assert (found.micro_batch_size, found.precision) == (3, "fp32")
    assert found.train_minutes > 0
    assert found.eval_minutes > 0


def test_minutes_follow_from_the_positions_of_the_whole_run(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a made cost: half a second a step and a millisecond a position."""
    seen = plans._Seen(
        step_seconds=0.5,
        position_seconds=1e-3,
        eval_seconds=2.0,
        save_seconds=0.3,
        micro_batch_size=8,
        precision="fp32",
        threads=1,
    )
    monkeypatch.setattr(plans, "_run_apart", lambda config: None)
    monkeypatch.setattr(plans, "_read", lambda run: seen)
    monkeypatch.setattr(plans, "_EVALUATED", 1)
    found = calibrate(config_of(setting, epochs=2, eval_every=7))
    assert main(setting.flags("it", epochs=2, max_batches_per_epoch=-1, eval_every=7)) == 0
    rows = [json.loads(line) for line in (setting.runs / "it" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    tokens = [
        row["tokens"] - before for row, before in zip(trained, [0, *(row["tokens"] for row in trained)], strict=False)
    ]
    positions = sum(count / (1 - row["padding_share"]) for count, row in zip(tokens, trained, strict=True))
    assert found.train_minutes == pytest.approx((0.5 * len(trained) + 1e-3 * positions) / 60)
    # 8 of the 20 evaluation samples, all of them padded to 16 positions, took two seconds.
    assert found.eval_minutes == pytest.approx((found.evaluations + 1) * 2.0 * 20 / 8 / 60)
    assert found.save_minutes == pytest.approx(found.evaluations * 0.3 / 60)
    assert found.positions == 16


@pytest.mark.parametrize(("steps", "warm_up"), [(3, 2), (12, 4), (60, 20)])
def test_warm_up_and_compilation_are_not_counted(setting: Setting, steps: int, warm_up: int) -> None:
    """Made rows: half a second a step and a millisecond a position, after some steps of a minute each."""
    assert main(setting.flags("it", epochs=1)) == 0
    run = RunFolder(setting.runs / "it")
    rows, tokens = [], 0
    for step in range(1, steps + 1):
        positions = 100 + 7 * (step % 5)
        seconds = 60 if step <= warm_up else 0.5 + 1e-3 * positions
        tokens += 80
        row = {"kind": "train", "step": step, "tokens": tokens, "padding_share": 1 - 80 / positions}
        rows.append(row | {"tokens_per_second": 80 / seconds})
    rows.append({"kind": "eval", "step": steps, "seconds": 3.0})
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_json(run.summary, read_json(run.summary) | {"save_minutes": 0.01})
    seen = plans._read(run)
    assert seen.step_seconds + 121 * seen.position_seconds == pytest.approx(0.5 + 0.121)
    if steps - warm_up > 1:  # of one step alone, nothing tells the two apart
        assert seen.step_seconds == pytest.approx(0.5)
    assert seen.eval_seconds == 3
    assert seen.save_seconds == pytest.approx(0.6)


@pytest.mark.parametrize("most", [128, 1024])
def test_a_small_model_is_timed_for_more_steps(setting: Setting, most: int) -> None:
    """By its FLOPs with the vocabulary that its tokenizer has and rows as long as they are, here 16 to 32 tokens."""
    corpus = load_corpus(config_of(setting).data, max_seq_length=most, cache_dir=str(setting.cache))

    def steps(width: int, batch: int) -> int:
        model = ModelConfig(num_experts=4, embed_dim=width, num_layers=2, max_seq_length=most)
        config = dataclasses.replace(config_of(setting, batch_size=batch), model=model)
        return plans._count_steps(config, corpus)

    assert (steps(64, 8), steps(1024, 32), steps(2048, 8)) == (60, 12, 12)
    assert 12 < steps(256, 64) < steps(256, 32) < 60


def test_more_steps_than_an_epoch_has_are_timed(
    setting: Setting, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 160 rows in batches of 80: of an epoch's two steps one would count, and not tell its two costs apart."""
    read, counted = plans._read, []

    def reading(run: RunFolder) -> plans._Seen:
        counted.append(sum(row["kind"] == "train" for row in read_metrics(run.metrics)))
        return read(run)

    monkeypatch.setattr(plans, "_read", reading)
    calibrate(config_of(setting, batch_size=80, epochs=30))
    assert counted == [60]


def test_a_run_that_fails_is_said_to(setting: Setting, forked: None) -> None:
    config = config_of(setting)
    broken = dataclasses.replace(config, model=dataclasses.replace(MODEL, embed_dim=2**23))
    with pytest.raises(RunFailed, match="--calibrate: the short run ended with status 1"):
        calibrate(broken)


def test_peak_counts_a_micro_batch_and_a_precision() -> None:
    config = RunConfig(model=ModelConfig(embed_dim=384, num_experts=8), training=TrainingConfig(batch_size=64))
    split = dataclasses.replace(config, training=TrainingConfig(batch_size=64, micro_batch_size=8))
    whole = dataclasses.replace(config, training=TrainingConfig(batch_size=64, micro_batch_size=64))
    float32 = dataclasses.replace(whole, training=dataclasses.replace(whole.training, precision="fp32"))
    totals = [plan_memory(each).peak.total for each in (split, whole, float32)]
    assert totals == sorted(totals)
    on_gpu = plan_memory(dataclasses.replace(config, training=TrainingConfig(batch_size=64, device="cuda:1")))
    assert (on_gpu.peak.process, on_gpu.micro_batch_size, on_gpu.device_type) == (0, 64, "cuda")


def test_the_plan_takes_the_micro_batch_that_train_would(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(model=ModelConfig(embed_dim=384, num_experts=16), training=TrainingConfig(batch_size=64))
    monkeypatch.setattr(plans, "cpu_room_bytes", lambda: 2**50)
    assert plan_memory(config).micro_batch_size == 64
    monkeypatch.setattr(plans, "cpu_room_bytes", lambda: 8 * 2**30)
    plan = plan_memory(config)
    assert 1 <= plan.micro_batch_size < 64
    assert plan.peak.total <= 8 * 2**30
    assert (plan.device_type, plan.precision) == ("cpu", "bf16")


def test_a_calibration_tells_the_plan_what_it_found() -> None:
    config = RunConfig(model=ModelConfig(embed_dim=384), training=TrainingConfig(batch_size=64))
    found = Calibration(
        micro_batch_size=16,
        precision="fp32",
        threads=1,
        steps=1,
        evaluations=1,
        positions=32,
        train_minutes=1.0,
        eval_minutes=1.0,
        save_minutes=0.1,
    )
    short = plan_memory(config, found)
    assert (short.micro_batch_size, short.precision) == (16, "fp32")
    assert short.peak.activations < plan_memory(config, dataclasses.replace(found, positions=128)).peak.activations / 2


def test_inspect_calibrates_in_a_process_of_its_own(setting: Setting) -> None:
    data = {**setting.data, "num_eval_samples": 12}
    flags = [word for name, value in data.items() for word in (f"--{name}", str(value))]
    words = ["--embed_dim", "16", "--num_layers", "1", "--max_seq_length", "16", "--batch_size", "8", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "gnn_moe", "inspect", *words, *flags, "--calibrate", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    values = json.loads(done.stdout)
    assert values["micro_batch_size"] == 8
    assert values["steps"] == 8 * 20
    assert values["train_minutes"] > 0
    assert values["peak_memory_bytes"] > 2**28
