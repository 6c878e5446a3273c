"""The record of a run on disk: metrics.jsonl, coupling.npz and summary.json, each whole at any moment.

metrics.jsonl   a row a training step ("kind": "train") and a row an evaluation ("kind": "eval"); one ("kind":
                "memory") where memory ran out and micro-batches were made smaller. `loss` is the cross-entropy; rows
                of a model that routes have the unweighted `load_balancing_loss` and `router_z_loss` besides
coupling.npz    `steps` (S,), every coupler's tensors at those steps as `layer_L/NAME` (S, ...), and for hypergraphs
                `incidence` (E, M); for a model that routes `layer_L/expert_load` (S, E)
summary.json    one flat object
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gnn_moe.errors import BadInput

METRICS_FILE, COUPLING_FILE, SUMMARY_FILE = "metrics.jsonl", "coupling.npz", "summary.json"

Row = dict[str, Any]


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes one JSON object under a temporary name and renames it."""
    temporary = path.with_name(f"{path.name}.writing")
    temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_metrics(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl`. A last line without its end (a run killed while writing) is left out.

    Raises:
        BadInput: another line is not a JSON object, or the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif line.endswith("\n"):
            raise BadInput(f"{path}: line {number} is not a JSON object; cut the file before it, or run again")
    return rows


class Metrics:
    """Appends rows to metrics.jsonl; each row is on disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut(self, *, last_step: int, last_evaluated: int) -> None:
        """Drops training rows after `last_step` and evaluation rows after `last_evaluated`.

        Raises:
            BadInput: the file is damaged, or rows are missing.
        """
        limits = {"train": last_step, "eval": last_evaluated}
        # A smaller micro-batch is kept once it was chosen, so its row is too.
        rows = [row for row in read_metrics(self.path) if row["step"] <= limits.get(row["kind"], math.inf)]
        if [row["step"] for row in rows if row["kind"] == "train"] != list(range(1, last_step + 1)):
            raise BadInput(f"{self.path}: misses steps before the last checkpoint; replace the run with --overwrite")
        temporary = self.path.with_name(f"{self.path.name}.writing")
        temporary.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8")
        temporary.replace(self.path)

    def add(self, rows: list[Row]) -> None:
        """Appends rows."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


class CouplingHistory:
    """What the couplers had learned at step 0 and at each evaluation."""

    def __init__(self, path: Path, incidence_EM: npt.NDArray[np.float32] | None) -> None:
        self.path = path
        self._incidence_EM = incidence_EM
        self._steps: list[int] = []
        self._values: dict[str, list[npt.NDArray[np.float32]]] = {}

    def is_empty(self) -> bool:
        """Whether no step is recorded yet."""
        return not self._steps

    def cut(self, last_evaluated: int) -> None:
        """Reads the file back, without what was recorded after the evaluation of step `last_evaluated`.

        Raises:
            BadInput: the file is missing or damaged.
        """
        try:
            with self.path.open("rb") as file, np.load(file) as stored:
                kept = np.flatnonzero(stored["steps"] <= last_evaluated)
                self._steps = [int(step) for step in stored["steps"][kept]]
                names = [name for name in stored.files if name not in ("steps", "incidence")]
                self._values = {name: list(stored[name][kept]) for name in names}
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadInput(f"{self.path}: cannot be read ({error}); replace the run with --overwrite") from None

    def add(self, step: int, coupling: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Adds a step and rewrites the file."""
        self._steps.append(step)
        for name, values in coupling.items():
            self._values.setdefault(name, []).append(values)
        arrays: dict[str, Any] = {name: np.stack(values) for name, values in self._values.items()}
        if self._incidence_EM is not None:
            arrays["incidence"] = self._incidence_EM
        temporary = self.path.with_name(f"{self.path.name}.writing")
        with temporary.open("wb") as file:
            np.savez_compressed(file, steps=np.array(self._steps), **arrays)
        temporary.replace(self.path)
