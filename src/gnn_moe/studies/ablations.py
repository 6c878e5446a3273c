"""The trained models of a comparison, asked again without their coupling or with another graph.

What was found is kept in each run folder (`ablations.json`), so that it is asked once, on whichever machine the run
lies, and however many workers ask.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from gnn_moe.checks import is_number
from gnn_moe.errors import BadInput
from gnn_moe.model.folders import BEST, CHECKPOINTS, SELECTED
from gnn_moe.studies.arguments import Ablation

ABLATIONS_FILE, _LOCK_FILE = "ablations.json", ".ablations.lock"
LOSSES = ("reported_loss", "ablated_reported_loss")
"""Of what was found: the two that comparisons use; None where one is not finite, or the text has one row only."""


def ablate_runs(
    folders: Iterable[Path], ablations: Sequence[str], *, cache_dir: str | None, on_notice: Callable[[str], None]
) -> None:
    """Evaluates the selected checkpoint of each run intact and ablated, where that was not done before.

    Args:
        folders: of completed runs.
        ablations: some of those that `gnn-moe evaluate --ablate` knows.
        cache_dir: for encoded data.
        on_notice: is told what cannot be asked of a run, or changed nothing in it.
    """
    refused: dict[str, list[str]] = {}
    for folder in folders:
        if not folder.is_dir():
            on_notice(f"{folder}: is not on this machine; run the same command where it is")
            continue
        with _alone(folder):
            for reason in _ablate_run(folder, ablations, cache_dir, on_notice):
                refused.setdefault(reason, []).append(folder.name)
    for reason, names in refused.items():
        on_notice(f"{', '.join(names)}: {reason}")


def _ablate_run(
    folder: Path, ablations: Sequence[str], cache_dir: str | None, on_notice: Callable[[str], None]
) -> Iterator[str]:
    """Yields why an ablation cannot be asked of the run."""
    from gnn_moe.evaluations import evaluate_ablated, stored_config

    # The one whose loss is reported; runs of older versions have kept the best one only.
    checkpoint = SELECTED if (folder / CHECKPOINTS / SELECTED).exists() else BEST
    try:
        found = dict(read_ablations(folder))
    except BadInput as damage:
        on_notice(f"{damage}: asked again")
        found = {}
    for ablation in ablations:
        if ablation in found:
            continue
        try:
            stored = stored_config(str(folder), checkpoint)
            evaluation = evaluate_ablated(
                str(folder),
                ablation,
                data=stored.data,
                # Another order in each run, as its seed says: one order for all would be one draw of many.
                ablate_seed=stored.training.seed,
                checkpoint=checkpoint,
                cache_dir=cache_dir,
            )
        except BadInput as error:
            yield str(error)
            continue
        values = dataclasses.asdict(evaluation)
        if endless := [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]:
            on_notice(f"{folder.name}: --ablate {ablation}: {', '.join(endless)} is not finite")
        found[ablation] = values | dict.fromkeys(endless)
        temporary = folder / f"{ABLATIONS_FILE}.writing"
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        temporary.replace(folder / ABLATIONS_FILE)


def read_ablations(folder: Path) -> Mapping[str, Any]:
    """What `ablate_runs` found of a run: ablation → the fields of an `AblatedEvaluation`; {} where it was not asked.

    Raises:
        BadInput: the file is damaged.
    """
    path = folder / ABLATIONS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(map(_is_whole, found, found.values())):
        raise BadInput(f"{path}: is damaged")
    return found


def _is_whole(ablation: str, values: object) -> bool:
    if ablation not in get_args(Ablation) or not isinstance(values, dict):
        return False
    return all(name in values and (values[name] is None or is_number(values[name])) for name in LOSSES)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other worker asks the run of a folder."""
    with (folder / _LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
