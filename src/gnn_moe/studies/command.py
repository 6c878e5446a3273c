"""`gnn-moe sweep`: a study begun, or gone on with, until every point has an outcome."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from gnn_moe.data.corpus import load_corpus
from gnn_moe.errors import BadInput, Interrupted, RunFailed
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.arguments import StatusArguments, StudyArguments, SweepArguments
from gnn_moe.studies.design import Point, config_of
from gnn_moe.studies.engine import Engine, Watchers
from gnn_moe.studies.foresight import foresee, foresight_table
from gnn_moe.studies.queue import Queue, Row
from gnn_moe.studies.readings import RunWatch
from gnn_moe.studies.record import Recorder, sweep_note
from gnn_moe.studies.resolve import check_name, parse_retry, resolve
from gnn_moe.studies.results import load
from gnn_moe.studies.search import Search
from gnn_moe.studies.storage import StorageLost, default_url, open_storage, without_password
from gnn_moe.studies.sweep import Sweep
from gnn_moe.studies.table import build_display, trials_table
from gnn_moe.studies.workers import this_worker

LOCK_FILE = ".lock"
MINUTES_A_STEP = "minutes_a_step"
"""The name by which the storage knows what was calibrated."""
Settle = Callable[[Sweep, Mapping[str, Any], int], Sweep]
"""(what the flags ask for, what the study was begun with, trials at once) → what is run."""


def run_sweep(arguments: SweepArguments, command: Sequence[str], say: Callable[[str], None]) -> None:
    """Runs a sweep until every point has an outcome.

    Args:
        arguments: the flags, with a preset's values where the command gave none.
        command: its words, for the record and to go on.
        say: prints a line.

    Raises:
        BadInput: the sweep cannot be run; nothing was begun.
        Interrupted: a signal asked for it; the same command goes on.
    """
    run_study(arguments, resolve(arguments), command, say)


def run_study(
    arguments: StudyArguments,
    sweep: Sweep,
    command: Sequence[str],
    say: Callable[[str], None],
    *,
    settle: Settle = lambda sweep, _known, _workers: sweep,
) -> Sweep:
    """Runs what a sweep or a comparison was resolved to until every point has an outcome.

    Args:
        arguments: the flags.
        sweep: what they ask for.
        command: its words, for the record and to go on.
        say: prints a line.
        settle: decides what only the data and the machine can tell, once the storage answers. It is given what the
            study was begun with, {} if it is new.

    Returns:
        What was run.

    Raises:
        BadInput: it cannot be run; nothing was begun.
        Interrupted: a signal asked for it; the same command goes on.
    """
    classes = parse_retry(arguments.retry)
    sweep.points()
    if arguments.dry_run:
        sweep = _settled_apart(sweep, settle, arguments.workers)
        _show_points(sweep, sweep.points(), arguments.workers, say)
        return sweep
    # Asked for from wherever the process is, recorded as the command names it.
    url = arguments.storage or default_url(sweep.folder.absolute())
    storage = without_password(arguments.storage or default_url(sweep.folder))
    shown = _without_password(command, arguments.storage)
    with closing(_open_queue(arguments, sweep, url)) as queue:
        try:
            sweep = begin_study(sweep, queue, settle, arguments.workers)
            queue.add(sweep.points())
            if classes:
                say(f"{_retry(sweep, queue, classes)} failed points run again")
        except StorageLost as error:
            raise RunFailed(f"the storage has gone away ({error}); the same command goes on once it answers") from None
        recorder = Recorder(sweep=sweep, queue=queue, storage=storage, command=shown)
        _work(arguments, recorder, shown)
    for line in recorder.summary():
        say(line)
    return sweep


def begin_study(asked: Sweep, queue: Queue, settle: Settle, workers: int) -> Sweep:
    """What is run: what the worker that was first has settled holds for all of them.

    Raises:
        BadInput: the study was begun with something else.
    """
    while True:
        known = queue.facts()
        sweep = settle(asked, known, workers)
        if queue.begin(sweep.facts(), sweep.check_unchanged, known=known):
            break
    if sweep.minutes_a_step:
        queue.keep(MINUTES_A_STEP, sweep.minutes_a_step)
        # Another worker may have timed the same meanwhile.
        sweep = settle(asked, queue.facts(), workers)
    return sweep


def _settled_apart(sweep: Sweep, settle: Settle, workers: int) -> Sweep:
    """What only looks leaves nothing in the user's cache."""
    baseline = sweep.baseline
    with tempfile.TemporaryDirectory() as cache:
        output = dataclasses.replace(baseline.output, cache_dir=cache)
        found = settle(dataclasses.replace(sweep, baseline=dataclasses.replace(baseline, output=output)), {}, workers)
    return dataclasses.replace(found, baseline=dataclasses.replace(found.baseline, output=baseline.output))


