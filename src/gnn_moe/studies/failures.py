"""How a trial ended, told from what its process left behind; a failure always has a class and a message.

out_of_memory   the run said so, or the kernel killed the process while it was killing for want of memory
killed          a signal that the sweep did not send ended it
non_finite      a loss or a gradient was not finite
timeout         it took longer than --timeout
bad_config      its settings or data cannot be used: `gnn-moe train` left with status 2
leaking         it ended well, but its best checkpoint sees later tokens or other rows: its losses are worth nothing
crash           everything else
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gnn_moe.errors import BadInput

ErrorClass = Literal["out_of_memory", "killed", "non_finite", "timeout", "bad_config", "leaking", "crash"]
ERROR_CLASSES: tuple[ErrorClass, ...] = get_args(ErrorClass)

_OWN_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that a process brings on itself."""
_MEMORY_TEXTS = (
    "MemoryError",
    "Cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "DefaultCPUAllocator",
    "CUDA out of memory",
    "std::bad_alloc",
    "Memory allocation still failed",
)
"""How a process says that memory ran out where no run could: as libraries are loaded, or by a library that gives up."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a trial has no result."""

    error_class: ErrorClass
    message: str


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What a trial's process left behind."""

    status: int
    """Of the process: its exit status, or −N where signal N ended it."""
    summary: dict[str, Any] | None
    """summary.json, where this attempt wrote it."""
    last_lines: tuple[str, ...]
    """Of its log: what this attempt wrote."""
    oom_kills: int
    """By how much the kernel's count of processes killed for want of memory grew meanwhile."""
    timeout_minutes: float | None = None
    """The limit that it was stopped at, if it was."""


def explain(ending: Ending) -> Failure | None:
    """Why a trial failed, or None where it was completed."""
    if ending.status == 0:
        return None
    if ending.timeout_minutes is not None:
        return Failure(
            error_class="timeout",
            message=(
                f"took longer than --timeout {ending.timeout_minutes:g} minutes; --retry timeout with a longer one "
                "goes on from its checkpoint"
            ),
        )
    if ending.status == BadInput.exit_status:
        return Failure(error_class="bad_config", message=_last_line(ending, "its settings cannot be used"))
    signal_number = -ending.status if ending.status < 0 else ending.status - 128
    if signal_number > 0:
        return _ended_by(signal_number, ending)
    return _failed(ending)


def _ended_by(number: int, ending: Ending) -> Failure:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL and ending.oom_kills:
        return Failure(
            error_class="out_of_memory",
            message=(
                f"ended by {name} while the kernel was killing processes for want of memory; --retry out_of_memory "
                "runs it with half the micro-batch"
            ),
        )
    if number in _OWN_FAULTS:
        message = f"ended by {name}: {_last_line(ending, 'it said nothing')}"
        return Failure(error_class="out_of_memory" if _ran_out_of_memory(ending) else "crash", message=message)
    return Failure(
        error_class="killed",
        message=f"ended by {name}, which the sweep did not send; --retry killed goes on from its checkpoint",
    )


def _failed(ending: Ending) -> Failure:
    """A run that gave up by itself."""
    summary = ending.summary
    if summary is not None and summary.get("status") == "failed":
        named = summary.get("error_class")
        error_class: ErrorClass = named if named in ERROR_CLASSES else "crash"
        return Failure(error_class=error_class, message=str(summary.get("error_message") or "it said nothing"))
    line = _last_line(ending, f"left with status {ending.status} and said nothing")
    return Failure(error_class="out_of_memory" if _ran_out_of_memory(ending) else "crash", message=line)


def _ran_out_of_memory(ending: Ending) -> bool:
    return any(text in line for line in ending.last_lines for text in _MEMORY_TEXTS)


def _last_line(ending: Ending, otherwise: str) -> str:
    said = [line.strip() for line in ending.last_lines if line.strip()]
    return said[-1] if said else otherwise
