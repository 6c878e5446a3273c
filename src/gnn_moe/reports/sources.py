"""Studies and run folders → the runs of a report, grouped by protocol, and the points that they are repetitions of.

A point is a setting; its runs differ in their seeds. Runs compare only under one protocol: the same evaluated text in
the same tokens. Runs of several protocols in one report are refused, unless they are to be grouped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from gnn_moe.errors import BadInput
from gnn_moe.reports.comparable import Protocol, protocols_of, several_in_words
from gnn_moe.reports.contradictions import contradiction_of
from gnn_moe.reports.numbers import numeric
from gnn_moe.reports.points import COMPLETED, FAILED, LEAKING, Group, Point, Run, loss_name_of
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.outcomes import selected_evaluation
from gnn_moe.studies.results import STUDY_FILE, StudyResults, load
from gnn_moe.studies.space import Value, values_of, with_values

_LEAK = "its checkpoint sees later tokens or other rows; its losses mean nothing"
NOT_OF_A_POINT = ("seed", "micro_batch_size", "vocab_size")
"""Fields in which runs of one point may differ."""


class NothingCompleted(BadInput):
    """There is no completed run yet."""


def read_sources(paths: Iterable[str | Path], *, grouped: bool = False) -> tuple[list[Group], list[str]]:
    """The groups of some studies and run folders, and a line for each record that could not be used.

    Args:
        paths: folders of studies or of runs, or folders that hold some.
        grouped: allow several protocols.

    Raises:
        NothingCompleted: no run is completed.
        BadInput: a path holds nothing, or there are several protocols and they are not grouped.
    """
    paths = list(paths)
    runs: list[Run] = []
    studies: list[StudyResults] = []
    notes: list[str] = []
    for folder in _folders(paths):
        if (folder / STUDY_FILE).exists():
            study = load(folder)
            studies.append(study)
            found, said = _runs_of_study(study)
            runs += found
            notes += [*said, *_unlisted(study, paths)]
        else:
            try:
                runs.append(_run_of_folder(folder))
            except BadInput as error:
                notes.append(f"{folder} is left out: {error}")
    _check_names(studies)
    if not any(run.is_completed for run in runs):
        waits = any(run.state in ("running", "waiting") for run in runs)
        raise (NothingCompleted if waits else BadInput)(
            f"{', '.join(map(str, paths))}: holds no completed run, so there is nothing to report; "
            + ("; ".join(notes) or "finish one first (gnn-moe sweep status shows how far a study is)")
        )
    notes += [damage for run in runs if (damage := run.environment.damage) is not None]
    by_run = protocols_of(
        [run.settings for run in runs],
        [run.recorded("data", "valid", "fingerprint") for run in runs],
        [run.is_completed for run in runs],
    )
    protocols = list(dict.fromkeys(by_run))
    if len(protocols) > 1 and not grouped:
        raise BadInput("; ".join((several_in_words([run.name for run in runs], by_run), *notes)))
    return [
        _group(protocol, [run for run, its in zip(runs, by_run, strict=True) if its == protocol], studies)
        for protocol in protocols
    ], notes


def _check_names(studies: Sequence[StudyResults]) -> None:
    by_name: dict[str, list[Path]] = {}
    for study in studies:
        by_name.setdefault(str(study.values["study"]), []).append(study.path)
    for name, paths in by_name.items():
        if len(paths) > 1:
            raise BadInput(f"{', '.join(map(str, paths))}: are studies of one name, {name}; report them one by one")


def _folders(paths: Iterable[str | Path]) -> list[Path]:
    """Each study and each run outside a study, once."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise BadInput(f"{path}: is no folder; give that of a study or of a run")
        inside = [path] if _holds_record(path) else sorted(each for each in path.iterdir() if _holds_record(each))
        if not inside:
            raise BadInput(f"{path}: holds neither a study nor a run; give the folder of one")
        for folder in inside:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _unlisted(study: StudyResults, given: Iterable[str | Path]) -> list[str]:
    """A line for the run folders in that of a study which study.json does not list, unless they were given too."""
    listed = {study.run_folder(trial).name for trial in study.trials if trial["run_dir"]}
    elsewhere = {Path(path).resolve() for path in given}
    found = [
        str(folder)
        for folder in sorted(study.path.iterdir())
        if folder.name not in listed and folder.resolve() not in elsewhere and _holds_record(folder)
    ]
    if not found:
        return []
    return [f"{', '.join(found)}: not listed in {study.path / STUDY_FILE}, so left out; give them too to report them"]


def _holds_record(folder: Path) -> bool:
    """Or what is left of one: a run that lost a file is named, not passed over."""
    files = RunFolder(folder)
    return any(path.is_file() for path in (folder / STUDY_FILE, files.config, files.metrics, files.summary))


