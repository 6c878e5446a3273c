"""Names in the folders of runs and models, and their JSON files; without torch, for whoever only looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gnn_moe.errors import BadInput

CHECKPOINTS, LAST, BEST, SELECTED = "checkpoints", "last", "best", "selected"
"""In a run's folder: the folder of its checkpoints, and the links in it.

`best` has the least loss on the evaluation text, `selected` that on the half of it which may choose: most often they
are one.
"""


def read_json(path: Path, *, way_out: str = "use another checkpoint") -> dict[str, Any]:
    """The JSON object of a file.

    Args:
        path: of it.
        way_out: of who finds it missing or damaged.

    Raises:
        BadInput: it is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); {way_out}") from None
    except ValueError as error:
        raise BadInput(f"{path}: is damaged ({error}); {way_out}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: is damaged (not a JSON object); {way_out}")
    return values
