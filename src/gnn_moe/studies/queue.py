"""The trials of a study and what became of each, shared by its workers through an Optuna storage.

Points are enqueued, so a grid is exact; a search asks TPE for its points as they are needed. Trials of one point carry
its key: the last of them is its state, those before it are attempts that were given up. A trial that Optuna calls
failed and that has no outcome was lost with its worker, and is enqueued again by whoever sees it first.

    waiting → running (claimed by a worker, which sends heartbeats) → outcome: completed or failed
                 └ its worker died, or was asked to stop: lost → waiting again
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from gnn_moe.studies.design import Point
from gnn_moe.studies.outcomes import COMPLETED, FAILED, RUNNING, WAITING, Outcome, outcome_from_dict
from gnn_moe.studies.search import Search, distributions_of
from gnn_moe.studies.space import Variation
from gnn_moe.studies.storage import alone, expected_warnings, storage_errors
from gnn_moe.studies.workers import Worker

# User attributes of a trial.
_POINT, _WORKER, _OUTCOME, _RUN_FOLDER = "point", "worker", "outcome", "run_folder"
_MICRO_BATCH, _REPEATS = "micro_batch_size", "repeats"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A trial that this worker is to run."""

    number: int
    point: Point
    micro_batch_size: int | None
    """Instead of the baseline's, after it ran out of memory."""
    outcome: Outcome | None
    """Where a worker died between writing it and telling it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The state of a point."""

    number: int
    point: Point
    state: str
    """completed, failed, running or waiting."""
    outcome: Outcome | None
    worker: Worker | None
    run_folder: str | None
    micro_batch_size: int | None
    attempts: int


