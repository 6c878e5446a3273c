"""What a report is made of, before it is written as Markdown or HTML.

A document is sections of blocks. Text is plain: renderers escape it, so that a name with markup in it stays a name.
Only `Span`s carry more: a link to the run folder that a number comes from, or emphasis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Span:
    """A piece of text."""

    text: str
    href: str | None = None
    """What it links to: a path from the working directory, which writers make relative to the report, or `#ANCHOR`."""
    strong: bool = False
    code: bool = False


Text = str | Span | Sequence[str | Span]
"""A line of text."""


def spans(text: Text) -> tuple[Span, ...]:
    """The pieces of a line."""
    if isinstance(text, str):
        return (Span(text),)
    if isinstance(text, Span):
        return (text,)
    return tuple(Span(piece) if isinstance(piece, str) else piece for piece in text)


@dataclass(frozen=True)
class Paragraph:
    """A line of prose."""

    text: Text
    kind: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    text: str
    language: str = "bash"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    title: str
    numeric: bool = True
    """Right-aligned, and sorted by `Cell.sort`."""
    explains: str = ""
    """What the column holds, unit included."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: Text
    sort: float | str | None = None
    """What it is sorted by; None stands last."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; rows have a cell a column."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[Text, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure: static files, and perhaps what an interactive one needs."""

    name: str
    """Of its files: `figures/NAME.svg` and `figures/NAME.png`."""
    caption: str
    description: str
    """What is to be seen, for those who do not see it."""
    draw: Callable[[], MatplotlibFigure]
    """Makes the static one."""
    chart: Mapping[str, Any] | None = None
    """The interactive one, as Plotly has it in JSON (`data`, `layout`); None where only the static one shows."""


Block = Paragraph | Bullets | Code | Table | Figure


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what stands under it."""

    title: str
    anchor: str
    """Letters, digits and hyphens; unique in the document."""
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str = ""
    sections: tuple[Section, ...] = field(default_factory=tuple)
