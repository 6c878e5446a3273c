"""`--resume`: what it starts, continues, finds completed and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gnn_moe.cli import main
from gnn_moe.training.device import computes_bf16
from tests.small_runs import (
    Accident,
    Commands,
    Setting,
    assert_same_run,
    interrupted,
    killed,
    read_json,
    read_rows,
    write_corpus,
)

STEP = "gnn_moe.training.loop:Trainer._step"


@pytest.fixture(scope="module")
def stopped_run(
    commands: Commands, small_corpus: Path, small_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Setting:
    """A run `it` that was stopped after step 7; copied before it is used."""
    setting = Setting(small_corpus, small_cache, tmp_path_factory.mktemp("stopped"))
    assert commands.run(setting.flags("it"), Accident(STEP, 7, interrupted)).status == 130
    return setting


@pytest.fixture
def stopped(stopped_run: Setting, setting: Setting) -> Setting:
    shutil.copytree(stopped_run.runs, setting.runs, symlinks=True)
    return setting


def test_no_run_of_that_name_starts_it(setting: Setting, commands: Commands, uninterrupted: Path) -> None:
    done = commands.run(setting.flags("it", "--resume"))
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "it", uninterrupted)


def test_the_name_alone_brings_back_every_setting(stopped: Setting, commands: Commands, uninterrupted: Path) -> None:
    before = read_json(stopped.runs / "it" / "config.json")
    done = commands.run(stopped.resume("it"))
    assert done.status == 0, done.output
    assert "from step 7" in done.output
    assert_same_run(stopped.runs / "it", uninterrupted)
    after = read_json(stopped.runs / "it" / "config.json")
    for group in ("model", "data", "training"):
        assert after[group] == before[group]


def test_custom_hyperedges_come_back(setting: Setting, commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "hyperedges.json"
    file.write_text("[[0, 1], [0, 1, 2]]")
    flags = setting.flags("it", static_hyperedge_strategy="custom", hyperedges=file)
    assert commands.run(flags, Accident(STEP, 6, killed)).status == -9
    file.unlink()
    done = commands.run(setting.resume("it"))
    assert done.status == 0, done.output
    file.write_text("[[0, 1], [0, 1, 2]]")
    whole = setting.flags("whole", static_hyperedge_strategy="custom", hyperedges=file)
    assert commands.run(whole).status == 0
    assert_same_run(setting.runs / "it", setting.runs / "whole")


@pytest.mark.parametrize("coupler", ["GNN", "attention", "mean"])
def test_every_coupler_and_micro_batches_resume_to_the_bit(coupler: str, setting: Setting, commands: Commands) -> None:
    changes = {"coupler_type": coupler, "micro_batch_size": 3, "warmup_steps": 3, "data_format": "packed"}
    assert commands.run(setting.flags("whole", **changes)).status == 0
    assert commands.run(setting.flags("it", **changes), Accident(STEP, 7, killed)).status == -9
    done = commands.run(setting.resume("it"))
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "it", setting.runs / "whole")


def test_bf16_resumes_to_the_bit(setting: Setting, commands: Commands) -> None:
    """Its head lies in memory by columns, and so must the moments that come back for it."""
    if not computes_bf16(torch.device("cpu")):
        pytest.skip("this processor has no bf16 products")
    assert commands.run(setting.flags("whole", precision="bf16")).status == 0
    assert commands.run(setting.flags("it", precision="bf16"), Accident(STEP, 7, killed)).status == -9
    done = commands.run(setting.resume("it"))
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "it", setting.runs / "whole")


def test_a_completed_run_says_so(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "whole"
    shutil.copytree(uninterrupted, run, symlinks=True)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    assert main(["train", "--run_name", "whole", "--output_dir", str(tmp_path), "--resume"]) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert "is completed" in output
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"} == before


CHANGES: dict[str, Any] = {
    "coupler_type": "GNN",
    "static_hyperedge_strategy": "all",
    "hgnn_conv_type": "HypergraphConv",
    "num_experts": 4,
    "embed_dim": 32,
    "num_layers": 1,
    "gnn_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.2,
    "max_seq_length": 12,
    "tokenizer": "bpe:290",
    "data_format": "packed",
    "num_train_samples": 40,
    "num_eval_samples": 5,
    "learning_rate": 0.02,
    "epochs": 3,
    "max_batches_per_epoch": 5,
    "eval_every": 3,
    "batch_size": 4,
    "micro_batch_size": 2,
    "weight_decay": 0.1,
    "warmup_steps": 2,
    "gradient_clip": 0.5,
    "seed": 1,
}


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_would_alter_the_curve_is_refused_by_name(
    name: str, stopped: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(stopped.runs / "it")
    assert main(stopped.resume("it", f"--{name}", str(CHANGES[name]), "--cache_dir", str(stopped.cache))) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--{name} was " in error
    assert f" and is {CHANGES[name]}" in error
    assert "--run_name" in error
    assert contents(stopped.runs / "it") == before


@pytest.mark.parametrize("flag", ["no_hgnn_learnable_edge_weights", "no_group_by_length", "compile"])
def test_so_is_a_changed_switch(flag: str, stopped: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(stopped.resume("it", f"--{flag}")) == 2
    assert f"--{flag.removeprefix('no_')} was " in capsys.readouterr().err


def test_so_is_another_dataset(stopped: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_corpus(tmp_path / "other", seed=1)
    assert main(stopped.resume("it", "--dataset_name", str(other))) == 2
    assert "--dataset_name was " in capsys.readouterr().err


def test_two_changes_are_named_at_once(stopped: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(stopped.resume("it", "--seed", "1", "--epochs", "9")) == 2
    error = capsys.readouterr().err
    assert "--epochs was 2 and is 9" in error
    assert "--seed was 42 and is 1" in error


def test_changed_text_is_refused(setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "text")
    own = Setting(corpus, setting.cache, setting.runs)
    assert main(own.flags("it", epochs=1, max_batches_per_epoch=4)) == 0
    # As if it had been stopped at its last step.
    (own.runs / "it" / "summary.json").unlink()
    for name, split in (("train", "train"), ("valid", "valid")):
        path = corpus / f"{name}.txt"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("a", "b"), encoding="utf-8")
        capsys.readouterr()
        assert main(own.resume("it", "--cache_dir", str(own.cache))) == 2
        error = capsys.readouterr().err
        assert f"the {split} text has changed" in error
        assert error.count("\n") == 1
        path.write_text(text, encoding="utf-8")
    # The test split is not read in training.
    (corpus / "test.txt").write_text("another text, of one line only\n", encoding="utf-8")
    assert main(own.resume("it", "--cache_dir", str(own.cache))) == 0


def test_before_the_first_checkpoint_a_run_begins_anew_on_changed_text(
    setting: Setting, commands: Commands, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "text")
    own = Setting(corpus, setting.cache, setting.runs)
    assert commands.run(own.flags("it"), Accident(STEP, 2, killed)).status == -9
    path = corpus / "train.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("a", "b"), encoding="utf-8")
    done = commands.run(own.resume("it"))
    assert done.status == 0, done.output
    assert commands.run(own.flags("new")).status == 0
    assert_same_run(own.runs / "it", own.runs / "new")
    records = [read_json(own.runs / name / "environment.json")["data"] for name in ("it", "new")]
    assert records[0] == records[1]


def test_what_alters_no_number_may_change(stopped: Setting, commands: Commands, uninterrupted: Path) -> None:
    done = commands.run(stopped.resume("it", "--quiet", "--save_every", "2", "--cache_dir", str(stopped.runs / "c")))
    assert done.status == 0, done.output
    assert_same_run(stopped.runs / "it", uninterrupted)


def test_the_precision_that_the_machine_has_now_is_compared(
    stopped: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of `--precision auto` that began in bf16 must not go on in float32."""
    run = stopped.runs / "it"
    environment = read_json(run / "environment.json")
    (run / "environment.json").write_text(json.dumps({**environment, "precision": "bf16"}))
    assert main(stopped.resume("it")) == 2
    assert "--precision was bf16 and is fp32 here" in capsys.readouterr().err


