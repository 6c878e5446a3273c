"""The worker: claims trials, runs several at once as processes, and keeps what became of each.

It asks and tells the storage only in `_talk`. A storage that is lost is asked again, ever less often, while the trials
that run go on; what they came to is on disk in their run folders anyway, and is told once the storage answers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gnn_moe.errors import BadInput, Interrupted, RunFailed
from gnn_moe.model.halves import threads_to_expect
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.failures import Failure, explain
from gnn_moe.studies.flags import train_words, write_hyperedges
from gnn_moe.studies.outcomes import RUNNING, WAITING, Outcome, completed_before, outcome_of
from gnn_moe.studies.queue import Claim, Queue, Row
from gnn_moe.studies.storage import StorageLost
from gnn_moe.studies.sweep import Sweep
from gnn_moe.studies.trials import TrialProcess
from gnn_moe.training.memory_limits import RUNS_AT_ONCE
from gnn_moe.training.stopping import stop_on_signals

_TICK_SECONDS = 0.25
_SECONDS_BETWEEN_LOOKS = 1.0
"""At the storage, while nothing of our own has ended."""
_LONGEST_SILENCE_MINUTES = 10.0
"""For which a lost storage is waited for once our own trials have ended."""
_LONGEST_PAUSE_SECONDS = 30.0
LOGS, HYPEREDGES_FILE = "logs", "hyperedges-{}.json"


@dataclass(kw_only=True)
class Slot:
    """A trial that this worker runs."""

    claim: Claim
    process: TrialProcess
    stopped_for: Literal["timeout", "pruned", "taken back"] | None = None
    evaluations_seen: int = 0


@dataclass(frozen=True, kw_only=True)
class Watchers:
    """Who is told what happens."""

    on_rows: Callable[[Sequence[Row]], None]
    """The state of the study has changed."""
    on_tick: Callable[[], None]
    """Some time has passed."""
    on_notice: Callable[[str], None]
    """There is something to say."""


@dataclass(kw_only=True)
class _Outage:
    """A time in which the storage does not answer."""

    since: float
    """Its beginning, or the last moment at which a trial of ours still ran."""
    asked: int = 0

    def next_pause(self) -> float:
        """Seconds before it is asked again: twice as long each time, up to half a minute."""
        self.asked += 1
        return min(2.0 ** (self.asked - 2), _LONGEST_PAUSE_SECONDS)


@dataclass(kw_only=True)
class Engine:
    """One worker of a study, until every point has an outcome."""

    sweep: Sweep
    queue: Queue
    workers: int
    """Trials at once."""
    timeout_minutes: float | None
    heartbeat_seconds: int
    watchers: Watchers

    def __post_init__(self) -> None:
        self.slots: list[Slot] = []
        self.rows: list[Row] = []
        self._untold: list[tuple[int, Outcome]] = []
        self._next_look = self._next_beat = 0.0
        self._outage: _Outage | None = None

    def run(self) -> None:
        """Works until every point has an outcome.

        Raises:
            Interrupted: a signal asked for it; the trials were stopped where they can be gone on with.
            RunFailed: the storage was lost for good.
        """
        try:
            with stop_on_signals() as stop:
                stop.defer()
                while not self._is_done():
                    stop.check()
                    self._advance()
                    self._talk()
                    self.watchers.on_tick()
                    time.sleep(_TICK_SECONDS)
        except Interrupted:
            # From here on a second signal has its usual effect.
            self._stop_all()
            raise
        finally:
            for slot in self.slots:
                slot.process.stop(at_once=True)

    def _is_done(self) -> bool:
        """Whether nothing is left: found out in the look at the storage that found nothing to claim."""
        looked = bool(self._next_look) and self._outage is None
        busy = bool(self.slots or self._untold)
        return looked and not busy and not any(row.state in (RUNNING, WAITING) for row in self.rows)

    # ----- our trials --------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        for slot in list(self.slots):
            outcome = self._advance_one(slot)
            if outcome is not None:
                self._untold.append((slot.claim.number, outcome))
                self.slots.remove(slot)
                self._next_look = 0.0

    def _advance_one(self, slot: Slot) -> Outcome | None:
        """Moves a trial on; returns its outcome once it has ended."""
        process = slot.process
        if not process.is_started:
            return self._start(slot)
        limit = self.timeout_minutes
        ending = process.poll(limit if slot.stopped_for == "timeout" else None)
        if ending is None:
            if limit is not None and process.minutes > limit and slot.stopped_for is None:
                slot.stopped_for = "timeout"
            if slot.stopped_for is not None:
                process.stop()
            return None
        if ending.status == BadInput.exit_status and process.folder.is_locked():
            # Somebody else's run came between our look at the lock and the process's own.
            slot.process = self._process(slot.claim)
            return None
        if slot.stopped_for == "taken back":
            self.slots.remove(slot)
            return None
        return self._outcome(slot, explain(ending), stopped=ending.status != 0)

    def _start(self, slot: Slot) -> Outcome | None:
        if slot.stopped_for is not None:
            self.slots.remove(slot)
            return None
        try:
            slot.process.start_if_free()
        except OSError as error:  # no room for its log, or for another process
            message = f"could not be started ({error}); make room and run the sweep with --retry crash"
            return outcome_of(slot.process.folder, Failure(error_class="crash", message=message))
        return None

    def _outcome(self, slot: Slot, failure: Failure | None, *, stopped: bool) -> Outcome:
        folder, pruned = slot.process.folder, slot.stopped_for == "pruned" and stopped
        try:
            outcome = outcome_of(folder, None if pruned else failure, pruned=pruned)
        except BadInput as damage:
            return outcome_of(folder, Failure(error_class="crash", message=str(damage)))
        losses = slot.process.metrics.evaluations.values()
        if outcome.best_eval_loss is None and losses:
            # Killed before it could sum up.
            outcome = dataclasses.replace(outcome, best_eval_loss=min(losses))
        return outcome

    def _begin(self, claim: Claim) -> Outcome | Slot:
        """Starts a trial, unless what is on disk or its settings decide it."""
        if claim.outcome is not None:
            return claim.outcome
        folder = RunFolder(self._run_folder(claim))
        try:
            done = completed_before(folder)
            if done is None and folder.is_begun():
                folder.read_config()
        except BadInput as damage:
            message = f"{damage}; or delete the folder and run the sweep with --retry crash"
            return outcome_of(folder, Failure(error_class="crash", message=message))
        try:
            return done or Slot(claim=claim, process=self._process(claim))
        except BadInput as error:
            return Outcome(state="failed", error_class="bad_config", error_message=str(error))

    def _process(self, claim: Claim) -> TrialProcess:
        config = self.sweep.run_config(claim.point, claim.micro_batch_size)
        folder = RunFolder(self._run_folder(claim))
        if config.training.micro_batch_size != "auto" and folder.is_begun():
            # It may have had to go below the number that was asked for, and goes on with that.
            size = folder.read_config().training.micro_batch_size
            config = dataclasses.replace(config, training=dataclasses.replace(config.training, micro_batch_size=size))
        hyperedges = None
        if config.model.hyperedges is not None:
            digest = hashlib.sha256(repr(config.model.hyperedges).encode()).hexdigest()[:8]
            hyperedges = self.sweep.folder / HYPEREDGES_FILE.format(digest)
            if not hyperedges.exists():
                write_hyperedges(config, hyperedges)
        log = self.sweep.folder / LOGS / f"{config.output.run_name}.log"
        return TrialProcess(config, train_words(config, hyperedges), log, self._environment())

    def _environment(self) -> Mapping[str, str]:
        """Ours; several trials at once share processors and memory instead of each taking all."""
        if self.workers == 1:
            return os.environ
        share = threads_to_expect(self.workers)
        return {"OMP_NUM_THREADS": str(share), **os.environ, RUNS_AT_ONCE: str(self.workers)}

    def _run_folder(self, claim: Claim) -> Path:
        return self.sweep.run_folder(claim.point, claim.micro_batch_size)

    def _stop_all(self) -> None:
        """Stops our trials where they can be gone on with, and lets go of them."""
        running = [slot for slot in self.slots if slot.process.is_started]
        self.watchers.on_notice(f"stopping {len(running)} trials after their step; again to stop at once")
        while any(slot.process.poll() is None for slot in running):
            for slot in running:
                slot.process.stop()
            time.sleep(_TICK_SECONDS)
        for slot in list(self.slots):
            self.slots.remove(slot)
            ending = slot.process.poll() if slot in running else None
            if ending is not None and ending.status == 0:  # it came to its end just then
                self._untold.append((slot.claim.number, self._outcome(slot, None, stopped=False)))
            else:
                self._quietly(functools.partial(self.queue.give_back, slot.claim.number))
        self._quietly(self._tell)
        self._quietly(self._look)

    def _quietly(self, talk: Callable[[], object]) -> None:
        """Says something to the storage on the way out; a lost one learns it from our silence."""
        try:
            talk()
        except StorageLost as error:
            self.watchers.on_notice(f"the storage does not answer ({error}); the run folders have everything")

    # ----- the storage -------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        try:
            self._tell()
            self._prune()
            self._beat(now)
            self._fill()
            self._look()
        except StorageLost as error:
            self._wait_for_storage(now, error)
            return
        if self._outage is not None:
            self.watchers.on_notice("the storage answers again")
        self._outage = None
        self._next_look = now + _SECONDS_BETWEEN_LOOKS

    def _wait_for_storage(self, now: float, error: StorageLost) -> None:
        if self._outage is None:
            self._outage = _Outage(since=now)
            self.watchers.on_notice(
                f"the storage does not answer ({error}); asking again, trials go on and their results are on disk"
            )
        if self.slots:
            self._outage.since = now
        elif now - self._outage.since > _LONGEST_SILENCE_MINUTES * 60:
            raise RunFailed(
                f"the storage has not answered for {_LONGEST_SILENCE_MINUTES:g} minutes ({error}); the results are in "
                f"{self.sweep.folder}, and the same command goes on once it does"
            )
        self._next_look = now + self._outage.next_pause()

    def _tell(self) -> None:
        while self._untold:
            self.queue.finish(*self._untold[0])
            del self._untold[0]

    def _prune(self) -> None:
        for slot in self.slots:
            slot.process.metrics.read()
            losses = slot.process.metrics.evaluations
            if slot.stopped_for is None and len(losses) > slot.evaluations_seen:
                if self.queue.is_hopeless(slot.claim.number, losses):
                    slot.stopped_for = "pruned"
                slot.evaluations_seen = len(losses)

    def _beat(self, now: float) -> None:
        if now < self._next_beat:
            return
        lost = self.queue.beat([slot.claim.number for slot in self.slots])
        for slot in self.slots:
            if slot.claim.number in lost and slot.stopped_for != "taken back":
                slot.stopped_for = "taken back"
                self.watchers.on_notice(f"{slot.claim.point.name}: another worker has taken it over; stopped here")
        self._next_beat = now + self.heartbeat_seconds

    def _fill(self) -> None:
        while len(self.slots) < self.workers:
            claim = self.queue.claim(self._run_folder)
            if claim is None:
                return
            begun = self._begin(claim)
            if isinstance(begun, Slot):
                self.slots.append(begun)
            else:
                self._untold.append((claim.number, begun))
                self._tell()

    def _look(self) -> None:
        rows = self.queue.rows()
        if rows != self.rows:
            self.watchers.on_rows(rows)  # may lose the storage; then it is called again
            self.rows = rows
