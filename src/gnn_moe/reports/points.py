"""The runs of a report, the points that they are repetitions of, and the groups of points that compare.

A point is a setting; its runs differ in their seeds. A group is all of one protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gnn_moe.checks import is_number
from gnn_moe.config import RunConfig
from gnn_moe.errors import BadInput
from gnn_moe.reports.comparable import Protocol
from gnn_moe.reports.environments import Environment, read_environment
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.results import StudyResults
from gnn_moe.studies.space import Value
from gnn_moe.studies.statistics import MeanEstimate, mean_estimate
from gnn_moe.training.record import read_metrics

COMPLETED, FAILED, LEAKING = "completed", "failed", "leaking"
LOSSES = ("reported_loss", "best_eval_loss")
"""Of a run, the better first: one half of the text chooses the checkpoint and the other judges it; or both are one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, completed or not."""

    name: str
    study: str | None
    """That it belongs to, if any."""
    arm: str | None
    """Of a comparison."""
    seed: int
    settings: Mapping[str, Value]
    """Every field of its model, data and training, as asked for."""
    config: RunConfig | None
    """None where the settings do not go together, which is then why it failed."""
    state: str
    """completed, failed, running or waiting."""
    error_class: str | None
    error_message: str | None
    values: Mapping[str, Any]
    """The row of study.json, or summary.json: losses, minutes, memory, ...; what is unknown is absent or None."""
    folder: Path | None
    """Its record, where it is on this machine."""
    contradiction: str | None = None
    """What that record says otherwise than its study, whose numbers these are."""

    @property
    def is_completed(self) -> bool:
        return self.state == COMPLETED

    def number(self, name: str) -> float | None:
        """A finite value of its record, or None."""
        value = self.values.get(name)
        return float(value) if value is not None and is_number(value) else None

    @cached_property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """The rows of metrics.jsonl; empty where the folder is not here.

        Raises:
            BadInput: the file is missing or damaged.
        """
        if self.folder is None:
            return ()
        path = RunFolder(self.folder).metrics
        if not path.exists():
            raise BadInput(f"{path}: is missing; its run cannot be drawn")
        return tuple(read_metrics(path))

    @cached_property
    def environment(self) -> Environment:
        """environment.json; empty where the folder is not here."""
        return Environment() if self.folder is None else read_environment(self.folder)

    def recorded(self, *path: str) -> Any:
        """What environment.json holds under some keys, one in the other; None where it does not."""
        return self.environment.recorded(*path)

    @property
    def chose_in_halves(self) -> bool:
        """Whether one half of the text chose its checkpoint, for the other half to judge; the loss may be none."""
        return self.number("selected_step") is not None or self.number(LOSSES[0]) is not None

    @property
    def causal(self) -> bool | None:
        """Whether its checkpoint was seen not to look ahead; None where that was not asked."""
        found = self.values.get("causal")
        return found if isinstance(found, bool) else None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A setting with its runs, by seed and then by name."""

    settings: Mapping[str, Value]
    """Of the fields that vary in its group."""
    arm: str | None
    runs: tuple[Run, ...]
    loss_name: str
    """Which of `LOSSES` its group compares by."""
    of_study: str | None = None
    """Where another study has an arm of its name with other settings."""

    @property
    def completed(self) -> tuple[Run, ...]:
        """Those whose numbers count: a pruned run was stopped for its losses, and compares with none that ended."""
        return tuple(run for run in self.runs if run.is_completed and not run.values.get("pruned"))

    @property
    def label(self) -> str:
        """`num_experts 4, learning_rate 0.001`, or the arm's name, with its study where names collide."""
        if self.arm:
            return f"{self.arm} ({self.of_study})" if self.of_study else self.arm
        return ", ".join(f"{name} {value}" for name, value in self.settings.items()) or "baseline"

    @cached_property
    def counted(self) -> tuple[Run, ...]:
        """The runs that all numbers, curves and strengths are of: of each seed the first completed one with a loss."""
        found: dict[int, Run] = {}
        for run in self.completed:
            if run.number(self.loss_name) is not None:
                found.setdefault(run.seed, run)
        return tuple(found.values())

    @property
    def uncounted(self) -> tuple[Run, ...]:
        """Those of which nothing is drawn or reckoned."""
        return tuple(run for run in self.runs if run not in self.counted)

    def why_not(self, run: Run) -> str:
        """What keeps a run from counting, in a few words."""
        if run not in self.completed:
            return "stopped early by a search" if run.is_completed else run.state
        return "a second run of its seed" if run.number(self.loss_name) is not None else f"no finite {self.loss_name}"

    def by_seed(self, name: str) -> dict[int, float]:
        """A finite number of the runs that count, by seed."""
        return {run.seed: value for run in self.counted if (value := run.number(name)) is not None}

    def estimate(self, name: str) -> MeanEstimate | None:
        """Mean over seeds with its 95 % t interval; None where no completed run has the number."""
        values = list(self.by_seed(name).values())
        return mean_estimate(values) if values else None

    def mean(self, name: str) -> float | None:
        found = self.estimate(name)
        return None if found is None else found.mean


@dataclass(frozen=True, kw_only=True)
class Group:
    """The points of one protocol."""

    protocol: Protocol
    points: tuple[Point, ...]
    fields: tuple[str, ...]
    """Those in which points differ, arms left out."""
    baseline: Mapping[str, Value]
    """The settings that points change: of the first study, else what most of the runs have."""
    studies: tuple[StudyResults, ...]
    """Of its runs."""

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for point in self.points for run in point.runs)

    @property
    def loss_name(self) -> str:
        """Which of `LOSSES` its runs compare by, as `loss_name_of`."""
        return self.points[0].loss_name

    @property
    def not_in_halves(self) -> tuple[Run, ...]:
        """Completed runs with a loss, of a version that did not evaluate in halves."""
        return tuple(filter(_is_not_in_halves, self.runs))

    @property
    def duplicates(self) -> tuple[tuple[Run, ...], ...]:
        """Completed runs of one point and seed: named in the report, all shown, the first counted."""
        found = []
        for point in self.points:
            for seed in dict.fromkeys(run.seed for run in point.completed):
                same = tuple(run for run in point.completed if run.seed == seed)
                found += [same] if len(same) > 1 else []
        return tuple(found)


def loss_name_of(runs: Iterable[Run]) -> str:
    """Which of `LOSSES` runs compare by: the better one, unless one of them is of a version that did not report it.

    A run that evaluated in halves and has no finite loss to report changes nothing for the others: it is missing.
    """
    return LOSSES[-1] if any(map(_is_not_in_halves, runs)) else LOSSES[0]


def _is_not_in_halves(run: Run) -> bool:
    return run.is_completed and run.number(LOSSES[-1]) is not None and not run.chose_in_halves