def test_resuming_twice_is_recorded(stopped: Setting, commands: Commands, uninterrupted: Path) -> None:
    assert commands.run(stopped.resume("it"), Accident(STEP, 2, interrupted)).status == 130
    assert commands.run(stopped.resume("it")).status == 0
    assert_same_run(stopped.runs / "it", uninterrupted)
    resumed = read_json(stopped.runs / "it" / "environment.json")["resumed"]
    assert [entry["step"] for entry in resumed] == [7, 9]
    assert "--resume" in resumed[0]["command_line"]


def test_a_second_process_on_one_folder_is_refused(setting: Setting, commands: Commands) -> None:
    first = commands.start(setting.flags("it", epochs=10_000, max_batches_per_epoch=-1))
    try:
        while not (setting.runs / "it" / "metrics.jsonl").exists():
            assert first.process.is_alive(), first.written
        for flag in ("--resume", "--overwrite"):
            second = commands.run(setting.flags("it", flag, epochs=10_000, max_batches_per_epoch=-1))
            assert second.status == 2, second.output
            assert second.output.count("\n") == 1
            assert "another process" in second.output
        assert first.process.is_alive()
    finally:
        first.process.kill()
    rows = read_rows(setting.runs / "it", "train")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


def test_resume_needs_a_name(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    words = setting.flags("it", "--resume")
    del words[words.index("--run_name") : words.index("--run_name") + 2]
    assert main(words) == 2
    assert "--run_name" in capsys.readouterr().err
    assert not setting.runs.exists()
