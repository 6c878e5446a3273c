"""What of the checkout is not committed. No torch here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from gnn_moe.errors import BadInput

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_CODE = ("src/", "benchmarks/")
"""Where a file that git does not know yet may be one that ran."""
_RESULTS = "benchmarks/results/"


def uncommitted_changes(root: Path = ROOT) -> list[str]:
    """Files of the checkout that differ from its commit, relative to its root; none outside a checkout.

    Results do not count: one case writes them after the other. New files count where code is.
    """
    words = ["git", "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all"]
    try:
        done = subprocess.run(words, cwd=root, capture_output=True, check=False, text=True)
    except FileNotFoundError:  # no git on this machine
        return []
    return list(_changed(done.stdout)) if done.returncode == 0 else []


def _changed(status: str) -> Iterator[str]:
    for line in status.split("\0"):
        state, path = line[:2], line[3:]
        if path and not path.startswith(_RESULTS) and (state != "??" or path.startswith(_CODE)):
            yield path


def refuse_uncommitted(output: Path, changes: list[str]) -> None:
    """Refuses to add figures of code that no commit has to the results of the checkout.

    Raises:
        BadInput: there are changes, and `output` is among the results.
    """
    if changes and output.resolve().parent == RESULTS:
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise BadInput(
            f"{changes[0]}{more} differ from the commit that the results would name: commit first, name another "
            "--output, or use --allow_dirty, which marks the figures"
        )
