"""environment.json of a run as a report reads it: what cannot be read is said, and never taken for something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnn_moe.run_folder import RunFolder

_TABLES = (("data",), ("data", "train"), ("data", "valid"), ("versions",))
"""Keys, one in the other, that lead to tables where they are there."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions, device, and data with fingerprints, as far as they are recorded."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Empty where there is no record here, or a damaged one."""
    damage: str | None = None
    """Why the record cannot be used, in a line."""

    def recorded(self, *path: str) -> Any:
        """What it holds under some keys, one in the other; None where it does not."""
        found: Any = self.values
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def read_environment(folder: Path) -> Environment:
    """That of a run folder; an empty one where the run has written none, as one that failed early."""
    path = RunFolder(folder).environment
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Environment()
    except (OSError, ValueError) as error:
        return Environment(damage=f"{path}: cannot be read ({error}); what it recorded is not known")
    if not isinstance(found, dict):
        return Environment(damage=f"{path}: is no table of names and values; what it recorded is not known")
    whole = Environment(values=found)
    for keys in _TABLES:
        if (table := whole.recorded(*keys)) is not None and not isinstance(table, Mapping):
            return Environment(damage=f"{path}: {'.'.join(keys)} is {table!r}, no table; what it recorded is not known")
    return whole
