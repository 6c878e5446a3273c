"""GNN against HGNN and every other arm: paired differences with intervals, and the verdicts.

A comparison brings its own evidence, which is shown as it was weighed. Runs that are no comparison are paired here,
seed by seed and with the same statistics, where points differ in nothing but the coupler or the architecture.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnn_moe.reports import numbers
from gnn_moe.reports.document import Block, Bullets, Cell, Column, Paragraph, Section, Span, Table
from gnn_moe.reports.sources import Group, Point, Run
from gnn_moe.studies.results import StudyResults
from gnn_moe.studies.verdicts import Arm, Comparison, compare, in_words

KINDS = ("architecture", "coupler_type")
"""Fields whose values are arms where nothing else differs."""
FOLLOWS = (
    "static_hyperedge_strategy",
    "hgnn_learnable_edge_weights",
    "hgnn_conv_type",
    "hgnn_content_gates",
    "hyperedges",
    "match",
    "router_top_k",
    "load_balancing_weight",
    "router_z_weight",
)
"""Fields that go with a coupler or an architecture: others have no use for them."""
_BUDGETED = "max_steps"
"""The field that the budget of a comparison gives each arm; elsewhere it is a setting like others."""
_FIRST = "GNN"
"""What others are held against, where it is among them."""
_SEED = 0
"""Of the draws that statistics beyond 20 seeds need."""

_CELL_COLUMNS = (
    Column(title="arm", numeric=False),
    Column(title="seeds", explains="completed runs, each a link to its record"),
    Column(
        title="loss", explains="nats a token on the half of the evaluation text that chose nothing, mean over seeds"
    ),
    Column(title="95 % interval", explains="t interval of that mean over seeds"),
    Column(title="parameters"),
    Column(title="steps"),
    Column(title="training FLOPs", explains="mean over seeds"),
    Column(title="minutes", explains="training and evaluation, mean over seeds"),
)
_PAIR_COLUMNS = (
    Column(title="arm", numeric=False),
    Column(title="against", numeric=False),
    Column(title="difference", explains="mean over seeds of the arm's value minus the other's"),
    Column(title="interval", explains="paired t, at the level at which Holm over all arms tested it"),
    Column(title="seeds", explains="in common, each a link to the record of the arm's run"),
    Column(title="p after Holm", explains="paired t, two-sided"),
    Column(title="verdict", numeric=False),
)


def arms_section(group: Group) -> Section:
    """All that was compared."""
    sections = [_study_section(group, study) for study in group.studies if evidence_of(study) is not None]
    unfinished = [
        Paragraph(f"{study.values['study']}: not every point has an outcome yet, so nothing is weighed.", "warning")
        for study in group.studies
        if study.values["comparison"] and evidence_of(study) is None
    ]
    loose = [_loose_block(found) for found in loose_comparisons(group)]
    blocks: tuple[Block, ...] = (*unfinished, *loose)
    if not blocks and not sections:
        blocks = (Paragraph("Nothing was compared: no two of these points differ in their coupler alone.", "note"),)
    return Section(title="Arms compared", anchor="arms", blocks=blocks, sections=tuple(sections))


def evidence_of(study: StudyResults) -> Mapping[str, Any] | None:
    """What a comparison found, or None for another study, or before every point has an outcome."""
    comparison = study.values.get("comparison")
    found: Mapping[str, Any] | None = comparison["evidence"] if comparison else None
    return found


def _study_section(group: Group, study: StudyResults) -> Section:
    found, name = evidence_of(study), str(study.values["study"])
    assert found is not None
    runs = {run.name: run for run in group.runs if run.study == name}
    comparison = study.values["comparison"]
    budget = f"Equal {comparison['budget']}; {comparison['first']} is what the others are held against."
    notes: list[Block] = [Paragraph(note, "warning") for note in found["notes"]]
    if study.values.get("note"):
        notes.insert(0, Paragraph(str(study.values["note"]), "warning"))
    return Section(
        title=f"Comparison {name}",
        anchor=f"arms-{_slug(name)}",
        blocks=(
            Paragraph(budget),
            Table(caption="Arms", columns=_CELL_COLUMNS, rows=tuple(_cell_row(each, runs) for each in found["cells"])),
            *notes,
        ),
        sections=tuple(
            _question_section(each, f"{_slug(name)}-{n}", runs) for n, each in enumerate(found["questions"])
        ),
    )


def _cell_row(cell: Mapping[str, Any], runs: Mapping[str, Run]) -> tuple[Cell, ...]:
    estimate = cell["estimate"]
    interval = estimate and estimate["interval"]
    links = tuple(_linked(seed, cell["label"], runs) for seed in cell["seeds"])
    spaced = [piece for link in links for piece in (" ", link)][1:]
    if cell["left_out"]:
        spaced.append(f" ({len(cell['left_out'])} left out)")
    flops, minutes = cell["training_flops"], cell["minutes"]
    return (
        Cell(cell["label"], cell["label"]),
        Cell(tuple(spaced) or "none", len(cell["seeds"])),
        Cell(numbers.loss(estimate["mean"]) if estimate else "", estimate and estimate["mean"]),
        Cell(
            f"{numbers.loss(interval['low'])} to {numbers.loss(interval['high'])}" if interval else "",
            interval and interval["low"],
        ),
        Cell(f"{cell['parameters']:,}" if cell["parameters"] else "", cell["parameters"]),
        Cell(f"{cell['steps']:.0f}" if cell["steps"] else "", cell["steps"]),
        Cell(numbers.scientific(flops) if flops else "", flops),
        Cell(numbers.minutes(minutes) if minutes is not None else "", minutes),
    )


def _linked(seed: int, label: str, runs: Mapping[str, Run]) -> Span:
    run = next((each for each in runs.values() if each.seed == seed and each.arm == label), None)
    return Span(str(seed), href=None if run is None or run.folder is None else str(run.folder))


def _question_section(question: Mapping[str, Any], slug: str, runs: Mapping[str, Run]) -> Section:
    rows = tuple(_pair_row(verdict, runs) for verdict in question["verdicts"])
    return Section(
        title=question["asks"],
        anchor=f"arms-{slug}",
        blocks=(
            Bullets(tuple(question["sentences"])),
            Table(caption=f"{question['asks']} ({question['unit']})", columns=_PAIR_COLUMNS, rows=rows),
        ),
    )


def _pair_row(verdict: Mapping[str, Any], runs: Mapping[str, Run]) -> tuple[Cell, ...]:
    mean, interval, p = verdict["mean_difference"], verdict["decision_interval"], verdict["holm_p_value"]
    return (
        Cell(verdict["arm"], verdict["arm"]),
        Cell(verdict["baseline"], verdict["baseline"]),
        Cell(numbers.difference(mean), mean),
        Cell(
            f"{numbers.difference(interval['low'])} to {numbers.difference(interval['high'])}" if interval else "",
            interval and interval["low"],
        ),
        _pair_seeds(verdict, runs),
        Cell("" if p is None else numbers.probability(p), p),
        Cell(Span(verdict["verdict"], strong=verdict["verdict"] != "no evidence"), verdict["verdict"]),
    )


def _pair_seeds(verdict: Mapping[str, Any], runs: Mapping[str, Run]) -> Cell:
    """Links to the arm's runs; of a model with its coupling changed to those of the model, which hold both losses."""
    trained = {run.arm for run in runs.values()}
    label = verdict["arm"] if verdict["arm"] in trained else verdict["baseline"]
    seeds = verdict["pairs"]["seeds"]
    links = [_linked(seed, label, runs) for seed in seeds]
    return Cell([piece for link in links for piece in (" ", link)][1:] or "none", len(seeds))


