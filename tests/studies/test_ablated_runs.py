"""Trained models that are asked again: once each, however many workers ask, and whatever their files have become."""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gnn_moe import evaluations
from gnn_moe.config import RunConfig, TrainingConfig, to_dict
from gnn_moe.errors import BadInput
from gnn_moe.evaluations import AblatedEvaluation
from gnn_moe.studies import compare_command, load
from gnn_moe.studies.ablations import ablate_runs, read_ablations
from gnn_moe.studies.arguments import CompareArguments
from gnn_moe.studies.comparison import Comparison
from gnn_moe.studies.results import FORMAT, VERSION, write_study
from gnn_moe.studies.sweep import Sweep

FOUND = AblatedEvaluation(
    ablate="coupler",
    ablate_seed=None,
    eval_loss=5.0,
    ablated_eval_loss=5.5,
    difference=0.5,
    selection_loss=5.0,
    ablated_selection_loss=5.5,
    selection_difference=0.5,
    reported_loss=5.0,
    ablated_reported_loss=5.5,
    reported_difference=0.5,
    tokens=100,
    largest_change=None,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The run folders whose models are evaluated, which takes a moment."""
    seen: list[str] = []

    def evaluate(path: str, *_: Any, **__: Any) -> AblatedEvaluation:
        seen.append(Path(path).name)
        time.sleep(0.2)
        return FOUND

    monkeypatch.setattr(evaluations, "evaluate_ablated", evaluate)
    monkeypatch.setattr(evaluations, "stored_config", lambda *_: RunConfig())
    return seen


def test_workers_that_ask_at_once_ask_once(asked: list[str], tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(3) as workers:
        for one in [workers.submit(ablate_runs, folders, ["coupler"], cache_dir=None, on_notice=print) for _ in "abc"]:
            one.result()
    assert sorted(asked) == ["a", "b"]
    assert [read_ablations(folder)["coupler"]["reported_difference"] for folder in folders] == [0.5, 0.5]


DAMAGED = ("{", "[]", '{"coupler": 3}', '{"coupler": {"reported_loss": 5.0}}', '{"coupling": {}}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_is_named_and_asked_for_again(text: str, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "ablations.json").write_text(text)
    with pytest.raises(BadInput, match=r"ablations\.json: is damaged"):
        read_ablations(tmp_path / "a")
    said: list[str] = []
    ablate_runs([tmp_path / "a"], ["coupler"], cache_dir=None, on_notice=said.append)
    assert asked == ["a"]
    assert len(said) == 1
    assert "ablations.json: is damaged" in said[0]
    assert set(read_ablations(tmp_path / "a")) == {"coupler"}


def test_a_loss_that_is_not_finite_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an answer: asking again would give the same."""
    asked: list[int] = []

    def evaluate(*_: Any, ablate_seed: int, **__: Any) -> AblatedEvaluation:
        asked.append(ablate_seed)
        return dataclasses.replace(FOUND, ablated_reported_loss=float("nan"))

    config = RunConfig(training=TrainingConfig(seed=7))
    monkeypatch.setattr(evaluations, "evaluate_ablated", evaluate)
    monkeypatch.setattr(evaluations, "stored_config", lambda *_: config)
    (tmp_path / "a").mkdir()
    said: list[str] = []
    for _ in range(2):
        ablate_runs([tmp_path / "a"], ["shuffle_graph"], cache_dir=None, on_notice=said.append)
    assert said == ["a: --ablate shuffle_graph: ablated_reported_loss is not finite"]
    assert asked == [7]  # the order is drawn by the run's own seed
    found = read_ablations(tmp_path / "a")["shuffle_graph"]
    assert (found["reported_loss"], found["ablated_reported_loss"]) == (5.0, None)


def test_a_run_on_another_machine_is_named_and_passed_over(asked: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    ablate_runs([tmp_path / "gone"], ["coupler"], cache_dir=None, on_notice=said.append)
    assert (asked, len(said)) == ([], 1)
    assert list(tmp_path.iterdir()) == []


def test_what_other_workers_wrote_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are asked for minutes, while another command may go on with more seeds."""
    comparison = Comparison(arms={"a": {}, "b": {"coupler_type": "mean"}})
    sweep = Sweep(
        study=tmp_path.name, baseline=RunConfig(), arms=comparison.changes(), seeds=(1,), comparison=comparison
    )
    monkeypatch.chdir(tmp_path)
    sweep.folder.mkdir(parents=True)

    def write(trials: list[dict[str, Any]]) -> None:
        asked = {"study": sweep.study, "baseline": to_dict(sweep.baseline), "command": ["compare"]}
        found = {"trials": trials, "comparison": {"weighed": []}}
        write_study(sweep.folder, lambda: {"format": FORMAT, "version": VERSION, **asked, **found})

    failure: dict[str, Any] = {"error_class": None, "error_message": None}
    row = {"name": "b,seed=2", "arm": "b", "params": {}, "seed": 2, "state": "running", **failure, "run_dir": None}
    monkeypatch.setattr(compare_command, "ablate_runs", lambda *_, **__: write([row]))
    write([])
    compare_command._ablate(CompareArguments(ablate=("coupler",)), sweep, print)
    assert load(sweep.folder).trials == [row]
    assert json.loads((sweep.folder / "study.json").read_text())["comparison"]["first"] == "a"
