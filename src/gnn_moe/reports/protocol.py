"""Under which protocol the numbers were made, and where each run's record lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gnn_moe.checks import is_number
from gnn_moe.errors import BadInput
from gnn_moe.reports import numbers
from gnn_moe.reports.commands import command
from gnn_moe.reports.costs import minutes_of_run
from gnn_moe.reports.document import Block, Bullets, Cell, Code, Column, Paragraph, Section, Span, Table
from gnn_moe.reports.marks import number_cell
from gnn_moe.reports.points import LEAKING, Group, Run
from gnn_moe.reports.stored_evidence import stored_evidence
from gnn_moe.run_folder import RunFolder

_UNKNOWN = "not recorded"
_FIXED_TEXT = (
    "Intervals are over seeds of training: the evaluation text is fixed, and what another text would change is not in "
    "them."
)
_FREQUENCIES = "Loss of token frequencies alone, which a model has to beat"
_NAMED = 4
"""At most so many runs are named in a sentence."""
_RUN_COLUMNS = (
    Column(title="run", numeric=False, explains="a link to its folder"),
    Column(title="seed"),
    Column(title="state", numeric=False),
    Column(title="loss", explains="nats a token, as described above"),
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
                _listed("Data fingerprints", group.runs, _fingerprints),
                _loss_in_words(group),
                _FIXED_TEXT,
                _listed(
                    "Loss of token frequencies alone, which a model has to beat", _ended(group), _token_frequencies
                ),
                f"{_tried(group)}: {_states(group)}.",
                _causality(group),
                _listed("Machines", group.runs, _machine),
                _listed("Versions", group.runs, _versions),
            )
        ),
        *(Paragraph(note, "warning") for note in (*notes, *_contradictions(group))),
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
            "that is reported: it was not picked for being low. Curves, bits a byte and the gap to training are of the "
            "whole text, and say so."
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


def _listed(title: str, runs: Sequence[Run], of_run: Callable[[Run], str]) -> str:
    """What runs say, and how many of them."""
    found = Counter(of_run(run) or _UNKNOWN for run in runs)
    several = len(found) > 1
    said = (f"{each} ({numbers.counted(count, 'run')})" if several else each for each, count in found.items())
    return f"{title}: {'; '.join(said)}."


def _ended(group: Group) -> list[Run]:
    return [run for run in group.runs if run.is_completed]


def _token_frequencies(run: Run) -> str:
    """The loss of a model that knows how frequent tokens are and nothing of their order."""
    loss = run.number("unigram_loss")
    if loss is None and run.folder is not None:  # the record of a study has not got it
        try:
            found = (RunFolder(run.folder).read_summary() or {}).get("unigram_loss")
        except BadInput as error:
            return str(error)
        loss = float(found) if found is not None and is_number(found) else None
    return "" if loss is None else f"{numbers.loss(loss)} nats a token on the whole evaluation text"


def _tried(group: Group) -> str:
    """How many configurations, and how many there are where models without their coupling are compared too."""
    weighed = [
        verdict.configurations_tried
        for study in group.studies
        if (found := stored_evidence(study)) is not None
        for question in found.questions
        for verdict in question.verdicts
    ]
    tried = len(group.points)
    more = (
        f" ({max(weighed)} where models with their coupling changed are compared too)"
        if weighed and max(weighed) > tried
        else ""
    )
    return f"Configurations tried: {tried}{more}, with {numbers.counted(len(group.runs), 'run')}"


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


def _contradictions(group: Group) -> Iterator[str]:
    """A line for the runs whose folder and study do not agree."""
    found = [f"{run.name} ({run.contradiction})" for run in group.runs if run.contradiction is not None]
    if found:
        more = [f"{len(found) - _NAMED} more, marked below"] if len(found) > _NAMED else []
        yield (
            f"Study and run folder do not agree, and the numbers here are the study's: "
            f"{numbers.listed([*found[:_NAMED], *more])}. What the folders hold now is reported where they are given "
            "instead of their study."
        )


def _row(group: Group, run: Run) -> tuple[Cell, ...]:
    loss, tokens, minutes = run.number(group.loss_name), run.number("tokens"), minutes_of_run(run)
    causal = {True: "no", False: "YES", None: ""}[run.causal]
    commit = str(run.recorded("git_commit") or "")[:7]
    state = run.state if run.error_class is None else f"{run.state}: {run.error_class}: {run.error_message}"
    state += "" if run.contradiction is None else ", but its folder says otherwise"
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
