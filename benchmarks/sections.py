"""The sections of the Markdown report, from stored entries only: a subcommand that did not run keeps its section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import coupler_tables, profile_tables, step_tables, tables
from benchmarks.loader import LONGEST_START, MOST_PADDING
from benchmarks.plan import MOST_WAITING, WITHIN
from benchmarks.tables import Table, table

Entry = Mapping[str, Any]
Entries = Mapping[str, Entry]


@dataclass(frozen=True, kw_only=True)
class Section:
    """How one subcommand's entries are shown."""

    title: str
    about: str
    tables: Callable[[Entries], list[Table]]
    figure: bool = False
    """Whether there is a PNG beside the report."""
    repeats: bool = False
    """Whether an entry keeps what was measured of its case before."""


def scaling_tables(entries: Entries) -> list[Table]:
    slopes, points = [], []
    for entry in entries.values():
        for contestant, fitted in entry["slopes"].items():
            values = [tables.ratio(fitted[key]) for key in ("seconds", "seconds_upper", "memory", "memory_upper")]
            slopes.append([entry["label"], contestant, *values, f"`{entry['circumstances']['command']}`"])
        for point in entry["points"]:
            failed = point["failure"]
            shown = failed["kind"] if failed else tables.seconds(point["seconds"])
            where = [entry["label"], point["contestant"], f"{point['against']:,}"]
            points.append([*where, shown, tables.size(point["step_bytes"])])
    columns = "axis, contestant, time, time (upper half), memory, memory (upper half), command"
    return [
        table("Fitted slopes, d log y / d log x", columns.split(", "), slopes),
        table("Points", ("axis", "contestant", "x", "s/step", "memory beyond imports"), points),
    ]


def loss_tables(entries: Entries) -> list[Table]:
    rows = []
    for entry in entries.values():
        sizes = entry["sizes"]
        where = f"N {sizes['tokens']}, D {sizes['width']}, V {sizes['vocabulary']}"
        command = f"`{entry['circumstances']['command']}`"
        for form, figures in entry["figures"].items():
            time = figures["timing"]
            spread = f"{tables.seconds(time['lowest'])} to {tables.seconds(time['highest'])}"
            rows.append(
                [form, where, tables.seconds(time["median"]), spread, tables.size(figures["step_bytes"]), command]
            )
        rows += [[form, where, failure["kind"], "", "", command] for form, failure in entry["failures"].items()]
    columns = ("form", "sizes", "median", "spread", "memory beyond weights", "command")
    return [table("Head and loss, forward and backward", columns, rows)]


def loader_tables(entries: Entries) -> list[Table]:
    batches, starts = [], []
    for name, entry in entries.items():
        command = f"`{entry['circumstances']['command']}`"
        for epoch in entry["epochs"]:
            order = "grouped by length" if epoch["grouped"] else "random"
            rate = [f"{epoch['batches_per_second']:,.0f}", f"{epoch['tokens_per_second']:,.0f}"]
            judged = epoch["grouped"] and entry["data"]["data_format"] == "lines"
            target = [f"< {100 * MOST_PADDING:.0f} %", tables.yes_no(epoch["padding"] < MOST_PADDING)]
            padding = [tables.percent(epoch["padding"]), *(target if judged else ["", ""])]
            batches.append([name, order, str(entry["batch_size"]), *rate, *padding, command])
        for which in ("first", "second"):
            if (start := entry[which]) is not None:
                keys = ("to_first_step_seconds", "to_first_update_seconds", "imports_seconds")
                met = tables.yes_no(start["to_first_step_seconds"] < LONGEST_START)
                target = [f"< {LONGEST_START} s", met] if which == "second" else ["", ""]
                starts.append([name, which, *(tables.seconds(start[key]) for key in keys), *target, command])
        if entry["failure"] is not None:
            starts.append([name, entry["failure"]["kind"], *[tables.NOTHING] * 5, command])
    return [
        table(
            "Batches of an epoch",
            ("dataset", "order", "rows", "batches/s", "tokens/s", "padding", "target", "met?", "command"),
            batches,
        ),
        table(
            "Start-up, beyond imports",
            (
                *("dataset", "start", "to the first step", "to the first update", "imports"),
                *("target", "met?", "command"),
            ),
            starts,
        ),
    ]


def plan_tables(entries: Entries) -> list[Table]:
    rows, notes = [], []
    for number, (name, entry) in enumerate(entries.items(), start=1):
        notes.append(f"{number}. {name}: `{entry['flags']}`")
        run = f"{name} ({number})"
        target, command = f"within {100 * WITHIN:.0f} %", f"`{entry['circumstances']['command']}`"
        memory = [tables.size(entry[key]) for key in ("predicted_bytes", "peak_bytes")]
        minutes = [f"{entry[key]:.2f}" for key in ("predicted_minutes", "minutes")]
        for what, values in (("memory", memory), ("time", minutes)):
            met = tables.yes_no(entry[f"{what}_met"])
            rows.append([run, what, *values, tables.ratio(entry[what]), target, met, command])
        waiting = [tables.NOTHING, tables.percent(entry.get("waiting_share")), tables.NOTHING]
        met = tables.yes_no(entry.get("waiting_met"))
        rows.append([run, "waiting for batches", *waiting, f"< {100 * MOST_WAITING:.0f} %", met, command])
    columns = ("run", "what", "predicted", "measured", "ratio", "target", "met?", "command")
    return [table("Predicted and measured (peak memory; minutes; share of training)", columns, rows, notes)]


SECTIONS: Mapping[str, Section] = {
    "step": Section(
        title="A training step",
        about=step_tables.ABOUT,
        tables=step_tables.step_tables,
        repeats=True,
    ),
    "profile": Section(
        title="What takes the time",
        about=profile_tables.ABOUT,
        tables=profile_tables.profile_tables,
    ),
    "coupler": Section(
        title="Coupling alone",
        about=coupler_tables.ABOUT,
        tables=coupler_tables.coupler_tables,
    ),
    "scaling": Section(
        title="Scaling",
        about="Time and memory of a step against each size. A slope of 1 is proportional.",
        tables=scaling_tables,
        figure=True,
    ),
    "loss": Section(title="Head and loss", about="Each form in a process of its own.", tables=loss_tables),
    "loader": Section(title="Data", about="Batches and start-up with a fresh cache.", tables=loader_tables),
    "plan": Section(
        title="Plans",
        about="What `gnn-moe inspect --calibrate` foretells, and what the run then takes: 60 steps and two\n"
        "evaluations, or 375 and five (longer). Only seed-config1 had no part in a constant of the prediction.",
        tables=plan_tables,
    ),
}
"""By subcommand, in the order of the report."""
