"""What can go wrong, told apart by who can mend it.

`BadInput` is for the user (a flag, a file, a name): the command line prints its message in one line and leaves with
status 2. `RunFailed` is for a run that started well and could not go on: status 1. Anything else is a defect of ours
and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class GnnMoeError(Exception):
    """Base of every error that is raised on purpose; `exit_status` is what the command line returns."""

    exit_status: int = 1


class BadInput(GnnMoeError):
    """Input that cannot be used. The message names the field, the value and the way out, in one line."""

    exit_status = 2


class RunFailed(GnnMoeError):
    """A run that started and could not be completed."""

    error_class: ClassVar[str] = "crash"
    """What summary.json calls it."""


class NonFiniteError(RunFailed):
    """A loss or a gradient was not finite; the optimiser has not moved."""

    error_class = "non_finite"


class MemoryFull(RunFailed):
    """The device or the machine had no memory left."""

    error_class = "out_of_memory"


class Interrupted(GnnMoeError):
    """A run that a signal stopped; the command line returns 128 + the signal's number, as a shell does."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


def unknown_name(flag: str, value: str, known: Iterable[str]) -> BadInput:
    """The error for a name that is not in a closed list: the nearest known name first, then the whole list."""
    names = list(known)
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(value.lower(), lowered, n=1)
    hint = f"did you mean {lowered[near[0]]}? " if near else ""
    return BadInput(f"{flag} {value!r} is not known: {hint}use one of {', '.join(names)}")
