"""Tables as data, and the same table for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NOTHING, COMMAND, CANNOT_TELL = "—", "command", "cannot be told"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """What stands under it, a line each."""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (self.title, row)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> Table:
    """A table from any sequences."""
    return Table(title=title, columns=tuple(columns), rows=tuple(tuple(row) for row in rows), notes=tuple(notes))


def to_markdown(values: Table) -> str:
    """A heading and a table in GitHub's form."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    lines = [line(values.columns), line(["---"] * len(values.columns)), *(line(row) for row in values.rows)]
    notes = "".join(f"\n{note}\n" for note in values.notes)
    return f"### {values.title}\n" + "\n".join(lines) + "\n" + notes


def to_rich(values: Table) -> RichTable:
    """A table for `rich.console.Console.print`, without the command, which whoever reads it there has just typed."""
    from rich.table import Table as RichTable
    from rich.text import Text

    kept = [number for number, column in enumerate(values.columns) if column != COMMAND]
    caption = Text("\n".join(values.notes)) if values.notes else None
    shown = RichTable(title=Text(values.title), title_justify="left", caption=caption, caption_justify="left")
    for number in kept:
        shown.add_column(values.columns[number], justify="left" if number == 0 else "right", overflow="fold")
    for row in values.rows:
        shown.add_row(*(Text(row[number].replace("**", "")) for number in kept))
    return shown


def seconds(value: float | None) -> str:
    """Three digits: 2.81 s, 35.2 ms."""
    if value is None:
        return NOTHING
    return f"{value:.3g} s" if abs(value) >= 1 else f"{1000 * value:.3g} ms"


def size(value: float | None) -> str:
    """Bytes in GB, or MB below one."""
    if value is None:
        return NOTHING
    return f"{value / 1e9:.2f} GB" if abs(value) >= 1e9 else f"{value / 1e6:.1f} MB"


def ratio(value: float | None, unit: str = "") -> str:
    """Two decimals; three below 0.1."""
    if value is None:
        return NOTHING
    return f"{value:.3f}{unit}" if abs(value) < 0.1 else f"{value:.2f}{unit}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def yes_no(value: bool | None) -> str:
    """Whether a target was met."""
    return NOTHING if value is None else "yes" if value else "**no**"


def with_interval(
    value: float | None, interval: Mapping[str, float] | None, shown: Callable[[float | None], str]
) -> str:
    """A figure with its interval in brackets, both as `shown` writes one number."""
    if interval is None:
        return shown(value)
    return f"{shown(value)} ({shown(interval['low'])} to {shown(interval['high'])})"


def verdict(entry: Mapping[str, Any], met: str, interval: str) -> str:
    """Whether a target that is judged by an interval was met; without one, only a failure can be told."""
    judged = entry.get(met)
    if judged is True and entry.get(interval) is None:  # an entry from before there were intervals
        return CANNOT_TELL
    return CANNOT_TELL if judged is None else yes_no(judged)
