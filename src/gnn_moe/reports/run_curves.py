"""The evaluation curves of points, as numbers: by seed, their mean, how losses fell by epoch, the gap to training."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gnn_moe.checks import is_number
from gnn_moe.errors import BadInput
from gnn_moe.reports.points import Group, Point, Run
from gnn_moe.studies.statistics import MeanEstimate, mean_estimate, paired_differences

LEAST_EPOCHS = 10
"""Epochs with an evaluation from which a loss can be called stable."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluation."""

    step: int
    epoch: int | None
    minutes: float | None
    """Of training and evaluation so far."""
    loss: float
    """Nats a token, on the whole evaluation text, without dropout."""


@dataclass(frozen=True, kw_only=True)
class RunCurve:
    """The evaluations of one run, by step."""

    run: Run
    evaluations: tuple[Evaluated, ...]
    training_loss: float | None
    """Mean over the steps after the last evaluation but one up to the last: with dropout, each before its update."""


@dataclass(frozen=True, kw_only=True)
class PointCurve:
    """The curves of one point, a seed each, and what they say together."""

    point: Point
    curves: tuple[RunCurve, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps at which every seed has an evaluation, ascending."""
        common = set.intersection(*({each.step for each in curve.evaluations} for curve in self.curves))
        return tuple(sorted(common))

    def at(self, step: int) -> tuple[Evaluated, ...]:
        """The evaluations of all seeds at one of `steps`."""
        return tuple(next(each for each in curve.evaluations if each.step == step) for curve in self.curves)

    def minutes(self, step: int) -> float | None:
        """Median over seeds; None where one did not record them."""
        minutes = [each.minutes for each in self.at(step) if each.minutes is not None]
        return statistics.median(minutes) if len(minutes) == len(self.curves) else None

    def mean(self, step: int) -> float:
        """Mean loss over seeds at one of `steps`."""
        return math.fsum(each.loss for each in self.at(step)) / len(self.curves)

    @property
    def by_epoch(self) -> tuple[float, ...]:
        """Mean loss over seeds at the last common evaluation of each epoch that has one."""
        last = {epoch: step for step in self.steps if (epoch := self.at(step)[0].epoch) is not None}
        return tuple(self.mean(last[epoch]) for epoch in sorted(last))

    @property
    def gap(self) -> MeanEstimate | None:
        """Evaluation loss minus training loss at the last evaluation, over seeds; not measured alike."""
        pairs = [
            curve.evaluations[-1].loss - curve.training_loss for curve in self.curves if curve.training_loss is not None
        ]
        return mean_estimate(pairs) if pairs else None


def losses_by_epoch(curve: RunCurve) -> tuple[float, ...]:
    """The loss of a run at the last evaluation of each epoch that has one."""
    last = {each.epoch: each.loss for each in curve.evaluations if each.epoch is not None}
    return tuple(last[epoch] for epoch in sorted(last))


def gaps_of(point: Point) -> dict[int, float]:
    """Evaluation loss minus training loss of each run's last model, both without dropout, by seed."""
    evaluation, training = point.by_seed("final_eval_loss"), point.by_seed("final_train_loss")
    seeds = [seed for seed in evaluation if seed in training]
    gaps = paired_differences([evaluation[seed] for seed in seeds], [training[seed] for seed in seeds])
    return dict(zip(seeds, gaps.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How the evaluation loss of one run went from epoch to epoch."""

    epochs: int
    """With an evaluation."""
    falls: int
    """Epochs whose loss is below that of the one before."""

    @property
    def share(self) -> float | None:
        """Of the epochs after the first; None below `LEAST_EPOCHS`."""
        return self.falls / (self.epochs - 1) if self.epochs >= LEAST_EPOCHS else None


def descent(by_epoch: Sequence[float]) -> Descent:
    """What losses by epoch say. Example: 5, 4, 4.5 are 3 epochs with 1 fall."""
    falls = sum(now < before for before, now in itertools.pairwise(by_epoch))
    return Descent(epochs=len(by_epoch), falls=falls)


def read_curves(group: Group) -> tuple[list[PointCurve], list[str]]:
    """The curves of the points' runs that count, and a line for each run that is left out."""
    found, notes = [], []
    for point in group.points:
        notes += [f"{run.name}: {point.why_not(run)}, so its curve is not drawn" for run in point.uncounted]
        curve, said = point_curve(point)
        notes += said
        if curve is not None:
            found.append(curve)
            if not curve.steps:
                notes.append(f"{point.label}: its seeds share no evaluated step, so they have no mean curve")
    return found, notes


def point_curve(point: Point) -> tuple[PointCurve | None, list[str]]:
    """The curves of a point's runs that count, None without any, and a line for each run that is left out."""
    curves, notes = [], []
    for run in point.counted:
        try:
            curve, said = run_curve(run)
        except BadInput as error:
            notes.append(f"{run.name}: {error}")
            continue
        notes += said
        if curve is not None:
            curves.append(curve)
    return PointCurve(point=point, curves=tuple(curves)) if curves else None, notes


def run_curve(run: Run) -> tuple[RunCurve | None, list[str]]:
    """The curve of one run, or None, with a line for what is not in it.

    Raises:
        BadInput: its metrics are missing or damaged.
    """
    if run.folder is None:
        return None, [f"{run.name}: its run folder is not here, so its curve is not drawn"]
    rows: list[Evaluated] = []
    losses: list[tuple[int, float]] = []
    not_finite: list[int] = []
    for row in run.metrics:
        if row.get("kind") not in ("train", "eval"):
            continue
        step, loss = row.get("step"), row.get("loss")
        if not isinstance(step, int):
            raise BadInput(f"{run.folder}: metrics.jsonl has a row without a step; its curve is not drawn")
        if not is_number(loss) or loss is None:
            not_finite.append(step)
        elif row["kind"] == "train":
            losses.append((step, float(loss)))
        else:
            epoch, minutes = row.get("epoch"), row.get("minutes")
            rows.append(
                Evaluated(
                    step=step,
                    epoch=epoch if isinstance(epoch, int) else None,
                    minutes=float(minutes) if minutes is not None and is_number(minutes) else None,
                    loss=float(loss),
                )
            )
    said = [f"{run.name}: {len(not_finite)} losses that are not finite are left out"] if not_finite else []
    if not rows:
        return None, [*said, f"{run.name}: metrics.jsonl has no evaluation, so no curve is drawn"]
    rows = sorted({each.step: each for each in rows}.values(), key=lambda each: each.step)
    before = rows[-2].step if len(rows) > 1 else 0
    recent = [loss for step, loss in losses if before < step <= rows[-1].step]
    training = math.fsum(recent) / len(recent) if recent else None
    return RunCurve(run=run, evaluations=tuple(rows), training_loss=training), said
