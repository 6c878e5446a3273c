"""Convergence and generalisation: evaluation curves with bands over seeds, and the seed's criteria as measures.

`run_curves.py` has the numbers; here they become figures, tables and words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from gnn_moe.figures.style import EMPTY, new_figure, style_axes
from gnn_moe.model.folders import LAST
from gnn_moe.reports import numbers
from gnn_moe.reports.document import Block, Cell, Code, Column, Figure, Paragraph, Section, Table
from gnn_moe.reports.marks import (
    MOST_MARKED,
    Mark,
    band_trace,
    chart_label,
    chart_layout,
    draw_band,
    draw_line,
    evaluations_of,
    finite_or_none,
    mark_of,
    number_cell,
    seed_links,
    trace_of,
)
from gnn_moe.reports.measures import Measured, falling_of
from gnn_moe.reports.points import Group
from gnn_moe.reports.run_curves import LEAST_EPOCHS, PointCurve, descent, gaps_of, losses_by_epoch, read_curves
from gnn_moe.reports.targets import outcome_of, stable_loss_reduction
from gnn_moe.studies.statistics import MeanEstimate, mean_estimate

_LOSS_TITLE = "loss, nats a token"
_X_TITLES = {"steps": "steps", "minutes": "minutes of training and evaluation"}
_DESCENT_COLUMNS = (
    Column(title="point", numeric=False),
    Column(title="epochs", explains="with an evaluation of every seed"),
    Column(
        title="falls",
        explains="epochs of a seed whose evaluation loss is below that of the epoch before, least to greatest of seeds",
    ),
    Column(title="share", explains="of a seed's epochs after the first, those that fell; mean over seeds"),
    Column(title="of seeds", numeric=False, explains="least and greatest share: what these did, no estimate of others"),
    Column(title="first epoch", explains="mean loss at its last evaluation, whole evaluation text, nats a token"),
    Column(title="last epoch", explains="the same"),
    Column(title="stable loss reduction", numeric=False),
    Column(title="seeds", numeric=False),
)
_MEASURED_COLUMNS = (
    Column(title="point", numeric=False),
    Column(title="training loss", explains="of the last model, nats a token, mean over seeds"),
    Column(title="last evaluation loss", explains="of the last model, whole text, nats a token, mean over seeds"),
    Column(title="gap", explains="evaluation minus training, mean over seeds"),
    Column(title="95 % interval", explains="t interval of the gap over seeds"),
    Column(title="seeds", explains="each a link to its run"),
)
_GAP_COLUMNS = (
    Column(title="point", numeric=False),
    Column(title="training loss", explains="with dropout, over the steps since the evaluation before, nats a token"),
    Column(title="last evaluation loss", explains="without dropout, at the last evaluation, whole text, nats a token"),
    Column(title="difference", explains="evaluation minus training, mean over seeds; not measured alike"),
    Column(title="95 % interval", numeric=False, explains="t interval over seeds"),
    Column(title="generalisation", numeric=False),
    Column(title="seeds", numeric=False),
)


_WHICH_LOSS = (
    "Losses here are of every evaluation, on the whole text: not those by which configurations are compared elsewhere, "
    "which Protocol describes."
)


def convergence_section(group: Group) -> Section:
    """Curves, and both criteria with what keeps them from being told."""
    found, notes = read_curves(group)
    said: list[Block] = [Paragraph(note, "note") for note in dict.fromkeys(notes)]
    if not found:
        nothing = Paragraph("No completed run has a curve here: convergence cannot be told.", "warning")
        return Section(title="Convergence and generalisation", anchor="convergence", blocks=(*said, nothing))
    figures = [_figure(name, found) for name in _X_TITLES if any(_places(each, name) for each in found)]
    return Section(
        title="Convergence and generalisation",
        anchor="convergence",
        blocks=(*said, *figures, _descent_table(found), *_gap_blocks(found)),
    )


def _places(each: PointCurve, name: str) -> list[tuple[float, int]]:
    """(x, step) of the common evaluations."""
    if name == "steps":
        return [(float(step), step) for step in each.steps]
    return [(minutes, step) for step in each.steps if (minutes := each.minutes(step)) is not None]


def _has_seeds(found: Sequence[PointCurve]) -> bool:
    return any(len(each.curves) > 1 for each in found)


def _figure(name: str, found: Sequence[PointCurve]) -> Figure:
    ends = "; ".join(f"{each.point.label} {numbers.loss(each.mean(each.steps[-1]))}" for each in found if each.steps)
    bands = "Line: mean over seeds; band: their least to greatest" if _has_seeds(found) else "One seed a point"
    mean = ", at the median of their minutes" if name == "minutes" and _has_seeds(found) else ""
    drawn = "" if len(found) <= MOST_MARKED else f" The {MOST_MARKED} with the lowest last loss are named."
    return Figure(
        name=f"curves-{name}",
        caption=f"Loss on the whole evaluation text over {_X_TITLES[name]}. {bands}{mean}.{drawn}",
        description=f"Curves of {len(found)} points. Mean losses at their last evaluation: {ends}.",
        draw=lambda: curves_figure(name, found),
        chart=curves_chart(name, found),
    )


def curves_figure(name: str, found: Sequence[PointCurve]) -> MatplotlibFigure:
    """A line a point with its band; beyond `MOST_MARKED` points, those that end higher are grey and unnamed."""
    figure = new_figure(7.0, 4.4)
    axes = figure.subplots()
    style_axes(axes, "Evaluation loss, whole text", x_label=_X_TITLES[name], y_label=_LOSS_TITLE)
    shown = [each for each in found if each.steps]
    named = sorted(shown, key=lambda each: each.mean(each.steps[-1]))[:MOST_MARKED]
    kept = {id(each.point) for each in named}
    place = 0
    for each in shown:
        if id(each.point) in kept:
            _draw_curve(axes, each, _places(each, name), mark_of(place))
            place += 1
        else:
            pairs = _places(each, name)
            axes.plot([x for x, _ in pairs], [each.mean(step) for _, step in pairs], color=EMPTY, zorder=1)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def _draw_curve(axes: Axes, each: PointCurve, pairs: Sequence[tuple[float, int]], mark: Mark) -> None:
    x = [place for place, _ in pairs]
    losses = [[evaluated.loss for evaluated in each.at(step)] for _, step in pairs]
    if len(each.curves) > 1:
        draw_band(axes, x, list(map(min, losses)), list(map(max, losses)), mark)
    draw_line(axes, x, [each.mean(step) for _, step in pairs], mark, each.point.label)


def curves_chart(name: str, found: Sequence[PointCurve]) -> dict[str, Any]:
    """The interactive one: a mean, a band and (hidden until asked for) the seeds of each point, switched together."""
    traces: list[Any] = []
    for number, each in enumerate(found):
        mark, label, pairs = mark_of(number), each.point.label, _places(each, name)
        x = [place for place, _ in pairs]
        losses = [[evaluated.loss for evaluated in each.at(step)] for _, step in pairs]
        if len(each.curves) > 1:
            traces.append(band_trace(mark, label, x, list(map(min, losses)), list(map(max, losses))))
        hover = f"{chart_label(label)}<br>{'step' if name == 'steps' else 'minutes'} %{{x:.4g}}<br>loss %{{y:.4f}}"
        means = {"x": x, "y": [each.mean(step) for _, step in pairs], "mode": "lines+markers"}
        traces.append(trace_of(mark, label, label, hovertemplate=f"{hover}<extra></extra>", **means))
        for curve in each.curves if len(each.curves) > 1 else ():
            own = [entry.step if name == "steps" else entry.minutes for entry in curve.evaluations]
            traces.append(
                trace_of(
                    mark,
                    f"{label}, seed {curve.run.seed}",
                    label,
                    x=finite_or_none(own),
                    y=[entry.loss for entry in curve.evaluations],
                    mode="lines",
                    visible="legendonly",
                    opacity=0.6,
                    hovertemplate=f"seed {curve.run.seed}<br>%{{x:.4g}}<br>loss %{{y:.4f}}<extra></extra>",
                )
            )
    return {"data": traces, "layout": chart_layout(_X_TITLES[name], _LOSS_TITLE, logarithmic=False)}


def _descent_table(found: Sequence[PointCurve]) -> Table:
    wanted = stable_loss_reduction().in_words()
    stable = (
        f"Stable: the share of every seed is {wanted}, of {LEAST_EPOCHS} epochs or more, as the seed's target of "
        "convergence has it; not stable: that of every seed lies below; cannot be told: of some, or of one seed alone."
    )
    return Table(
        caption="Stable loss reduction",
        columns=_DESCENT_COLUMNS,
        rows=tuple(map(_descent_row, found)),
        notes=(
            stable,
            "An epoch is judged by its last evaluation; means of its loss are at the last that every seed has.",
            _WHICH_LOSS,
        ),
    )


def _descent_row(each: PointCurve) -> tuple[Cell, ...]:
    losses = each.by_epoch
    falling = falling_of(each.point, each.curves)
    falls = sorted(descent(losses_by_epoch(curve)).falls for curve in each.curves)
    runs = [curve.run for curve in each.curves]
    return (
        Cell(each.point.label, each.point.label),
        number_cell(len(losses), numbers.whole, runs),
        Cell(str(falls[0]) if falls[0] == falls[-1] else f"{falls[0]} to {falls[-1]}", falls[0]),
        number_cell(falling.value, numbers.ratio, runs),
        Cell(numbers.interval(falling.interval) if falling.interval else ""),
        number_cell(losses[0] if losses else None, numbers.loss, runs),
        number_cell(losses[-1] if losses else None, numbers.loss, runs),
        Cell(_stable_in_words(each, falling)),
        Cell(seed_links(runs), len(runs)),
    )


def _stable_in_words(each: PointCurve, falling: Measured) -> str:
    said = {"met": "stable", "not met": "not stable", "cannot be told": "cannot be told"}
    outcome = said[outcome_of(stable_loss_reduction(), falling)]
    reason = falling.said.removeprefix(each.point.label).lstrip(":; ")
    return f"{outcome}: {reason}" if reason else outcome


def _gap_blocks(found: Sequence[PointCurve]) -> list[Block]:
    measured = [each for each in found if gaps_of(each.point)]
    unmeasured = [each for each in found if each not in measured]
    return [*([_measured_gaps(measured)] if measured else []), *(_unmeasured_gaps(unmeasured) if unmeasured else [])]


def _measured_gaps(found: Sequence[PointCurve]) -> Table:
    return Table(
        caption="Generalisation: training and evaluation measured alike",
        columns=_MEASURED_COLUMNS,
        rows=tuple(map(_measured_row, found)),
        notes=(
            "Both are of the last model, without dropout: on the evaluation text, and on as many training samples.",
            "Below 0 the gap says that the evaluation text is the easier one, not that a model generalises.",
        ),
    )


def _measured_row(each: PointCurve) -> tuple[Cell, ...]:
    gaps = gaps_of(each.point)
    runs = [run for run in each.point.counted if run.seed in gaps]
    found = mean_estimate(list(gaps.values()))
    return (
        Cell(each.point.label, each.point.label),
        number_cell(each.point.mean("final_train_loss"), numbers.loss, runs),
        number_cell(each.point.mean("final_eval_loss"), numbers.loss, runs),
        number_cell(found.mean, numbers.difference, runs),
        _interval(found),
        Cell(seed_links(runs), len(runs)),
    )


def _unmeasured_gaps(found: Sequence[PointCurve]) -> list[Block]:
    runs = [curve.run for each in found for curve in each.curves]
    commands, gone = evaluations_of(runs, LAST, lambda _: "--split train")
    why = (
        "Whether the models generalise cannot be told from these records: the training losses below are with dropout, "
        "each before its own update, and the evaluation losses without, so they are not measured alike."
    )
    how = (
        "These measure the training loss of the last models as their evaluation losses are measured, on all training "
        "samples; the gap is the evaluation loss below minus that:"
    )
    said = " ".join(each for each in (why, gone, how if commands else "") if each)
    table = Table(caption="Training and evaluation, not measured alike", columns=_GAP_COLUMNS, rows=_gap_rows(found))
    return [Paragraph(said, "warning"), *([Code(commands)] if commands else []), table]


def _gap_rows(found: Sequence[PointCurve]) -> tuple[tuple[Cell, ...], ...]:
    rows = []
    for each in found:
        curves = [curve for curve in each.curves if curve.training_loss is not None]
        runs = [curve.run for curve in curves]
        training = [curve.training_loss for curve in curves if curve.training_loss is not None]
        evaluation = [curve.evaluations[-1].loss for curve in curves]
        gap = each.gap
        rows.append(
            (
                Cell(each.point.label, each.point.label),
                number_cell(_mean(training), numbers.loss, runs),
                number_cell(_mean(evaluation), numbers.loss, runs),
                number_cell(gap.mean if gap else None, numbers.difference, runs),
                Cell("no training loss recorded") if gap is None else _interval(gap),
                Cell("cannot be told: not measured alike"),
                Cell(seed_links(runs), len(runs)),
            )
        )
    return tuple(rows)


def _interval(found: MeanEstimate) -> Cell:
    """The interval of a gap, or why there is none."""
    if found.interval is None:
        return Cell(found.reason or "")
    if not found.interval.has_width:
        return Cell("none: the seeds do not differ")
    return Cell(numbers.interval_of_difference(found.interval), found.interval.low)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
