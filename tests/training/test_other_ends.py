"""Ends that are neither completion nor a signal in the middle: races, memory, a reader that leaves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gnn_moe import runs
from gnn_moe.cli import main
from gnn_moe.data.corpus import load_corpus
from tests.small_runs import ROOT, Accident, Commands, Setting, curve, interrupted, read_json, read_rows


def test_a_run_that_ended_while_the_data_was_read_is_not_overwritten(
    setting: Setting, commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow_to_read(*arguments: object, **settings: object) -> object:
        assert commands.run(setting.flags("it", seed=1)).status == 0
        return load_corpus(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "load_corpus", slow_to_read)
    assert main(setting.flags("it", seed=2)) == 2
    assert "exists; say --resume" in capsys.readouterr().err
    assert read_json(setting.runs / "it" / "config.json")["training"]["seed"] == 1


def test_a_signal_while_the_data_is_read_spares_the_run_to_be_replaced(setting: Setting, commands: Commands) -> None:
    assert commands.run(setting.flags("it", seed=1)).status == 0
    before = curve(setting.runs / "it")
    stopped = commands.run(setting.flags("it", "--overwrite"), Accident("gnn_moe.runs:load_corpus", 1, interrupted))
    assert stopped.status == 130, stopped.output
    assert stopped.output.splitlines()[-1] == "gnn-moe train: stopped by SIGINT"
    assert curve(setting.runs / "it") == before
    assert read_json(setting.runs / "it" / "summary.json")["status"] == "completed"


def test_a_model_too_large_for_the_memory_is_a_recorded_failure(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(setting.flags("it", embed_dim=2**23)) == 1
    foretold, said = capsys.readouterr().err.splitlines()
    assert "are expected with one sample at once" in foretold
    assert "out of memory with --micro_batch_size 1: use --activation_checkpointing" in said
    summary = read_json(setting.runs / "it" / "summary.json")
    assert (summary["status"], summary["error_class"], summary["steps"]) == ("failed", "out_of_memory", 0)


def test_numbers_that_json_has_not_become_null(setting: Setting) -> None:
    words = setting.flags("it", learning_rate=100, gradient_clip=1000, epochs=1, eval_every=3)
    assert main(words) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for name in ("summary.json", "metrics.jsonl"):
        for line in (setting.runs / "it" / name).read_text().replace("\n ", " ").replace("\n}", "}").splitlines():
            json.loads(line, parse_constant=refuse)
    assert None in [row["perplexity"] for row in read_rows(setting.runs / "it", "eval")]


@pytest.mark.slow
def test_a_reader_that_leaves_gets_silence_and_the_run_can_go_on(setting: Setting) -> None:
    words = [sys.executable, "run_gnn_moe.py", *setting.flags("it", epochs=1000, eval_every=1)[1:]]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(8):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(60) == 141, errors
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert read_json(setting.runs / "it" / "summary.json")["status"] == "interrupted"


def test_a_listing_may_be_cut_short() -> None:
    command = f"{sys.executable} -m gnn_moe inspect --json | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
