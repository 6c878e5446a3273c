"""Text from a local file or folder: `*.tokens`, `*.txt`, `*.jsonl` and `*.parquet`.

In a folder the NAME of a file says its split: it contains train, valid or validation or dev, or test; other files are
ignored. A single file, and a folder without a validation file, give every 20th document to validation. A document is a
record of a JSONL or Parquet file and a paragraph of plain text (`documents.split_plain_text`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnn_moe.data.documents import HOLD_OUT_EVERY, SPLITS, Documents, Texts, as_document, hold_out, split_plain_text
from gnn_moe.errors import BadInput

SUFFIXES = (".tokens", ".txt", ".jsonl", ".parquet")
WORDS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


def load_local(name: str, text_column: str) -> Texts:
    """The text of the file or folder `name`.

    Raises:
        BadInput: there is no such file or folder, it holds nothing readable, no text, or no column `text_column`.
    """
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return _from_files(name, {"train": [path]}, text_column)
        if not path.is_dir():
            raise BadInput(f"--dataset_name {name}: no such file or folder: check the path, or leave it out for sotu")
        return _from_files(name, _files_by_split(name, path), text_column)
    except OSError as error:
        raise BadInput(f"--dataset_name {name} cannot be read ({error.strerror or error}): check its rights") from error


def split_of(file_name: str) -> str | None:
    """The split that a file's name says, or None. A word set off by other characters wins over letters inside a word.

    `wiki.valid.tokens` → valid, `mytrain.txt` → train, `latest.train.txt` → train, `README.txt` → None.

    Raises:
        BadInput: the name says two splits.
    """
    lowered = file_name.lower()
    words = {WORDS[word] for word in re.split(r"[^a-z]+", lowered) if word in WORDS}
    found = words or {split for word, split in WORDS.items() if word in lowered}
    if len(found) > 1:
        raise BadInput(f"--dataset_name: the file name {file_name} says {' and '.join(sorted(found))}: rename the file")
    return found.pop() if found else None


def _files_by_split(name: str, folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    readable = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in SUFFIXES and p.name[0] != ".")
    for path in readable:
        if (split := split_of(path.name)) is not None:
            files.setdefault(split, []).append(path)
    if not files:
        found = ", ".join(p.name for p in sorted(folder.iterdir())[:5]) or "nothing"
        raise BadInput(
            f"--dataset_name {name}: no *{', *'.join(SUFFIXES)} file in this folder has train, valid or test in its "
            f"name (found: {found}): rename the files, or give one file itself"
        )
    return files


def _from_files(name: str, files: dict[str, list[Path]], text_column: str) -> Texts:
    splits: dict[str, Documents | None] = dict.fromkeys(SPLITS)
    unit = "document"
    for split, paths in files.items():
        documents, split_unit = _read_all(paths, text_column)
        splits[split] = documents
        unit = split_unit if split == "train" else unit
    parts = [f"{split}: {', '.join(path.name for path in files[split])}" for split in SPLITS if split in files]
    notices: tuple[str, ...] = ()
    if splits["valid"] is None and splits["train"] is not None:
        splits["train"], splits["valid"] = hold_out(splits["train"], unit, name)
        parts.append(f"valid: every {HOLD_OUT_EVERY}th {unit} of the training text")
        notices = (f"{name} has no validation file: every {HOLD_OUT_EVERY}th {unit} is set aside for validation",)
    description = "; ".join(parts)
    return Texts(name=name, description=description, notices=notices, **splits)


def _read_all(paths: Sequence[Path], text_column: str) -> tuple[Documents, str]:
    documents: list[str] = []
    units = set()
    for path in paths:
        records, unit = _read(path, text_column)
        if not any(record.strip() for record in records):
            raise BadInput(f"--dataset_name: {path} is a file without text: remove it, or give another")
        documents.extend(records)
        units.add(unit)
    return tuple(documents), units.pop() if len(units) == 1 else "document"


def _read(path: Path, text_column: str) -> tuple[Documents, str]:
    if path.suffix == ".jsonl":
        return _texts_of(_read_jsonl(path), text_column, path), "record"
    if path.suffix == ".parquet":
        return _texts_of(_read_parquet(path), text_column, path), "record"
    return split_plain_text(_utf8(path, path.read_bytes()))


def _utf8(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"--dataset_name: {path} is not UTF-8 text (byte 0x{content[error.start]:02x} at {error.start}): "
            f"convert it, for example with iconv -f latin1 -t utf-8"
        ) from error


def _read_jsonl(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.json

    content = _utf8(path, path.read_bytes()).encode()
    if not content.strip():
        raise BadInput(f"--dataset_name: {path} is a file without text: remove it, or give another")
    # A record must fit into one block, so the whole file is one (the reader's limit is 2 GiB).
    options = pa.json.ReadOptions(block_size=min(len(content) + 1, 2**31 - 1))
    try:
        return pa.json.read_json(pa.BufferReader(content), read_options=options)
    except pa.ArrowInvalid as error:
        raise BadInput(
            f"--dataset_name: {path} is no JSON Lines file ({_first_line(error)}): give one object a line"
        ) from error


def _read_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pa.parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise BadInput(f"--dataset_name: {path} is no Parquet file ({_first_line(error)}): write it again") from error


def _texts_of(table: Any, text_column: str, path: Path) -> Documents:
    """The text column of a pyarrow table, or of a Parquet file, of which only that column is read."""
    import pyarrow as pa

    schema = getattr(table, "schema_arrow", None) or table.schema
    if text_column not in schema.names:
        raise BadInput(f"--text_column {text_column!r} is not in {path}: its columns are {', '.join(schema.names)}")
    kind = schema.field(text_column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise BadInput(f"--text_column {text_column!r} of {path} holds {kind}, not text: name another column")
    try:
        column = (table.read(columns=[text_column]) if hasattr(table, "schema_arrow") else table).column(text_column)
        return tuple(as_document(text) for text in column.to_pylist() if text is not None)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"--dataset_name: {path} cannot be read ({_first_line(error)}): write it again") from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
