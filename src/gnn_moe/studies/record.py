"""study.json from a sweep and the state of its points."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnn_moe.errors import RunFailed
from gnn_moe.studies.comparison import OF_THE_TEXT, as_record
from gnn_moe.studies.engine import LOGS
from gnn_moe.studies.evidence import weigh
from gnn_moe.studies.outcomes import COMPLETED, FAILED, Outcome
from gnn_moe.studies.presets import find_preset
from gnn_moe.studies.questions import QUESTIONS
from gnn_moe.studies.queue import Queue, Row
from gnn_moe.studies.reference import reference_of
from gnn_moe.studies.results import (
    FORMAT,
    STUDY_FILE,
    VERSION,
    TrialRow,
    count_states,
    load,
    write_study,
    write_tables,
)
from gnn_moe.studies.search import space_of
from gnn_moe.studies.space import values_of
from gnn_moe.studies.sweep import Sweep, settings_of
from gnn_moe.studies.table import Display

WEIGHED = "weighed"
"""The name by which the storage knows with which seeds a comparison was weighed."""
_OF_THE_PLACE = ("dataset_name", "dataset_config_name", "device", "precision", "compile", "micro_batch_size", "seed")
"""Fields that say where a preset runs, not what."""
_NOTHING = {field.name: None for field in dataclasses.fields(Outcome)}


def study_record(
    sweep: Sweep, rows: Sequence[Row], *, storage: str, command: Sequence[str], weighed: Sequence[str]
) -> dict[str, Any]:
    """What study.json holds.

    Args:
        sweep: what was asked for.
        rows: the state of every point.
        storage: its URL, without a password.
        command: the words of the command that writes this, without a password.
        weighed: the seeds of each time at which a comparison was weighed before, as `seeds_in_words` has them.
    """
    trials = [trial_record(sweep, row) for row in rows]
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": sweep.study,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "design": sweep.design,
        "preset": sweep.preset,
        "scale": sweep.scale,
        "note": scale_note(sweep),
        "objectives": list(sweep.objectives) if sweep.is_search else None,
        "vary": space_of(sweep.variations),
        "arms": {name: dict(changes) for name, changes in sweep.arms.items()},
        "seeds": list(sweep.seeds),
        "baseline": settings_of(sweep.baseline),
        "storage": storage,
        "command": list(command),
        "counts": count_states(trials),
        "reference": reference_of(sweep.preset),
        "comparison": comparison_record(sweep, trials, weighed),
        "trials": trials,
    }


def seeds_in_words(sweep: Sweep) -> str:
    """The seeds that a comparison is weighed with."""
    return ",".join(map(str, sorted(sweep.seeds)))


def comparison_record(sweep: Sweep, trials: Sequence[TrialRow], weighed: Sequence[str]) -> dict[str, Any] | None:
    """What is compared, and once every point has an outcome what it says: looking earlier would be looking often."""
    if sweep.comparison is None:
        return None
    timed = sweep.minutes_a_step
    minutes = {label: timed[words] for label, words in sweep.comparison.words().items() if words in timed}
    return as_record(sweep.comparison) | {
        "minutes_a_step": minutes or None,
        "weighed": list(weighed),
        "evidence": evidence_of(sweep, trials, weighed),
    }


def evidence_of(sweep: Sweep, trials: Sequence[TrialRow], weighed: Sequence[str]) -> dict[str, Any] | None:
    """What the trials of a comparison say, or None before every point has an outcome."""
    assert sweep.comparison is not None
    asked = {point.name for point in sweep.points()}
    of_it = [trial for trial in trials if trial["name"] in asked]
    if len(of_it) < len(asked) or any(trial["state"] not in (COMPLETED, FAILED) for trial in of_it):
        return None
    others = [trial for trial in trials if trial["name"] not in asked]
    # A row also has fields at rest, of the arms that its command had.
    at_rest = values_of(sweep.baseline)
    of_it, others = (
        [
            trial | {"params": {name: value for name, value in trial["params"].items() if value != at_rest[name]}}
            for trial in some
        ]
        for some in (of_it, others)
    )
    found = weigh(sweep.comparison, of_it, sweep.seeds, sweep.local_folder, others=others).as_record()
    if before := [seeds for seeds in weighed if seeds != seeds_in_words(sweep)]:
        found["notes"].append(
            f"weighed before with other seeds ({'; '.join(before)}): if what was found then led to these, intervals "
            "miss the truth more often than they say; ask anew with new seeds alone"
        )
    return found


def lowest_in_words(trials: Sequence[TrialRow]) -> list[str]:
    """Which completed trial has the lowest loss, where losses compare, with how many it is the lowest of."""
    found = [trial for trial in trials if trial["best_eval_loss"] is not None and trial["state"] == "completed"]
    if not found:
        return []
    of_text = [name for name in OF_THE_TEXT if len({repr(trial["params"].get(name)) for trial in found}) > 1]
    if of_text:
        return [
            f"no lowest loss is named: points differ in {', '.join(of_text)}, and losses of other texts do not compare"
        ]
    best = min(found, key=lambda trial: float(trial["best_eval_loss"]))
    seeds = len({trial["seed"] for trial in found})
    reported = "" if best["reported_loss"] is None else f", {best['reported_loss']:.4f} on the half that chose nothing"
    thin = "one seed each, so no evidence that they differ" if seeds == 1 else f"{seeds} seeds"
    lowest = f"{best['best_eval_loss']:.4f}{reported}"
    return [f"lowest evaluation loss of {len(found)} trials ({thin}): {lowest}: {best['name']}"]


def changes_of_preset(sweep: Sweep) -> list[str]:
    """The settings that a command has changed of its preset, but for where the text comes from and the machine."""
    if sweep.preset is None:
        return []
    preset = QUESTIONS[sweep.preset].preset if sweep.preset in QUESTIONS else find_preset(sweep.preset)
    asked, now = values_of(preset.baseline), values_of(sweep.baseline)
    return [f"{name} {now[name]}" for name in asked if now[name] != asked[name] and name not in _OF_THE_PLACE]


def scale_note(sweep: Sweep) -> str | None:
    """What a reader must know before setting numbers of a preset that was made smaller beside the seed's."""
    if sweep.scale is None or sweep.scale == 1:
        changed = changes_of_preset(sweep)
        if not changed:
            return None
        return (
            f"{sweep.preset} with other settings than the seed's ({', '.join(changed)}), so losses and minutes do not "
            "compare with its tables; only the order of the points may"
        )
    return (
        f"{sweep.preset} at --scale {sweep.scale:g}: epochs, samples and widths are that part of the seed's, so losses "
        "and minutes do not compare with its tables; only the order of the points may"
    )


