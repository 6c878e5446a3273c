"""The tables of `coupler`. Entries of earlier versions have no intervals: nothing can be told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import tables
from benchmarks.coupling import COST_TARGET
from benchmarks.hyperedges import EQUAL_WITHIN, MANY, ONE
from benchmarks.tables import Table, table

Entry = Mapping[str, Any]
ABOUT = """\
Ours with and without coupling. Differences and ratios are taken within a round; beside each median stands, in brackets,
its interval of at least 95 % by order statistics. A target is met where the interval lies within it, missed where it
lies outside, and cannot be told where it holds the limit.

"Products alone" is what the coupler's matrix products take by themselves in the same race, each at the best rate seen;
"maps alone" are those of them that map width to width, which no form can save. A difference below that is noise.

Memory of many hyperedges is held to one by what a forward pass keeps for its backward pass, which is counted, and by
the peaks of fresh processes of both, in pairs.
"""
NOISE = "noise: below the maps alone"


def coupler_tables(entries: Mapping[str, Entry]) -> list[Table]:
    """Costs over `mean`, HGNN over GNN, many hyperedges; those without rows are left out."""
    alone = {name: entry for name, entry in entries.items() if "hyperedges" not in entry}
    many = {name: entry for name, entry in entries.items() if "hyperedges" in entry}
    found = [_costs(alone), _speeds(alone), _many(many)]
    return [values for values in found if values.rows]


def _costs(entries: Mapping[str, Entry]) -> Table:
    columns = "sizes, coupler, s/step, peak memory, over mean, spread of the differences, products alone, maps alone"
    columns += ", extra FLOPs, time over FLOPs at own rate, target, met?, at the rate of mean"
    columns += ", coupler and readout alone, command"
    names, rows = columns.split(", "), []
    for name, entry in entries.items():
        command = _command(entry)
        for kind, figures in entry["race"]["figures"].items():
            step = [tables.seconds(figures["timing"]["median"]), tables.size(figures["peak_bytes"])]
            part = tables.seconds(figures["part_seconds"].get("coupler"))
            rows.append([name, kind, *step, *_cost_cells(entry["costs"].get(kind)), part, command])
        failures = _failures(entry)
        rows += [[name, kind, failed, *[""] * (len(names) - 4), command] for kind, failed in failures.items()]
    return table("Coupling over `mean`", names, rows)


def _cost_cells(cost: Entry | None) -> list[str]:
    if cost is None:
        return [*[tables.NOTHING] * 6, "", "", tables.NOTHING]
    differences, floor = cost.get("differences"), cost.get("floor")
    noise = cost.get("below_floor", False)
    return [
        tables.with_interval(cost["extra_seconds"], cost.get("extra_interval"), tables.seconds),
        f"{tables.seconds(min(differences))} to {tables.seconds(max(differences))}" if differences else tables.NOTHING,
        tables.seconds(floor and floor["products_seconds"]),
        tables.seconds(floor and floor["maps_seconds"]),
        f"{cost['extra_flops'] / 1e9:.1f} G",
        tables.with_interval(cost["over_own_rate"], cost.get("over_own_interval"), tables.ratio),
        f"≤ {COST_TARGET}",
        f"{tables.CANNOT_TELL} ({NOISE})" if noise else tables.verdict(cost, "met", "over_own_interval"),
        tables.ratio(cost["over_mean_rate"]),
    ]


def _speeds(entries: Mapping[str, Entry]) -> Table:
    rows = [
        [
            name,
            tables.with_interval(entry["hgnn_over_gnn"], entry.get("hgnn_over_gnn_interval"), tables.ratio),
            "≤ 1",
            tables.verdict(entry, "hgnn_met", "hgnn_over_gnn_interval"),
            _command(entry),
        ]
        for name, entry in entries.items()
    ]
    return table("HGNN over GNN, seconds a step", ("sizes", "ratio", "target", "met?", "command"), rows)


def _many(entries: Mapping[str, Entry]) -> Table:
    columns = "case, hyperedges, s/step, with one hyperedge, time, target, met?, kept by a forward pass"
    columns += ", with one hyperedge, ratio, peak of fresh processes, target, met?, command"
    rows = [_many_row(name, entry) for name, entry in entries.items()]
    return table("Many hyperedges against one over all experts", columns.split(", "), rows)


def _many_row(name: str, entry: Entry) -> list[str]:
    figures, failures = entry["race"]["figures"], _failures(entry)
    kept = entry.get("memory_of", {}).get("kept_bytes", {})
    target = f"within {100 * EQUAL_WITHIN:.0f} %"

    def median(kind: str) -> str:
        return tables.seconds(figures[kind]["timing"]["median"]) if kind in figures else failures[kind]

    return [
        name,
        f"{entry['hyperedges']:,}",
        median(MANY),
        median(ONE),
        tables.with_interval(entry["time"], entry.get("time_interval"), tables.ratio),
        target,
        tables.verdict(entry, "time_met", "time_interval"),
        tables.size(kept.get(MANY)),
        tables.size(kept.get(ONE)),
        tables.NOTHING if entry.get("kept") is None else f"{entry['kept']:.4f}",
        tables.with_interval(entry["memory"], entry.get("memory_interval"), tables.ratio),
        target,
        tables.verdict(entry, "memory_met", "memory_interval"),
        _command(entry),
    ]


def _failures(entry: Entry) -> dict[str, str]:
    return {kind: failure["kind"] for kind, failure in entry["race"]["failures"].items()}


def _command(entry: Entry) -> str:
    return f"`{entry['circumstances']['command']}`"
