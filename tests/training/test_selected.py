"""The checkpoint that one half of the evaluation text selects: the other half judges it, and it must not leak."""

from __future__ import annotations

import pytest

from gnn_moe.cli import main
from gnn_moe.model.causality import CausalityCheck
from tests.small_runs import Setting, read_json, read_rows


def test_what_half_of_the_text_selects_is_kept_and_asked_for_leaks(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows, so that the evaluation with the least loss on one half is another than that with the least on all."""
    answers = [CausalityCheck(causal=causal, largest_change=0.5, least_effect=1, changes=1) for causal in (True, False)]
    monkeypatch.setattr("gnn_moe.runs.check_causality", lambda *_: answers.pop())
    flags = {"num_train_samples": 8, "epochs": 60, "max_batches_per_epoch": -1, "eval_every": 1, "learning_rate": 0.02}
    assert main(setting.flags("it", **flags, num_eval_samples=4)) == 0
    run = setting.runs / "it"
    evaluations = read_rows(run, "eval")
    selected = min(evaluations, key=lambda row: row["selection_loss"])["step"]
    summary = read_json(run / "summary.json")
    assert selected not in (summary["best_step"], 60)
    assert read_json(run / "checkpoints" / "selected" / "state.json")["step"] == selected
    assert read_json(run / "checkpoints" / "best" / "state.json")["step"] == summary["best_step"]
    assert (answers, summary["causal"]) == ([], False)