def loose_comparisons(group: Group) -> list[tuple[Comparison, ...]]:
    """Points of no comparison that differ in their coupler or architecture alone, held against GNN or the first."""
    alike: dict[str, list[Point]] = {}
    for point in group.points:
        if point.arm is None or not _is_compared(group, point):
            alike.setdefault(repr(besides_coupler(point)), []).append(point)
    return [_compared(group, points) for points in alike.values() if len({kind_of(point) for point in points}) > 1]


def besides_coupler(point: Point) -> list[tuple[str, object]]:
    """The settings of a point that its coupler does not explain, nor the budget of its comparison."""
    explained = (*KINDS, *FOLLOWS, *((_BUDGETED,) if point.arm is not None else ()))
    return sorted((name, value) for name, value in point.settings.items() if name not in explained)


def _is_compared(group: Group, point: Point) -> bool:
    weighed = {study.values["study"] for study in group.studies if study.values["comparison"]}
    return any(run.study in weighed for run in point.runs)


def kind_of(point: Point) -> str:
    """Its coupler, or the architecture of a control that has none."""
    settings = point.runs[0].settings
    coupled = settings["architecture"] == "coupled"
    return str(settings["coupler_type"] if coupled else settings["architecture"])


def _compared(group: Group, points: Sequence[Point]) -> tuple[Comparison, ...]:
    kinds = Counter(map(kind_of, points))
    ordered = sorted(points, key=lambda point: kind_of(point) != _FIRST)
    arms = [_arm(point, group.loss_name, is_only=kinds[kind_of(point)] == 1) for point in ordered]
    return compare(
        arms[0],
        arms[1:],
        configurations_tried=max(len(group.points), len(arms)),
        generator=np.random.default_rng(_SEED),
    )


def _arm(point: Point, loss: str, *, is_only: bool) -> Arm:
    """Named by its coupler, and by all that tells it apart where others have the same coupler."""
    by_seed = point.by_seed(loss)
    rest = ", ".join(f"{name} {value}" for name, value in besides_coupler(point))
    name = kind_of(point) + (f" ({rest})" if rest else "") if is_only else point.label
    return Arm(name=name, seeds=tuple(by_seed), losses=tuple(by_seed.values()))


def _loose_block(found: tuple[Comparison, ...]) -> Block:
    return Bullets(tuple(in_words(each) for each in found))


def shortest_claims(group: Group) -> Iterator[str]:
    """Of each comparison, what it says of losses: for the first page."""
    for study in group.studies:
        if (found := evidence_of(study)) is not None:
            yield from found["questions"][0]["sentences"]
    for compared in loose_comparisons(group):
        yield from map(in_words, compared)


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
    weighed: list[Mapping[str, Any]] = []
    for study in group.studies:
        if (found := evidence_of(study)) is not None:
            weighed += found["questions"][0]["verdicts"]
    weighed += [dataclasses.asdict(each) for compared in loose_comparisons(group) for each in compared]
    for each in weighed:
        difference, spread = each["mean_difference"], each["spread"]
        if each["verdict"] == "no evidence" and difference and spread:
            yield Undecided(
                arm=each["arm"],
                baseline=each["baseline"],
                difference=difference,
                spread=spread,
                seeds=len(each["pairs"]["seeds"]),
                arms_compared=each["arms_compared"],
            )


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() and character.isascii() else "-" for character in name)
