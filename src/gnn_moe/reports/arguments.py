"""The flags of `gnn-moe report`; nothing here loads more than the standard library and tyro."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write what studies and runs found: report.md, report.html and figures/, tables linked to the runs."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STUDY_OR_RUNS")] = ()
    """Folders of studies or runs, or folders that hold some."""
    output: str | None = None
    """Folder of the report (default: report in the first folder given)."""
    title: str | None = None
    """Its heading (default: after the studies)."""
    targets: str | None = None
    """TOML file of targets (default: those of the seed)."""
    reference: Literal["seed"] | None = None
    """Tables to set beside ours, with their protocol."""
    group: bool = False
    """Allow runs of several datasets or protocols, each in a part of its own; their losses do not compare."""
    watch: bool = False
    """Write it anew whenever a run has ended, until all have."""
