"""`gnn-moe report`: reads the records, writes the report, and again while runs go on if asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gnn_moe.errors import BadInput
from gnn_moe.reports.arguments import ReportArguments
from gnn_moe.reports.points import Group
from gnn_moe.reports.report import build_report
from gnn_moe.reports.sources import NothingCompleted, read_sources
from gnn_moe.reports.targets import Target, read_targets, seed_targets
from gnn_moe.reports.writer import write_report

LOOK_SECONDS = 2.0
"""Between looks of `--watch`."""
_NAMED = 3
"""At most so many runs are named in a line."""
_ENDED = ("completed", "failed", "interrupted")


def run_report(arguments: ReportArguments, say: Callable[[str], None]) -> None:
    """Writes a report.

    Args:
        arguments: the flags.
        say: prints a line.

    Raises:
        BadInput: nothing can be reported, a flag is wrong, or the report cannot be written.
    """
    if not arguments.paths:
        raise BadInput("give the folder of a study or of runs, as in gnn-moe report runs/experts")
    targets = seed_targets() if arguments.targets is None else read_targets(arguments.targets)
    folder = Path(arguments.output or Path(arguments.paths[0]) / "report")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--output {folder}: is a file; give a folder")
    before: list[tuple[str, str]] | None = None
    waits = False
    while True:
        try:
            groups, notes = read_sources(arguments.paths, grouped=arguments.group)
        except NothingCompleted:
            if not arguments.watch:
                raise
            if not waits:
                say("no run is completed yet: waiting for the first, to write the report then (Ctrl-C ends this)")
                waits = True
            time.sleep(LOOK_SECONDS)
            continue
        states = _states(groups)
        if states != before:
            _write(arguments, groups, notes, targets, folder)
            ended = sum(state in _ENDED for _, state in states)
            say(f"{folder / 'report.html'}: {ended} of {len(states)} runs have ended{_awaited(arguments, states)}")
            before = states
        if not arguments.watch or all(state in _ENDED for _, state in states):
            return
        time.sleep(LOOK_SECONDS)


def _awaited(arguments: ReportArguments, states: list[tuple[str, str]]) -> str:
    """What `--watch` waits for, in words: a run whose process died stays in the state that its record has."""
    left = [f"{name} ({state})" for name, state in states if state not in _ENDED]
    if not arguments.watch or not left:
        return ""
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    return f"; waiting for {', '.join(left[:_NAMED])}{more}; Ctrl-C ends this, as where the process of a run has died"


def _states(groups: list[Group]) -> list[tuple[str, str]]:
    return [(f"{run.study} {run.name}" if run.study else run.name, run.state) for group in groups for run in group.runs]


def _write(
    arguments: ReportArguments, groups: list[Group], notes: list[str], targets: tuple[Target, ...], folder: Path
) -> None:
    document = build_report(
        groups, title=arguments.title, targets=targets, with_reference=arguments.reference == "seed", notes=notes
    )
    try:
        write_report(document, folder)
    except OSError as error:
        raise BadInput(f"--output {folder}: cannot be written ({error.strerror}); give another folder") from None
