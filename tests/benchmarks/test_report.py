"""The record and its page: entries are merged, sections are made from the record, and a table says what was met."""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, tables
from benchmarks.cases import CASES, Case, Targets
from benchmarks.children import Failure
from benchmarks.coupling import CouplingResult, Floor, coupling_cost
from benchmarks.hyperedges import HyperedgesResult, MemoryOfFew
from benchmarks.loader import Epoch, LoaderResult, StartUp
from benchmarks.measure import Limit, Race
from benchmarks.plan import PlanResult
from benchmarks.rates import ProductRate
from benchmarks.sections import SECTIONS
from benchmarks.step import judge
from benchmarks.tables import Table, to_markdown
from gnn_moe.errors import BadInput
from gnn_moe.studies.statistics import Interval
from tests.benchmarks.test_coupling import figures

SEEN: dict[str, Any] = {
    "command": "python -m benchmarks step --case a",
    "date": "2026-01-02T03:04:05+00:00",
    "git_commit": "abc",
    "device": "Fast Processor (R) 9",
    "processor": "Fast Processor (R) 9",
    "threads": 2,
    "load_average": [3.14, 2.0, 1.0],
    "on_cpu": True,
    "versions": {"python": "3.11", "torch": "2.13"},
}


def limit_of(seconds: float) -> Limit:
    product = ProductRate(name="head forward", shape="s", flops=10**12, seconds=seconds, gigaflops_per_second=1e3)
    return Limit(flops=10**12, seconds=seconds, products=(product,))


def judged(case: Case, *, ours: float, textbook: float | None, limit: float = 0.5) -> dict[str, Any]:
    found = {"ours": figures(ours, step_bytes=10**8)}
    failures = {}
    if textbook is None:
        failures["textbook"] = Failure(kind="killed", detail="ended by signal 9")
    else:
        found[case.opponent or "textbook"] = figures(textbook, step_bytes=2 * 10**8)
    return report.plain(judge(case, Race(figures=found, failures=failures, limit=limit_of(limit))))


