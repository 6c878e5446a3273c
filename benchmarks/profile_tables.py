"""The table of `profile`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import tables
from benchmarks.profiling import MOST_OPERATIONS
from benchmarks.tables import Table, table

Entry = Mapping[str, Any]
ABOUT = """\
Our step on one thread under torch's profiler (two threads do as much for a half of the rows each): each operation's
own time, without what it calls. Masks and the optimiser (with clipping) have all that happens inside them; the head's
softmax has all of the head that is no product or copy. The median step without the profiler, taken just before, stands
beside.
"""
STEP = "whole step"


def profile_tables(entries: Mapping[str, Entry]) -> list[Table]:
    """Groups of each case, the largest first."""
    rows = []
    for name, entry in entries.items():
        command = f"`{entry['circumstances']['command']}`"
        if entry["failure"] is not None:
            rows.append([name, entry["failure"]["kind"], tables.NOTHING, tables.NOTHING, "", command])
            continue
        step = entry["profiled_seconds"]
        plain = f"{tables.seconds(entry['step_seconds'])} without the profiler"
        rows.append([name, STEP, tables.seconds(step), tables.percent(1.0), plain, command])
        rows += [
            [name, group, tables.seconds(seconds), tables.percent(seconds / step), _largest(entry, group), ""]
            for group, seconds in entry["groups"].items()
        ]
    columns = ("case", "what", "s/step", "share", "most of it", "command")
    return [table("What takes the time of a step", columns, rows)]


def _largest(entry: Entry, group: str) -> str:
    own = [operation for operation in entry["operations"] if operation["group"] == group]
    return ", ".join(f"`{row['name']}` {tables.seconds(row['seconds'])}" for row in own[:MOST_OPERATIONS])
