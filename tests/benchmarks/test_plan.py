"""Predictions held to a real run, through the commands that users type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.plan import MOST_WAITING, PLANS, WITHIN, hold_to_plan
from gnn_moe.cli import main
from tests.small_runs import Setting, read_json


def test_a_run_is_foretold_then_taken(
    setting: Setting, forked: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed: dict[str, Any] = {}

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert words[:3] == [sys.executable, "-m", "gnn_moe"]
        assert options == {"capture_output": True, "text": True, "check": True}
        assert main(words[3:]) == 0
        said = capsys.readouterr().out
        if words[3] == "train":
            folder = Path(words[words.index("--output_dir") + 1]) / words[words.index("--run_name") + 1]
            typed["train"] = read_json(folder / "summary.json")
        else:
            typed["inspect"] = json.loads(said)
        return subprocess.CompletedProcess(words, 0, said, "")

    monkeypatch.setattr("benchmarks.plan.subprocess", SimpleNamespace(run=run))
    sizes = (
        "--embed_dim 16 --num_layers 1 --num_experts 2 --max_seq_length 16 --batch_size 8 --epochs 2 --eval_every 20"
    )
    data = " ".join(f"--{name} {value}" for name, value in setting.data.items())
    result = hold_to_plan(f"{sizes} {data}", device="cpu")
    assert list(typed) == ["inspect", "train"]
    for values, found in zip(typed.values(), (result.predicted_bytes, result.peak_bytes), strict=True):
        assert values["peak_memory_bytes"] == found
    for values, minutes in zip(typed.values(), (result.predicted_minutes, result.minutes), strict=True):
        assert values["train_minutes"] + values["eval_minutes"] == minutes > 0
    assert result.memory == result.predicted_bytes / result.peak_bytes
    assert result.time == pytest.approx(result.predicted_minutes / result.minutes)
    assert (result.memory_met, result.time_met) == (abs(result.memory - 1) <= WITHIN, abs(result.time - 1) <= WITHIN)
    waiting = typed["train"]["waiting_share"]
    assert (result.waiting_share, result.waiting_met) == (waiting, waiting < MOST_WAITING)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_is_of_a_run_that_can_be(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *PLANS[name].split(), "--dry_run"]) == 0
    training = json.JSONDecoder().raw_decode(capsys.readouterr().out)[0]["training"]
    steps, evaluations = (375, 5) if name == "longer" else (60, 2)
    assert (training["epochs"], training["max_batches_per_epoch"]) == (1, steps)
    assert training["eval_every"] * evaluations == steps
