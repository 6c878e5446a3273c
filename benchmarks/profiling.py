"""`python -m benchmarks profile`: what takes the time of our step, operation by operation, on a processor.

torch's profiler counts each operation's own time on the thread that called it, without the operations inside it, and
sees the operations of one thread. So the step has one thread here, which computes the whole micro-batch: what two
threads do for a half each, side by side. The sum is close to the step's own seconds, and the rest is Python.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Contestant, contestants
from benchmarks.children import ChildFailed, Failure, Subject, contest
from benchmarks.measure import PASSIVE
from gnn_moe.config import to_dict

PRODUCTS, MASKS, COPIES, SOFTMAX, NORMS, OPTIMISER = "products", "masks", "copies", "softmax", "norms", "optimiser"
ACTIVATIONS, SUMS, OTHER, PYTHON = "activations", "sums and scalings", "other", "between operations"
UPDATE = "update"
"""The region of clipping and AdamW."""
_HEAD = "_HeadLoss"
_OF_NAME: Mapping[str, str] = {
    name: group
    for group, names in {
        PRODUCTS: "mm bmm addmm baddbmm addmv mv dot matmul linear",
        COPIES: "copy_ _to_copy to clone contiguous cat stack fill_ zero_ zeros empty empty_like empty_strided "
        "index_select index_copy_ _index_put_impl_ embedding embedding_dense_backward",
        SOFTMAX: "_softmax _softmax_backward_data _log_softmax _log_softmax_backward_data logsumexp",
        NORMS: "native_layer_norm native_layer_norm_backward var_mean rsqrt",
        ACTIVATIONS: "gelu gelu_backward sigmoid sigmoid_backward tanh softplus softplus_backward",
        SUMS: "add add_ sub sub_ mul mul_ div div_ sum mean addcmul addcmul_ neg",
    }.items()
    for name in names.split()
}
_OF_REGION = {UPDATE: OPTIMISER, "gnn_moe::keep_mask": MASKS}
"""What everything inside belongs to."""
MOST_OPERATIONS = 4
_ONE_THREAD = {**PASSIVE, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One kind of operation in one group."""

    name: str
    group: str
    seconds: float
    """Its own, a step."""
    calls: float
    """A step."""


@dataclass(frozen=True, kw_only=True)
class ProfileResult:
    """One case."""

    case: str
    model: dict[str, Any]
    training: dict[str, Any]
    step_seconds: float | None
    """Median without the profiler."""
    profiled_seconds: float | None
    """Mean with it: what the groups add up to."""
    groups: dict[str, float]
    """Seconds a step, the largest first."""
    operations: tuple[Operation, ...]
    failure: Failure | None


class Profiled:
    """The child: our step, timed without and with the profiler."""

    def __init__(self, setup: Contestant) -> None:
        from torch.profiler import record_function

        from benchmarks.contestants import Ours

        class Marked(Ours):
            def _update(self) -> None:
                with record_function(UPDATE):
                    super()._update()

        self.racer = Marked(setup)

    def run(self, steps: int) -> list[float]:
        """Seconds of each step, unprofiled."""
        return self.racer.run(steps)

    def profile(self, steps: int) -> tuple[list[float], list[tuple[str, str, float, int]]]:
        """Seconds of each step; name, group, seconds and calls of each kind of operation over all of them."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            seconds = self.racer.run(steps)
        return seconds, grouped(profiler.events() or ())


def grouped(events: Iterable[Any]) -> list[tuple[str, str, float, int]]:
    """(name, group, seconds, calls) from the events of torch's profiler, their own time in microseconds."""
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for event in events:
        key = (event.name.removeprefix("aten::"), group_of(event))
        seconds, calls = found.get(key, (0.0, 0))
        found[key] = (seconds + event.self_cpu_time_total / 1e6, calls + 1)
    return [(name, group, seconds, calls) for (name, group), (seconds, calls) in found.items()]


def group_of(event: Any) -> str:
    """By the region that it is in, else by its name; the head's softmax is all that is no product or copy there."""
    named = _OF_NAME.get(event.name.removeprefix("aten::"), OTHER)
    region = event
    while region is not None:
        if region.name in _OF_REGION:
            return _OF_REGION[region.name]
        if region.name == _HEAD and named not in (PRODUCTS, COPIES):
            return SOFTMAX
        region = region.cpu_parent
    return named


def profile_case(case: Case, *, rounds: int, warmup: int) -> ProfileResult:
    """Profiles `rounds` steps of ours, after as many that are timed without the profiler."""
    setup = contestants(case)["ours"]
    entered = Subject(target="benchmarks.profiling:Profiled", arguments=(setup,), environment=_ONE_THREAD)
    plain: list[float] = []
    seconds: list[float] = []
    rows: list[tuple[str, str, float, int]] = []
    failure = None
    with contest({"ours": entered}) as running:
        try:
            running.children["ours"].ask("run", warmup)
            plain = running.children["ours"].ask("run", rounds)
            seconds, rows = running.children["ours"].ask("profile", rounds)
        except ChildFailed as failed:
            failure = failed.failure
    operations = sorted(
        (Operation(name=name, group=group, seconds=s / rounds, calls=n / rounds) for name, group, s, n in rows),
        key=lambda operation: -operation.seconds,
    )
    return ProfileResult(
        case=case.name,
        model=to_dict(case.model),
        training=to_dict(case.training),
        step_seconds=statistics.median(plain) if plain else None,
        profiled_seconds=statistics.mean(seconds) if seconds else None,
        groups=_groups(operations, statistics.mean(seconds)) if seconds else {},
        operations=tuple(operations),
        failure=failure,
    )


def _groups(operations: Iterable[Operation], step: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for operation in operations:
        found[operation.group] = found.get(operation.group, 0.0) + operation.seconds
    found[PYTHON] = step - sum(found.values())
    return dict(sorted(found.items(), key=lambda row: -row[1]))
