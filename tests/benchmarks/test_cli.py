"""`python -m benchmarks` with tiny models, once as a real process with real children, and its flags."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from benchmarks.arguments import StepArguments, refuse_unread
from benchmarks.cases import CASES, GPU_CASES
from benchmarks.cli import SUBCOMMANDS, _cases, main
from tests.small_runs import ROOT

SHORT = ["--rounds", "2", "--warmup", "1", "--device", "cpu"]
SIZES = {
    "num_experts": 3,
    "embed_dim": 32,
    "num_heads": 2,
    "num_layers": 1,
    "max_seq_length": 16,
    "vocab_size": 200,
    "batch_size": 2,
}
TINY = [*(word for name, value in SIZES.items() for word in (f"--{name}", str(value))), *SHORT]


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are run while code changes."""
    monkeypatch.setattr("benchmarks.report.uncommitted_changes", list)


def test_a_step_from_end_to_end(tmp_path: Path) -> None:
    words = ["step", "--case", "own", "--name", "tiny", "--micro_batch_size", "1", *TINY]
    output = tmp_path / "device.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, "--json", "--output", str(output)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)["step"]["tiny"]
    assert json.loads(output.read_text())["sections"]["step"]["tiny"] == entry
    race = entry["race"]
    assert race["failures"] == {}
    assert set(race["figures"]) == {"ours", "textbook"}
    for figures in race["figures"].values():
        assert len(figures["timing"]["seconds"]) == 2
        assert figures["peak_bytes"] > 10**8
        assert list(figures["part_seconds"]) == ["experts", "coupler", "head and loss", "optimiser", "rest"]
    assert race["limit"]["flops"] == entry["training_flops"]
    assert entry["mfu"] == race["limit"]["seconds"] / race["figures"]["ours"]["timing"]["median"]
    assert entry["circumstances"]["command"].startswith("python -m benchmarks step --case own")
    page = (tmp_path / "device.md").read_text()
    assert "| tiny |" in page
    assert f"tiny (load {entry['circumstances']['load_average'][0]:.1f})" in page


@pytest.mark.parametrize(
    ("words", "section", "names"),
    [
        (["coupler", "--case", "own", "--processes", "1", *TINY], "coupler", ["own", "own all_pairs"]),
        (["profile", "--case", "own", *TINY], "profile", ["own"]),
        (["scaling", "--axis", "experts", "--largest", "4", *TINY], "scaling", ["experts"]),
        (
            ["loss", "--tokens", "64", "--embed_dim", "16", "--vocab_size", "100", *SHORT],
            "loss",
            ["N64-D16-V100"],
        ),
    ],
)
def test_the_others_from_end_to_end(
    words: list[str],
    section: str,
    names: list[str],
    forked: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*words, "--json", "--output", str(tmp_path / "device.json")]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert list(printed[section]) == names
    assert "Traceback" not in json.dumps(printed)
    assert "killed" not in (tmp_path / "device.md").read_text()
    assert (tmp_path / "device-scaling.png").exists() == (section == "scaling")


def test_usage_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in SUBCOMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stp"], "step"),
        (["step", "--case", "config1-gn"], "config1-gnn"),
        (["step", "--case", "own", "--name", "config1-gnn", *TINY], "give another name"),
        (["scaling", "--axis", "widht"], "width"),
        (["loss", "--rounds", "0"], "at least one round"),
        (["loss", "--output", "x.md"], ".json"),
        (["step", "--device", "cuda:99"], "cuda:99"),
        (["step", "--num_experts", "64", "--compile"], "--num_experts is not read with --case all: leave it out"),
        (["step", "--case", "config1-gnn", "--batch-size=4"], "--batch_size is not read with --case config1-gnn"),
        (["step", "--case", "gpu", "--no_hgnn_learnable_edge_weights"], "use --case own"),
        (["step", "--vocab_size", "100"], "--vocab_size is not read"),
        (["step", "--name", "mine"], "--name is not read"),
        (["step", "--opponent", "none"], "--opponent is not read"),
        (["step", "--case", "own", "--name", "gpu-wide-8-gnn"], "give another name"),
        (["step", "--case", "own", "--opponent", "textbook_list"], "--coupler_type GNN has none: use"),
        (["step", "--case", "own", "--opponent", "textbook_unbound", "--coupler_type", "mean"], "mean has none: use"),
        (["step", "--case", "own", "--architecture", "dense"], "--architecture dense has no textbook version"),
        (["coupler", "--case", "own", "--architecture", "top_k"], "leave it out"),
        (["scaling", "--architecture", "dense"], "leave it out"),
        (["coupler", "--case", "config1", "--embed_dim", "64"], "--embed_dim is not read with --case config1"),
        (["coupler", "--case", "eight-experts", "--hyperedges_width", "64"], "--hyperedges_width is not read"),
        (["coupler", "--case", "own", "--hyperedges_layers", "1"], "use --case hyperedges"),
        (["coupler", "--hyperedges_width", "0"], "--hyperedges_width 0 must be a positive whole number"),
        (["coupler", "--case", "config1", "--processes", "2"], "--processes is not read with --case config1"),
        (["profile", "--num_experts", "4"], "--num_experts is not read with --case all"),
        (["profile", "--device", "cuda"], "use --device cpu"),
        (["coupler", "--processes", "0"], "--processes 0 must be a positive whole number"),
        (["plan", "--rounds", "3"], "--rounds is not read by plan"),
        (["loader", "--warmup", "3"], "--warmup is not read by loader"),
        (["scaling", "--largest", "0"], "--largest 0 must be a positive whole number"),
        (["scaling", "--axis", "width", "--largest", "63"], "use at least 64"),
        (["loss", "--tokens", "0"], "--tokens 0 must be a positive whole number"),
        (["loss", "--embed_dim", "-1"], "--embed_dim -1 must be"),
        (["loss", "--vocab_size", "0"], "--vocab_size 0 must be"),
        (["step", "--case", "own", "--vocab_size", "0"], "--vocab_size 0 must be"),
        (["step", "--case", "own", "--batch_size", "0"], "--batch_size 0 must be"),
    ],
)
def test_bad_input_says_the_way_out(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_gpus_cases_want_a_gpu_or_a_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gnn_moe.training.device.resolve_device", lambda name: torch.device("cpu"))
    assert main(["step", "--case", "gpu-wide-8-gnn"]) == 2
    assert "--device cpu takes it all the same" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "names"), [([], list(CASES)), (["--case", "gpu"], list(GPU_CASES))])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_named_case_can_be_compiled_and_says_so(words: list[str], names: list[str], wanted: bool) -> None:
    flags = [*words, "--device", "cpu", *(["--compile"] if wanted else [])]
    parsed = tyro.cli(StepArguments, args=flags, config=(tyro.conf.OmitArgPrefixes,), use_underscores=True)
    refuse_unread(flags, *parsed.unread())
    cases = _cases(parsed)
    assert [case.name for case in cases] == [f"{name}-compiled" if wanted else name for name in names]
    assert {case.training.compile for case in cases} == {wanted}


def test_a_damaged_record_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "x.json"
    record.write_text('{"sections": {"loss"')
    assert main(["loss", "--output", str(record)]) == 2
    captured = capsys.readouterr()
    assert "x.json is damaged" in captured.err
    assert "head and loss" not in captured.err
    assert record.read_text() == '{"sections": {"loss"'


def test_children_read_the_command_line_without_torch() -> None:
    code = "import sys, benchmarks.__main__, benchmarks.measure; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
