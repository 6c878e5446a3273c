"""A comparison as a report shows it, whether a study brought it along or it was made of loose runs; its sections.

`arms.py` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gnn_moe.reports import numbers
from gnn_moe.reports.document import Block, Bullets, Cell, Column, Figure, Paragraph, Section, Span, Table, Text
from gnn_moe.reports.marks import seed_links
from gnn_moe.reports.points import Run
from gnn_moe.reports.swept import SAME_COST
from gnn_moe.studies.evidence import LOG_MINUTES
from gnn_moe.studies.statistics import Interval, MeanEstimate
from gnn_moe.studies.verdicts import Comparison, in_words, shortly

_FIRST_COLUMNS = (
    Column(title="arm", numeric=False),
    Column(title="seeds", explains="completed runs, each a link to its record"),
)
_FURTHER_COLUMNS = (
    Column(title="95 % interval", explains="t interval of that mean over seeds"),
    Column(title="parameters"),
    Column(title="steps"),
    Column(title="training FLOPs", explains="mean over seeds"),
    Column(title="minutes", explains="training and evaluation, median over seeds"),
)
_NAMES = (Column(title="arm", numeric=False), Column(title="against", numeric=False))
_VERDICT = (
    Column(title="seeds", explains="in common, each a link to the record of the arm's run"),
    Column(title="p after Holm", explains="paired t, two-sided"),
    Column(title="verdict", numeric=False),
)
_AT_LEVEL = "paired t, at the level at which Holm over all arms tested it"
_PAIR_COLUMNS = (
    *_NAMES,
    Column(title="difference", explains="mean over seeds of the arm's value minus the other's"),
    Column(title="interval", explains=_AT_LEVEL),
    *_VERDICT,
)
_RATIO_COLUMNS = (
    *_NAMES,
    Column(title="ratio", explains="the arm's minutes over the other's, geometric mean over seeds; below 1 is sooner"),
    Column(title="interval", explains=f"of the ratio: {_AT_LEVEL}"),
    Column(title="minutes", explains="of the arm to the loss that both reach, median over seeds"),
    Column(title="the other's", explains="the same of the other"),
    *_VERDICT,
)


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm: what it reached and what it took."""

    label: str
    seeds: Text
    count: int
    estimate: MeanEstimate | None
    """Of its loss; None without one."""
    parameters: float | None
    steps: float | None
    flops: float | None
    minutes: float | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question with its verdicts, which hold jointly."""

    asks: str
    unit: str
    verdicts: tuple[Comparison, ...]
    minutes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By arm, where minutes are asked about: its own and the other's to one loss, median over seeds."""
    busy: Mapping[str, str] = field(default_factory=dict)
    """By arm, where minutes are asked about: that its seeds ran at different speeds."""
    runs: Mapping[str, Mapping[int, Run]] = field(default_factory=dict)
    """By arm and seed: whose records verdicts link to."""
    is_of_arms: bool = False
    """Whether it is about the losses of arms as they were trained: what a report leads with."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """By arm, where losses of arms are asked about: training FLOPs, mean over seeds."""
    how: str = ""
    """What a reader must know of how it was weighed."""

    @property
    def of_arms(self) -> tuple[Comparison, ...]:
        """Its verdicts, where they are of arms as they were trained."""
        return self.verdicts if self.is_of_arms else ()

    @property
    def of_ratio(self) -> bool:
        """Whether minutes are asked about."""
        return self.unit == LOG_MINUTES

    def sentence(self, found: Comparison, *, short: bool = False) -> str:
        """A verdict in words, whole or for the first page, with what makes its minutes doubtful."""
        said = (shortly if short else in_words)(found, of_ratio=self.of_ratio)
        doubts = [self.busy[name] for name in (found.arm, found.baseline) if name in self.busy]
        return f"{'; '.join((said, *doubts, *self._unequal(found)))}."

    def _unequal(self, found: Comparison) -> Iterator[str]:
        """That an arm which is better or worse was trained with more work, or with less."""
        arm, baseline = self.flops.get(found.arm), self.flops.get(found.baseline)
        if found.verdict == "no evidence" or not arm or not baseline:
            return
        if max(arm, baseline) > SAME_COST * min(arm, baseline):
            yield f"{found.arm} took {numbers.ratio(arm / baseline)} times the training FLOPs of {found.baseline}"


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """One comparison: losses first among its questions."""

    title: str
    anchor: str
    how: str
    """What was held equal, and against what."""
    loss: str
    """What the losses are."""
    arms: tuple[ArmRow, ...]
    questions: tuple[Asked, ...]
    figure: Figure | None = None
    """How far the arms lie apart as they train."""
    doubts: tuple[str, ...] = ()
    """What its verdicts do not follow from."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def anchor_of(self, question: int) -> str:
        """Of the section of a question, by its place."""
        return f"{self.anchor}-{question}"


