"""What the writers of a document share: its figures, links relative to the report, text without control characters."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from gnn_moe.reports.document import Block, Bullets, Document, Figure, Paragraph, Section, Table, Text, spans

FIGURES_FOLDER = "figures"
"""Of the static figures, beside the report."""
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ANCHOR = re.compile(r"[A-Za-z0-9-]+")
# They turn the direction of the text that follows, beyond the name that holds them.
TURNS_TEXT = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """One line that can be written and read: white space as spaces, what is no character as �."""
    one_line = text.replace("\r\n", " ")
    return "".join(" " if character.isspace() else _readable(character) for character in one_line)


def clean_lines(text: str) -> str:
    """The same of each line."""
    return "\n".join(clean(line) for line in text.splitlines())


def _readable(character: str) -> str:
    # Cs: half a surrogate pair, as in file names that are no UTF-8; it cannot be written.
    is_none = unicodedata.category(character) in ("Cc", "Cs") or character in TURNS_TEXT
    return "\ufffd" if is_none else character


def link(href: str, folder: Path) -> str:
    """A URL relative to the folder of the report, of a path from the working directory or of `#ANCHOR`.

    A colon is quoted, so that no name becomes a scheme (`javascript:`).
    """
    if href.startswith("#"):
        return "#" + quote(href[1:])
    relative = os.path.relpath(href, folder)
    return quote(Path(relative).as_posix().encode("utf-8", "surrogateescape"), safe="/=,")


def walk(sections: Sequence[Section], depth: int = 2) -> Iterator[tuple[int, Section]]:
    """Every section in reading order, with the level of its heading; the title of the document has 1."""
    for section in sections:
        yield depth, section
        yield from walk(section.sections, min(depth + 1, 6))


def blocks(document: Document) -> Iterator[Block]:
    """Every block in reading order."""
    for _depth, section in walk(document.sections):
        yield from section.blocks


def figures(document: Document) -> tuple[Figure, ...]:
    """Every figure in reading order."""
    return tuple(block for block in blocks(document) if isinstance(block, Figure))


def assert_sound(document: Document) -> None:
    """Our own invariants: names and anchors are safe and unique, rows fit columns, links within lead somewhere."""
    anchors = [section.anchor for _depth, section in walk(document.sections)]
    names = [figure.name for figure in figures(document)]
    assert all(map(ANCHOR.fullmatch, anchors)), anchors
    assert all(map(SAFE_NAME.fullmatch, names)), names
    for unique in (anchors, names):
        assert len(set(unique)) == len(unique), unique
    for table in (block for block in blocks(document) if isinstance(block, Table)):
        assert all(len(row) == len(table.columns) for row in table.rows), table.caption
    links = {span.href for text in _texts(document) for span in spans(text) if span.href is not None}
    lost = {href for href in links if href.startswith("#") and href[1:] not in anchors}
    assert not lost, lost


def _texts(document: Document) -> Iterator[Text]:
    for block in blocks(document):
        if isinstance(block, Paragraph):
            yield block.text
        elif isinstance(block, Bullets):
            yield from block.items
        elif isinstance(block, Table):
            yield from block.notes
            yield from (cell.text for row in block.rows for cell in row)
