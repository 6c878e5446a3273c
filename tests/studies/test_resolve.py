"""The flags of a sweep: what they resolve to, and every way in which they do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from gnn_moe.cli import main
from gnn_moe.parsing import parse_flags
from gnn_moe.studies.arguments import SweepArguments
from gnn_moe.studies.resolve import parse_retry, resolve, with_preset
from gnn_moe.studies.sweep import Sweep
from tests.small_runs import Setting

REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "no name": (["--vary", "num_experts=2"], ["--study is missing"]),
    "a name that leaves the folder": (["--study", "../elsewhere"], ["--study '../elsewhere' leaves the output folder"]),
    "an absolute name": (["--study", "/elsewhere"], ["leaves the output folder"]),
    "dots": (["--study", ".."], ["leaves the output folder"]),
    "a long name": (["--study", "x" * 300], ["is too long"]),
    "unknown parameter": (["--study", "a", "--vary", "num_expert=2"], ["did you mean num_experts?"]),
    "unknown value": (["--study", "a", "--vary", "coupler_type=GMN"], ["did you mean GNN?"]),
    "reversed range": (
        ["--study", "a", "--design", "search", "--vary", "learning_rate=1e-2..1e-5"],
        ["the range is reversed"],
    ),
    "empty range": (["--study", "a", "--design", "search", "--vary", "epochs=2..2"], ["the range is empty"]),
    "a range in a grid": (["--study", "a", "--vary", "epochs=2..4", "--design", "grid"], ["is for --design search"]),
    "a search of nothing": (["--study", "a", "--design", "search"], ["has nothing to search", "LOW..HIGH"]),
    "a search with seeds": (
        ["--study", "a", "--design", "search", "--vary", "epochs=2..4", "--seeds", "1,2"],
        ["a search runs with one seed"],
    ),
    "trials of a grid": (["--study", "a", "--trials", "3"], ["--trials 3 is for --design search"]),
    "objectives of a grid": (["--study", "a", "--objectives", "minutes"], ["is for --design search"]),
    "unknown objective": (
        ["--study", "a", "--design", "search", "--vary", "epochs=2..4", "--objectives", "losses"],
        ["did you mean loss?"],
    ),
    "no trials": (["--study", "a", "--trials", "0"], ["--trials 0 must be a positive"]),
    "no workers": (["--study", "a", "--workers", "0"], ["--workers 0 must be a positive"]),
    "no time": (["--study", "a", "--timeout", "0"], ["--timeout 0.0 must be a positive number of minutes"]),
    "no number": (["--study", "a", "--timeout", "nan"], ["--timeout nan"]),
    "a silent worker": (["--study", "a", "--heartbeat", "-1"], ["--heartbeat -1 must be a positive"]),
    "unknown class": (["--study", "a", "--retry", "out_of_memry"], ["did you mean out_of_memory?", "failed"]),
    "unknown preset": (["--preset", "seed-experiments"], ["did you mean seed-experts?"]),
    "scale of nothing": (["--study", "a", "--scale", "0.5"], ["--scale 0.5 is for a --preset"]),
    "too large a scale": (["--preset", "seed-depth", "--scale", "2"], ["above 0 and at most 1"]),
    "points twice": (["--preset", "seed-comparison", "--vary", "num_layers=2"], ["has points of its own"]),
    "every point invalid": (
        ["--study", "a", "--design", "grid", "--vary", "num_heads=3,5", "--num_heads", "4"],
        ["every point is invalid", "not divisible"],
    ),
    "an invalid baseline": (["--study", "a", "--num_heads", "3", "--vary", "num_heads=1,2"], ["--num_heads 3"]),
    "seeds": (["--study", "a", "--seeds", "1,1"], ["a seed stands twice"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, named = REFUSED[name]
    assert main(["sweep", *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("gnn-moe sweep: ")
    assert output.err.count("\n") == 1
    for text in named:
        assert text in output.err
    assert list(tmp_path.iterdir()) == []


def test_a_study_over_a_run_or_a_file_is_refused(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.runs.mkdir()
    (setting.runs / "run").mkdir()
    (setting.runs / "run" / "config.json").write_text("{}")
    (setting.runs / "file").touch()
    for name, what in (("run", "is a run"), ("file", "is a file")):
        assert main(["sweep", "--study", name, "--output_dir", str(setting.runs)]) == 2
        assert what in capsys.readouterr().err
    assert main(["sweep", "status", "--study", "run", "--output_dir", str(setting.runs)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def resolved(*words: str) -> Sweep:
    parsed = parse_flags(SweepArguments, words, "gnn-moe sweep")
    return resolve(parse_flags(SweepArguments, words, "gnn-moe sweep", default=with_preset(parsed)))


def test_flags_beside_a_preset_override_it() -> None:
    sweep = resolved("--preset", "seed-all", "--epochs", "2", "--vary", "num_experts=2,3", "--seeds", "1,2")
    assert (sweep.study, sweep.preset, sweep.seeds) == ("seed-all", "seed-all", (1, 2))
    assert (sweep.baseline.training.epochs, sweep.baseline.training.batch_size) == (2, 64)
    values = {str(each).partition("=")[0]: str(each).partition("=")[2] for each in sweep.variations}
    assert values["num_experts"] == "2,3"
    assert values["num_layers"] == "4,6,8"
    assert len(values) == len(sweep.variations) == 5


def test_a_preset_is_the_name_of_its_study_unless_another_is_given() -> None:
    assert resolved("--preset", "seed-depth").study == "seed-depth"
    assert resolved("--preset", "seed-depth", "--study", "mine").study == "mine"


def test_scaled_samples_are_counted_in_the_data(setting: Setting) -> None:
    words = ["--preset", "seed-experts", "--scale", "0.25", "--dataset_name", str(setting.corpus)]
    sweep = resolved(*words, "--tokenizer", "bpe:300", "--cache_dir", str(setting.cache), "--epochs", "7")
    assert (sweep.baseline.data.num_train_samples, sweep.baseline.data.num_eval_samples) == (40, 5)
    assert (sweep.baseline.model.embed_dim, sweep.baseline.training.epochs) == (96, 7)


def test_counting_the_samples_for_a_dry_run_leaves_nothing(setting: Setting, tmp_path: Path) -> None:
    words = ["--preset", "seed-experts", "--scale", "0.25", "--dataset_name", str(setting.corpus)]
    sweep = resolved(*words, "--tokenizer", "bpe:300", "--cache_dir", str(tmp_path / "cache"), "--dry_run")
    assert sweep.baseline.data.num_train_samples == 40
    assert not (tmp_path / "cache").exists()


def test_retry_takes_a_class_several_or_all() -> None:
    assert parse_retry(None) == ()
    assert parse_retry("killed,timeout") == ("killed", "timeout")
    assert set(parse_retry("failed")) == {
        "out_of_memory",
        "killed",
        "non_finite",
        "timeout",
        "bad_config",
        "leaking",
        "crash",
    }
