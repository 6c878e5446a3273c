"""Commands as a reader copies them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from gnn_moe.config import OutputConfig, RunConfig
from gnn_moe.studies.flags import train_words

_WIDTH = 100


def command(words: Sequence[str]) -> str:
    """Words as a shell takes them, on lines of at most a hundred characters where flags allow it."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    lines = [""]
    for text in filter(None, map(shlex.join, groups)):
        if lines[-1] and len(lines[-1]) + len(text) + 3 > _WIDTH:
            lines.append(f"  {text}")
        else:
            lines[-1] = f"{lines[-1]} {text}" if lines[-1] else text
    return " \\\n".join(lines)


def train_command(config: RunConfig) -> str:
    """The command of a run, without where it was written."""
    return command(["gnn-moe", "train", *train_words(dataclasses.replace(config, output=OutputConfig()))])
