"""How an ending is told: every failure has a class and a message."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from gnn_moe.studies.failures import ERROR_CLASSES, Ending, explain


def ending(status: int, **changes: Any) -> Ending:
    return Ending(**{"status": status, "summary": None, "last_lines": (), "oom_kills": 0, **changes})


def failed(error_class: str) -> dict[str, Any]:
    return {"status": "failed", "error_class": error_class, "error_message": "what happened"}


CASES: dict[str, tuple[Ending, str, str]] = {
    "killed": (ending(-signal.SIGKILL), "killed", "SIGKILL"),
    "killed for want of memory": (ending(-signal.SIGKILL, oom_kills=1), "out_of_memory", "want of memory"),
    "terminated by another": (ending(-signal.SIGTERM), "killed", "SIGTERM"),
    "terminated by another, and saved": (ending(143, summary={"status": "interrupted"}), "killed", "SIGTERM"),
    "terminated while others ran out of memory": (ending(143, oom_kills=3), "killed", "SIGTERM"),
    "a fault of its own": (ending(-signal.SIGSEGV, last_lines=("at the end",)), "crash", "SIGSEGV: at the end"),
    "a signal without a name": (ending(-200), "killed", "signal 200"),
    "the run's own word": (ending(1, summary=failed("out_of_memory")), "out_of_memory", "what happened"),
    "not finite": (ending(1, summary=failed("non_finite")), "non_finite", "what happened"),
    "a class of a later version": (ending(1, summary=failed("melted")), "crash", "what happened"),
    "a traceback": (ending(1, last_lines=("Traceback:", "ValueError: bad", "")), "crash", "ValueError: bad"),
    "silence": (ending(1), "crash", "left with status 1 and said nothing"),
    "no memory for the libraries": (
        ending(1, last_lines=("ImportError: libtorch.so: failed to map segment from shared object",)),
        "out_of_memory",
        "failed to map segment",
    ),
    "a library that gives up": (
        ending(1, last_lines=("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",)),
        "out_of_memory",
        "OpenBLAS",
    ),
    "an exception that nobody catches": (
        ending(-signal.SIGABRT, last_lines=("terminate called after throwing an instance of 'std::bad_alloc'",)),
        "out_of_memory",
        "SIGABRT",
    ),
    "settings": (ending(2, last_lines=("gnn-moe train: --device cuda is not here",)), "bad_config", "--device cuda"),
    "an old summary's word is not taken": (
        ending(2, last_lines=("--x",), summary=failed("crash")),
        "bad_config",
        "--x",
    ),
    "too long": (ending(143, timeout_minutes=1.5), "timeout", "--timeout 1.5 minutes"),
    "too long, and killed": (ending(-signal.SIGKILL, timeout_minutes=2, oom_kills=1), "timeout", "--timeout 2 minutes"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_ending_has_a_class_and_a_message(name: str) -> None:
    end, error_class, said = CASES[name]
    failure = explain(end)
    assert failure is not None
    assert failure.error_class == error_class
    assert said in failure.message
    assert "\n" not in failure.message


def test_every_class_is_told() -> None:
    """A leak is told from a run that ended well: see `outcomes`."""
    assert {error_class for _, error_class, _ in CASES.values()} == set(ERROR_CLASSES) - {"leaking"}


@pytest.mark.parametrize("timeout", [None, 1.0])
def test_a_completed_run_is_no_failure_even_at_the_last_moment(timeout: float | None) -> None:
    assert explain(ending(0, timeout_minutes=timeout)) is None