class Queue:
    """One worker's view of a study. Every method may raise `StorageLost`, and may then be called again."""

    def __init__(
        self,
        storage: RDBStorage,
        study_name: str,
        *,
        lock_file: Path,
        worker: Worker,
        variations: Sequence[Variation],
        search: Search | None = None,
    ) -> None:
        self.storage, self.name, self.worker, self.search = storage, study_name, worker, search
        self._lock_file = lock_file
        self._distributions = distributions_of(variations, search=search is not None)
        with storage_errors(), self._alone():
            self._study = optuna.create_study(
                storage=storage,
                study_name=study_name,
                directions=["minimize"] * (len(search.objectives) if search else 1),
                pruner=search.pruner if search else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )

    def close(self) -> None:
        """Lets go of the database's connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with expected_warnings(), alone(self.storage, self.name, self._lock_file):
            yield

    # ----- what the study is -------------------------------------------------------------------------------------

    def begin(
        self,
        facts: Mapping[str, Any],
        check: Callable[[Mapping[str, Any]], None],
        *,
        known: Mapping[str, Any],
    ) -> bool:
        """Keeps what the study is begun with, as far as that is not kept yet.

        Args:
            facts: what may not change while it goes on.
            check: raises where what it was begun with, {} for a new study, does not go with them.
            known: what it was begun with when the facts were made; where that was nothing and another worker has begun
                it since, they must be made anew.

        Returns:
            Whether the study is begun with these facts.
        """
        with storage_errors(), self._alone():
            stored = self._study.user_attrs
            if stored and not known:
                return False
            check(stored)
            # A worker that was killed right here has kept some of them, the baseline first.
            for name, value in facts.items():
                if name not in stored:
                    self._study.set_user_attr(name, value)
        return True

    def facts(self) -> dict[str, Any]:
        """What the study was begun with; {} for a new one."""
        with storage_errors():
            return dict(self._study.user_attrs)

    def keep(self, name: str, values: Mapping[str, Any]) -> None:
        """Adds to what the study knows by that name; what it knows already stays."""
        with storage_errors(), self._alone():
            self._study.set_user_attr(name, {**values, **self._study.user_attrs.get(name, {})})

    def rows(self) -> list[Row]:
        """The state of every point, in the order in which they were first enqueued."""
        with storage_errors():
            trials = self._trials()
        by_key: dict[str, list[FrozenTrial]] = {}
        for trial in trials:
            by_key.setdefault(trial.user_attrs[_POINT]["key"], []).append(trial)
        return [_row(same) for same in by_key.values()]

    def _trials(self) -> list[FrozenTrial]:
        """Those that have a point; a search's repetitions of a point are left out."""
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if _POINT in trial.user_attrs and _REPEATS not in trial.user_attrs]

    # ----- what is to be done ------------------------------------------------------------------------------------

    def add(self, points: Sequence[Point]) -> None:
        """Enqueues the points that the study does not know."""
        with storage_errors(), self._alone():
            known = {trial.user_attrs[_POINT]["key"] for trial in self._trials()}
            for point in points:
                if point.key not in known:
                    self._enqueue(point)

    def retry(self, wanted: Callable[[Row], bool], smaller: Callable[[Row], int | None]) -> int:
        """Enqueues failed points once more; returns how many.

        Args:
            wanted: whether a failed point is to run again.
            smaller: the micro-batch that it is to run with; None as before.
        """
        with storage_errors(), self._alone():
            chosen = [row for row in self.rows() if row.state == FAILED and wanted(row)]
            for row in chosen:
                self._enqueue(row.point, smaller(row) or row.micro_batch_size)
        return len(chosen)

    def claim(self, run_folder_of: Callable[[Claim], Path]) -> Claim | None:
        """Takes the next trial; None where there is none to take now.

        Args:
            run_folder_of: where its record will be, as this worker's command names it.
        """
        with storage_errors(), self._alone():
            self._take_back_lost()
            while True:
                trial: optuna.Trial | None
                if self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                    trial = self._study.ask(self._distributions)
                elif self.search is not None and self._asked() < self.search.trials:
                    trial = self._ask_for_a_new_point(self.search)
                else:
                    return None
                if trial is None:  # a point that is known already
                    continue
                trial_id = self._id(trial.number)
                self.storage.record_heartbeat(trial_id)
                claim = _claim(self._trial(trial.number))
                trial.set_user_attr(_RUN_FOLDER, str(run_folder_of(claim)))
                # Last: a running trial without a worker is one whose worker died right here.
                trial.set_user_attr(_WORKER, dataclasses.asdict(self.worker))
                return claim

    def _ask_for_a_new_point(self, search: Search) -> optuna.Trial | None:
        self._study.sampler = search.sampler(len(self._study.get_trials(deepcopy=False)))
        trial = self._study.ask(self._distributions)
        point = search.point(trial.params)
        before = next((row for row in self.rows() if row.point.key == point.key), None)
        if before is None:
            trial.set_user_attr(_POINT, dataclasses.asdict(point))
            return trial
        # The same numbers again tell the sampler what it asked for.
        trial.set_user_attr(_REPEATS, before.number)
        if before.outcome is not None and before.outcome.state == COMPLETED and not before.outcome.pruned:
            self._study.tell(trial, search.values(before.outcome))
        else:
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _asked(self) -> int:
        """Points that a search has asked for, repetitions included."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(_REPEATS in trial.user_attrs for trial in trials) + len(self.rows())

    def _take_back_lost(self) -> None:
        """Enqueues again what dead or silent workers had claimed."""
        optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get(_WORKER)
            # Nobody is between asking and claiming now: that is done alone.
            if worker is None or Worker(**worker).is_surely_dead():
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        last = {trial.user_attrs[_POINT]["key"]: trial for trial in self._trials()}
        for trial in last.values():
            if trial.state == TrialState.FAIL and not _is_over(trial):
                self._enqueue(
                    Point(**trial.user_attrs[_POINT]),
                    trial.user_attrs.get(_MICRO_BATCH),
                    trial.user_attrs.get(_OUTCOME),
                )

    def _enqueue(
        self, point: Point, micro_batch_size: int | None = None, outcome: Mapping[str, Any] | None = None
    ) -> None:
        params = {name: value for name, value in point.params.items() if name in self._distributions}
        extras = {_MICRO_BATCH: micro_batch_size, _OUTCOME: outcome}
        attributes = {name: value for name, value in extras.items() if value is not None}
        self._study.enqueue_trial(params, {_POINT: dataclasses.asdict(point), **attributes})

    # ----- what is being done ------------------------------------------------------------------------------------

    def beat(self, numbers: Sequence[int]) -> list[int]:
        """Says that this worker is alive; returns the trials that are no longer its own."""
        lost = []
        with storage_errors():
            trials = self._study.get_trials(deepcopy=False)
            for trial in (trials[number] for number in numbers):
                if trial.state == TrialState.RUNNING:
                    self.storage.record_heartbeat(trial._trial_id)
                else:
                    lost.append(trial.number)
        return lost

    def is_hopeless(self, number: int, losses: Mapping[int, float]) -> bool:
        """Whether a search had better stop a trial.

        Args:
            number: of the trial.
            losses: step → evaluation loss, so far.
        """
        if self.search is None or not self.search.prunes:
            return False
        with storage_errors(), _of_another_now():
            trial = optuna.Trial(self._study, self._id(number))
            reported = self._trial(number).intermediate_values
            for step in sorted(set(losses) - set(reported)):
                trial.report(losses[step], step)
                if trial.should_prune():
                    return True
        return False

    def finish(self, number: int, outcome: Outcome) -> None:
        """Keeps how a trial ended. Nothing happens where another worker has it by now."""
        with storage_errors(), _of_another_now():
            self.storage.set_trial_user_attr(self._id(number), _OUTCOME, dataclasses.asdict(outcome))
            if outcome.state == FAILED:
                self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            elif outcome.pruned:
                self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
            else:
                values = self.search.values(outcome) if self.search else outcome.best_eval_loss
                self._study.tell(number, values, skip_if_finished=True)

    def give_back(self, number: int) -> None:
        """Lets go of a trial that has not ended; it waits again."""
        with storage_errors(), self._alone():
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            self._take_back_lost()

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _id(self, number: int) -> int:
        # Optuna's storages know trials by an id that its public objects do not show.
        return self._trial(number)._trial_id


@contextmanager
def _of_another_now() -> Iterator[None]:
    """Passes over what cannot be said of a trial any more, since it was taken back meanwhile."""
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError:
        return


def _is_over(trial: FrozenTrial) -> bool:
    """Whether a failed trial was told with its outcome, rather than lost with its worker."""
    outcome = trial.user_attrs.get(_OUTCOME)
    return outcome is not None and outcome["state"] == FAILED


def _claim(trial: FrozenTrial) -> Claim:
    stored = trial.user_attrs.get(_OUTCOME)
    return Claim(
        number=trial.number,
        point=Point(**trial.user_attrs[_POINT]),
        micro_batch_size=trial.user_attrs.get(_MICRO_BATCH),
        outcome=None if stored is None else outcome_from_dict(stored),
    )


def _row(same: Sequence[FrozenTrial]) -> Row:
    last = same[-1]
    stored, worker = last.user_attrs.get(_OUTCOME), last.user_attrs.get(_WORKER)
    outcome = None if stored is None or not last.state.is_finished() else outcome_from_dict(stored)
    not_ended = RUNNING if last.state == TrialState.RUNNING else WAITING
    folders = [trial.user_attrs[_RUN_FOLDER] for trial in same if _RUN_FOLDER in trial.user_attrs]
    return Row(
        number=same[0].number,
        point=Point(**last.user_attrs[_POINT]),
        state=not_ended if outcome is None else outcome.state,
        outcome=outcome,
        worker=None if worker is None else Worker(**worker),
        run_folder=folders[-1] if folders else None,
        micro_batch_size=last.user_attrs.get(_MICRO_BATCH),
        attempts=sum(_WORKER in trial.user_attrs for trial in same),
    )
