"""The first page: what was found in five lines, the best configuration, and what is not known.

Which lines: comparisons of losses, those with a verdict first; then what is best of each swept field; then the other
questions of comparisons; then what else the rules say of the fields. What is left out is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gnn_moe.reports import numbers
from gnn_moe.reports.arms import weighed_of
from gnn_moe.reports.commands import train_command
from gnn_moe.reports.costs import config_of
from gnn_moe.reports.document import Block, Bullets, Code, Paragraph, Section, Span, Text
from gnn_moe.reports.kinds import CONTROLS, control_of
from gnn_moe.reports.points import Group
from gnn_moe.reports.recommendations import Recommendation
from gnn_moe.reports.weighed import Asked
from gnn_moe.studies.verdicts import Comparison

_LINES = 5
_MOST_VERDICTS = 3
"""Comparisons with a verdict that stand before anything else."""


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """One comparison of one question."""

    asked: Asked
    found: Comparison
    anchor: str
    """Of its table."""
    where: str = ""
    """Which comparison it is of, where another has arms of the same names."""

    @property
    def is_told(self) -> bool:
        return self.found.verdict != "no evidence"

    @property
    def sentence(self) -> Text:
        return with_table(f"{self.where}{self.asked.sentence(self.found, short=True)}", self.anchor)

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Verdicts first, then by p after Holm, then the larger difference."""
        p = self.found.holm_p_value
        return not self.is_told, 1.0 if p is None else p, -abs(self.found.mean_difference or 0)


def overview_section(
    group: Group,
    recommended: Sequence[Recommendation],
    best: Sequence[Text],
    more: Sequence[Text] = (),
    *,
    prefix: str = "",
) -> Section:
    """In one minute.

    Args:
        group: its runs.
        recommended: the configurations, best first.
        best: which value of each swept field is best, the most telling first.
        more: what else the rules say of them.
        prefix: of all anchors of the group.
    """
    findings = _findings(group, best, more, prefix)
    blocks: list[Block] = [
        Bullets(tuple(findings)) if findings else Paragraph("These runs vary nothing, so there is nothing to find.")
    ]
    if recommended:
        first = recommended[0]
        blocks.append(Paragraph(f"The configuration with the lowest loss: {first.point.label}, {first.why}."))
        config = config_of(first.point)
        if config is not None and config.model.hyperedges is None:
            blocks.append(Code(train_command(config)))
    unknown = tuple(_unknown(group))
    if unknown:
        blocks += [Paragraph("What is not known:"), Bullets(unknown)]
    return Section(title="In one minute", anchor="in-one-minute", blocks=tuple(blocks))


def with_table(sentence: str, anchor: str) -> Text:
    """A finding with a link to the table that it is of, whose rows link to their runs."""
    return f"{sentence} (", Span("its table", href=f"#{anchor}"), ")"


def _findings(group: Group, best: Sequence[Text], more: Sequence[Text], prefix: str) -> list[Text]:
    """The lines, and what they leave out of the comparisons."""
    losses: list[_Verdict] = []
    others: list[_Verdict] = []
    every = weighed_of(group)
    named = Counter(label for weighed in every for label in {arm.label for arm in weighed.arms})
    for weighed in every:
        is_alone = all(named[arm.label] == 1 for arm in weighed.arms)
        where = "" if is_alone else f"{weighed.title}: "
        for number, asked in enumerate(weighed.questions):
            anchor = f"{prefix}{weighed.anchor_of(number)}"
            verdicts = [_Verdict(asked=asked, found=found, anchor=anchor, where=where) for found in asked.verdicts]
            (losses if asked.is_of_arms else others).extend(verdicts)
    losses.sort(key=lambda each: each.rank)
    others.sort(key=lambda each: each.rank)
    lines: list[Text | _Verdict] = [*_leading(losses), *best, *_leading(others), *more]
    comparisons = [*losses, *others]
    shown = lines[:_LINES]
    if any(each not in shown for each in comparisons):
        shown = lines[: _LINES - 1]
    hidden = [each for each in comparisons if each not in shown]
    said = [each.sentence if isinstance(each, _Verdict) else each for each in shown]
    return list(dict.fromkeys([*said, *_left_out(hidden)]))


def _leading(verdicts: Sequence[_Verdict]) -> list[_Verdict]:
    """The first of those with a verdict, and one without."""
    told = [each for each in verdicts if each.is_told]
    return [*told[:_MOST_VERDICTS], *verdicts[len(told) :][:1]]


def _left_out(hidden: Sequence[_Verdict]) -> Iterator[str]:
    """How many comparisons have no line of their own."""
    told = sum(each.is_told for each in hidden)
    untold = len(hidden) - told
    counted = []
    if told:
        counted.append(f"{numbers.counted(told, 'more comparison')} with a verdict")
    if untold:
        counted.append(f"{numbers.counted(untold, 'more comparison')} with no evidence of a difference")
    if counted:
        yield f"And {numbers.listed(counted)}, where the arms are compared."


def _unknown(group: Group) -> Iterator[str]:
    single = [point for point in group.points if len(point.by_seed(group.loss_name)) == 1]
    if single:
        yield (
            f"Whether differences are more than chance: {len(single)} of {len(group.points)} configurations have one "
            "seed, which gives no interval."
        )
    ended = [run for run in group.runs if run.is_completed]
    if group.protocol.text is None and len(ended) > 1:
        yield f"Whether all {len(ended)} completed runs evaluated one text: none recorded the fingerprint of its text."
    doubted = [run for run in group.runs if run.contradiction is not None]
    if doubted:
        count = numbers.counted(len(doubted), "run")
        yield f"Which numbers of {count} hold: study and run folder do not agree, as Protocol says."
    doubted_verdicts = [weighed.title for weighed in weighed_of(group) if weighed.doubts]
    if doubted_verdicts:
        yield f"Whether the verdicts of {numbers.listed(doubted_verdicts)} hold: they do not follow, as it says there."
    missing = [run for run in group.runs if run.state not in ("completed", "failed")]
    if missing:
        yield f"What {len(missing)} of {len(group.runs)} runs give: they have not ended."
    failed = [run for run in group.runs if run.state == "failed"]
    if failed:
        classes = ", ".join(sorted({str(run.error_class) for run in failed}))
        count = numbers.counted(len(failed), "failed run")
        yield f"What {count} would have given ({classes}); the tables have their reasons."
    unasked = [run for run in group.runs if run.is_completed and run.causal is None]
    if unasked:
        count = numbers.counted(len(unasked), "checkpoint")
        yield f"Whether {count} can see the future: made by a version that did not ask."
    run = {control_of(point) for point in group.points}
    if absent := [control.with_flags for control in CONTROLS if control.key not in run]:
        yield f"Whether coupling is what helps: no run here is of {', of '.join(absent)}."
