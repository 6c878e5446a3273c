"""The trained models of a comparison, asked again without their coupling or with another graph.

What was found is kept in each run folder (`ablations.json`), so that it is asked once, on whichever machine the run
lies.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnn_moe.errors import BadInput
from gnn_moe.model.folders import BEST, read_json

ABLATIONS_FILE = "ablations.json"


def ablate_runs(
    folders: Iterable[Path], ablations: Sequence[str], *, cache_dir: str | None, on_notice: Callable[[str], None]
) -> None:
    """Evaluates the best checkpoint of each run intact and ablated, where that was not done before.

    Args:
        folders: of completed runs.
        ablations: some of those that `gnn-moe evaluate --ablate` knows.
        cache_dir: for encoded data.
        on_notice: is told what cannot be asked of a run, or changed nothing in it.
    """
    from gnn_moe.evaluations import evaluate_ablated, stored_data

    for folder in folders:
        found = dict(read_ablations(folder))
        for ablation in ablations:
            if ablation in found:
                continue
            try:
                data = stored_data(str(folder), BEST)
                evaluation = evaluate_ablated(str(folder), ablation, data=data, cache_dir=cache_dir)
            except BadInput as error:
                on_notice(f"{folder.name}: {error}")
                continue
            found[ablation] = dataclasses.asdict(evaluation)
            temporary = folder / f"{ABLATIONS_FILE}.writing"
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            temporary.replace(folder / ABLATIONS_FILE)


def read_ablations(folder: Path) -> Mapping[str, Any]:
    """What `ablate_runs` found of a run: ablation → the fields of an `AblatedEvaluation`; {} where it was not asked.

    Raises:
        BadInput: the file is damaged.
    """
    path = folder / ABLATIONS_FILE
    return read_json(path) if path.exists() else {}
