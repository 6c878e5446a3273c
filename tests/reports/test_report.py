"""Whole reports: kept as text, every number found again in the run folders, written while runs go on."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gnn_moe.cli import main
from gnn_moe.model.size import model_size
from gnn_moe.reports import command
from gnn_moe.run_folder import RunFolder
from tests.reports import golden
from tests.reports.made_runs import write_run
from tests.reports.reckoned import Record, numbers_in, numbers_of


@pytest.mark.parametrize("name", golden.REPORTS)
def test_the_report_is_the_one_that_is_kept(name: str, tmp_path: Path) -> None:
    """Where it should change: python -m tests.reports.golden, and read what git shows."""
    assert golden.report(name, tmp_path) == (golden.KEPT / f"{name}.md").read_text(encoding="utf-8")


STATED = {"97.5", "4.50", "4.5", "4.45", "4.48", "0.9", "0.1", "0.05", "0.01", "0.0005"}
"""Levels of intervals and tests, the margin of efficiency, what the seed asks for: rules, no numbers of runs."""
DRAWN = {"0.0006"}
"""p values by random permutations; that of these five orders of three is 1/6⁴ = 0.0008."""


@pytest.mark.parametrize("name", golden.REPORTS)
def test_every_number_follows_from_the_run_folders(name: str, tmp_path: Path) -> None:
    """Wherever it stands, in tables and in sentences; counts are read by eye."""
    found = numbers_in(golden.report(name, tmp_path))
    assert len(found) > 100
    assert set(found) - numbers_of(tmp_path / "runs") - STATED - DRAWN == set()


def rows(text: str, caption: str) -> Iterator[dict[str, str]]:
    """The rows of a table of a report, by column."""
    lines = text.split(f"**{caption}**\n\n")[1].split("\n\n", maxsplit=1)[0].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    for row in cells[2:]:
        yield dict(zip(cells[0], row, strict=True))


def linked(cell: str, report: Path) -> list[Path]:
    return [(report / target).resolve() for target in re.findall(r"\]\(([^)]*)\)", cell)]


def test_every_number_of_a_sweep_is_found_again_in_the_run_folders(tmp_path: Path) -> None:
    """By scipy and the records alone, from the folders that the rows link to."""
    text, report = golden.report("sweep", tmp_path), tmp_path / "report"
    seen = 0
    for row in rows(text, "Losses and costs of each value of num_experts, all else as in the baseline"):
        folders = linked(row["Seeds"], report)
        if not folders:
            assert row["Eval loss"] == "FAILED"
            continue
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        losses = [Record(folder).loss for folder in folders]
        low, high = stats.t.interval(0.95, 2, np.mean(losses), stats.sem(losses))
        size = model_size(RunFolder(folders[0]).read_config().model)
        flops = size.training_flops_per_token * np.mean([summary["tokens"] for summary in summaries])
        assert row["num_experts"] == str(RunFolder(folders[0]).read_config().model.num_experts)
        assert row["Eval loss"] == f"{np.mean(losses):.4f}"
        assert row["95 % interval"] == f"{low:.4f} to {high:.4f}"
        assert row["Perplexity"] == f"{np.exp(np.mean(losses)):.2f}"
        assert row["Bits a byte"] == f"{np.mean([summary['bits_per_byte'] for summary in summaries]):.4f}"
        assert row["Training time (min)"] == f"{np.mean([summary['train_minutes'] for summary in summaries]):.1f}"
        assert row["Total params"] == f"{size.total_parameters / 1e3:.1f}k"
        assert row["Non-embedding params"] == f"{size.non_embedding_parameters / 1e3:.3g}k"
        assert row["Training FLOPs"].startswith(f"{flops / 1e8:.2f} × 10")
        assert float(row["Peak memory (GiB)"]) * 2**30 == np.mean(
            [summary["peak_memory_bytes"] for summary in summaries]
        )
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("name", golden.REPORTS)
def test_the_table_of_runs_has_every_run_as_recorded(name: str, tmp_path: Path) -> None:
    text, report = golden.report(name, tmp_path), tmp_path / "report"
    found = list(rows(text, "All runs"))
    assert len(found) == len(list((tmp_path / "runs").iterdir()))
    for row in found:
        (folder,) = linked(row["run"].replace("%3Cb%3E", "<b>"), report)
        summary = json.loads((folder / "summary.json").read_text())
        assert row["seed"] == str(RunFolder(folder).read_config().training.seed)
        assert row["loss"] == (f"{Record(folder).loss:.4f}" if summary["status"] == "completed" else "")
        assert row["minutes"] == f"{summary['train_minutes'] + summary['eval_minutes']:.1f}"
        assert row["tokens"] == f"{summary['tokens']:,}"


@pytest.mark.parametrize("study", golden.STUDIES)
def test_the_report_of_a_kept_study_is_the_one_that_is_kept(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it should change: python -m tests.reports.golden, as with the others."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden.ROOT / "results" / "wikitext2" / study, Path("results") / "wikitext2" / study)
    assert main(golden.words_of_study(study)) == 0
    made = Path("docs") / "reports" / study
    text = (made / "report.md").read_text(encoding="utf-8")
    assert text == (golden.ROOT / made / "report.md").read_text(encoding="utf-8")
    assert names_in(made) == names_in(golden.ROOT / made)
    record = json.loads((Path("results") / "wikitext2" / study / "study.json").read_text())
    for trial in record["trials"]:
        assert f"| {trial['reported_loss']:.4f} |" in text
    assert "nan" not in re.findall(r"[a-z]+", text)
    assert (made / "report.html").stat().st_size < 6e6
    for picture in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (made / picture).exists()
        assert (made / picture).with_suffix(".png").exists()


def names_in(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_a_report_is_written_anew_as_runs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """First there is nothing to report, then one run of two, then both; then it ends by itself."""
    monkeypatch.setattr(command, "LOOK_SECONDS", 0.05)
    runs, page = tmp_path / "runs", tmp_path / "report" / "report.md"
    write_run(runs / "a", num_experts=2, summary={"status": "running"})
    write_run(runs / "b", num_experts=4, summary={"status": "running"})
    status: list[int] = []
    words = ["report", str(runs), "--watch", "--output", str(page.parent)]
    watching = threading.Thread(target=lambda: status.append(main(words)))
    watching.start()
    time.sleep(0.3)
    assert not page.exists()
    for ended, name in enumerate("ab", 1):
        path = runs / name / "summary.json"
        values = json.loads(path.read_text()) | {"status": "completed"}
        (runs / name / "new.json").write_text(json.dumps(values))
        (runs / name / "new.json").replace(path)
        wait_until = time.monotonic() + 60
        while not (page.exists() and f"{ended} of 2 runs completed" in page.read_text()):
            assert time.monotonic() < wait_until
            time.sleep(0.05)
    watching.join(60)
    assert status == [0]
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("no run is completed yet: waiting for the first")
    assert "report.html: 1 of 2 runs have ended; waiting for b (running); Ctrl-C ends this" in second
    assert last.endswith("report.html: 2 of 2 runs have ended")


BAD = {
    "no folder": ([], "give the folder of a study or of runs"),
    "nothing there": (["gone"], "gone: is no folder"),
    "bad targets": (["runs", "--targets", "gone.toml"], "--targets gone.toml: cannot be read"),
    "output is a file": (["runs", "--output", "runs/a/config.json"], "is a file; give a folder"),
    "unknown reference": (["runs", "--reference", "other"], "--reference"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a")
    before = sorted(tmp_path.rglob("*"))
    words, message = BAD[case]
    try:
        status = main(["report", *words])
    except SystemExit as error:  # tyro's own
        status = int(error.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_several_protocols_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for samples in (10, 20):
        for experts in (2, 4):
            write_run(Path("runs") / f"{samples}-{experts}", num_eval_samples=samples, num_experts=experts)
    assert main(["report", "runs"]) == 2
    assert main(["report", "runs", "--group", "--title", "Two"]) == 0
    text = Path("runs/report/report.md").read_text()
    assert text.startswith("# Two\n")
    assert text.count("Losses of this part compare with each other only.") == 2
    assert main(["report", "runs", "--group"]) == 0  # the report in it is no run
