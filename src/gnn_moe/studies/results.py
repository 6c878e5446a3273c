"""A study as data: study.json and two tables beside it, written while it goes and read with `load`.

    study.json       what was asked for, and a row a point: {params, seed, state, error_class, ..., run_dir}
    trials.parquet   the same rows, with a column `params.FIELD` for each varied field
    curves.parquet   the metrics.jsonl of all trials, a row a step and a row an evaluation

The run folders stay the source. docs/studies.md has every field; `version` grows when one changes its meaning.
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnn_moe.config import RunConfig, run_config_from_dict
from gnn_moe.errors import BadInput
from gnn_moe.training.record import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT, VERSION = "gnn_moe.study", 1
STUDY_FILE, TRIALS_FILE, CURVES_FILE = "study.json", "trials.parquet", "curves.parquet"
_LOCK_FILE = ".results.lock"

_WRITE_ANEW = "run its sweep again, which writes it anew"

TrialRow = dict[str, Any]

# Of study.json, what its readers build on: types, and those in words. Numbers of a trial may be anything; who shows
# them shows what is no number as missing.
_STUDY_FIELDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "study": ((str,), "text"),
    "baseline": ((dict,), "object of fields"),
    "command": ((list,), "list of words"),
}
_OR_NONE = ((str, type(None)), "text")
_TRIAL_FIELDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "name": ((str,), "text"),
    "params": ((dict,), "object of fields"),
    "seed": ((int,), "whole number"),
    "state": ((str,), "text"),
    "arm": _OR_NONE,
    "error_class": _OR_NONE,
    "error_message": _OR_NONE,
    "run_dir": _OR_NONE,
}


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study as it stood when it was read."""

    path: Path
    """Its folder."""
    values: Mapping[str, Any]
    """study.json."""

    @property
    def trials(self) -> list[TrialRow]:
        """A row a point, in the order in which they were asked for."""
        trials: list[TrialRow] = self.values["trials"]
        return trials

    @property
    def baseline(self) -> RunConfig:
        """The settings that every point changes."""
        return run_config_from_dict(self.values["baseline"])

    def completed(self) -> list[TrialRow]:
        """The trials with a result."""
        return [trial for trial in self.trials if trial["state"] == "completed"]

    def run_folder(self, trial: TrialRow) -> Path:
        """Where a trial's record is, also after the study's folder was moved."""
        return self.path / Path(str(trial["run_dir"])).name

    def trials_table(self) -> pa.Table:
        """The trials; what they varied is in columns `params.FIELD`."""
        return trials_table(self.trials)

    def curves_table(self) -> tuple[pa.Table, list[str]]:
        """The rows of all metrics.jsonl, read now; and a line for each run folder that could not be read."""
        return curves_table(self.trials, self.run_folder)


def load(path: str | Path) -> StudyResults:
    """Reads a study: its folder, or the study.json in it.

    Raises:
        BadInput: there is none, it is damaged, or a later version wrote it.
    """
    path = Path(path)
    file = path / STUDY_FILE if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror}); give the folder of a study") from None
    except ValueError as error:
        raise BadInput(f"{file}: is damaged ({error}); {_WRITE_ANEW}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("trials"), list):
        raise BadInput(f"{file}: is no study; give the folder that gnn-moe sweep has written")
    _check_field(values, "version", (int,), "whole number", file, "version")
    if values["version"] > VERSION:
        raise BadInput(f"{file}: was written by a later version of gnn-moe ({values['version']}); install that")
    for name, (types, wanted) in _STUDY_FIELDS.items():
        _check_field(values, name, types, wanted, file, name)
    for index, trial in enumerate(values["trials"]):
        if not isinstance(trial, dict):
            raise BadInput(f"{file}: trials[{index}] is {trial!r}, no object of fields; {_WRITE_ANEW}")
        for name, (types, wanted) in _TRIAL_FIELDS.items():
            _check_field(trial, name, types, wanted, file, f"trials[{index}].{name}")
    return StudyResults(path=file.parent, values=values)


def _check_field(
    values: Mapping[str, Any], name: str, types: tuple[type, ...], wanted: str, file: Path, where: str
) -> None:
    if name not in values:
        raise BadInput(f"{file}: {where} is missing; {_WRITE_ANEW}")
    if type(values[name]) not in types:  # a truth value is no whole number
        raise BadInput(f"{file}: {where} is {values[name]!r}, no {wanted}; {_WRITE_ANEW}")


def write_study(folder: Path, make: Callable[[], Mapping[str, Any]]) -> None:
    """Writes study.json whole; of several workers one at a time, each with what it finds then.

    Args:
        folder: of the study.
        make: gives what to write.
    """
    with _one_at_a_time(folder):
        values = make()
        temporary = folder / f"{STUDY_FILE}.writing"
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(folder / STUDY_FILE)


def write_tables(folder: Path, trials: Sequence[TrialRow], run_folder: Callable[[TrialRow], Path]) -> list[str]:
    """Writes both tables; returns a line for each run folder that could not be read."""
    import pyarrow.parquet as pq

    curves, skipped = curves_table(trials, run_folder)
    with _one_at_a_time(folder):
        for name, table in ((TRIALS_FILE, trials_table(trials)), (CURVES_FILE, curves)):
            temporary = folder / f"{name}.writing"
            pq.write_table(table, temporary)
            temporary.replace(folder / name)
    return skipped


def count_states(trials: Sequence[TrialRow]) -> dict[str, int]:
    """How many trials are in each state, pruned ones and each class of failure apart."""
    return dict(Counter(_label(trial) for trial in trials))


def _label(trial: TrialRow) -> str:
    if trial["state"] == "failed":
        return f"failed: {trial['error_class']}"
    return "pruned" if trial.get("pruned") else str(trial["state"])


def trials_table(trials: Sequence[TrialRow]) -> pa.Table:
    """Trials as a table; what they varied is in columns `params.FIELD`."""
    nested = ("params", "worker")
    return _table([_of_trial(trial) | {name: trial[name] for name in trial if name not in nested} for trial in trials])


def curves_table(trials: Sequence[TrialRow], run_folder: Callable[[TrialRow], Path]) -> tuple[pa.Table, list[str]]:
    """The rows of the trials' metrics.jsonl, each with its trial's name, seed and varied fields.

    Also a line for each run folder that could not be read.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for trial in trials:
        if trial["run_dir"] is None or not (metrics := run_folder(trial) / METRICS_FILE).exists():
            continue  # never begun, or on another machine
        try:
            found = read_metrics(metrics)
        except BadInput as error:
            skipped.append(str(error))
            continue
        rows.extend(_of_trial(trial) | row for row in found)
    return _table(rows), skipped


def _of_trial(trial: TrialRow) -> dict[str, Any]:
    params: dict[str, Any] = trial["params"]
    return {
        "name": trial["name"],
        "arm": trial.get("arm"),
        "seed": trial["seed"],
        **{f"params.{field}": value for field, value in params.items()},
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: Sequence[Any]) -> Any:
    """Values as a column of one type: numbers and truth values as they are, anything mixed as text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return pa.array([float(value) if kinds == {int, float} and value is not None else value for value in values])
    return pa.array([None if value is None else str(value) for value in values])


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / _LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