def trial_record(sweep: Sweep, row: Row) -> TrialRow:
    """A row of `trials`."""
    outcome = _NOTHING if row.outcome is None else dataclasses.asdict(row.outcome)
    folder = None if outcome["error_class"] == "bad_config" and outcome["steps"] is None else row.run_folder
    return {
        "number": row.number,
        "name": row.point.name,
        "arm": row.point.arm,
        "params": dict(row.point.params),
        "seed": row.point.seed,
        **outcome,
        "state": row.state,
        "pruned": bool(outcome["pruned"]),
        "minutes": None if row.outcome is None else row.outcome.minutes,
        "attempts": row.attempts,
        "run_dir": folder,
        "log": None if folder is None else str(sweep.folder / LOGS / f"{Path(folder).name}.log"),
        "worker": None if row.worker is None else dataclasses.asdict(row.worker),
    }


@dataclass(kw_only=True)
class Recorder:
    """Writes study.json and the tables whenever the state of a point has changed."""

    sweep: Sweep
    queue: Queue
    storage: str
    command: Sequence[str]
    display: Display | None = None
    skipped: list[str] = field(default_factory=list)
    _ended: int = -1
    _is_stale: bool = False
    """The last change could not be written."""

    def rows_changed(self, rows: Sequence[Row]) -> None:
        """Shows and writes the state of the points."""
        trials = self._record(rows)["trials"]
        if self.display is not None:
            self.display.changed(trials)
        try:
            self._write(rows, trials)
            self._is_stale = False
        except OSError as error:  # a full disk: the trials are told of it themselves, and the storage has everything
            text = (
                f"{self.sweep.folder}: the record could not be written ({error}); it is written anew at the next change"
            )
            self._is_stale = True
            if self.display is not None:
                self.display.notice(text)

    def _write(self, rows: Sequence[Row], trials: Sequence[TrialRow]) -> None:
        ended = sum(row.outcome is not None for row in rows)
        if ended != self._ended:
            self.skipped = write_tables(self.sweep.folder, trials, self.sweep.local_folder)
            self._ended = ended
        write_study(self.sweep.folder, lambda: self._record(self.queue.rows()))

    def _record(self, rows: Sequence[Row]) -> dict[str, Any]:
        weighed = list(self.queue.facts().get(WEIGHED, {})) if self.sweep.comparison else []
        record = study_record(self.sweep, rows, storage=self.storage, command=self.command, weighed=weighed)
        if record["comparison"] and record["comparison"]["evidence"]:
            self.queue.keep(WEIGHED, {seeds_in_words(self.sweep): record["written"]})
        return record | {"unreadable_run_folders": self.skipped}

    def summary(self) -> list[str]:
        """What to say at the end.

        Raises:
            RunFailed: the record could not be written.
        """
        if self._is_stale:
            try:
                write_study(self.sweep.folder, lambda: self._record(self.queue.rows()))
            except OSError as error:
                raise RunFailed(
                    f"{self.sweep.folder}: the record could not be written ({error}); make room, and the same command "
                    "writes it from the storage"
                ) from None
        trials = load(self.sweep.folder).trials
        counts = ", ".join(f"{count} {label}" for label, count in count_states(trials).items())
        lines = [f"{self.sweep.folder / STUDY_FILE}: {counts}"]
        if self.sweep.comparison is None:  # a comparison has verdicts instead
            lines += lowest_in_words(trials)
        if self.skipped:
            lines.append(f"{len(self.skipped)} run folders could not be read and are left out of the curves:")
            lines += [f"  {line}" for line in self.skipped]
        note = scale_note(self.sweep)
        return [*lines, note] if note else lines


def sweep_note(sweep: Sweep) -> str | None:
    """What is to be said of a sweep before it begins."""
    if sweep.is_search and sweep.objectives != ("loss",):
        return f"objectives {', '.join(sweep.objectives)}: no trial is pruned, since none is behind in all of them"
    return scale_note(sweep)