def section_of(found: Weighed) -> Section:
    """A comparison: its arms, then each question."""
    warnings = [Paragraph(text, "warning") for text in (*found.doubts, *found.warnings)]
    notes = [Paragraph(text, "note") for text in found.notes]
    loss = Column(title="loss", explains=f"{found.loss}; mean over seeds")
    columns = (*_FIRST_COLUMNS, loss, *_FURTHER_COLUMNS)
    table = Table(caption="Arms", columns=columns, rows=tuple(map(_arm_row, found.arms)))
    return Section(
        title=found.title,
        anchor=found.anchor,
        blocks=(Paragraph(found.how), table, *warnings, *notes, *([found.figure] if found.figure else [])),
        sections=tuple(_question(each, found.anchor_of(number)) for number, each in enumerate(found.questions)),
    )


def _arm_row(arm: ArmRow) -> tuple[Cell, ...]:
    mean = None if arm.estimate is None else arm.estimate.mean
    interval = None if arm.estimate is None else arm.estimate.interval
    return (
        Cell(arm.label, arm.label),
        Cell(arm.seeds, arm.count),
        Cell("" if mean is None else numbers.loss(mean), mean),
        Cell("" if interval is None else numbers.interval(interval), None if interval is None else interval.low),
        Cell(numbers.whole(arm.parameters) if arm.parameters else "", arm.parameters),
        Cell(f"{arm.steps:.0f}" if arm.steps else "", arm.steps),
        Cell(numbers.scientific(arm.flops) if arm.flops else "", arm.flops),
        Cell("" if arm.minutes is None else numbers.minutes(arm.minutes), arm.minutes),
    )


def _question(asked: Asked, anchor: str) -> Section:
    row, columns = (_ratio_row, _RATIO_COLUMNS) if asked.of_ratio else (_pair_row, _PAIR_COLUMNS)
    caption = f"{asked.asks} ({'minutes' if asked.of_ratio else asked.unit})"
    blocks: tuple[Block, ...] = (
        *((Paragraph(asked.how),) if asked.how else ()),
        Bullets(tuple(asked.sentence(each) for each in asked.verdicts)),
        Table(caption=caption, columns=columns, rows=tuple(row(asked, each) for each in asked.verdicts)),
    )
    return Section(title=asked.asks, anchor=anchor, blocks=blocks)


def _pair_row(asked: Asked, found: Comparison) -> tuple[Cell, ...]:
    interval = found.decision_interval
    return (
        *_names(found),
        Cell(numbers.difference(found.mean_difference), found.mean_difference),
        Cell(
            "" if interval is None else f"{numbers.interval_of_difference(interval)} ({numbers.level(interval)})",
            None if interval is None else interval.low,
        ),
        *_verdict(asked, found),
    )


def _ratio_row(asked: Asked, found: Comparison) -> tuple[Cell, ...]:
    interval = _ratio_interval(found.decision_interval)
    ratio = None if found.mean_difference is None else math.exp(found.mean_difference)
    minutes: Sequence[float | None] = asked.minutes.get(found.arm, (None, None))
    return (
        *_names(found),
        Cell(numbers.ratio(ratio), ratio),
        Cell(
            f"{numbers.ratio(interval.low)} to {numbers.ratio(interval.high)} ({numbers.level(interval)})"
            if interval
            else "",
            None if interval is None else interval.low,
        ),
        *(Cell("" if each is None else numbers.minutes(each), each) for each in minutes),
        *_verdict(asked, found),
    )


def _ratio_interval(of_logarithms: Interval | None) -> Interval | None:
    if of_logarithms is None:
        return None
    low, high = math.exp(of_logarithms.low), math.exp(of_logarithms.high)
    return Interval(low=low, high=high, level=of_logarithms.level)


def _names(found: Comparison) -> tuple[Cell, ...]:
    return Cell(found.arm, found.arm), Cell(found.baseline, found.baseline)


def _verdict(asked: Asked, found: Comparison) -> tuple[Cell, ...]:
    # A model with its coupling changed is no arm that ran: the record of the model itself holds both losses.
    runs = asked.runs.get(found.arm, asked.runs.get(found.baseline, {}))
    seeds, p = found.pairs.seeds, found.holm_p_value
    here = [runs[seed] for seed in seeds if seed in runs]
    elsewhere = [Span(f" {seed}") for seed in seeds if seed not in runs]
    return (
        Cell([*(seed_links(here) if here or not seeds else []), *elsewhere], len(seeds)),
        Cell("" if p is None else numbers.probability(p), p),
        Cell(Span(found.verdict, strong=found.verdict != "no evidence"), found.verdict),
    )
