"""GNN against HGNN and every other arm: paired differences with intervals, and the verdicts.

A comparison brings its own evidence, which is shown as it was weighed, in words of now. Runs that are no comparison are
paired here, seed by seed and with the same statistics, where points differ in nothing but the coupler or the
architecture.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gnn_moe.reports.controls import Contestant, against_controls
from gnn_moe.reports.costs import flops_of_run, minutes_of_point, parameters_of_run, unsteady
from gnn_moe.reports.difference_curves import difference_figure
from gnn_moe.reports.document import Block, Figure, Paragraph, Section, Span, spans
from gnn_moe.reports.kinds import besides_coupler, kind_of
from gnn_moe.reports.marks import seed_links
from gnn_moe.reports.points import LOSSES, Group, Point, Run
from gnn_moe.reports.rows import LOSS_IN_WORDS
from gnn_moe.reports.stored_evidence import StoredArm, StoredEvidence, doubts, is_comparison, stored_evidence
from gnn_moe.reports.weighed import ArmRow, Asked, Weighed, section_of
from gnn_moe.studies.evidence import LOG_MINUTES, Curve, minutes_to_one_loss, read_minute_curves
from gnn_moe.studies.results import StudyResults
from gnn_moe.studies.statistics import mean_estimate
from gnn_moe.studies.verdicts import Arm, Comparison, compare, compare_pairs

_FIRST = "GNN"
"""What others are held against, where it is among them."""
_SEED = 0
"""Of the draws that statistics beyond 20 seeds need."""


def arms_section(group: Group) -> Section:
    """All that was compared."""
    unfinished = tuple(
        Paragraph(f"{study.values['study']}: not every point has an outcome yet, so nothing is weighed.", "warning")
        for study in group.studies
        if is_comparison(study) and stored_evidence(study) is None
    )
    sections = tuple(section_of(each) for each in weighed_of(group))
    blocks: tuple[Block, ...] = unfinished
    if not blocks and not sections:
        blocks = (Paragraph("Nothing was compared: no two of these points differ in their coupler alone.", "note"),)
    return Section(title="Arms compared", anchor="arms", blocks=blocks, sections=sections)


def weighed_of(group: Group) -> list[Weighed]:
    """The comparisons of studies, then those of loose runs."""
    of_studies = [
        _of_study(group, study, found) for study in group.studies if (found := stored_evidence(study)) is not None
    ]
    loose = [_of_loose(group, points, number) for number, points in enumerate(alike_but_for_coupler(group), 1)]
    return [*of_studies, *loose]


def _of_study(group: Group, study: StudyResults, found: StoredEvidence) -> Weighed:
    """As it was weighed: the stored values, in words of now."""
    name = str(study.values["study"])
    # Another study's runs of the same arm are its own; and comparisons are weighed by the loss that was not chosen by,
    # also where the group compares by another.
    points = {
        point.arm: dataclasses.replace(point, runs=own, loss_name=LOSSES[0])
        for point in group.points
        if point.arm and (own := tuple(run for run in point.runs if run.study == name))
    }
    asked = []
    for each in found.questions:
        question = Asked(asks=each.asks, unit=each.unit, verdicts=each.verdicts)
        asked.append(_timed(group, question, points) if question.of_ratio else question)
    contestants = {
        each.arm.name: Contestant(arm=each.arm, point=points[each.arm.name])
        for each in found.arms
        if each.arm.name in points
    }
    arms = tuple(_stored_arm(each, points.get(each.arm.name)) for each in found.arms)
    asked = _with_controls(asked, contestants, arms)
    asked = [dataclasses.replace(question, runs=_links(points)) for question in asked]
    anchor = f"arms-{_slug(name)}"
    return Weighed(
        title=f"Comparison {name}",
        anchor=anchor,
        how=f"Equal {found.budget}; {found.first} is what the others are held against.",
        loss=LOSS_IN_WORDS[LOSSES[0]],
        arms=arms,
        questions=tuple(asked),
        figure=_differences(anchor, points, asked),
        warnings=(
            *([str(study.values["note"])] if study.values.get("note") else []),
            *found.notes,
        ),
        doubts=tuple(doubts(found, points)),
        notes=tuple(f"{said}." for point in points.values() if (said := unsteady(group, point)) is not None),
    )


def _with_controls(
    asked: Sequence[Asked], contestants: Mapping[str, Contestant], arms: Sequence[ArmRow]
) -> list[Asked]:
    """The questions of a comparison, that of losses first, and after it those of what controls tell."""
    losses = dataclasses.replace(asked[0], is_of_arms=True)
    of_arms = [losses, *against_controls(contestants, losses.verdicts)]
    flops = {arm.label: arm.flops for arm in arms if arm.flops is not None}
    return [*(dataclasses.replace(each, flops=flops) for each in of_arms), *asked[1:]]


def _stored_arm(stored: StoredArm, point: Point | None) -> ArmRow:
    arm = stored.arm
    runs = () if point is None else tuple(run for run in point.counted if run.seed in arm.seeds)
    row = _arm_row(arm.name, point, runs)
    seeds = [*spans(seed_links(runs))] if runs else [Span(" ".join(map(str, arm.seeds)) or "none")]
    if stored.left_out:
        seeds.append(Span(f" ({stored.left_out} left out)"))
    estimate = mean_estimate(arm.losses) if arm.losses else None
    return dataclasses.replace(row, seeds=tuple(seeds), count=len(arm.seeds), estimate=estimate)


def _of_loose(group: Group, points: Sequence[Point], number: int) -> Weighed:
    """The same of runs that no study compared."""
    losses = _compared(group, points)
    contestants = {
        arm.name: Contestant(arm=arm, point=point)
        for arm, point in zip(_arms(group, points), _ordered(points), strict=True)
    }
    named = {name: each.point for name, each in contestants.items()}
    asked = [Asked(asks="Which has the lower loss?", unit="nats a token", verdicts=losses)]
    curves, missing = {}, []
    for name, point in named.items():
        curves[name], unread = _curves(point)
        missing += [f"Left out of the minutes to one loss: {name}, seed {seed}: {why}" for seed, why in unread.items()]
    first, *others = named
    reached = [minutes_to_one_loss(curves[first], curves[other]) for other in others]
    if any(minutes for minutes, _ in reached):
        pairs = [
            (_logarithms(first, ours), _logarithms(other, theirs))
            for other, (ours, theirs) in zip(others, reached, strict=True)
        ]
        generator = np.random.default_rng(_SEED)
        verdicts = compare_pairs(pairs, configurations_tried=max(len(group.points), len(named)), generator=generator)
        question = Asked(asks="Which reaches one loss sooner?", unit=LOG_MINUTES, verdicts=verdicts)
        asked.append(_timed(group, question, named))
    arms = tuple(_arm_row(name, point, point.counted) for name, point in named.items())
    asked = _with_controls(asked, contestants, arms)
    asked = [dataclasses.replace(question, runs=_links(named)) for question in asked]
    anchor = f"arms-runs-{number}"
    return Weighed(
        title=", ".join(named),
        anchor=anchor,
        how=f"Runs that differ in nothing but their coupler; {first} is what the others are held against.",
        loss=LOSS_IN_WORDS[group.loss_name],
        arms=arms,
        questions=tuple(asked),
        figure=_differences(anchor, named, asked),
        warnings=tuple(missing),
        notes=tuple(f"{said}." for point in named.values() if (said := unsteady(group, point)) is not None),
    )


def _differences(anchor: str, points: Mapping[str, Point], asked: Sequence[Asked]) -> Figure | None:
    """The curves of all pairs whose losses are compared."""
    pairs = [(verdict.arm, verdict.baseline) for question in asked for verdict in question.of_arms]
    return difference_figure(f"difference-{anchor}", points, pairs)


def _arm_row(name: str, point: Point | None, runs: Sequence[Run]) -> ArmRow:
    """An arm by some of its runs."""

    def mean(of: Callable[[Run], float | None]) -> float | None:
        found = [value for run in runs if (value := of(run)) is not None]
        return math.fsum(found) / len(found) if found else None

    return ArmRow(
        label=name,
        seeds=seed_links(runs),
        count=len(runs),
        estimate=None if point is None else point.estimate(point.loss_name),
        parameters=next((found for run in runs if (found := parameters_of_run(run)) is not None), None),
        steps=mean(lambda run: run.number("steps")),
        flops=mean(flops_of_run),
        minutes=None if point is None else minutes_of_point(point),
    )


def _timed(group: Group, question: Asked, points: Mapping[str, Point]) -> Asked:
    """A question about minutes with the minutes themselves, where the curves are here, and what makes them doubtful."""
    minutes = {}
    for each in question.verdicts:
        arms = [points.get(name) for name in (each.baseline, each.arm)]
        first, arm = ({} if point is None else _curves(point, each.pairs.seeds)[0] for point in arms)
        reached = minutes_to_one_loss(first, arm)
        if reached[0]:
            theirs, ours = (statistics.median(found.values()) for found in reached)
            minutes[each.arm] = (ours, theirs)
    busy = {name: said for name, point in points.items() if (said := unsteady(group, point)) is not None}
    return dataclasses.replace(question, minutes=minutes, busy=busy)


def _curves(point: Point, seeds: Collection[int] | None = None) -> tuple[dict[int, Curve], dict[int, str]]:
    """The curves of the runs that count, of some seeds or all, and why one cannot be read; both by seed."""
    runs = [run for run in point.counted if seeds is None or run.seed in seeds]
    return read_minute_curves({run.seed: run.folder for run in runs if run.folder is not None})


def _links(points: Mapping[str, Point]) -> dict[str, dict[int, Run]]:
    """By arm and seed the run that counts."""
    return {name: {run.seed: run for run in point.counted} for name, point in points.items()}


def _logarithms(name: str, minutes: Mapping[int, float]) -> Arm:
    return Arm(name=name, seeds=tuple(minutes), losses=tuple(map(math.log, minutes.values())))


def loose_comparisons(group: Group) -> list[tuple[Comparison, ...]]:
    """Points of no comparison that differ in their coupler or architecture alone, held against GNN or the first."""
    return [_compared(group, points) for points in alike_but_for_coupler(group)]


def alike_but_for_coupler(group: Group) -> list[list[Point]]:
    """The points of no comparison, together where only their coupler or architecture differs; two kinds or more."""
    alike: dict[str, list[Point]] = {}
    for point in group.points:
        if point.arm is None or not _is_compared(group, point):
            alike.setdefault(repr(besides_coupler(point)), []).append(point)
    return [points for points in alike.values() if len({kind_of(point) for point in points}) > 1]


def _is_compared(group: Group, point: Point) -> bool:
    weighed = {study.values["study"] for study in group.studies if study.values["comparison"]}
    return any(run.study in weighed for run in point.runs)


def _ordered(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: kind_of(point) != _FIRST)


def _arms(group: Group, points: Sequence[Point]) -> list[Arm]:
    kinds = Counter(map(kind_of, points))
    return [_arm(point, group.loss_name, is_only=kinds[kind_of(point)] == 1) for point in _ordered(points)]


def _compared(group: Group, points: Sequence[Point]) -> tuple[Comparison, ...]:
    arms = _arms(group, points)
    tried = max(len(group.points), len(arms))
    return compare(arms[0], arms[1:], configurations_tried=tried, generator=np.random.default_rng(_SEED))


def _arm(point: Point, loss: str, *, is_only: bool) -> Arm:
    """Named by its coupler, and by all that tells it apart where others have the same coupler."""
    by_seed = point.by_seed(loss)
    rest = ", ".join(f"{name} {value}" for name, value in besides_coupler(point))
    name = kind_of(point) + (f" ({rest})" if rest else "") if is_only else point.label
    return Arm(name=name, seeds=tuple(by_seed), losses=tuple(by_seed.values()))


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """Two arms of which no evidence says that they differ, though they were seen to."""

    arm: str
    baseline: str
    difference: float
    """Of their losses, arm minus baseline, mean over seeds; not 0."""
    spread: float
    """Standard deviation of the differences; positive."""
    seeds: int
    """In common."""
    arms_compared: int
    """All that were tested together, of which Holm's rule asks more than of one."""


def undecided(group: Group) -> Iterator[Undecided]:
    """The comparisons of losses without a verdict, where the seeds differ."""
    for each in (verdict for found in weighed_of(group) for asked in found.questions for verdict in asked.of_arms):
        if each.verdict == "no evidence" and each.mean_difference and each.spread:
            yield Undecided(
                arm=each.arm,
                baseline=each.baseline,
                difference=each.mean_difference,
                spread=each.spread,
                seeds=len(each.pairs.seeds),
                arms_compared=each.arms_compared,
            )


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() and character.isascii() else "-" for character in name)
