"""A document as GitHub's Markdown (GFM): plain text is escaped, so that what a name holds is read, never followed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gnn_moe.reports.document import (
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Paragraph,
    Section,
    Span,
    Table,
    Text,
    spans,
)
from gnn_moe.reports.outline import assert_sound, clean, clean_lines, link, walk

# An underscore within a word is no markup and stays, so that names of settings read as they are.
MARKUP = re.compile(r"[\\`*\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|(?<=\bwww)\.|:(?=//)")
# What makes a block at the start of a line: a heading, a list, a rule, a table's second row.
STARTS_BLOCK = re.compile(r"^(\s*)(#{1,6}(?=\s|$)|[-+=](?=[\s=+-]|$)|\d{1,9}(?=[.)](?:\s|$)))")
ALERTS = {"note": "NOTE", "warning": "WARNING"}


def to_markdown(document: Document, *, folder: Path) -> str:
    """The whole report as Markdown.

    Args:
        document: what to write.
        folder: where the report will lie, which links are relative to; its figures are in `figures/`.
    """
    assert_sound(document)
    head = [f"# {escaped(document.title)}"]
    head += [line(document.subtitle, folder)] if document.subtitle else []
    head += ["\n".join(_contents(document.sections))] if document.sections else []
    body = [part for depth, section in walk(document.sections) for part in _section(depth, section, folder)]
    return "\n\n".join(head + body) + "\n"


def escaped(text: str) -> str:
    """Plain text within a line."""
    return MARKUP.sub(lambda found: "&amp;" if found[0] == "&" else f"\\{found[0]}", clean(text))


def line(text: Text, folder: Path, *, in_table: bool = False) -> str:
    """A line of text, which makes no block of its own at the start of a line."""
    written = "".join(_span(span, folder, in_table=in_table) for span in spans(text)).strip()
    return written if in_table else STARTS_BLOCK.sub(_at_start, written)


def _at_start(found: re.Match[str]) -> str:
    # A digit cannot be escaped; the point or bracket behind it can.
    return f"{found[0]}\\" if found[2].isdigit() else f"{found[1]}\\{found[2]}"


def _span(span: Span, folder: Path, *, in_table: bool) -> str:
    inner = _code(span.text, in_table=in_table) if span.code else escaped(span.text)
    # Markers count only where they touch the text, so white space stays outside them.
    core = inner.strip()
    if not core:
        return inner
    marked = f"**{core}**" if span.strong else core
    marked = marked if span.href is None else f"[{marked}]({link(span.href, folder)})"
    before, after = inner[: len(inner) - len(inner.lstrip())], inner[len(inner.rstrip()) :]
    return before + marked + after


def _code(text: str, *, in_table: bool) -> str:
    text = clean(text)
    if not text.strip():
        return ""
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    # Within a table a bar ends the cell even in code, and its backslash is taken away.
    return fence + pad + (text.replace("|", "\\|") if in_table else text) + pad + fence


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _contents(sections: tuple[Section, ...], indent: str = "") -> Iterator[str]:
    for section in sections:
        yield f"{indent}- [{escaped(section.title)}](#{section.anchor})"
        yield from _contents(section.sections, indent + "  ")


def _section(depth: int, section: Section, folder: Path) -> Iterator[str]:
    # GitHub makes anchors of titles; a title may change or come twice, the anchor of a section does not.
    yield f'<a id="{section.anchor}"></a>'
    yield f"{'#' * depth} {escaped(section.title)}"
    for block in section.blocks:
        yield from _block(block, folder)


def _block(block: Block, folder: Path) -> Iterator[str]:
    match block:
        case Paragraph(text, "plain"):
            yield line(text, folder)
        case Paragraph(text, kind):
            yield f"> [!{ALERTS[kind]}]\n> {line(text, folder)}"
        case Bullets(items):
            yield _list(items, folder)
        case Code(text, language):
            text = clean_lines(text)
            fence = "`" * max(3, _longest_run(text) + 1)
            yield f"{fence}{language}\n{text}\n{fence}"
        case Table():
            yield from _table(block, folder)
        case Figure():
            yield f"![{escaped(block.description)}](figures/{block.name}.svg)"
            yield f"*{escaped(block.caption).strip()}*"


def _list(items: tuple[Text, ...], folder: Path) -> str:
    return "\n".join(f"- {line(item, folder)}" for item in items)


def _table(table: Table, folder: Path) -> Iterator[str]:
    yield f"**{escaped(table.caption).strip()}**"
    rows = [
        [escaped(column.title) for column in table.columns],
        ["---:" if column.numeric else ":---" for column in table.columns],
        *([line(cell.text, folder, in_table=True) for cell in row] for row in table.rows),
    ]
    yield "\n".join(f"| {' | '.join(row)} |" for row in rows)
    explained = [column for column in table.columns if column.explains]
    if explained:
        yield "\n".join(f"- *{escaped(column.title).strip()}*: {escaped(column.explains)}" for column in explained)
    for note in table.notes:
        yield line(note, folder)
