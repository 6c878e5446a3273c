"""A point of a group as a row of a table: what its runs measured, why some did not, and where the record is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from gnn_moe.reports import numbers
from gnn_moe.reports.costs import sizes_of
from gnn_moe.reports.document import Cell, Column, Span
from gnn_moe.reports.points import Group, Point, Run
from gnn_moe.reports.swept import Entry
from gnn_moe.studies.space import Value

LOSS_TEXT = {
    "reported_loss": "one half of the evaluation text, at the evaluation that the other half chose",
    "best_eval_loss": "the whole evaluation text, at its lowest",
}
"""What the loss that a report compares by is of."""
LOSS_IN_WORDS = {
    "reported_loss": f"nats a predicted token on {LOSS_TEXT['reported_loss']}",
    "best_eval_loss": (
        f"nats a predicted token on {LOSS_TEXT['best_eval_loss']}; that text chose the evaluation too, which flatters "
        "it slightly"
    ),
}
_LONGEST_MESSAGE = 240


@dataclass(frozen=True, kw_only=True)
class Row:
    """A point with the numbers that a table shows of it."""

    point: Point
    value: Value
    """Of the swept field, or the point's name."""
    loss_name: str

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that count."""
        return self.point.counted

    @cached_property
    def entry(self) -> Entry:
        """What rules read."""
        losses = {run.seed: loss for run in self.counted if (loss := run.number(self.loss_name)) is not None}
        return Entry(
            value=self.value,
            losses=losses,
            minutes=self.median("train_minutes"),
            flops=self.mean("training_flops"),
            missing="" if losses else self.missing,
        )

    @property
    def missing(self) -> str:
        """Why runs of the point have no loss; "" where all have."""
        return "; ".join(
            dict.fromkeys(reason_of(run, self.loss_name) for run in self.point.runs if not self._has_loss(run))
        )

    def mean(self, name: str) -> float | None:
        """Mean over the runs that count, of a number of their record or of `sizes_of`; None where one lacks it."""
        found = self._numbers(name)
        return math.fsum(found) / len(found) if found else None

    def median(self, name: str) -> float | None:
        """The same of what one busy hour of the machine must not move."""
        found = self._numbers(name)
        return statistics.median(found) if found else None

    def _numbers(self, name: str) -> list[float]:
        """Of the runs that count; none where one lacks it."""
        found = [number for run in self.counted if (number := number_of(run, name)) is not None]
        return found if len(found) == len(self.counted) else []

    def size(self, name: str) -> float | None:
        """A count of parameters: of the first run that has it, completed or not."""
        runs = self.counted or self.point.runs
        return next((number for run in runs if (number := number_of(run, name)) is not None), None)

    def remarks(self) -> list[str | Span]:
        """What to say of runs that do not count, each linked to its record."""
        found: list[str | Span] = []
        for run in self.point.runs:
            reason = "" if run in self.counted else "counted once: a second run of its seed"
            if not self._has_loss(run):
                reason = reason_of(run, self.loss_name)
            if reason:
                found += [*(["; "] if found else []), linked(f"seed {run.seed}", run), f" {reason}"]
        return found

    def _has_loss(self, run: Run) -> bool:
        return run.is_completed and not run.values.get("pruned") and run.number(self.loss_name) is not None


def number_of(run: Run, name: str) -> float | None:
    """A finite number of a run's record, else one that follows from its config."""
    found = run.number(name)
    return sizes_of(run).get(name) if found is None else found


def reason_of(run: Run, loss_name: str) -> str:
    """Why a run has no loss that counts, of `LOSSES` the one named, in a line."""
    if run.state == "failed":
        message = " ".join((run.error_message or "no message").split())
        short = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}…"
        return f"failed, {run.error_class or 'unknown'}: {short}"
    if not run.is_completed:
        return f"not finished ({run.state})"
    if run.values.get("pruned"):
        return "stopped early by the search, so not compared"
    return f"completed without a finite {loss_name}"


def linked(text: str, run: Run, *, strong: bool = False) -> Span:
    """A text that leads to the record of a run, where that is on this machine."""
    return Span(text, href=None if run.folder is None else str(run.folder), strong=strong)


def columns(group: Group, named: tuple[Column, ...]) -> tuple[Column, ...]:
    """Those of `cells`, after the ones that name a row."""
    loss = f"{group.loss_name}: {LOSS_IN_WORDS[group.loss_name]}; mean over seeds"
    apart = ", so not of the loss beside it" if group.loss_name == "reported_loss" else ""
    return (
        *named,
        Column(title="Seeds", explains="of the completed runs that count, each a link to its record"),
        Column(title="Eval loss", explains=loss),
        Column(title="95 % interval", explains="t interval of that mean over seeds, of this row alone"),
        Column(title="Perplexity", explains="e to the evaluation loss beside it"),
        Column(title="Bits a byte", explains=f"on the whole evaluation text, at its lowest{apart}; mean over seeds"),
        Column(title="Training time (min)", explains="minutes of training, evaluation left out; median over seeds"),
        Column(title="Total params", explains="all parameters"),
        Column(title="Non-embedding params", explains="without the embedding tables; the output head counts"),
        Column(title="Training FLOPs", explains="operations of training, by the count of gnn-moe inspect"),
        Column(title="Tokens/s", explains="training tokens a second; median over seeds"),
        Column(title="Peak memory (GiB)", explains="the most that a run took; mean over seeds"),
    )


def cells(row: Row, *, is_best: bool) -> tuple[Cell, ...]:
    """The cells of `columns`, without those that name the row."""
    entry = row.entry
    estimate = entry.estimate

    def of(number: float | None, write: Callable[[float | None], str], *, strong: bool = False) -> Cell:
        text = write(number)
        if len(row.counted) == 1 and text != numbers.UNKNOWN:
            return Cell(linked(text, row.counted[0], strong=strong), sort=number)
        return Cell(Span(text, strong=strong), sort=number)

    loss = None if estimate is None else estimate.mean
    interval = None if estimate is None else estimate.interval
    return (
        _seeds(row),
        Cell(_state(row)) if loss is None else of(loss, numbers.loss, strong=is_best),
        Cell("one seed") if loss is not None and interval is None else _interval(row),
        of(loss, numbers.perplexity),
        of(row.mean("bits_per_byte"), numbers.bits),
        of(entry.minutes, numbers.minutes),
        of(row.size("total_parameters"), numbers.count),
        of(row.size("non_embedding_parameters"), numbers.count),
        of(entry.flops, numbers.scientific),
        of(row.median("tokens_per_second"), numbers.rate),
        of(row.mean("peak_memory_bytes"), numbers.gibibytes),
    )


def _seeds(row: Row) -> Cell:
    found: list[str | Span] = []
    for run in row.counted:
        found += [*([" "] if found else []), linked(str(run.seed), run)]
    return Cell(found or numbers.UNKNOWN, sort=len(row.counted))


def _interval(row: Row) -> Cell:
    estimate = row.entry.estimate
    found = None if estimate is None else estimate.interval
    return Cell(numbers.interval(found), sort=None if found is None else found.high - found.low)


def _state(row: Row) -> str:
    """What stands where a loss would."""
    states = {run.state for run in row.point.runs}
    if states == {"failed"}:
        return "FAILED"
    return numbers.UNKNOWN if "completed" in states else "not finished"
