"""Which records make a report: mixed protocols are refused or grouped, failures and damage are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnn_moe.errors import BadInput
from gnn_moe.reports.costs import sizes_of
from gnn_moe.reports.protocol import protocol_section
from gnn_moe.reports.rows import Row
from gnn_moe.reports.sources import NothingCompleted, read_sources
from tests.reports.made_runs import eval_row, group_of, words, write_run
from tests.reports.made_studies import trial, write_study


def test_runs_of_one_setting_are_one_point(tmp_path: Path) -> None:
    for experts in (2, 4):
        for seed in (1, 2):
            write_run(tmp_path / f"{experts}-{seed}", num_experts=experts, seed=seed, loss=5.0 + seed)
    group = group_of(tmp_path)
    assert group.fields == ("num_experts",)
    assert [(point.settings, [run.seed for run in point.runs]) for point in group.points] == [
        ({"num_experts": 2}, [1, 2]),
        ({"num_experts": 4}, [1, 2]),
    ]
    found = group.points[0].estimate("reported_loss")
    assert found is not None
    assert (found.mean, found.seeds) == (6.5, 2)


def test_points_come_in_the_order_of_their_numbers_and_of_their_words(tmp_path: Path) -> None:
    settings = [(4, "mean"), (2, "mean"), (16, "mean"), (8, "mean"), (4, "GNN")]
    for number, (experts, coupler) in enumerate(settings):
        write_run(tmp_path / f"run-{number}", num_experts=experts, coupler_type=coupler)
    found = [(point.settings["num_experts"], point.settings["coupler_type"]) for point in group_of(tmp_path).points]
    assert found == [(2, "mean"), (4, "mean"), (8, "mean"), (16, "mean"), (4, "GNN")]


def test_runs_of_several_texts_are_refused_or_grouped(tmp_path: Path) -> None:
    write_run(tmp_path / "one", num_eval_samples=10)
    write_run(tmp_path / "other", num_eval_samples=20)
    with pytest.raises(
        BadInput, match=r"runs of 2 protocols, whose losses do not compare \(one: .*10 evaluation samples; other: .*20"
    ):
        read_sources([tmp_path])
    groups, _ = read_sources([tmp_path], grouped=True)
    assert [group.protocol.num_eval_samples for group in groups] == [10, 20]
    assert [[run.name for run in group.runs] for group in groups] == [["one"], ["other"]]


def write_text(run: Path, fingerprint: object) -> None:
    valid = {"samples": 3, "predicted_tokens": 30} | ({} if fingerprint is None else {"fingerprint": fingerprint})
    (run / "environment.json").write_text(json.dumps({"data": {"valid": valid}}))


def test_texts_of_one_name_that_differ_are_refused_or_grouped(tmp_path: Path) -> None:
    """A loss on a text that was not recorded stands beside none on one that was."""
    for name, text in (("a", "1" * 64), ("b", "2" * 64), ("c", "1" * 64), ("d", None)):
        write_text(write_run(tmp_path / name, seed=ord(name)), text)
    with pytest.raises(BadInput, match=r"of 3 .*of text 111111111111; .*of text 222222222222; .*text is not recorded"):
        read_sources([tmp_path])
    groups, _ = read_sources([tmp_path], grouped=True)
    assert [[run.name for run in group.runs] for group in groups] == [["a", "c"], ["b"], ["d"]]


@pytest.mark.parametrize("text", ["{", "[]", '{"data": 3}', '{"data": {"valid": [1]}}'])
def test_a_damaged_record_of_the_text_is_not_taken_for_the_text_of_others(text: str, tmp_path: Path) -> None:
    """A folder of one name may have changed between the runs: refused, or grouped and named."""
    for name in ("a", "b"):
        write_text(write_run(tmp_path / name, seed=ord(name)), "1" * 64)
    (tmp_path / "b" / "environment.json").write_text(text)
    with pytest.raises(BadInput, match=r"runs of 2 protocols.*give --group; .*environment\.json: "):
        read_sources([tmp_path])
    groups, notes = read_sources([tmp_path], grouped=True)
    assert [[run.name for run in group.runs] for group in groups] == [["a"], ["b"]]
    (note,) = notes
    assert note.startswith(f"{tmp_path / 'b' / 'environment.json'}: ")


def test_a_run_that_failed_before_it_recorded_its_text_stands_with_the_others(tmp_path: Path) -> None:
    write_text(write_run(tmp_path / "a", seed=1), "1" * 64)
    write_run(tmp_path / "b", seed=2, summary={"status": "failed", "error_class": "killed"})
    (group,), notes = read_sources([tmp_path])
    assert ([run.name for run in group.runs], notes) == (["a", "b"], [])


def test_one_text_under_two_names_is_one_protocol(tmp_path: Path) -> None:
    """As when runs named its folder by a relative and by an absolute path."""
    for seed, name in enumerate(("here", "/there/here")):
        write_text(write_run(tmp_path / str(seed), dataset_name=name, seed=seed), "1" * 64)
    (group,), _ = read_sources([tmp_path])
    assert len(group.runs) == 2


def test_studies_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        write_study(tmp_path / parent / "same", [trial(2, 1)])
    with pytest.raises(BadInput, match="are studies of one name, same; report them one by one"):
        read_sources([tmp_path / "x" / "same", tmp_path / "y" / "same"])


def test_a_damaged_record_is_left_out_and_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name)
    (tmp_path / "a" / "summary.json").write_text("{")
    (group,), notes = read_sources([tmp_path])
    assert [run.name for run in group.runs] == ["b"]
    assert notes[0].startswith(f"{tmp_path / 'a'} is left out: ")
    (tmp_path / "b" / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"holds no completed run.*is left out"):
        read_sources([tmp_path])


def test_a_study_whose_folders_are_elsewhere_still_has_its_numbers(tmp_path: Path) -> None:
    bad = {"state": "failed", "error_class": "bad_config", "error_message": "no such thing", "reported_loss": None}
    study = write_study(tmp_path / "study", [trial(2, 1), trial(4, 1), trial(-3, 1, **bad)])
    (group,), notes = read_sources([study])
    assert notes == []
    assert [run.folder for run in group.runs] == [None] * 3
    (failed,) = (run for run in group.points[0].runs if run.state == "failed")
    assert (failed.config, failed.error_message, failed.settings["num_experts"]) == (None, "no such thing", -3)
    assert group.loss_name == "reported_loss"


def test_a_run_of_a_study_without_its_config_is_named(tmp_path: Path) -> None:
    """Which text it read is then not known, so it stands with no other run."""
    for seed in (1, 2):
        write_text(write_run(tmp_path / "study" / f"s{seed}", seed=seed), "1" * 64)
    write_study(tmp_path / "study", [trial(2, seed, run_dir=f"s{seed}") for seed in (1, 2)])
    (tmp_path / "study" / "s2" / "config.json").unlink()
    with pytest.raises(BadInput, match=r"s2: has no config\.json, so nothing of it is read"):
        read_sources([tmp_path / "study"])


def test_the_loss_is_one_that_every_completed_run_has(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", [trial(2, 1), trial(4, 1, reported_loss=None)])
    (group,), _ = read_sources([study])
    assert (group.loss_name, group.not_in_halves) == ("best_eval_loss", group.points[1].runs)


@pytest.mark.parametrize(
    ("older", "said"),
    [
        ([4], "1 of 6 completed runs with a loss (num_experts=4,seed=1) are"),
        ([4, 5, 6, 7, 8, 9], "6 of 6 completed runs with a loss (all) are"),
        ([4, 5, 6, 7, 8], "num_experts=6,seed=1, num_experts=7,seed=1 and 1 more) are"),
    ],
)
def test_runs_of_a_version_that_did_not_evaluate_in_halves_are_named(
    tmp_path: Path, older: list[int], said: str
) -> None:
    trials = [trial(value, 1, **({"reported_loss": None} if value in older else {})) for value in range(4, 10)]
    trials.append(trial(2, 1, reported_loss=None, best_eval_loss=None))
    (group,), _ = read_sources([write_study(tmp_path / "study", trials)])
    assert said in words(protocol_section(group))


@pytest.mark.parametrize("value", [float("nan"), None])
def test_one_run_without_a_finite_loss_to_report_moves_no_other(tmp_path: Path, value: float | None) -> None:
    """It evaluated in halves, so it is missing by name; the others keep the loss that chose nothing."""
    trials = [trial(2, 1), trial(4, 1), trial(4, 2, reported_loss=value, selected_step=10)]
    (group,), _ = read_sources([write_study(tmp_path / "study", trials)])
    assert group.loss_name == "reported_loss"
    row = Row(point=group.points[1], value=4, loss_name=group.loss_name)
    assert row.entry.losses == {1: 5.1}
    assert row.missing == "completed without a finite reported_loss"


def test_a_run_beside_no_study_reports_the_half_that_chose_nothing(tmp_path: Path) -> None:
    """Its summary.json has no such loss: as in a study, it is that of the evaluation with the least selection loss."""
    halves = [{"selection_loss": 5.0, "reported_loss": 5.2}, {"selection_loss": 4.9, "reported_loss": 5.3}]
    rows = [{}, *(eval_row(step, 5.0) | half for step, half in enumerate(halves, 1))]
    write_run(tmp_path / "a", rows=rows)
    (group,), _ = read_sources([tmp_path])
    assert (group.loss_name, group.runs[0].number("reported_loss")) == ("reported_loss", 5.3)


def test_sizes_without_a_folder_are_those_of_the_record(tmp_path: Path) -> None:
    """The vocabulary is not known there, so nothing that needs it is reckoned."""
    numbers = {"tokens": 10, "training_flops_per_token": 7, "total_parameters": 123}
    study = write_study(tmp_path / "study", [trial(2, 1, **numbers)])
    (group,), _ = read_sources([study])
    assert sizes_of(group.runs[0]) == {"training_flops": 70}


def test_a_run_without_any_loss_does_not_choose_which_is_reported(tmp_path: Path) -> None:
    study = write_study(
        tmp_path / "study", [trial(2, 1), trial(4, 1), trial(8, 1, reported_loss=None, best_eval_loss=None)]
    )
    (group,), _ = read_sources([study])
    assert group.loss_name == "reported_loss"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "5"])
def test_what_is_no_finite_number_is_none(tmp_path: Path, value: object) -> None:
    write_run(tmp_path / "a", summary={"perplexity": value})
    assert group_of(tmp_path).runs[0].number("perplexity") is None


def test_two_runs_of_a_point_and_seed_are_named_and_the_first_counts(tmp_path: Path) -> None:
    for name, loss in (("a", 5.0), ("b", 6.0)):
        write_run(tmp_path / name, loss=loss)
    group = group_of(tmp_path)
    assert [[run.name for run in same] for same in group.duplicates] == [["a", "b"]]
    assert group.points[0].by_seed("reported_loss") == {42: 5.0}
    assert f"Of them {tmp_path / 'a'} counts" in words(protocol_section(group))


def test_a_run_that_sees_the_future_has_no_result(tmp_path: Path) -> None:
    write_run(tmp_path / "a", loss=5.0, seed=1, summary={"causal": True})
    write_run(tmp_path / "b", loss=0.1, seed=2, summary={"causal": False})
    group = group_of(tmp_path)
    assert group.points[0].by_seed("reported_loss") == {1: 5.0}
    (leaking,) = (run for run in group.runs if run.state == "failed")
    assert (leaking.name, leaking.error_class) == ("b", "leaking")


def test_nothing_completed_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary={"status": "interrupted"})
    with pytest.raises(BadInput, match="holds no completed run") as ended:
        read_sources([tmp_path])
    assert not isinstance(ended.value, NothingCompleted)  # nothing to wait for
    write_run(tmp_path / "b", seed=1, summary={"status": "running"})
    with pytest.raises(NothingCompleted):
        read_sources([tmp_path])


def test_a_folder_without_records_is_said(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(BadInput, match=r"holds neither a study nor a run|is no folder"):
            read_sources([path])


def test_missing_metrics_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").unlink()
    with pytest.raises(BadInput, match=r"metrics\.jsonl: is missing"):
        _ = group_of(tmp_path).runs[0].metrics
