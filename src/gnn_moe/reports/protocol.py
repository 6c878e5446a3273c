"""Under which protocol the numbers were made, and where each run's record lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from gnn_moe.reports import numbers
from gnn_moe.reports.commands import command
from gnn_moe.reports.costs import minutes_of_run
from gnn_moe.reports.document import Block, Bullets, Cell, Code, Column, Paragraph, Section, Span, Table
from gnn_moe.reports.marks import number_cell
from gnn_moe.reports.sources import LEAKING, Group, Run

_UNKNOWN = "not recorded"
_NAMED = 4
"""At most so many runs are named in a sentence."""
_RUN_COLUMNS = (
    Column(title="run", numeric=False, explains="a link to its folder"),
    Column(title="seed"),
    Column(title="state", numeric=False),
    Column(title="loss", explains="nats a token"),
    Column(title="tokens", explains="trained on"),
    Column(title="minutes", explains="training and evaluation"),
    Column(title="sees the future", numeric=False, explains="whether a later token moves a state of its checkpoint"),
    Column(title="commit", numeric=False),
)


def protocol_section(group: Group, notes: Iterable[str] = ()) -> Section:
    """Data, machines, versions, what was tried and what failed, and a row a run.

    Args:
        group: its runs.
        notes: of records that could not be read.
    """
    facts: tuple[Block, ...] = (
        Bullets(
            (
                f"Text: {group.protocol.in_words()}.",
                _listed("Data fingerprints", group, _fingerprints),
                _loss_in_words(group),
                f"Configurations tried: {len(group.points)}, with {len(group.runs)} runs: {_states(group)}.",
                _causality(group),
                _listed("Machines", group, _machine),
                _listed("Versions", group, _versions),
            )
        ),
        *(Paragraph(note, "warning") for note in notes),
        *(Paragraph(_twice(same), "warning") for same in group.duplicates),
        Table(caption="All runs", columns=_RUN_COLUMNS, rows=tuple(_row(group, run) for run in group.runs)),
        *(_commands(group)),
    )
    return Section(title="Protocol", anchor="protocol", blocks=facts)


def _loss_in_words(group: Group) -> str:
    """Which text chose the evaluation whose loss is told."""
    if not group.not_in_halves:
        return (
            "One half of the evaluation text (the first rows) chooses the evaluation, the other half gives the loss "
            "that is reported, so no number was chosen by itself."
        )
    having = sum(run.is_completed and run.number(group.loss_name) is not None for run in group.runs)
    older = [run.name for run in group.not_in_halves]
    named = (
        "all"
        if len(older) == having
        else numbers.listed(older if len(older) <= _NAMED else [*older[:_NAMED], f"{len(older) - _NAMED} more"])
    )
    return (
        "The loss is that of the best evaluation, on the text that chose it, which flatters it slightly: "
        f"{len(older)} of {having} completed runs with a loss ({named}) "
        "are of a version that did not evaluate in halves."
    )


def _listed(title: str, group: Group, of_run: Callable[[Run], str]) -> str:
    """What runs say, and how many of them."""
    found = Counter(of_run(run) or _UNKNOWN for run in group.runs)
    several = len(found) > 1
    return (
        f"{title}: " + "; ".join(f"{said} ({count} runs)" if several else said for said, count in found.items()) + "."
    )


def _fingerprints(run: Run) -> str:
    splits = []
    for split in ("train", "valid"):
        text = run.recorded("data", split, "fingerprint")
        samples, tokens = run.recorded("data", split, "samples"), run.recorded("data", split, "predicted_tokens")
        if isinstance(text, str) and isinstance(samples, int) and isinstance(tokens, int):
            splits.append(f"{split} {text[:12]} ({samples:,} samples, {tokens:,} predicted tokens)")
    return ", ".join(splits)


def _machine(run: Run) -> str:
    threads = run.recorded("threads")
    said = (
        run.recorded("device_name") or run.recorded("device"),
        f"{threads} threads" if threads else None,
        run.recorded("precision"),
    )
    return ", ".join(str(each) for each in said if each)


def _versions(run: Run) -> str:
    versions = run.recorded("versions")
    return ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, Mapping) else ""


def _states(group: Group) -> str:
    counts = Counter(f"failed with {run.error_class}" if run.state == "failed" else run.state for run in group.runs)
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _causality(group: Group) -> str:
    asked = [run for run in group.runs if run.is_completed or run.error_class == LEAKING]
    seen = Counter(run.causal for run in asked)
    words = {True: "do not see the future", False: "SEE THE FUTURE", None: "were not asked (an older version)"}
    return (
        "Causality of the checkpoints: "
        + ", ".join(f"{seen[known]} {said}" for known, said in words.items() if seen[known])
        + "."
    )


def _twice(same: tuple[Run, ...]) -> str:
    names = ", ".join(str(run.folder or run.name) for run in same)
    counts = same[0].folder or same[0].name
    return f"Runs of one point and one seed: {names}. Of them {counts} counts; all are in the table of runs."


def _row(group: Group, run: Run) -> tuple[Cell, ...]:
    loss, tokens, minutes = run.number(group.loss_name), run.number("tokens"), minutes_of_run(run)
    causal = {True: "no", False: "YES", None: ""}[run.causal]
    commit = str(run.recorded("git_commit") or "")[:7]
    state = run.state if run.error_class is None else f"{run.state}: {run.error_class}: {run.error_message}"
    return (
        Cell(Span(run.name, href=None if run.folder is None else str(run.folder)), run.name),
        Cell(str(run.seed), run.seed),
        Cell(state, state),
        number_cell(loss, numbers.loss),
        number_cell(tokens, numbers.whole),
        number_cell(minutes, numbers.minutes),
        Cell(causal, causal),
        Cell(commit, commit),
    )


def _commands(group: Group) -> Iterable[Block]:
    for study in group.studies:
        yield Paragraph(f"{study.values['study']} was made by")
        yield Code(command(study.values["command"]))
