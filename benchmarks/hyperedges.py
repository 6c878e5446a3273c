"""`python -m benchmarks coupler`: that time and memory do not grow with the hyperedges."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Contestant
from benchmarks.children import contest
from benchmarks.coupling import within_rounds
from benchmarks.intervals import lies_within, median_interval
from benchmarks.measure import Race, race, subject
from gnn_moe.config import ModelConfig, TrainingConfig, to_dict
from gnn_moe.model.size import model_size
from gnn_moe.studies.statistics import Interval

EQUAL_WITHIN = 0.03
"""Time and memory of many hyperedges against one."""
STEPS_TO_PEAK = 3
"""Of a fresh process whose peak is read: the first makes the optimiser's state, the others meet the heap it left."""
MANY, ONE = "many", "one"


@dataclass(frozen=True, kw_only=True)
class MemoryOfFew:
    """What fresh processes took, and what a forward pass keeps; each by contestant."""

    step_bytes: dict[str, tuple[int, ...]]
    """Peak less what was there after the imports, of each process: those would hide a difference."""
    kept_bytes: dict[str, int]
    """Of storages that a forward pass keeps for its backward pass, weights left out. A count, the same every time."""


@dataclass(frozen=True, kw_only=True)
class HyperedgesResult:
    """Many hyperedges against one over all experts."""

    name: str
    hyperedges: int
    model: dict[str, Any]
    training: dict[str, Any]
    race: Race
    memory_of: MemoryOfFew
    time: float | None
    """Many over one, median of the rounds."""
    time_interval: Interval | None
    memory: float | None
    """Many over one, median over pairs of fresh processes of their `step_bytes`."""
    memory_interval: Interval | None
    kept: float | None
    """Many over one, of `kept_bytes`."""
    time_met: bool | None
    memory_met: bool | None
    """By both: None where the peaks' interval does not tell."""


def many_hyperedges(
    name: str, model: ModelConfig, training: TrainingConfig, *, rounds: int, warmup: int, processes: int
) -> HyperedgesResult:
    """Races an HGNN with the strategy of `model` against one hyperedge over all experts.

    Args:
        name: of the case.
        model: many hyperedges.
        training: the batch.
        rounds: steps that count.
        warmup: steps before that do not.
        processes: fresh ones of each whose peak is read: one alone is off by some percent, whatever the model.
    """
    models = {MANY: model, ONE: dataclasses.replace(model, static_hyperedge_strategy="all")}
    entered = {kind: Contestant(kind="ours", model=m, training=training) for kind, m in models.items()}
    found = race(entered, rounds=rounds, warmup=warmup)
    memory = memory_of(entered, processes)
    seconds = {kind: figures.timing.seconds for kind, figures in found.figures.items()}
    times, peaks = _ratios(seconds), _ratios(memory.step_bytes)
    time_interval, memory_interval = median_interval(times), median_interval(peaks)
    both = {MANY, ONE} <= set(memory.kept_bytes)
    kept = memory.kept_bytes[MANY] / memory.kept_bytes[ONE] if both else None
    kept_met = kept is not None and abs(kept - 1) <= EQUAL_WITHIN
    return HyperedgesResult(
        name=name,
        hyperedges=model_size(model).hyperedges,
        model=to_dict(model),
        training=to_dict(training),
        race=found,
        memory_of=memory,
        time=statistics.median(times) if times else None,
        time_interval=time_interval,
        memory=statistics.median(peaks) if peaks else None,
        memory_interval=memory_interval,
        kept=kept,
        time_met=_equal(time_interval) if times else False,
        memory_met=_equal(memory_interval) if kept_met and peaks else False,
    )


def memory_of(entered: Mapping[str, Contestant], processes: int) -> MemoryOfFew:
    """Peaks of so many fresh processes of each, and what a forward pass keeps; one that failed is left out."""
    steps: dict[str, list[int]] = {}
    kept: dict[str, int] = {}
    for _ in range(processes):
        with contest({name: subject(contestant) for name, contestant in entered.items()}) as running:
            running.ask("run", STEPS_TO_PEAK)
            memory = running.ask("memory")
            kept |= running.ask("kept_bytes")
        if set(memory) == set(entered):
            for name, values in memory.items():
                steps.setdefault(name, []).append(values["step_bytes"])
    return MemoryOfFew(step_bytes={name: tuple(values) for name, values in steps.items()}, kept_bytes=kept)


def _ratios(values: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    return within_rounds(values[MANY], values[ONE]) if {MANY, ONE} <= set(values) else ()


def _equal(interval: Interval | None) -> bool | None:
    return lies_within(interval, 1 - EQUAL_WITHIN, 1 + EQUAL_WITHIN)