def _open_queue(arguments: StudyArguments, sweep: Sweep, url: str) -> Queue:
    """The study's queue, once everything that could keep trials from starting has been tried."""
    _check_folder(sweep)
    # A server first: nothing is made where it cannot be reached. The default file needs the study's folder.
    server = open_storage(url, heartbeat_seconds=arguments.heartbeat) if arguments.storage else None
    # Encoded once, before the trials would all begin with it; and what cannot be read is said before any runs.
    load_corpus(sweep.baseline.data, max_seq_length=sweep.baseline.model.max_seq_length, cache_dir=arguments.cache_dir)
    _make_folder(sweep)
    lock_file = sweep.folder / LOCK_FILE
    return Queue(
        server or open_storage(url, heartbeat_seconds=arguments.heartbeat, lock_file=lock_file),
        sweep.study,
        lock_file=lock_file,
        worker=this_worker(),
        variations=sweep.variations,
        search=_search(sweep),
    )


def _work(arguments: StudyArguments, recorder: Recorder, command: Sequence[str]) -> None:
    sweep = recorder.sweep
    display = build_display(f"{sweep.study}, {sweep.design}", quiet=arguments.quiet)
    recorder.display = display
    engine = Engine(
        sweep=sweep,
        queue=recorder.queue,
        workers=arguments.workers,
        timeout_minutes=arguments.timeout,
        heartbeat_seconds=arguments.heartbeat,
        watchers=Watchers(on_rows=recorder.rows_changed, on_tick=display.tick, on_notice=display.notice),
    )
    if search_note := sweep_note(sweep):
        display.notice(search_note)
    try:
        engine.run()
    except Interrupted as error:
        raise Interrupted(f"{error}; go on with: {shlex.join(command)}", error.exit_status - 128) from None
    finally:
        display.close()


def show_status(arguments: StatusArguments, say: Callable[[str], None]) -> None:
    """Prints how far a study is.

    Raises:
        BadInput: there is no such study.
    """
    check_name(arguments.study)
    study = load(Path(arguments.output_dir) / arguments.study)
    running = [trial for trial in study.trials if trial["state"] == "running" and trial["run_dir"]]
    readings = {str(trial["run_dir"]): RunWatch(study.run_folder(trial)).look() for trial in running}
    if arguments.json:
        trials = [trial | _plain(readings.get(str(trial["run_dir"]))) for trial in study.trials]
        say(json.dumps(dict(study.values) | {"trials": trials}, indent=2))
    else:
        Console().print(trials_table(f"{arguments.study}, {study.values['design']}", study.trials, readings))


def _plain(reading: Any) -> dict[str, Any]:
    return {} if reading is None else {"reading": dataclasses.asdict(reading)}


def _check_folder(sweep: Sweep) -> None:
    if sweep.folder.exists() and (not sweep.folder.is_dir() or RunFolder(sweep.folder).is_begun()):
        what = "a run" if sweep.folder.is_dir() else "a file"
        raise BadInput(f"--study {sweep.study}: {sweep.folder} is {what}; use another name")


def _make_folder(sweep: Sweep) -> None:
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output_dir: {sweep.folder} cannot be made ({error.strerror}); give another") from None


def _retry(sweep: Sweep, queue: Queue, classes: Sequence[str]) -> int:
    """Enqueues failed points of some classes once more; returns how many."""

    def halved(row: Row) -> int | None:
        """The micro-batch of a point that ran out of memory, halved; None for one that failed of something else."""
        if row.outcome is None or row.outcome.error_class != "out_of_memory":
            return None
        before = row.outcome.micro_batch_size or config_of(sweep.baseline, row.point).training.rows_at_once
        return math.ceil(before / 2)

    return queue.retry(lambda row: row.outcome is not None and row.outcome.error_class in classes, halved)


def _show_points(sweep: Sweep, points: Sequence[Point], at_once: int, say: Callable[[str], None]) -> None:
    """What the points will take."""
    found, source = foresee(sweep.baseline, points, at_once=at_once)
    Console().print(foresight_table(f"{sweep.study}, {sweep.design}", found))
    for each in found:
        if each.problem is not None:
            say(f"{each.point.name}: {each.problem}")
    if sweep.is_search:
        say(f"a search draws {sweep.trials} points; what it will draw is not known")
    for line in filter(None, (source, sweep_note(sweep))):
        say(line)


def _search(sweep: Sweep) -> Search | None:
    if not sweep.is_search:
        return None
    baseline = dataclasses.replace(
        sweep.baseline, training=dataclasses.replace(sweep.baseline.training, seed=sweep.seeds[0])
    )
    return Search(baseline=baseline, objectives=sweep.objectives, trials=sweep.trials)


def _without_password(command: Sequence[str], storage: str | None) -> list[str]:
    if storage is None:
        return list(command)
    return [word.replace(storage, without_password(storage)) for word in command]
