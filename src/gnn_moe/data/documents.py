"""What every source yields: documents, split into train, valid and test.

A document is a string that ends with a line end; line ends are newlines whatever the file had. The text of a split is
its documents joined, so the lines of a split do not depend on where documents begin: that only says what is kept
together when a source has no validation text and every 20th document is set aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gnn_moe.errors import BadInput

SPLITS = ("train", "valid", "test")
HOLD_OUT_EVERY = 20

Documents = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The text of a dataset, before any tokenizer. A split that the source does not have is None."""

    name: str
    """Display name of the dataset."""
    description: str
    """Where the splits come from, for the record."""
    train: Documents | None
    valid: Documents | None
    test: Documents | None = None
    notices: tuple[str, ...] = ()
    """Lines to show to the user."""

    def split(self, name: str) -> Documents:
        """The documents of `name`.

        Raises:
            BadInput: the dataset has no such split.
        """
        documents: Documents | None = {"train": self.train, "valid": self.valid, "test": self.test}[name]
        if documents is None:
            present = [split for split in SPLITS if getattr(self, split) is not None]
            raise BadInput(
                f"--dataset_name {self.name} has no {name} split: it has {', '.join(present)}; "
                f"use one of these or add a file whose name contains {name}"
            )
        return documents


def as_document(text: str) -> str:
    """The text with a newline for every line end, and one at its end."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


def lines_of(documents: Iterable[str]) -> Iterator[str]:
    """Every line of the documents, without its line end. Joined with line ends they are the text again."""
    for document in documents:
        yield from document.removesuffix("\n").split("\n")


def split_plain_text(text: str) -> tuple[Documents, str]:
    """The documents of a plain text file, and what one of them is called.

    A document is a paragraph: lines up to and including the blank ones that end it. A text of fewer than 20 paragraphs
    is taken line by line, so that every 20th can still be set aside.
    """
    text = as_document(text)
    paragraphs = tuple(_paragraphs(text))
    if len(paragraphs) >= HOLD_OUT_EVERY:
        return paragraphs, "paragraph"
    return tuple(line + "\n" for line in lines_of([text])), "line"


def hold_out(documents: Sequence[str], unit: str, name: str) -> tuple[Documents, Documents]:
    """(train, valid): every 20th document goes to validation.

    Raises:
        BadInput: there are fewer than 20 documents.
    """
    valid = tuple(documents[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY])
    if not valid:
        raise BadInput(
            f"--dataset_name {name} has no validation text, and its {len(documents)} {unit}s are too few to set every "
            f"{HOLD_OUT_EVERY}th aside: give a folder with files whose names contain train and valid, or more text"
        )
    return tuple(d for i, d in enumerate(documents) if (i + 1) % HOLD_OUT_EVERY), valid


def text_digest(documents: Documents) -> str:
    """SHA-256 of the text, whatever its division into documents."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode())
    return digest.hexdigest()


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    after_blank = False
    for line in text.removesuffix("\n").split("\n"):
        blank = not line.strip()
        if after_blank and not blank:
            yield "\n".join(lines) + "\n"
            lines = []
        lines.append(line)
        after_blank = blank
    yield "\n".join(lines) + "\n"
