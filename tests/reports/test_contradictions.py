"""A study whose numbers are not those of the run folders that its report links to: said by name, never passed over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnn_moe.cli import main
from gnn_moe.errors import BadInput
from gnn_moe.reports.arms import arms_section
from gnn_moe.reports.costs import config_of
from gnn_moe.reports.document import Table, spans
from gnn_moe.reports.overview import overview_section
from gnn_moe.reports.protocol import protocol_section
from gnn_moe.reports.sources import read_sources
from tests.reports import golden
from tests.reports.made_runs import tables, words

KEPT = golden.ROOT / "results" / "wikitext2"
RUN = "num_experts=8,seed=42-0e5bf0"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return shutil.copytree(KEPT / "study-experts", tmp_path / "study-experts")


def change(file: Path, *names: str, value: Any) -> None:
    """A value of a JSON file, under some keys, one in the other."""
    values = inside = json.loads(file.read_text(encoding="utf-8"))
    for name in names[:-1]:
        inside = inside[name]
    inside[names[-1]] = value
    file.write_text(json.dumps(values), encoding="utf-8")


def nudge(file: Path, name: str) -> None:
    """All evaluations get another loss."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["kind"] == "eval":
            row[name] += 1
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another loss": (
        lambda run: change(run / "summary.json", "best_eval_loss", value=4.25),
        " and 4.25 in its folder",
    ),
    "a loss that is no number": (
        lambda run: change(run / "summary.json", "best_eval_loss", value=float("nan")),
        " and nan in its folder",
    ),
    "a run that failed since": (
        lambda run: change(run / "summary.json", "status", value="failed"),
        "the status of its summary.json is 'failed'",
    ),
    "other settings": (
        lambda run: change(run / "config.json", "training", "learning_rate", value=0.25),
        "learning_rate is 0.001 in study.json and 0.25 in its folder",
    ),
    "no summary": (lambda run: (run / "summary.json").unlink(), "its summary.json is missing"),
    "a cut summary": (lambda run: (run / "summary.json").write_text('{"sta'), "train the run again with --overwrite"),
    "empty metrics": (lambda run: (run / "metrics.jsonl").write_text(""), "selected_step is "),
    "other metrics": (lambda run: nudge(run / "metrics.jsonl", "reported_loss"), "reported_loss is "),
    "another curve": (lambda run: nudge(run / "metrics.jsonl", "loss"), " in its summary.json and 6."),
    "another vocabulary": (
        lambda run: change(run / "config.json", "model", "vocab_size", value=17),
        "total_parameters is 7723176 in its summary.json and ",
    ),
    "other minutes": (lambda run: change(run / "summary.json", "eval_minutes", value=99.5), "eval_minutes is "),
    "metrics of no text": (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n"), "is not a JSON object"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_run_folder_says_otherwise_is_named(case: str, study: Path) -> None:
    damage, message = CASES[case]
    damage(study / RUN)
    (group,), notes = read_sources([study])
    found = {run.folder.name: run.contradiction for run in group.runs if run.folder and run.contradiction}
    assert list(found) == [RUN]
    assert message in found[RUN]
    section = protocol_section(group, notes)
    (said,) = [line for line in words(section).splitlines() if line.startswith("Study and run folder do not agree")]
    assert RUN in said
    assert message in said
    states = {row[0]: row[2] for row in tables(section)["All runs"]}
    assert sum(state == "completed" for state in states.values()) == 3
    assert states[RUN] == "completed, but its folder says otherwise"


def test_a_study_that_agrees_with_its_folders_is_not_doubted() -> None:
    for name in golden.STUDIES:
        (group,), notes = read_sources([KEPT / name])
        assert notes == []
        assert [run.contradiction for run in group.runs] == [None] * len(group.runs)
        assert "rest on other losses" not in words(arms_section(group))


def test_the_first_page_says_that_a_record_is_doubted(study: Path, tmp_path: Path) -> None:
    change(study / RUN / "summary.json", "best_eval_loss", value=4.25)
    assert main(["report", str(study), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    first = page[page.index("## In one minute") : page.index("## Swept parameters")]
    assert "Which numbers of 1 run hold: study and run folder do not agree, as Protocol says." in first


def test_a_run_folder_that_no_study_lists_is_named(study: Path) -> None:
    """Until it is given too: then it stands beside the one that it is a copy of."""
    copy = shutil.copytree(study / RUN, study / "a copy")
    (group,), (note,) = read_sources([study])
    assert note == f"{copy}: not listed in {study / 'study.json'}, so left out; give them too to report them"
    assert group.duplicates == ()
    (group,), notes = read_sources([study, copy])
    assert notes == []
    assert [run.name for run in group.duplicates[0]] == ["a copy", RUN]


def test_a_run_folder_that_is_gone_is_named(study: Path) -> None:
    """Which text it evaluated is then not known either, so that its loss compares with no other."""
    shutil.rmtree(study / RUN)
    said = f"{RUN}: the run folder is not here, so the numbers of study.json stand alone"
    with pytest.raises(BadInput, match=f"of 2 protocols, .*{said}"):
        read_sources([study])
    groups, notes = read_sources([study], grouped=True)
    assert notes == [said]
    assert [[run.name for run in group.runs] for group in groups][1] == [RUN]


def test_verdicts_that_rest_on_other_losses_are_doubted(tmp_path: Path) -> None:
    study = shutil.copytree(KEPT / "study-comparison", tmp_path / "study-comparison")
    change(study / "study.json", "trials", value=_with_another_loss(study, arm="mean", seed=2))
    (group,), _ = read_sources([study])
    (said,) = [line for line in words(arms_section(group)).splitlines() if "rest on other losses" in line]
    assert said.startswith("mean: its verdicts rest on other losses than its runs have now, of seed 2;")


VERDICT: dict[str, tuple[str, Any]] = {
    "verdict": ("verdict", "better"),
    "difference": ("mean_difference", -5.0),
    "interval": ("decision_interval", {"low": -2.0, "high": -1.0, "level": 0.975}),
    "p": ("holm_p_value", 0.0001),
    "its differences": (
        "pairs",
        {"seeds": [1, 2], "differences": [-1.0, -1.1], "only_in_arm": [], "only_in_baseline": []},
    ),
}


@pytest.mark.parametrize("question", [0, 2])
@pytest.mark.parametrize("case", VERDICT)
def test_a_verdict_that_does_not_follow_from_its_numbers_is_doubted(case: str, question: int, tmp_path: Path) -> None:
    study = shutil.copytree(KEPT / "study-comparison", tmp_path / "study-comparison")
    name, value = VERDICT[case]
    found = json.loads((study / "study.json").read_text(encoding="utf-8"))
    asked = found["comparison"]["evidence"]["questions"][question]
    asked["verdicts"][0][name] = value
    (study / "study.json").write_text(json.dumps(found), encoding="utf-8")
    (group,), _ = read_sources([study])
    said = [line for line in words(arms_section(group)).splitlines() if "does not follow from its own numbers" in line]
    # Holm is over all of a question, so that what one is changed to may move the others.
    assert any(f"{asked['verdicts'][0]['arm']} and {asked['verdicts'][0]['baseline']}" in line for line in said)
    assert all(line.startswith(asked["asks"]) for line in said)


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no questions": lambda comparison: comparison["evidence"].pop("questions"),
    "nothing asked": lambda comparison: comparison["evidence"]["questions"].clear(),
    "no differences": lambda comparison: comparison["evidence"]["questions"][0]["verdicts"][0].pop("pairs"),
    "a loss that is no number": lambda comparison: comparison["evidence"]["cells"][1]["losses"].append(float("nan")),
    "evidence of text": lambda comparison: comparison.update(evidence="gone"),
    "no first": lambda comparison: comparison.pop("first"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_evidence_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = shutil.copytree(KEPT / "study-comparison", tmp_path / "study-comparison")
    found = json.loads((study / "study.json").read_text(encoding="utf-8"))
    DAMAGE[case](found["comparison"])
    (study / "study.json").write_text(json.dumps(found), encoding="utf-8")
    assert main(["report", str(study), "--output", str(tmp_path / "report")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gnn-moe report: {study / 'study.json'}: comparison is damaged (")
    assert said.endswith("; run the comparison again\n")
    assert said.count("\n") == 1


def _with_another_loss(study: Path, *, arm: str, seed: int) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads((study / "study.json").read_text(encoding="utf-8"))["trials"]
    for trial in trials:
        if (trial["arm"], trial["seed"]) == (arm, seed):
            trial["reported_loss"] += 0.5
    return trials


def test_the_first_page_says_that_verdicts_are_doubted(tmp_path: Path) -> None:
    study = shutil.copytree(KEPT / "study-comparison", tmp_path / "study-comparison")
    change(study / "study.json", "trials", value=_with_another_loss(study, arm="mean", seed=2))
    (group,), _ = read_sources([study])
    said = words(overview_section(group, (), []))
    assert "Whether the verdicts of Comparison study-comparison hold: they do not follow, as it says there." in said


def test_commands_are_of_a_run_that_agrees_with_its_study(tmp_path: Path) -> None:
    """One that was trained again in another way is not what the table's losses are of."""
    comparison = shutil.copytree(KEPT / "study-comparison", tmp_path / "study-comparison")
    seed = next(folder for folder in comparison.iterdir() if folder.name.startswith("mean,seed=1"))
    change(seed / "config.json", "model", "coupler_type", value="HGNN")
    (group,), _ = read_sources([comparison])
    (point,) = [point for point in group.points if point.arm == "mean"]
    config = config_of(point)
    assert config is not None
    assert config.model.coupler_type == "mean"


def test_two_studies_of_the_same_arms_stand_apart(tmp_path: Path) -> None:
    """Each arm links to the runs of its own study, and a verdict says of which it is."""
    for name in ("one", "two"):
        study = shutil.copytree(KEPT / "study-comparison", tmp_path / name)
        change(study / "study.json", "study", value=name)
    (group,), _ = read_sources([tmp_path / "one", tmp_path / "two"])
    for section in arms_section(group).sections:
        name = section.title.removeprefix("Comparison ")
        (table,) = [block for block in section.blocks if isinstance(block, Table)]
        seeds = [[span.href for span in spans(row[1].text) if span.href] for row in table.rows]
        assert [len(links) for links in seeds] == [5, 5, 5]
        assert all(str(tmp_path / name) in str(link) for links in seeds for link in links)
    said = words(overview_section(group, (), []))
    assert "Comparison one: hgnn_optimized_comparison is better than mean" in said
    assert "Comparison two: hgnn_optimized_comparison is better than mean" in said


def test_arms_of_one_name_and_other_settings_are_told_apart(tmp_path: Path) -> None:
    for name, layers in (("one", 8), ("two", 4)):
        study = shutil.copytree(KEPT / "study-comparison", tmp_path / name)
        change(study / "study.json", "study", value=name)
        change(study / "study.json", "baseline", "model", "num_layers", value=layers)
    (group,), _ = read_sources([tmp_path / "one", tmp_path / "two"])
    labels = [point.label for point in group.points]
    assert len(set(labels)) == len(labels) == 6
    assert {"mean (one)", "mean (two)"} <= set(labels)


def test_a_comparison_beside_an_older_run_is_not_doubted(tmp_path: Path) -> None:
    """The report then compares by another loss; a comparison was weighed by its own, and says by which."""
    study = shutil.copytree(KEPT / "study-comparison", tmp_path / "study-comparison")
    older = shutil.copytree(next(study.glob("mean,seed=1-*")), tmp_path / "older")
    rows = [json.loads(line) for line in (older / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [{name: row[name] for name in row if name not in ("selection_loss", "reported_loss")} for row in rows]
    (older / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    (group,), _ = read_sources([study, older])
    assert group.loss_name == "best_eval_loss"
    (section,) = arms_section(group).sections
    assert "rest on other losses" not in words(section)
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    (loss,) = [column for column in table.columns if column.title == "loss"]
    assert "on one half of the evaluation text" in loss.explains
