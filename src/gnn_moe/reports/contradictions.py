"""What a study says of its runs, held against the run folders that a report links to.

The run folders are the source of study.json, so both hold the same numbers until one of them is changed. A report shows
the study's; where the folder says otherwise it says so beside the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gnn_moe.checks import is_number
from gnn_moe.config import RunConfig
from gnn_moe.errors import BadInput
from gnn_moe.model.size import model_size
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.outcomes import COMPLETED, numbers_of
from gnn_moe.studies.results import STUDY_FILE, TrialRow
from gnn_moe.studies.space import Value, values_of
from gnn_moe.training.record import METRICS_FILE, SUMMARY_FILE, read_metrics

_MOST_FIELDS = 2
"""That differ and are written out."""
_MADE_BY_THE_RUN = ("vocab_size", "micro_batch_size")
"""Settings that a run fills in."""


def contradiction_of(trial: TrialRow, settings: Mapping[str, Value], folder: RunFolder) -> str | None:
    """What the folder of a completed trial says otherwise, in a few words; None where both agree.

    Of a trial that failed or was stopped early no number counts, so nothing is held against it.

    Args:
        trial: its row of study.json.
        settings: of its model, data and training, as asked for.
        folder: its record.
    """
    if trial["state"] != COMPLETED or trial.get("pruned"):
        return None
    try:
        summary, config, found = folder.read_summary(), folder.read_config(), numbers_of(folder)
    except BadInput as error:
        return str(error)
    if summary is None:
        return f"its {folder.summary.name} is missing"
    if (status := summary.get("status")) != COMPLETED:
        return f"the status of its {folder.summary.name} is {status!r}"
    asked = {name: value for name, value in settings.items() if name not in _MADE_BY_THE_RUN}
    now = values_of(config)
    pairs = [(name, value, now[name]) for name, value in asked.items()]
    pairs += [(name, trial[name], value) for name, value in (found | _minutes(found)).items() if name in trial]
    differing = [
        f"{name} is {_said(stored)} in {STUDY_FILE} and {_said(value)} in its folder"
        for name, stored, value in pairs
        if not _agree(stored, value)
    ]
    differing += _within(folder, config, found)
    more = f"{len(differing) - _MOST_FIELDS} more differ"
    return "; ".join([*differing[:_MOST_FIELDS], *([more] if len(differing) > _MOST_FIELDS else [])]) or None


def _minutes(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of training and evaluation, where both are known."""
    parts = [found[name] for name in ("train_minutes", "eval_minutes")]
    return {"minutes": sum(parts) if all(map(is_number, parts)) else None}


def _within(folder: RunFolder, config: RunConfig, found: Mapping[str, Any]) -> Iterator[str]:
    """Where the files of a run do not agree with each other."""
    rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
    losses = [row["loss"] for row in rows if row.get("kind") == "eval" and is_number(row.get("loss"))]
    best = found["best_eval_loss"]
    if losses and not _agree(best, min(losses)):
        yield f"best_eval_loss is {_said(best)} in its {SUMMARY_FILE} and {min(losses)} in its {METRICS_FILE}"
    counted, by_config = found["total_parameters"], model_size(config.model).total_parameters
    if counted is not None and counted != by_config:
        yield f"total_parameters is {counted} in its {SUMMARY_FILE} and {by_config} by its config.json"


def _agree(stored: Any, found: Any) -> bool:
    """Whether two records say the same; what is no finite number is missing in both."""
    missing = (not is_number(found) and isinstance(found, float)) or found is None
    return stored is None if missing else bool(stored == found)


def _said(value: Any) -> str:
    return "nothing" if value is None else str(value)
