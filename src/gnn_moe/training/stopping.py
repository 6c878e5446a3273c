"""SIGINT and SIGTERM as a question asked between batches, so that a run stops where it can be continued."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gnn_moe.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """What SIGINT and SIGTERM do: they raise `Interrupted` at once, or, once `defer` was called, when `check` is."""

    def __init__(self) -> None:
        self._signal_number: int | None = None
        self._deferred = False

    def defer(self) -> None:
        """From now on signals are remembered: what goes on may not be cut short anywhere."""
        self._deferred = True

    def check(self) -> None:
        """Raises `Interrupted` if a signal has come."""
        if self._signal_number is not None:
            raise _interrupted(self._signal_number)

    def _handle(self, signal_number: int, frame: FrameType | None) -> None:
        if not self._deferred:
            raise _interrupted(signal_number)
        if self._signal_number is None:
            self._signal_number = signal_number
            # Not print(): a handler may run inside one.
            os.write(2, b"stopping after this step\n")


def _interrupted(signal_number: int) -> Interrupted:
    return Interrupted(f"stopped by {signal.Signals(signal_number).name}", signal_number)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catches SIGINT and SIGTERM inside the context (in a main thread only; elsewhere none can be caught)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
