"""What a study says of its runs, held against the run folders that a report links to.

The run folders are the source of study.json, so both hold the same numbers until one of them is changed. A report shows
the study's; where the folder says otherwise it says so beside the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnn_moe.checks import is_number
from gnn_moe.errors import BadInput
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.outcomes import COMPLETED, numbers_of
from gnn_moe.studies.results import STUDY_FILE, TrialRow
from gnn_moe.studies.space import Value, values_of

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
        summary, config, found = folder.read_summary(), values_of(folder.read_config()), numbers_of(folder)
    except BadInput as error:
        return str(error)
    if summary is None:
        return f"its {folder.summary.name} is missing"
    if (status := summary.get("status")) != COMPLETED:
        return f"the status of its {folder.summary.name} is {status!r}"
    asked = {name: value for name, value in settings.items() if name not in _MADE_BY_THE_RUN}
    pairs = [(name, value, config[name]) for name, value in asked.items()]
    pairs += [(name, trial[name], value) for name, value in found.items() if name in trial]
    differing = [
        f"{name} is {_said(stored)} in {STUDY_FILE} and {_said(value)} in its folder"
        for name, stored, value in pairs
        if not _agree(stored, value)
    ]
    more = f"{len(differing) - _MOST_FIELDS} more differ"
    return "; ".join([*differing[:_MOST_FIELDS], *([more] if len(differing) > _MOST_FIELDS else [])]) or None


def _agree(stored: Any, found: Any) -> bool:
    """Whether two records say the same; what is no finite number is missing in both."""
    missing = (not is_number(found) and isinstance(found, float)) or found is None
    return stored is None if missing else bool(stored == found)


def _said(value: Any) -> str:
    return "nothing" if value is None else str(value)
