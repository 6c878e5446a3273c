"""Memory that every step takes and gives back, kept for the next step.

The largest block of a step, made anew each time, leaves a hole in a CPU's heap that the next batch, of another shape,
may not fit: the heap grows, is handed back where it outgrows its plan, and comes again page by page. On other devices
torch's own allocator keeps what is freed.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """Room for one tensor at a time; what it held before is overwritten."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """(rows, columns) contiguous numbers of any value, in the type and on the device of `like`."""
        if like.device.type != "cpu":
            return like.new_empty(rows, columns)
        numbers = rows * columns
        if self._room is None or self._room.dtype != like.dtype or len(self._room) < numbers:
            self._room = None  # before the new one is there
            with torch.inference_mode(False):  # or training could not write to what an evaluation has made
                self._room = torch.empty(numbers, dtype=like.dtype)
        return self._room[:numbers].view(rows, columns)
