"""How far a run is, read from its folder while another process writes to it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnn_moe.errors import BadInput
from gnn_moe.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A look at a run."""

    step: int
    total_steps: int | None
    """None before the run has begun."""
    loss: float | None
    """The last evaluation's, or the last step's before the first."""
    minutes_left: float | None
    """At the speed so far, evaluations included."""


class RunWatch:
    """Looks at one run again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.metrics = MetricsTail(self.folder.metrics)
        self._total_steps: int | None = None

    def look(self) -> Reading:
        """Where the run is now."""
        self.metrics.read()
        if self._total_steps is None:
            self._total_steps = _total_steps(self.folder)
        step, total, losses = self.metrics.last_step, self._total_steps, self.metrics.evaluations
        left = None
        if total is not None and step:
            left = self.metrics.seconds / step * (total - step) / 60
        loss = losses[max(losses)] if losses else self.metrics.last_loss
        return Reading(step=step, total_steps=total, loss=loss, minutes_left=left)


class MetricsTail:
    """Follows a metrics.jsonl that is appended to, or replaced by a shorter one where a run is resumed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin(None)

    def _begin(self, file_id: int | None) -> None:
        self._file_id = file_id
        self._offset = 0
        self._tokens = 0
        self.last_step = 0
        self.last_loss: float | None = None
        self.evaluations: dict[int, float] = {}
        """Step → loss."""
        self.seconds = 0.0
        """Of training and evaluation."""

    def read(self) -> None:
        """Takes in the rows written since; a line without its end waits for the next time."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file_id or status.st_size < self._offset:
                    self._begin(status.st_ino)
                file.seek(self._offset)
                content = file.read()
        except OSError:  # not begun
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, LookupError, TypeError):  # damaged: whoever reads the whole record will say so
                continue

    def _take(self, row: dict[str, Any]) -> None:
        if row["kind"] == "train":
            self.seconds += (row["tokens"] - self._tokens) / row["tokens_per_second"]
            self.last_step, self.last_loss, self._tokens = row["step"], row["loss"], row["tokens"]
        elif row["kind"] == "eval":
            self.evaluations[row["step"]] = row["loss"]
            self.seconds += row["seconds"]


def _total_steps(folder: RunFolder) -> int | None:
    """Steps of a whole run, from its settings and the count of its samples; None before both are written."""
    try:
        samples = int(folder.read_environment()["data"]["train"]["samples"])
        return folder.read_config().training.count_steps(samples)
    except (BadInput, LookupError, TypeError):
        return None
