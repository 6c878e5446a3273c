"""What the coupling learned: evolution, final graph, agreement between seeds, ablations, similarity of experts.

`couplings.py` has the numbers, `coupling_figures.py` draws, `coupling_questions.py` has what models were asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from gnn_moe.figures.coupling import CouplingData
from gnn_moe.figures.heat_maps import HeatMap
from gnn_moe.reports import numbers
from gnn_moe.reports.coupling_figures import (
    MOST_EDGES,
    MOST_PANELS,
    edges,
    evolution_figure,
    final_heat_map,
    final_maps,
    graph_figure,
    scale_of,
    strength_name,
)
from gnn_moe.reports.coupling_questions import ablation_section, similarity_section
from gnn_moe.reports.couplings import PointCoupling, Repeat, read_couplings
from gnn_moe.reports.document import Block, Cell, Column, Figure, Paragraph, Section, Table, Text, spans
from gnn_moe.reports.marks import number_cell, seed_links
from gnn_moe.reports.points import Group
from gnn_moe.studies.drift import LayerDrift
from gnn_moe.studies.statistics import LEVEL

MOSTLY_START = 0.5
"""Greatest movement over greatest distance at the start below which a final graph is that of its start: not drawn."""
MOST_POINTS, MOST_POINTS_OF_ALL = 4, 6
"""Points of a group and of a whole report that are drawn, one a group at least: those with the lowest mean loss."""
MOST_TOLD = 8
"""Graphs that the description of a figure tells of."""
_DECIMALS = 5
"""Of how far strengths move."""
_COLUMNS = (
    Column(title="graph", numeric=False),
    Column(title="change in common", explains="of all its connections, last minus first strength, mean over seeds"),
    Column(title="95 % interval", numeric=False, explains="t interval over seeds, of this graph alone"),
    Column(title="p of the change", explains="paired t of the change in common, after Holm over all graphs"),
    Column(title="movement over spread", explains="root mean square of the mean changes over that of their spreads"),
    Column(title="by chance", explains="about what that would be if nothing moved alike in the seeds"),
    Column(
        title="connections shown to have moved",
        numeric=False,
        explains="paired t, p below 0.05 after Holm over the connections of all graphs",
    ),
    Column(title="agreement", explains="mean rank correlation of the changes over pairs of seeds; by chance 0"),
    Column(title="p of the agreement", explains="against shuffled connections, after Holm over all graphs"),
    Column(title="pattern", numeric=False),
)
_NOTES = (
    "Strengths are compared by the experts' numbers: a pattern that came back under other numbers counts as noise.",
    "A graph whose connections all moved together has a change in common and need not have a pattern.",
)


def coupling_section(group: Group, *, groups: int = 1) -> Section:
    """All that records say of what was learned, a part a point, and what to run for the rest.

    Args:
        group: whose records.
        groups: of the report, which share the figures that one page can hold.
    """
    most = max(1, min(MOST_POINTS, MOST_POINTS_OF_ALL // groups))
    found, notes = read_couplings(group)
    blocks: list[Block] = [Paragraph(note, "note") for note in dict.fromkeys(notes)]
    if not found:
        blocks.append(Paragraph("No completed run has a record of learned strengths here.", "warning"))
    means = {id(each): each.point.mean(group.loss_name) for each in found}
    ranked = sorted(found, key=lambda each: (means[id(each)] is None, means[id(each)] or 0.0))
    if left := [each.point.label for each in ranked[most:]]:
        drawn_are = "is the one" if most == 1 else f"are the {most}"
        blocks.append(Paragraph(f"Drawn {drawn_are} with the lowest loss; in tables alone: {'; '.join(left)}."))
    drawn = {id(each) for each in ranked[:most]}
    parts = [_point_section(each, number, drawn=id(each) in drawn) for number, each in enumerate(found)]
    return Section(
        title="What the coupling learned",
        anchor="coupling",
        blocks=tuple(blocks),
        sections=(*parts, ablation_section(group), similarity_section(group)),
    )


def _point_section(found: PointCoupling, number: int, *, drawn: bool) -> Section:
    slug = f"{number}-{re.sub(r'[^a-z0-9]+', '-', found.point.label.lower()).strip('-')[:40]}".strip("-")
    several = len(found.runs) > 1
    return Section(
        title=found.point.label,
        anchor=f"coupling-{slug}",
        blocks=(
            Paragraph(_in_words(found) if several else _of_one_seed(found)),
            *(_figures(found, slug) if drawn else ()),
            *((_table(found),) if several else ()),
        ),
    )


def _in_words(found: PointCoupling) -> str:
    """The verdicts of all graphs in a sentence each."""
    graphs = len(found.repeats)
    repeats = sum(each.verdict.startswith("repeats") for each in found.repeats)
    noise = sum(each.verdict.startswith("noise") for each in found.repeats)
    untold = graphs - repeats - noise
    said = [f"{repeats} of {graphs} graphs have a pattern that repeats between seeds"] if repeats else []
    said += (
        [f"the pattern of {noise} of {graphs} graphs does not repeat between seeds, which is noise"] if noise else []
    )
    said += [f"it cannot be told of {untold} of {graphs} graphs whether a pattern repeats"] if untold else []
    sentence = "; ".join(said)
    return f"{sentence[:1].upper()}{sentence[1:]}.{_movement_in_words(found)}{_start_in_words(found)}"


def _movement_in_words(found: PointCoupling) -> str:
    """How many graphs and connections are shown to have moved; the others may have moved too."""
    if found.drift is None:
        return ""
    layers = found.drift.layers
    connections = [one for layer in layers for one in layer.connections]
    graphs = sum(_has_moved(layer.common_holm_p_value) for layer in layers)
    single = sum(_has_moved(one.holm_p_value) for one in connections)
    test = "(paired t of the change in common, p below 0.05 after Holm over all graphs)"
    said = f" Of {numbers.counted(len(layers), 'graph')} {_shown(graphs)} to have moved as a whole {test}"
    if len(connections) == len(layers):
        return f"{said}; each has one connection."
    return f"{said}; of {len(connections)} single connections {_shown(single)} to have moved alike in the seeds."


def _shown(count: int) -> str:
    return f"{count or 'none'} {'are' if count > 1 else 'is'} shown"


def _of_one_seed(found: PointCoupling) -> Text:
    """The movement of one run, in the place of a table whose other columns would be empty."""
    said = "; what it learned cannot be told from chance, nor whether a pattern repeats."
    if found.drift is not None:
        layers = sorted(found.drift.layers, key=lambda layer: layer.common.mean)
        ends = [f"{numbers.difference(end.common.mean, _DECIMALS)} ({end.title})" for end in (layers[0], layers[-1])]
        steps = f"From step {found.drift.first_step} to {found.drift.last_step} its strengths moved in the mean by"
        many = f"{ends[0]} to {ends[1]} in {len(layers)} graphs" if len(layers) > 1 else ends[0]
        said += f" {steps} {many}."
    return ["One seed, ", *spans(seed_links(found.runs)), f"{said}{_start_in_words(found)}"]


def _start_in_words(found: PointCoupling) -> str:
    """How far connections lay apart before training, beside how far training moved them."""
    if (reached := _start_and_movement(found)) is None:
        return ""
    start, moved = reached
    apart = f"lie up to {numbers.short(start, 3)} apart" if start > 0 else "are equal"
    said = (
        f" At the first recorded step the connections of a graph {apart}; the one that moved most moved by "
        f"{numbers.short(moved, 3)}."
    )
    if _is_mostly_start(found):
        said += (
            " So the final strengths show where they started rather than what was learned, and no graph is drawn of "
            "them."
        )
    return said


def _start_and_movement(found: PointCoupling) -> tuple[float, float] | None:
    """The greatest distance of two connections of a graph at the start, and the greatest movement of one."""
    traces = [trace for record in found.records if not record.loads for trace in record.traces]
    starts = [float(np.ptp(trace.value_SK[0])) for trace in traces if np.isfinite(trace.value_SK).all()]
    moves = [float(np.abs(trace.value_SK[-1] - trace.value_SK[0]).max()) for trace in traces]
    return (max(starts), max(moves)) if starts and np.isfinite(moves).all() else None


def _is_mostly_start(found: PointCoupling) -> bool:
    reached = _start_and_movement(found)
    return reached is not None and reached[1] < MOSTLY_START * reached[0]


def _figures(found: PointCoupling, slug: str) -> list[Figure]:
    data, run = found.records[0], found.runs[0]
    seeds = ", ".join(str(each.seed) for each in found.runs)
    label, what = found.point.label, strength_name(data)
    cut = f" At most {MOST_PANELS} graphs are drawn, the last coupler layer of each layer." if _is_cut(found) else ""
    figures = [
        Figure(
            name=f"coupling-evolution-{slug}",
            caption=f"{label}: change of the {what} since the first recorded step. A line a seed ({seeds}): the median "
            f"of its connections; band: their least to greatest.{cut}",
            description=_evolution_in_words(found),
            draw=lambda: evolution_figure(found),
        )
    ]
    if not (maps := final_maps(data)):
        return figures
    title = f"{label}, seed {run.seed}, last step"
    if not data.loads and not _is_mostly_start(found):
        figures.append(_graph(data, title, slug, cut))
    figures.append(
        Figure(
            name=f"coupling-heat-{slug}",
            caption=f"{title}: {'summed weight of shared hyperedges' if data.hypergraphs else what}; what "
            f"stands out more from the page is stronger, on {_scale_in_words(maps)}.{cut}",
            description=f"{numbers.counted(len(maps), 'heat map')}, labelled by expert.",
            draw=lambda: final_heat_map(title, data),
        )
    )
    return figures


def _graph(data: CouplingData, title: str, slug: str, cut: str) -> Figure:
    maps = final_maps(data)
    strongest = [edges(each, directed=bool(data.adjacencies))[-1:] for each in maps]
    tops = [
        f"{each.title}: {sender} and {receiver}, {numbers.loss(strength)}"
        for each, top in zip(maps, strongest, strict=True)
        for sender, receiver, strength in top
    ]
    most = f" Of each panel the {MOST_EDGES} strongest connections are drawn." if len(maps[0].row_labels) > 6 else ""
    return Figure(
        name=f"coupling-graph-{slug}",
        caption=f"{title}: experts and what they exchange; lines that are wider and stand out more from the page are "
        f"stronger, on {_scale_in_words(maps)}.{most}{cut}",
        description=f"Experts on circles. The strongest connection of {_first_of(tops)}.",
        draw=lambda: graph_figure(title, data),
    )


def _scale_in_words(maps: Sequence[HeatMap]) -> str:
    """From where to where the colours go, and that what is shown fills less of them where it hardly differs."""
    low, high = scale_of(maps)
    scale = f"a scale from {numbers.loss(low)} to {numbers.loss(high)}"
    shown = np.concatenate([each.value[np.isfinite(each.value)] for each in maps])
    if not len(shown) or shown.min() == low:
        return scale
    return f"{scale}; those shown lie from {numbers.loss(float(shown.min()))} to {numbers.loss(float(shown.max()))}"


def _first_of(said: Sequence[str]) -> str:
    """A list for those who hear a figure instead of seeing it: at most `MOST_TOLD`, since tables have them all."""
    more = [f"and {len(said) - MOST_TOLD} more"] if len(said) > MOST_TOLD else []
    return "; ".join([*said[:MOST_TOLD], *more])


def _is_cut(found: PointCoupling) -> bool:
    return len(found.records[0].traces) > MOST_PANELS


def _evolution_in_words(found: PointCoupling) -> str:
    if found.drift is None:
        return f"{len(found.runs)} seeds over the recorded steps."
    changes = [f"{layer.title} by {numbers.difference(layer.common.mean)}" for layer in found.drift.layers]
    steps = f"From step {found.drift.first_step} to {found.drift.last_step}"
    return f"{steps} strengths moved in the mean: {_first_of(changes)}."


def _table(found: PointCoupling) -> Table:
    layers = {layer.title: layer for layer in found.drift.layers} if found.drift else {}
    rows = tuple(_row(found, each, layers.get(each.agreement.title)) for each in found.repeats)
    seeds: Text = ("Seeds: ", *seed_links(found.runs))
    return Table(
        caption=f"Movement and agreement: {found.point.label}", columns=_COLUMNS, rows=rows, notes=(seeds, *_NOTES)
    )


def _row(found: PointCoupling, each: Repeat, layer: LayerDrift | None) -> tuple[Cell, ...]:
    runs = found.runs
    interval = layer.common.interval if layer else None
    moved = [one for one in layer.connections if _has_moved(one.holm_p_value)] if layer else []
    count = f"{len(moved)} of {len(layer.connections)}" if layer else "cannot be told"
    return (
        Cell(each.agreement.title, each.agreement.title),
        number_cell(layer.common.mean if layer else None, lambda value: numbers.difference(value, _DECIMALS), runs),
        Cell(
            numbers.interval_of_difference(interval, _DECIMALS)
            if interval
            else (layer and layer.common.reason) or "unknown"
        ),
        number_cell(layer.common_holm_p_value if layer else None, numbers.probability),
        number_cell(layer.ratio if layer else None, numbers.ratio),
        number_cell(layer.ratio_by_chance if layer else None, numbers.ratio),
        Cell(count, len(moved)),
        number_cell(each.agreement.correlation, numbers.ratio),
        number_cell(each.holm_p_value, numbers.probability),
        Cell(each.verdict, each.verdict),
    )


def _has_moved(p_value: float | None) -> bool:
    return p_value is not None and p_value < 1 - LEVEL