def cells(page: str, first: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_held_to_its_target() -> None:
    met = judged(CASES["config1-gnn"], ours=1.0, textbook=4.5)
    assert (met["speed"], met["memory"], met["mfu"]) == (4.5, 1.0, 0.5)
    assert met["met"] == {"speed": True, "memory": False}
    assert judged(CASES["config1-gnn"], ours=1.0, textbook=3.9)["met"]["speed"] is False
    assert judged(CASES["config1-gnn"], ours=1.0, textbook=None)["met"] == {"speed": False, "memory": False}
    assert judged(CASES["sixteen-experts"], ours=1.0, textbook=4.0)["met"] == {"peak_bytes": True}


def test_the_target_table(tmp_path: Path) -> None:
    entry = judged(CASES["config1-gnn"], ours=1.25, textbook=5.5)
    page = report.update(tmp_path / "x.json", "step", {"config1-gnn": entry}, SEEN).read_text()
    row = cells(page.split("### Steps")[0], "config1-gnn")
    assert row == [
        *("config1-gnn", "1.25 s", "5.5 s", "4.40×", "≥ 4×", "yes"),
        *("300.0 MB", "300.0 MB", "1.00", "0.50", "≤ 0.5", "**no**", "40.0 %", "`python -m benchmarks step --case a`"),
    ]
    for text in (
        "# Benchmarks on Fast Processor (R) 9",
        "config1-gnn (load 3.1)",
        "commit abc",
        "2 threads",
        "torch 2.13",
        SEEN["date"],
    ):
        assert text in page


def test_a_utilisation_is_held_to_its_target(tmp_path: Path) -> None:
    case = dataclasses.replace(CASES["config1-gnn"], name="wide", targets=Targets(mfu=0.35))
    above, below = judged(case, ours=1.0, textbook=2.0, limit=0.36), judged(case, ours=1.0, textbook=2.0, limit=0.34)
    assert (above["met"], below["met"]) == ({"mfu": True}, {"mfu": False})
    page = report.update(tmp_path / "x.json", "step", {"above": above, "below": below}, SEEN).read_text()
    assert cells(page.split("### Steps")[0], "above")[12] == "36.0 % (≥ 35 %: yes)"
    assert cells(page.split("### Steps")[0], "below")[12] == "34.0 % (≥ 35 %: **no**)"


def test_both_lists_are_shown_and_explained(tmp_path: Path) -> None:
    cases = [CASES["config1-hgnn-list"], CASES["config1-hgnn-list-unbound"]]
    entries = {case.name: judged(case, ours=1.0, textbook=13.0) for case in cases}
    entries["mine"] = judged(cases[1], ours=1.0, textbook=2.0)
    page = report.update(tmp_path / "x.json", "step", entries, SEEN).read_text()
    targets = page.split("### Steps")[0]
    assert cells(targets, "config1-hgnn-list")[3:6] == ["13.00×", "≥ 12×", "yes"]
    assert cells(targets, "config1-hgnn-list-unbound")[3:6] == ["13.00×", tables.NOTHING, tables.NOTHING]
    assert cells(targets, "mine (list, unbound)")[3] == "2.00×"
    assert "`x[t]`, as the original on GitHub does" in page


def test_a_killed_opponent_is_in_the_table(tmp_path: Path) -> None:
    entry = judged(CASES["eight-experts"], ours=1.0, textbook=None)
    page = report.update(tmp_path / "x.json", "step", {"eight-experts": entry}, SEEN).read_text()
    row = cells(page.split("### Steps")[0], "eight-experts")
    assert row[1:6] == ["1 s", "killed", tables.NOTHING, "≥ 6×", "**no**"]


def coupler_entries() -> dict[str, dict[str, Any]]:
    found = {"mean": figures(1.0), "GNN": figures(1.5)}
    seconds = {"mean": (1.0,) * 6, "GNN": (1.4, 1.6, 1.5, 1.5, 1.5, 1.7)}
    floor = Floor(products_seconds=0.4, maps_seconds=0.3)
    cost = coupling_cost("GNN", seconds, {"mean": 1000, "GNN": 1300}, floor)
    race = Race(figures=found, failures={"HGNN": Failure(kind="out_of_memory", detail="")}, limit=None)
    alone = CouplingResult(
        name="a",
        model={},
        training={},
        race=race,
        costs={"GNN": cost},
        hgnn_over_gnn=None,
        hgnn_over_gnn_interval=None,
        hgnn_met=False,
    )
    many = HyperedgesResult(
        name="b",
        hyperedges=2016,
        model={},
        training={},
        race=Race(figures={"one": figures(1.0), "many": figures(1.01)}, failures={}, limit=None),
        memory_of=MemoryOfFew(step_bytes={}, kept_bytes={"many": 1008060, "one": 10**6}),
        time=1.01,
        time_interval=Interval(low=1.005, high=1.02, level=0.96),
        memory=1.0,
        memory_interval=Interval(low=0.95, high=1.02, level=0.96),
        kept=1.00806,
        time_met=True,
        memory_met=None,
    )
    return {"a": report.plain(alone), "b": report.plain(many)}


def test_the_coupler_tables(tmp_path: Path) -> None:
    page = report.update(tmp_path / "x.json", "coupler", coupler_entries(), SEEN).read_text()
    (costs, _), many = page.split("### HGNN over"), page.split("### Many")[1]
    (cost,) = [line.strip("| ").split(" | ") for line in costs.splitlines() if line.startswith("| a | GNN |")]
    assert cost[4:8] == ["500 ms (400 ms to 700 ms)", "400 ms to 700 ms", "400 ms", "300 ms"]
    assert cost[9:12] == ["1.44 (1.16 to 2.02)", "≤ 1.5", "cannot be told"]
    row = cells(many, "b")
    assert row[4:7] == ["1.01 (1.00 to 1.02)", "within 3 %", "yes"]
    assert row[7:13] == ["1.0 MB", "1.0 MB", "1.0081", "1.00 (0.95 to 1.02)", "within 3 %", "cannot be told"]


def test_entries_without_intervals_are_shown_and_tell_nothing(tmp_path: Path) -> None:
    entries = coupler_entries()
    cost = entries["a"]["costs"]["GNN"]
    entries["a"]["costs"]["GNN"] = {
        **{key: cost[key] for key in ("extra_seconds", "extra_flops", "over_own_rate", "over_mean_rate")},
        "met": True,
    }
    for name in ("time_interval", "memory_interval", "memory_of", "kept", "time_met", "memory_met"):
        del entries["b"][name]
    page = report.update(tmp_path / "x.json", "coupler", entries, SEEN).read_text()
    assert "| 1.44 | ≤ 1.5 | cannot be told |" in page
    assert cells(page.split("### Many")[1], "b")[4:7] == ["1.01", "within 3 %", "cannot be told"]


def test_one_subcommand_keeps_the_sections_of_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    entry = judged(CASES["config1-gnn"], ours=1.0, textbook=5.0)
    report.update(path, "step", {"config1-gnn": entry, "own": entry}, SEEN)
    report.update(path, "coupler", coupler_entries(), SEEN | {"command": "the other"})
    slower = judged(CASES["config1-gnn"], ours=2.0, textbook=5.0)
    page = report.update(path, "step", {"config1-gnn": slower}, SEEN | {"git_commit": "def"}).read_text()
    document = json.loads(path.read_text())
    assert document["sections"]["step"]["config1-gnn"]["speed"] == 2.5
    assert [before["speed"] for before in document["sections"]["step"]["config1-gnn"]["before"]] == [5.0]
    assert document["sections"]["step"]["own"]["speed"] == 5.0
    assert document["sections"]["step"]["own"]["circumstances"]["git_commit"] == "abc"
    assert page == report.render(document, "x")
    assert page.index("## A training step") < page.index("## Coupling alone")
    for text in ("2,016", "out_of_memory", "the other", "commit abc", "commit def", "within 3 %"):
        assert text in page
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.json", "x.md"]


def test_a_case_measured_again_shows_every_ratio(tmp_path: Path) -> None:
    path, case = tmp_path / "x.json", CASES["config1-gnn"]
    for number, textbook in enumerate((5.0, 6.0, 3.0)):
        entry = judged(case, ours=1.0, textbook=textbook)
        page = report.update(path, "step", {case.name: entry}, SEEN | {"date": f"day {number}"}).read_text()
    assert cells(page.split("### Steps")[0], case.name)[3:6] == ["3.00× (before: 6.00×, 5.00×)", "≥ 4×", "**no**"]
    before = json.loads(path.read_text())["sections"]["step"][case.name]["before"]
    assert [earlier["circumstances"]["date"] for earlier in before] == ["day 0", "day 1"]
    assert before[0]["seconds"]["textbook"]["seconds"] == [5.0]
    assert "config1-gnn before (load 3.1): day 0, commit abc" in page
    other = judged(dataclasses.replace(case, model=CASES["eight-experts"].model), ours=1.0, textbook=2.0)
    assert "(before: " not in report.update(path, "step", {case.name: other}, SEEN).read_text()
    assert "before" not in json.loads(path.read_text())["sections"]["step"][case.name]


@pytest.mark.parametrize("how", [{"uncommitted_changes": ["src/a.py"]}, {"git_commit": "abc-dirty"}])
def test_figures_of_a_changed_tree_are_marked(how: dict[str, Any], tmp_path: Path) -> None:
    entry = judged(CASES["config1-gnn"], ours=1.0, textbook=5.0)
    page = report.update(tmp_path / "x.json", "step", {"a": entry}, SEEN | how).read_text()
    assert "commit abc with **uncommitted changes**, Fast" in page
    clean = report.update(tmp_path / "y.json", "step", {"a": entry}, SEEN | {"uncommitted_changes": []}).read_text()
    assert "uncommitted" not in clean


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sections": []}', '{"sections": {"step": {"a": 1}}}', "\xff"])
def test_a_damaged_record_is_refused_and_stays(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    entry = judged(CASES["config1-gnn"], ours=1.0, textbook=5.0)
    with pytest.raises(BadInput, match=r"x\.json is damaged .* name another --output"):
        report.update(path, "step", {"a": entry}, SEEN)
    assert path.read_text(encoding="latin-1") == text


def test_two_benchmarks_that_write_one_record_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads, waits and writes; without a lock all but one entry would be lost."""
    read = report.read

    def read_slowly(path: Path) -> dict[str, Any]:
        document = read(path)
        time.sleep(0.1)
        return document

    monkeypatch.setattr(report, "read", read_slowly)
    entry = judged(CASES["config1-gnn"], ours=1.0, textbook=5.0)
    path = tmp_path / "x.json"
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda name: report.update(path, "step", {name: entry}, SEEN), "abcd"))
    assert set(read(path)["sections"]["step"]) == set("abcd")
    assert all(f"| {name} |" in path.with_suffix(".md").read_text() for name in "abcd")


def loader_entry(padding: float, seconds: float, failure: Failure | None = None) -> dict[str, Any]:
    epoch = Epoch(grouped=True, batches=1, seconds=1.0, batches_per_second=1.0, tokens_per_second=1.0, padding=padding)
    start = StartUp(imports_seconds=1.0, to_first_step_seconds=seconds, to_first_update_seconds=seconds + 1)
    result = LoaderResult(
        data={"data_format": "lines"},
        model={},
        batch_size=8,
        epochs=(epoch,),
        first=start,
        second=start if failure is None else None,
        failure=failure,
    )
    return report.plain(result)


def test_data_is_held_to_its_targets(tmp_path: Path) -> None:
    entries = {
        "good": loader_entry(0.09, 4.9),
        "bad": loader_entry(0.11, 5.1),
        "failed": loader_entry(0.05, 1.0, Failure(kind="error", detail="")),
    }
    page = report.update(tmp_path / "x.json", "loader", entries, SEEN).read_text()
    batches, starts = page.split("### Start-up")
    assert cells(batches, "good")[5:8] == ["9.0 %", "< 10 %", "yes"]
    assert cells(batches, "bad")[5:8] == ["11.0 %", "< 10 %", "**no**"]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in starts.splitlines() if "|" in line]
    assert [row[:3] + row[5:7] for row in found[2:]] == [
        ["good", "first", "4.9 s", "", ""],
        ["good", "second", "4.9 s", "< 5 s", "yes"],
        ["bad", "first", "5.1 s", "", ""],
        ["bad", "second", "5.1 s", "< 5 s", "**no**"],
        ["failed", "first", "1 s", "", ""],
        ["failed", "error", "—", "—", "—"],
    ]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_page_without_a_section_leaves_it_out(name: str) -> None:
    page = report.render({"device": "d", "sections": {}}, "x")
    assert SECTIONS[name].title not in page.replace("# Benchmarks", "")


def test_markdown_of_a_table() -> None:
    values = Table(title="t", columns=("a", "b"), rows=(("x|y", "1\n2"),))
    assert to_markdown(values) == "### t\n| a | b |\n| --- | --- |\n| x\\|y | 1 2 |\n"
    with pytest.raises(AssertionError):
        Table(title="t", columns=("a",), rows=(("x", "y"),))


def test_numbers_as_they_are_read() -> None:
    assert [tables.seconds(value) for value in (2.814, 0.0352, None)] == ["2.81 s", "35.2 ms", tables.NOTHING]
    assert [tables.size(value) for value in (3.456e9, 7.89e6)] == ["3.46 GB", "7.9 MB"]
    assert [tables.ratio(value) for value in (4.4, 0.0333)] == ["4.40", "0.033"]
    assert tables.percent(0.1234) == "12.3 %"


def test_file_names_of_devices() -> None:
    assert report.device_slug(SEEN) == "fast-processor-r-9-2-threads"
    assert report.device_slug(SEEN | {"device": "NVIDIA H200", "on_cpu": False}) == "nvidia-h200"


def plan_entry(memory: float, time: float, waiting: float = 0.001) -> dict[str, Any]:
    result = PlanResult(
        flags="--num_experts 2",
        predicted_bytes=round(memory * 2e9),
        peak_bytes=2 * 10**9,
        memory=memory,
        memory_met=memory < 1.15,
        predicted_minutes=time * 3,
        minutes=3,
        time=time,
        time_met=time < 1.15,
        waiting_share=waiting,
        waiting_met=waiting < 0.02,
    )
    return report.plain(result)


def test_plans_stand_beside_what_was_measured(tmp_path: Path) -> None:
    entries = {"near": plan_entry(1.1, 0.9), "far": plan_entry(1.2, 0.95, waiting=0.021)}
    entries["earlier"] = {name: value for name, value in entries["near"].items() if "waiting" not in name}
    page = report.update(tmp_path / "x.json", "plan", entries, SEEN).read_text()
    for row in (
        "| near (1) | memory | 2.20 GB | 2.00 GB | 1.10 | within 15 % | yes |",
        "| near (1) | time | 2.70 | 3.00 | 0.90 | within 15 % | yes |",
        "| near (1) | waiting for batches | — | 0.1 % | — | < 2 % | yes |",
        "| far (2) | memory | 2.40 GB | 2.00 GB | 1.20 | within 15 % | **no** |",
        "| far (2) | waiting for batches | — | 2.1 % | — | < 2 % | **no** |",
        "| earlier (3) | waiting for batches | — | — | — | < 2 % | — |",
        "\n1. near: `--num_experts 2`\n",
    ):
        assert row in page
    assert page.count("--num_experts 2") == 3


def test_parts_that_exceed_their_step_are_marked(tmp_path: Path) -> None:
    entries = {name: judged(CASES["config1-gnn"], ours=1.0, textbook=5.0) for name in ("less", "more")}
    for name, rest in (("less", 0.1), ("more", -0.2)):
        entries[name]["race"]["figures"]["ours"]["part_seconds"] = {"experts": 1.0 - rest, "rest": rest}
    path = tmp_path / "x.json"
    parts = report.update(path, "step", entries, SEEN).read_text().split("### Where the time goes")[1]
    parts = parts.split("### The limit")[0]
    assert [cells(parts, name)[-1] for name in entries] == ["100 ms", "-200 ms †"]
    assert "† The parts add up to more than the step" in parts
    del entries["more"]
    assert "†" not in report.update(tmp_path / "y.json", "step", entries, SEEN).read_text()