def _runs_of_study(study: StudyResults) -> tuple[list[Run], list[str]]:
    at_rest = values_of(study.baseline)
    runs, notes, absent = [], [], []
    for trial in study.trials:
        folder = study.run_folder(trial) if trial["run_dir"] else None
        if folder is not None and not RunFolder(folder).is_begun():
            if _holds_record(folder):
                notes.append(f"{folder}: has no config.json, so nothing of it is read")
            elif trial["state"] == COMPLETED:
                absent.append(trial["name"])
            folder = None
        changes = {**trial["params"], "seed": trial["seed"]}
        try:
            config = with_values(study.baseline, changes) if folder is None else RunFolder(folder).read_config()
        except BadInput as error:
            config = None
            if folder is not None:
                notes.append(str(error))
        wanted = at_rest | changes
        runs.append(
            Run(
                name=trial["name"],
                study=str(study.values["study"]),
                arm=trial["arm"],
                seed=trial["seed"],
                settings=wanted,
                config=config,
                state=trial["state"],
                error_class=trial["error_class"],
                error_message=trial["error_message"],
                values=trial,
                folder=folder,
                contradiction=None if folder is None else contradiction_of(trial, wanted, RunFolder(folder)),
            )
        )
    # None at all is a study whose runs are on another machine.
    if absent and any(run.folder is not None for run in runs):
        notes.append(f"{', '.join(absent)}: the run folder is not here, so the numbers of study.json stand alone")
    return runs, notes


def _run_of_folder(folder: Path) -> Run:
    files = RunFolder(folder)
    config = files.read_config()
    summary = files.read_summary() or {}
    state = summary.get("status", "running")
    if not isinstance(state, str):
        raise BadInput(f"{files.summary}: status is {state!r}, no text; train it again")
    leaks = summary.get("causal") is False  # as in a study: its losses mean nothing
    return Run(
        name=folder.name,
        study=None,
        arm=None,
        seed=config.training.seed,
        settings=values_of(config),
        config=config,
        state=FAILED if leaks else state,
        error_class=LEAKING if leaks else summary.get("error_class"),
        error_message=_LEAK if leaks else summary.get("error_message"),
        values=summary | selected_evaluation(files),
        folder=folder,
    )


def _group(protocol: Protocol, mine: Sequence[Run], studies: Sequence[StudyResults]) -> Group:
    names = {run.study for run in mine}
    fields = tuple(
        name
        for name in mine[0].settings
        if name not in NOT_OF_A_POINT and len({repr(run.settings[name]) for run in mine}) > 1
    )
    by_point: dict[str, list[Run]] = {}
    for run in mine:
        key = repr((run.arm, [run.settings[name] for name in fields]))
        by_point.setdefault(key, []).append(run)
    own = tuple(study for study in studies if study.values["study"] in names)
    loss_name = loss_name_of(mine)
    arms = Counter(some[0].arm for some in by_point.values())
    return Group(
        protocol=protocol,
        points=tuple(
            Point(
                settings={name: some[0].settings[name] for name in fields},
                arm=some[0].arm,
                runs=tuple(sorted(some, key=lambda run: (run.seed, run.name))),
                loss_name=loss_name,
                of_study=some[0].study if arms[some[0].arm] > 1 else None,
            )
            for some in _in_order(list(by_point.values()), fields)
        ),
        fields=fields,
        baseline=values_of(own[0].baseline) if own else _usual(mine),
        studies=own,
    )


def _in_order(points: Sequence[Sequence[Run]], fields: Sequence[str]) -> list[Sequence[Run]]:
    """The runs of points, by arm as arms come, then field by field: numbers ascending, other values as they come."""

    def rank(values: Sequence[Value | None]) -> Sequence[float]:
        found = [None if value is None else numeric(value) for value in values]
        texts = list(dict.fromkeys(map(repr, values)))
        return [
            texts.index(repr(value)) if None in found else number or 0.0
            for value, number in zip(values, found, strict=True)
        ]

    firsts = [some[0] for some in points]
    ranks = [rank([run.arm for run in firsts]), *(rank([run.settings[name] for run in firsts]) for name in fields)]
    return [points[place] for place in sorted(range(len(points)), key=lambda place: [each[place] for each in ranks])]


def _usual(runs: Sequence[Run]) -> dict[str, Value]:
    """Of each field the value that most runs have; of those that as many have, the first."""
    found: dict[str, Value] = {}
    for name in runs[0].settings:
        values = [run.settings[name] for run in runs]
        (most, _), *_ = Counter(map(repr, values)).most_common(1)
        found[name] = next(value for value in values if repr(value) == most)
    return found
