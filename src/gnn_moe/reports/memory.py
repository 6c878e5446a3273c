"""What a run needs by its settings, beside what the runs at hand took of theirs and the room that they had."""

from __future__ import annotations

from dataclasses import dataclass

from gnn_moe.config import RunConfig
from gnn_moe.plans import plan_memory
from gnn_moe.reports import numbers
from gnn_moe.reports.costs import known_config
from gnn_moe.reports.points import Group


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What the completed runs of a group say of plans on a CPU."""

    shares: tuple[float, ...]
    """Peak memory that each took, over that of its plan."""
    room_bytes: float | None
    """The least that one of them could take when it began; None where none has recorded it."""

    def in_words(self) -> str:
        """How far plans held, and the room."""
        room = "" if self.room_bytes is None else f"; they had {numbers.gibibytes(self.room_bytes)} GiB of room"
        if not self.shares:
            return f"no run here shows how far that holds{room}"
        low, high = numbers.ratio(min(self.shares)), numbers.ratio(max(self.shares))
        times = low if low == high else f"{low} to {high}"
        return f"{numbers.counted(len(self.shares), 'run')} here took {times} times what their settings say{room}"

    def fits(self, planned_bytes: float) -> bool | None:
        """Whether a plan goes into the room, with what the worst run took beyond its own; None where none is known."""
        if self.room_bytes is None:
            return None
        return planned_bytes * max((1.0, *self.shares)) <= self.room_bytes


def experience_of(group: Group) -> Experience:
    """That of the completed runs on a CPU whose vocabulary is known."""
    shares, rooms = [], []
    for run in group.runs:
        config, peak, room = known_config(run), run.number("peak_memory_bytes"), run.recorded("room_bytes")
        if not run.is_completed or config is None or str(run.recorded("device") or "cpu") != "cpu":
            continue
        if peak:
            shares.append(peak / planned_bytes(config))
        if isinstance(room, int):
            rooms.append(room)
    return Experience(shares=tuple(shares), room_bytes=min(rooms, default=None))


def planned_bytes(config: RunConfig) -> int:
    """The fullest moment of a run by its settings, as `gnn-moe inspect` foretells it for one thread.

    A report does not depend on the machine that writes it. What two threads take besides shows in what runs took.
    """
    return plan_memory(config, threads=1).peak.total


def planned_in_words(config: RunConfig, known: Experience) -> str:
    """`By its settings it needs 1.62 GiB at its fullest moment on a CPU (…).`"""
    planned = planned_bytes(config)
    short = " That does NOT fit there." if known.fits(planned) is False else ""
    worst = max((1.0, *known.shares))
    by_runs = f", so up to {numbers.gibibytes(worst * planned)} GiB" if worst > 1 else ""
    return (
        f"By its settings it needs {numbers.gibibytes(planned)} GiB at its fullest moment on a CPU "
        f"({known.in_words()}){by_runs}.{short}"
    )
