"""The child's side: build one subject, then answer calls of its methods until told to end.

Nothing here imports torch before the subject's environment is set: OpenMP reads it when torch is loaded.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

FailureKind = Literal["out_of_memory", "killed", "error"]
Reply = tuple[Literal["done"], Any] | tuple[FailureKind, str]


def serve(connection: Connection, environment: Mapping[str, str], subject: str, arguments: tuple[Any, ...]) -> None:
    """Builds `subject` ("module:callable") from its arguments and answers (method, arguments) over the pipe.

    An error is an answer too, and the last one: the subject may be left half-way.
    """
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    _be_killed_first()
    os.dup2(2, 1)  # what a run prints is no figure: standard output belongs to the parent
    try:
        module, name = subject.split(":")
        built = getattr(importlib.import_module(module), name)(*arguments)
        connection.send(("done", None))
        while True:
            method, words = connection.recv()
            connection.send(("done", getattr(built, method)(*words)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the parent has ended, or the user has ended both
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent records it
        connection.send((_kind(error), portable(traceback.format_exc())))


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if "torch" not in sys.modules:
        return "error"
    from gnn_moe.training.device import is_out_of_memory

    return "out_of_memory" if is_out_of_memory(error) else "error"


def portable(text: str) -> str:
    """A traceback without the folders of this machine: it goes into the record."""
    folders = {folder for folder in (*sys.path, sys.prefix, sys.base_prefix, str(Path.cwd())) if len(folder) > 1}
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(folder.rstrip(os.sep) + os.sep, "")
    return text


def _be_killed_first() -> None:
    """Where the kernel must end a process for want of memory, it is to be this one, not the benchmark."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000", encoding="ascii")
