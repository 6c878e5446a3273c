"""Tables of groups of runs: what stands in each row, and that nothing is left out or made up."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from gnn_moe.reports.document import Block, Bullets, Cell, Paragraph, Section, Table, spans
from gnn_moe.reports.numbers import UNKNOWN
from gnn_moe.reports.points import Group, Run
from gnn_moe.reports.sources import read_sources
from gnn_moe.reports.tables import slice_of, sweep_sections
from tests.reports.made_groups import group, run

RESULTS = Path(__file__).resolve().parents[2] / "results" / "wikitext2"


def words(cell: Cell) -> str:
    return "".join(span.text for span in spans(cell.text))


def links(cell: Cell) -> list[str | None]:
    return [span.href for span in spans(cell.text) if span.href is not None]


def all_words(sections: tuple[Section, ...]) -> list[str]:
    found: list[str] = []
    for section in sections:
        for block in section.blocks:
            found += block_words(block)
        found += all_words(section.sections)
    return found


def block_words(block: Block) -> list[str]:
    if isinstance(block, Table):
        notes = ["".join(span.text for span in spans(note)) for note in block.notes]
        return [block.caption, *(words(cell) for row in block.rows for cell in row), *notes]
    if isinstance(block, Bullets):
        return ["".join(span.text for span in spans(item)) for item in block.items]
    assert isinstance(block, Paragraph)
    return ["".join(span.text for span in spans(block.text))]


def table_of(made: Group, place: int = 0) -> Table:
    block = sweep_sections(made, with_reference=False)[place].blocks[0]
    assert isinstance(block, Table)
    return block


def rows_of(table: Table) -> list[dict[str, Cell]]:
    for row in table.rows:
        assert len(row) == len(table.columns)
    return [dict(zip((column.title for column in table.columns), row, strict=True)) for row in table.rows]


def experts(*means: float, seeds: int = 6, folder: Path | None = None) -> Group:
    """Experts 2, 4 (the baseline), 8, ... of some mean losses; seeds shift all alike, and runs differ by 0.002."""
    noise = np.random.default_rng(1).normal(size=(len(means), seeds))
    points = [
        [
            run({"num_experts": 2 ** (place + 1)}, seed, mean + 0.05 * seed + 0.002 * noise[place, seed - 1], folder)
            for seed in range(1, seeds + 1)
        ]
        for place, mean in enumerate(means)
    ]
    return group(["num_experts"], [points[1], points[0], *points[2:]])


def test_a_field_has_a_table_with_its_values_ascending_and_the_best_marked() -> None:
    rows = rows_of(table_of(experts(4.6, 4.5, 4.4)))
    assert [words(row["num_experts"]) for row in rows] == ["2", "4", "8"]
    assert [words(row["Marks"]) for row in rows] == ["", "baseline", "best, most efficient (training FLOPs)"]
    assert [any(span.strong for span in spans(row["Eval loss"].text)) for row in rows] == [False, False, True]
    assert [words(row["Seeds"]) for row in rows] == ["1 2 3 4 5 6"] * 3


def test_numbers_are_those_of_the_runs() -> None:
    (row, *_) = rows_of(table_of(experts(4.6, 4.5)))
    losses = [words(row["Eval loss"]), words(row["95 % interval"]), words(row["Perplexity"])]
    assert re.fullmatch(r"4\.77\d\d", losses[0])
    assert re.fullmatch(r"4\.6\d\d\d to 4\.8\d\d\d", losses[1])
    assert float(losses[2]) == pytest.approx(np.exp(float(losses[0])), rel=1e-4)
    assert words(row["Training time (min)"]) == "2.0"
    assert words(row["Total params"]) == "2.00M"
    assert words(row["Tokens/s"]) == "2,000"
    assert words(row["Peak memory (GiB)"]) == "1.00"
    assert words(row["Bits a byte"]) == "1.5000"
    assert words(row["For its cost"]) == UNKNOWN  # two values are one step, and returns need two


def test_noise_is_tied_and_the_cheapest_of_the_tied_is_efficient() -> None:
    rows = rows_of(table_of(experts(4.5, 4.5, 4.5)))
    marks = [words(row["Marks"]) for row in rows]
    assert all("tied" in mark and "best" not in mark for mark in marks)
    assert ["most efficient" in mark for mark in marks] == [True, False, False]
    assert sum("lowest mean" in mark for mark in marks) == 1


def test_one_seed_is_only_the_lowest_and_links_lead_to_its_run(tmp_path: Path) -> None:
    table = table_of(experts(4.6, 4.5, 4.4, seeds=1, folder=tmp_path))
    rows = rows_of(table)
    assert words(rows[2]["Marks"]) == "lowest (one seed: no interval)"
    assert words(rows[2]["95 % interval"]) == "one seed"
    for name in ("Seeds", "Eval loss", "Perplexity", "Training time (min)", "Peak memory (GiB)"):
        assert links(rows[0][name]) == [str(tmp_path)]
    assert any("fewer than two seeds in common" in note for note in map(str, table.notes))
    assert re.fullmatch(r"−0\.\d{4} a doubling of FLOPs", words(rows[2]["For its cost"]))


def test_an_empty_column_of_rates_has_its_reason() -> None:
    made = experts(4.6, 4.5, 4.4, seeds=1)
    assert not any("each doubling of cost" in str(note) for note in table_of(made).notes)
    two = [run({"num_experts": 8}, 1, 4.3, values={"training_flops_per_token": 6_000_000 * 4.1})]
    near = group(["num_experts"], [*(point.runs for point in made.points[:2]), two])
    assert "No change for each doubling of cost is given: 4 and 8 take about the same training FLOPs, so neither " in (
        " ".join(map(str, table_of(near).notes))
    )
    few = " ".join(map(str, table_of(experts(4.6, 4.5)).notes))
    assert "No change for each doubling of cost is given: that takes the losses of three values." in few


def test_each_seed_leads_to_its_own_run() -> None:
    made = group(
        ["num_experts"],
        [[run({"num_experts": count}, seed, 4.5, Path(f"runs/{count}-{seed}")) for seed in (1, 2)] for count in (4, 2)],
    )
    rows = rows_of(table_of(made))
    assert links(rows[0]["Seeds"]) == ["runs/2-1", "runs/2-2"]
    assert links(rows[0]["Eval loss"]) == []
    assert not any("best" in words(row["Marks"]) for row in rows)


def test_failed_and_unfinished_rows_stay_with_their_reason() -> None:
    made = group(
        ["num_experts"],
        [
            [run({}, 1, 4.5)],
            [
                run(
                    {"num_experts": 8},
                    1,
                    None,
                    state="failed",
                    error_class="out_of_memory",
                    error_message="3 GiB\nmore",
                )
            ],
            [run({"num_experts": 16}, 1, None, state="running")],
            [
                run({"num_experts": 2}, 1, 4.6),
                run({"num_experts": 2}, 2, None, state="failed", error_class="killed", error_message=None),
            ],
        ],
    )
    rows = rows_of(table_of(made))
    assert [words(row["Eval loss"]) for row in rows] == ["4.6000", "4.5000", "FAILED", "not finished"]
    assert words(rows[2]["Marks"]) == "seed 1 failed, out_of_memory: 3 GiB more"
    assert words(rows[2]["Total params"]) == "8.00M"
    assert words(rows[3]["Marks"]) == "seed 1 not finished (running)"
    assert words(rows[0]["Marks"]) == "seed 2 failed, killed: no message"
    assert words(rows[0]["Seeds"]) == "1"


def test_of_two_runs_of_a_seed_both_are_shown_and_one_counts() -> None:
    twice = [run({}, 1, 4.5, name="first"), run({}, 1, 9.0, name="second")]
    table = table_of(group(["num_experts"], [twice, [run({"num_experts": 2}, 1, 4.6)]]))
    row = rows_of(table)[1]
    assert words(row["Eval loss"]) == "4.5000"
    assert "seed 1 counted once: a second run of its seed" in words(row["Marks"])
    assert any("first and second; one counts" in str(note) for note in table.notes)


def test_what_a_search_stopped_is_not_compared() -> None:
    early = [run({"num_experts": 8}, 1, 1.0, values={"pruned": True})]
    table = table_of(group(["num_experts"], [[run({}, 1, 4.5)], [run({"num_experts": 2}, 1, 4.6)], early]))
    rows = rows_of(table)
    assert words(rows[1]["Marks"]).startswith("lowest")
    assert words(rows[2]["Eval loss"]) == UNKNOWN
    assert "stopped early" in words(rows[2]["Marks"])


def test_missing_numbers_are_dashes_and_never_nan() -> None:
    nothing = dict.fromkeys(
        ("bits_per_byte", "train_minutes", "tokens", "tokens_per_second", "peak_memory_bytes", "total_parameters")
    )
    bad = {"reported_loss": float("nan"), "best_eval_loss": None}
    points: list[list[Run]] = [
        [run({}, 1, 4.5, values=nothing)],
        [run({"num_experts": 2}, 1, None, values=nothing | bad, config=None)],
        [run({"num_experts": 8}, 1, 4.4, values=nothing | {"bits_per_byte": float("inf")})],
    ]
    sections = sweep_sections(group(["num_experts"], points), with_reference=True)
    text = "\n".join(all_words(sections))
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert "completed without a finite reported_loss" in text


def test_names_with_markup_stay_plain_text() -> None:
    """Renderers escape."""
    name = "<script>alert(1)</script>|*b*"
    points = [[run({}, 1, 4.5)], [run({"tokenizer": "gpt2"}, 1, 4.4)]]
    points[1][0] = run({}, 1, 4.4, settings={**points[0][0].settings, "tokenizer": name}, name=name)
    (section,) = sweep_sections(group(["tokenizer"], points), with_reference=False)
    assert name in all_words((section,))
    assert any(f"Lowest at tokenizer {name}: 4.4000" in said for said in all_words((section,)))


def test_points_that_change_several_fields_are_in_one_more_table() -> None:
    both = itertools.product((4, 2), (2, 3))
    points = [
        [run({"num_experts": count, "num_layers": layers}, seed, 4.5 + 0.1 * seed + 0.01 * count) for seed in (1, 2)]
        for count, layers in both
    ]
    made = group(["num_experts", "num_layers"], points)
    sections = sweep_sections(made, with_reference=False)
    assert [section.title for section in sections] == ["num_experts", "num_layers", "All points"]
    assert len({section.anchor for section in sections}) == 3
    assert [len(table_of(made, place).rows) for place in range(3)] == [2, 2, 4]
    assert [column.title for column in table_of(made, 2).columns][:2] == ["num_experts", "num_layers"]
    assert any(said.startswith("No interaction of num_experts and num_layers") for said in all_words(sections))


def test_one_field_at_a_time_says_that_interactions_were_not_tested() -> None:
    points = [[run({}, 1, 4.5)], [run({"num_experts": 2}, 1, 4.6)], [run({"num_layers": 3}, 1, 4.4)]]
    sections = sweep_sections(group(["num_experts", "num_layers"], points), with_reference=False)
    assert [section.title for section in sections] == ["num_experts", "num_layers", "Interactions"]
    assert all_words(sections[2:])[0].startswith("Interaction was not tested: of 3 settings")


def test_arms_are_left_to_other_sections() -> None:
    points = [[run({}, 1, 4.5, arm="gnn")], [run({"num_experts": 2}, 1, 4.6, arm="hgnn")]]
    made = group(["num_experts"], points)
    assert slice_of(made, "num_experts") == ()
    assert sweep_sections(made, with_reference=True) == ()


def test_the_seeds_table_stands_beside_under_its_protocol() -> None:
    made = experts(4.6, 4.5)
    (section,) = sweep_sections(made, with_reference=True)
    note, theirs = section.blocks[-2:]
    assert isinstance(note, Paragraph)
    assert isinstance(theirs, Table)
    assert "Its losses compare with ours only under one protocol, and ours differs: " in block_words(note)[0]
    assert "embed_dim 16 instead of 384" in block_words(note)[0]
    assert [words(cell) for cell in theirs.rows[0]] == ["2", "4.5267", "92.45", "9.3", "55.9M"]
    assert [words(cell) for cell in theirs.rows[3]][:2] == ["16", "FAILED"]
    assert sweep_sections(made, with_reference=False)[0].blocks == section.blocks[:-2]
    assert len(table_of(made).rows) == 2


def test_the_real_study_of_experts() -> None:
    (made,), _ = read_sources([RESULTS / "study-experts"])
    rows = rows_of(table_of(made))
    assert [words(row["num_experts"]) for row in rows] == ["2", "4", "8", "16"]
    assert words(rows[1]["Eval loss"]) == "5.2675"
    assert words(rows[1]["Training FLOPs"]) == "5.74 × 10¹³"
    assert links(rows[1]["Eval loss"]) == [str(RESULTS / "study-experts" / "baseline,seed=42-e55946")]
