"""Damaged and odd records: an error names the file, the field and the way out, or the report says what it left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from gnn_moe.cli import main
from tests.reports.made_runs import write_run
from tests.reports.made_studies import trial, write_study

Study = dict[str, Any]


def without(name: str) -> Callable[[Study], object]:
    return lambda study: study.pop(name)


def in_trial(**values: Any) -> Callable[[Study], object]:
    return lambda study: study["trials"][1].update(values)


STUDIES: dict[str, tuple[Callable[[Study], object], str]] = {
    "no seed": (in_trial(seed=None), "trials[1].seed is None, no whole number"),
    "a truth value for a seed": (in_trial(seed=True), "trials[1].seed is True, no whole number"),
    "params of a list": (in_trial(params=[1]), "trials[1].params is [1], no object of fields"),
    "no name": (lambda study: study["trials"][1].pop("name"), "trials[1].name is missing"),
    "a trial of text": (lambda study: study["trials"].insert(0, "gone"), "trials[0] is 'gone', no object of fields"),
    "no baseline": (without("baseline"), "baseline is missing"),
    "no version": (without("version"), "version is missing"),
    "a version of text": (lambda study: study.update(version="1"), "version is '1', no whole number"),
    "no command": (without("command"), "command is missing"),
}


@pytest.mark.parametrize("case", STUDIES)
def test_a_damaged_study_is_named_with_its_field(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, message = STUDIES[case]
    file = write_study(tmp_path / "study", [trial(2, 1), trial(4, 1)]) / "study.json"
    values = json.loads(file.read_text())
    damage(values)
    file.write_text(json.dumps(values))
    assert main(["report", str(file.parent)]) == 2
    said = capsys.readouterr().err
    assert said == f"gnn-moe report: {file}: {message}; run its sweep again, which writes it anew\n"
    assert [each.name for each in file.parent.iterdir()] == ["study.json"]


@pytest.mark.parametrize("content", [b"", b'{"format": "gnn_moe.study", "tri', b"\xff\xfe"])
def test_a_cut_study_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.json").write_bytes(content)
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gnn-moe report: {tmp_path / 'study.json'}: is damaged (")
    assert said.count("\n") == 1


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under a file: what a full disk and a folder of others meet too."""
    config = write_run(tmp_path / "runs" / "a") / "config.json"
    assert main(["report", str(tmp_path / "runs"), "--output", str(config / "report")]) == 2
    said = f"--output {config / 'report'}: cannot be written (Not a directory); give another folder"
    assert capsys.readouterr().err == f"gnn-moe report: {said}\n"


RUNS: dict[str, tuple[str, bytes | None, str]] = {
    "no config": ("config.json", None, "is left out: "),
    "a cut config": ("config.json", b'{"model":', "is left out: "),
    "a cut summary": ("summary.json", b'{"status": "comp', "is left out: "),
    "a list for a summary": ("summary.json", b"[]", "is left out: "),
    "a status of no text": ("summary.json", b'{"status": 3}', "summary.json: status is 3, no text"),
    "metrics of no text": ("metrics.jsonl", b"\xff\xfe\n", "line 1 is not a JSON object"),
    "rows without a step": ("metrics.jsonl", b'{"kind": "eval", "loss": 3}\n', "has a row without a step"),
    "no evaluation": ("metrics.jsonl", b"", "metrics.jsonl has no evaluation, so no curve is drawn"),
    "no metrics": ("metrics.jsonl", None, "is missing; its run cannot be drawn"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_damaged_run_is_named_and_the_others_are_reported(case: str, tmp_path: Path) -> None:
    file, content, message = RUNS[case]
    for name, experts in (("whole", 2), ("bad-run", 4)):
        write_run(tmp_path / "runs" / name, num_experts=experts)
    damaged = tmp_path / "runs" / "bad-run" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert any("bad-run" in line and message in line for line in text.splitlines())
    assert "[whole](../runs/whole)" in text


@pytest.mark.parametrize("name", ["a b", "a|b", "a\nb", "ünï[c](o)de", "%41", "-dash", "`tick`", "#h?q", "<b>&amp;"])
def test_a_run_of_any_name_is_linked_to_its_folder(name: str, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / name)
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    links = {*re.findall(r'href="(\.\./[^"]*)"', page), *re.findall(r"\]\((\.\./[^)]*)\)", text)}
    assert {(tmp_path / "report" / unquote(link)).resolve() for link in links} == {tmp_path / "runs" / name}
