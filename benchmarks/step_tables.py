"""The tables of `step`: targets, spread, parts, memory and the products that take the most time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import tables
from benchmarks.tables import Table, table

Entry = Mapping[str, Any]
ABOUT = """\
Ours against the textbook with the same weights, in turn, each in a process of its own with the same environment. MFU is
the time of the step's matrix products, each alone at the best rate seen (weight gradients in the faster of two
layouts), over the time of our step. Attention's FLOPs are those of all T² pairs of positions, masked ones too.

A case that is measured again keeps its earlier ratios, shown as "before"; only the latest is held to the target.
Memory is compared by whole processes, libraries with them, and beside it beyond what the imports took.

The textbook's hypergraphs are one graph, made by arithmetic on indices. Two more opponents build one graph object a
token and batch them as a list. `textbook_list` takes each graph's features by `x[t]`, as the original on GitHub does:
the gradient of that is a tensor of all tokens' size for every token, so its backward pass costs the square of their
number. The target of the list form is held against it. `textbook_unbound` is the same list with `x.unbind()`, which
loses only the building of the objects; it has no target and shows how much of the ratio is owed to the indexing.
"""
LIST_LABELS = {"textbook_list": "list", "textbook_unbound": "list, unbound"}
MOST_PRODUCTS = 6
REST = "rest"
PARTS = ("experts", "coupler", "head and loss", "optimiser", REST)
EXCEEDED = "†"
EXCEEDED_NOTE = (
    f"{EXCEEDED} The parts add up to more than the step: they are measured alone, after the race, and take longer so, "
    "or the machine was slower then. Such a row says which part is large, not how the step divides."
)
KINDS = ("parameters", "gradients", "optimiser", "activations")


def step_tables(entries: Mapping[str, Entry]) -> list[Table]:
    """All tables of the section; those without rows are left out."""
    found = [_targets(entries), _spread(entries), _parts(entries), _memory(entries), _products(entries)]
    return [values for values in found if values.rows]


def _targets(entries: Mapping[str, Entry]) -> Table:
    columns = "case, ours s/step, textbook s/step, ratio, target, met?, ours peak, textbook peak, ratio"
    columns += ", beyond imports, target, met?, MFU, command"
    return table("Targets", columns.split(", "), [_target_row(name, entry) for name, entry in entries.items()])


def _target_row(name: str, entry: Entry) -> list[str]:
    race, opponent, targets, met = entry["race"], entry["opponent"], entry["targets"], entry["met"]

    def shown(contestant: str | None) -> tuple[str, str]:
        if contestant is None:
            return tables.NOTHING, tables.NOTHING
        if (figures := race["figures"].get(contestant)) is None:
            failure = race["failures"].get(contestant)
            return (failure["kind"] if failure else tables.NOTHING), tables.NOTHING
        return tables.seconds(figures["timing"]["median"]), tables.size(figures["peak_bytes"])

    (our_time, our_peak), (other_time, other_peak) = shown("ours"), shown(opponent)
    if targets["peak_bytes"] is not None:
        memory_target, memory_met = f"< {tables.size(targets['peak_bytes'])}", met["peak_bytes"]
    else:
        memory_target, memory_met = _target("≤", targets["memory"]), met.get("memory")
    return [
        f"{name} ({LIST_LABELS[opponent]})" if opponent in LIST_LABELS and "-list" not in name else name,
        our_time,
        other_time,
        _with_before(entry, "speed", "×"),
        _target("≥", targets["speed"], "×"),
        tables.yes_no(met.get("speed")),
        our_peak,
        other_peak,
        _with_before(entry, "memory"),
        tables.ratio(entry["memory_beyond_imports"]),
        memory_target,
        tables.yes_no(memory_met),
        _mfu(entry),
        f"`{entry['circumstances']['command']}`",
    ]


def _with_before(entry: Entry, key: str, unit: str = "") -> str:
    """The ratio, and those of earlier measurements of the same case, the latest first."""
    shown, *before = (tables.ratio(seen[key], unit) for seen in (entry, *reversed(entry.get("before", []))))
    return f"{shown} (before: {', '.join(before)})" if before else shown


def _mfu(entry: Entry) -> str:
    """With its target where it has one: a column of its own would be empty in most rows."""
    shown, target = tables.percent(entry["mfu"]), entry["targets"]["mfu"]
    return shown if target is None else f"{shown} (≥ {100 * target:g} %: {tables.yes_no(entry['met']['mfu'])})"


def _target(sign: str, value: float | None, unit: str = "") -> str:
    return tables.NOTHING if value is None else f"{sign} {value:g}{unit}"


def _figures(entries: Mapping[str, Entry]) -> Iterator[tuple[str, str, Entry]]:
    for name, entry in entries.items():
        for contestant, figures in entry["race"]["figures"].items():
            yield name, contestant, figures


def _spread(entries: Mapping[str, Entry]) -> Table:
    rows = [
        [
            name,
            contestant,
            tables.seconds(figures["timing"]["median"]),
            f"{tables.seconds(figures['timing']['lowest'])} to {tables.seconds(figures['timing']['highest'])}",
            str(len(figures["timing"]["seconds"])),
            f"{figures['tokens_per_second']:,.0f}",
            tables.size(figures["peak_bytes"]),
            tables.size(figures["step_bytes"]),
        ]
        for name, contestant, figures in _figures(entries)
    ]
    columns = "case, contestant, median, spread, steps, tokens/s, peak memory, of it beyond imports"
    return table("Steps", columns.split(", "), rows)


def _parts(entries: Mapping[str, Entry]) -> Table:
    rows = [
        [name, contestant, *(_part_cell(part, figures["part_seconds"]) for part in PARTS)]
        for name, contestant, figures in _figures(entries)
        if figures["part_seconds"]
    ]
    title = "Where the time goes: each part alone, forward and backward; the coupler has its readout"
    marked = any(EXCEEDED in row[-1] for row in rows)
    return table(title, ("case", "contestant", *PARTS), rows, [EXCEEDED_NOTE] if marked else [])


def _part_cell(part: str, seconds: Mapping[str, float]) -> str:
    shown = tables.seconds(seconds.get(part))
    return f"{shown} {EXCEEDED}" if part == REST and seconds[part] < 0 else shown


def _memory(entries: Mapping[str, Entry]) -> Table:
    rows = [
        [name, contestant, part, *(tables.size(kinds[kind]) for kind in KINDS)]
        for name, contestant, figures in _figures(entries)
        for part, kinds in figures["part_bytes"].items()
    ]
    title = "Where the memory goes: activations are what a forward pass keeps for its backward pass"
    return table(title, ("case", "contestant", "part", *KINDS), rows)


def _products(entries: Mapping[str, Entry]) -> Table:
    rows = []
    for name, entry in entries.items():
        if (limit := entry["race"]["limit"]) is None:
            continue
        shown = [limit["flops"] / 1e9, limit["flops"] / limit["seconds"] / 1e9]
        rows.append(
            [name, "all products", "", f"{shown[0]:,.0f}", tables.seconds(limit["seconds"]), f"{shown[1]:,.0f}"]
        )
        slowest = sorted(limit["products"], key=lambda product: -product["seconds"])[:MOST_PRODUCTS]
        rows += [
            [
                name,
                product["name"],
                product["shape"],
                f"{product['flops'] / 1e9:,.1f}",
                tables.seconds(product["seconds"]),
                f"{product['gigaflops_per_second']:,.0f}",
            ]
            for product in slowest
        ]
    columns = ("case", "product", "shape", "GFLOP", "seconds a step", "GFLOP/s")
    return table(
        f"The limit: the step's products alone, and the {MOST_PRODUCTS} that take the most time", columns, rows
    )
