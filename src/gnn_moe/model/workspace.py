"""Memory that every step takes and gives back, kept for the next step.

The largest block of a step, made anew each time, leaves a hole in a CPU's heap that the next batch, of another shape,
may not fit: the heap grows, is handed back where it outgrows its plan, and comes again page by page. On other devices
torch's own allocator keeps what is freed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Workspace:
    """Room for each who borrows at one time; what it held before is overwritten. Copies and pickles of it are empty."""

    def __init__(self) -> None:
        self._rooms: list[Tensor] = []
        self._taking = threading.Lock()

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()

    @contextmanager
    def lend(self, numbers: int, like: Tensor) -> Iterator[Tensor]:
        """(numbers,) numbers of any value, in the type and on the device of `like`, for as long as the context lasts.

        Whoever asks meanwhile, from another thread, gets a room of its own, which is kept too.
        """
        if like.device.type != "cpu":
            yield like.new_empty(numbers)
            return
        with self._taking:
            room = self._take(numbers, like)
        if room is None:
            with torch.inference_mode(False):  # or training could not write to what an evaluation has made
                room = torch.empty(numbers, dtype=like.dtype)
        try:
            yield room[:numbers]
        finally:
            with self._taking:
                self._rooms.append(room)
                self._rooms.sort(key=len)

    def _take(self, numbers: int, like: Tensor) -> Tensor | None:
        """The smallest room that fits; None where none does, and the largest gone before a new one comes."""
        for number, room in enumerate(self._rooms):
            if room.dtype == like.dtype and len(room) >= numbers:
                return self._rooms.pop(number)
        if self._rooms:
            self._rooms.pop()
        return None

    def release(self) -> None:
        """Gives the memory up."""
        self._rooms.clear()
