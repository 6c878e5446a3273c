"""The trials of a comparison → its arms, verdicts and what they rest on, as plain values for study.json.

An arm's number for a seed is `reported_loss`: of the evaluation that has the least loss on one half of the evaluation
text, the loss on the other half. Only completed trials whose checkpoint of then was seen not to look ahead count; every
other one is listed with the reason.

These questions are asked, and the verdicts of each hold jointly; all but the last of every arm and the first one:

- their losses, at each value that is gone across;
- where there are several such values and they are numbers: does the difference change with them? A seed's losses are
  fitted by a line over log2 of the value, and the slopes, in nats a doubling, are compared as losses are;
- the minutes to one loss: of a seed, the higher of the two arms' least reported losses, so that both reach it. The
  logarithms are compared, so that the answer is a ratio. Minutes are those of a machine as busy as it then was;
- what a trained model loses by an ablation, where one was asked for: of each arm's selected checkpoints, the same
  models with and without it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gnn_moe.checks import is_number
from gnn_moe.errors import BadInput
from gnn_moe.studies.ablations import LOSSES, read_ablations
from gnn_moe.studies.comparison import Cell, Comparison
from gnn_moe.studies.drift import read_drift
from gnn_moe.studies.results import TrialRow
from gnn_moe.studies.statistics import mean_estimate
from gnn_moe.studies.verdicts import Arm, compare_pairs, in_words
from gnn_moe.studies.verdicts import Comparison as Verdict
from gnn_moe.training.record import METRICS_FILE, read_metrics

_COARSE = 0.01
"""Part of a budget by which whole steps may miss it unsaid."""
_SEED = 20240301
"""Of bootstrap and sign flips: the same trials give the same record."""
_ABLATED = {
    "coupler": "its coupler taken out",
    "shuffle_graph": "its graph shuffled",
    "uniform_weights": "uniform weights",
}
LOG_MINUTES = "log minutes"
"""The unit of a question about minutes, by which readers of study.json know it."""
Curve = list[tuple[float, float]]
"""(minutes, reported loss) of each evaluation."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing that is asked of every arm and the first."""

    asks: str
    unit: str
    verdicts: tuple[Verdict, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a comparison found."""

    cells: list[dict[str, Any]]
    """A row an arm and value: losses by seed, their mean with its interval, what was spent, what was left out."""
    questions: tuple[Question, ...]
    notes: list[str]
    """What a reader must know before believing any of it."""

    def as_record(self) -> dict[str, Any]:
        """For study.json."""
        return {
            "cells": self.cells,
            "questions": [dataclasses.asdict(each) for each in self.questions],
            "notes": self.notes,
        }


def weigh(
    comparison: Comparison,
    trials: Sequence[TrialRow],
    seeds: Sequence[int],
    run_folder: Callable[[TrialRow], Path],
    *,
    others: Sequence[TrialRow] = (),
) -> Evidence:
    """What the trials of a comparison say.

    Args:
        comparison: what was compared.
        trials: rows of its points; `params` of all rows in one form.
        seeds: that were asked for.
        run_folder: where a trial's record is.
        others: of the study, such as arms that are compared no more; they count as tried.
    """
    of_cell = {
        cell.label: {trial["seed"]: trial for trial in trials if trial["arm"] == cell.label}
        for cell in comparison.cells()
    }
    left = {_setting(trial) for trial in others} - {_setting(trial) for trial in trials}
    tried = max(comparison.configurations_tried or 0, len(of_cell) + len(left))
    arms = {label: _arm(label, found) for label, found in of_cell.items()}
    questions = [_losses(comparison, arms, tried)]
    if _is_numeric(comparison):
        questions.append(_trend(comparison, arms, tried))
    curves, elsewhere = _all_curves(of_cell, run_folder)
    questions.append(_minutes(comparison, curves, tried))
    ablated, damaged = _ablated(of_cell, run_folder)
    questions += _ablations(ablated, tried)
    drifts, unknown = _drifts(of_cell, run_folder)
    cells = [
        _cell(cell, arms[cell.label], of_cell[cell.label], seeds) | {"drift": drifts[cell.label]}
        for cell in comparison.cells()
    ]
    return Evidence(
        cells=cells,
        questions=tuple(questions),
        notes=_notes(cells, seeds) + _coarse(comparison, cells) + elsewhere + damaged + unknown,
    )


def reason_left_out(trial: TrialRow) -> str | None:
    """Why a trial's number may not enter a result, or None."""
    if trial["state"] != "completed":
        return f"{trial['error_class'] or trial['state']}: {trial['error_message'] or 'it has no result yet'}"
    if trial["causal"] is not True:
        return "it was not asked whether its checkpoint sees the future: run it again with this version"
    if trial["reported_loss"] is None:
        return "its evaluations have no halves to choose by and to report: run it again with this version"
    return None


def _setting(trial: TrialRow) -> str:
    """What a trial shares with those of other seeds."""
    return repr((trial["arm"], sorted(trial["params"].items())))


def _arm(label: str, trials: Mapping[int, TrialRow]) -> Arm:
    good = {seed: trial for seed, trial in trials.items() if reason_left_out(trial) is None}
    return Arm(name=label, seeds=tuple(good), losses=tuple(float(each["reported_loss"]) for each in good.values()))


def _pairs(comparison: Comparison, arms: Mapping[str, Arm]) -> list[tuple[Arm, Arm]]:
    """Every arm with the first one at the same value."""
    first = {cell.value: arms[cell.label] for cell in comparison.cells() if cell.arm == comparison.first}
    return [(first[cell.value], arms[cell.label]) for cell in comparison.cells() if cell.arm != comparison.first]


def _ask(asks: str, unit: str, pairs: Sequence[tuple[Arm, Arm]], tried: int) -> Question:
    verdicts = compare_pairs(pairs, configurations_tried=tried, generator=np.random.default_rng(_SEED))
    sentences = tuple(in_words(each, of_ratio=unit == LOG_MINUTES) for each in verdicts)
    return Question(asks=asks, unit=unit, verdicts=verdicts, sentences=sentences)


def _losses(comparison: Comparison, arms: Mapping[str, Arm], tried: int) -> Question:
    return _ask("Which has the lower loss?", "nats a token", _pairs(comparison, arms), tried)


def _is_numeric(comparison: Comparison) -> bool:
    values = comparison.across.values if comparison.across else ()
    return len(values) > 1 and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values
    )


def _trend(comparison: Comparison, arms: Mapping[str, Arm], tried: int) -> Question:
    """Slopes of the loss over log2 of the value, seed by seed."""
    assert comparison.across is not None
    field, values = comparison.across.field, [float(value) for value in comparison.across.values if value is not None]
    slopes = {}
    for name in comparison.arms:
        at_values = [arms[cell.label] for cell in comparison.cells() if cell.arm == name]
        losses = [dict(zip(arm.seeds, arm.losses, strict=True)) for arm in at_values]
        complete = [seed for seed in at_values[0].seeds if all(seed in each for each in losses)]
        fitted = [float(np.polyfit(np.log2(values), [each[seed] for each in losses], 1)[0]) for seed in complete]
        slopes[name] = Arm(name=f"the slope of {name}", seeds=tuple(complete), losses=tuple(fitted))
    pairs = [(slopes[comparison.first], slopes[name]) for name in comparison.arms if name != comparison.first]
    return _ask(f"Whose loss falls faster with {field}?", f"nats a token a doubling of {field}", pairs, tried)


def _all_curves(
    of_cell: Mapping[str, Mapping[int, TrialRow]], run_folder: Callable[[TrialRow], Path]
) -> tuple[dict[str, dict[int, Curve]], list[str]]:
    """The curves of the trials that count, by label and seed; and a note for each that cannot be read here."""
    curves: dict[str, dict[int, Curve]] = {}
    notes: list[str] = []
    for label, trials in of_cell.items():
        counted = {seed: run_folder(trial) for seed, trial in trials.items() if reason_left_out(trial) is None}
        curves[label], missing = read_minute_curves(counted)
        if missing:
            seeds = ", ".join(map(str, missing))
            notes.append(f"left out of the minutes to one loss: {label}, seed {seeds}: {next(iter(missing.values()))}")
    return curves, notes


def read_minute_curves(folders: Mapping[int, Path]) -> tuple[dict[int, Curve], dict[int, str]]:
    """The curves of loss over minutes, and why one cannot be read here; both by seed."""
    found, missing = {}, {}
    for seed, folder in folders.items():
        try:
            rows = read_metrics(folder / METRICS_FILE)
        except BadInput as damage:
            missing[seed] = str(damage) if folder.exists() else f"{folder} is not on this machine"
            continue
        evaluations = [row for row in rows if row.get("kind") == "eval" and row.get("reported_loss") is not None]
        if any(not is_number(row.get("minutes")) or row["minutes"] <= 0 for row in evaluations):
            missing[seed] = f"{folder / METRICS_FILE} has an evaluation whose minutes are no number above 0"
        elif evaluations:
            found[seed] = [(row["minutes"], row["reported_loss"]) for row in evaluations]
    return found, missing


def _minutes(comparison: Comparison, curves: Mapping[str, Mapping[int, Curve]], tried: int) -> Question:
    """Logarithms of the minutes to a loss that both reach."""
    first = {cell.value: cell.label for cell in comparison.cells() if cell.arm == comparison.first}
    pairs = []
    for cell in comparison.cells():
        if cell.arm != comparison.first:
            label = first[cell.value]
            reached = minutes_to_one_loss(curves[label], curves[cell.label])
            pairs.append((_logarithms(label, reached[0]), _logarithms(cell.label, reached[1])))
    return _ask("Which reaches one loss sooner?", LOG_MINUTES, pairs, tried)


def _logarithms(name: str, minutes: Mapping[int, float]) -> Arm:
    return Arm(name=name, seeds=tuple(minutes), losses=tuple(map(math.log, minutes.values())))


def minutes_to_one_loss(
    first: Mapping[int, Curve], arm: Mapping[int, Curve]
) -> tuple[dict[int, float], dict[int, float]]:
    """Minutes of two arms to a loss that both reach: of each seed that both have, the higher of their least ones."""
    reached: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for seed in sorted(set(first) & set(arm)):
        target = max(min(loss for _, loss in curves[seed]) for curves in (first, arm))
        for found, curves in zip(reached, (first, arm), strict=True):
            found[seed] = minutes_to(curves[seed], target)
    return reached


Ablated = dict[str, dict[str, dict[int, Mapping[str, Any]]]]
"""Ablation → label → seed → what was found."""


def _ablated(
    of_cell: Mapping[str, Mapping[int, TrialRow]], run_folder: Callable[[TrialRow], Path]
) -> tuple[Ablated, list[str]]:
    """What was found of the models that count, and a note for each record of it that is damaged."""
    found: Ablated = {}
    damaged = []
    for label, trials in of_cell.items():
        for seed, trial in trials.items():
            if reason_left_out(trial) is not None:
                continue
            try:
                of_run = read_ablations(run_folder(trial))
            except BadInput as error:
                damaged.append(f"left out of the ablations: {label}, seed {seed}: {error}")
                continue
            for ablation, values in of_run.items():
                if any(values[name] is None for name in LOSSES):
                    damaged.append(f"left out of the ablations: {label}, seed {seed}: {ablation} has no finite loss")
                    continue
                found.setdefault(ablation, {}).setdefault(label, {})[seed] = values
    return found, damaged


def _ablations(found: Ablated, tried: int) -> list[Question]:
    """Of each ablation that was asked: every arm's models as they are and ablated, at their selected checkpoints."""
    questions = []
    ablated = sum(map(len, found.values()))  # each a configuration of its own, beside those that were trained
    for ablation, arms in found.items():
        pairs = [
            (
                _of(label, "reported_loss", by_seed),
                _of(f"{label} with {_ABLATED[ablation]}", "ablated_reported_loss", by_seed),
            )
            for label, by_seed in arms.items()
        ]
        asks = f"What does a trained model lose with {_ABLATED[ablation]}?"
        questions.append(_ask(asks, "nats a token", pairs, tried + ablated))
    return questions


def _of(name: str, field: str, by_seed: Mapping[int, Mapping[str, Any]]) -> Arm:
    return Arm(name=name, seeds=tuple(by_seed), losses=tuple(float(values[field]) for values in by_seed.values()))


def minutes_to(curve: Curve, loss: float) -> float:
    """The minutes after which a curve is at a loss that it reaches, on the line between two evaluations."""
    before: tuple[float, float] | None = None
    for minutes, now in curve:
        if now <= loss:
            if before is None or before[1] == now:
                return minutes
            return before[0] + (minutes - before[0]) * (before[1] - loss) / (before[1] - now)
        before = (minutes, now)
    raise ValueError(f"the curve never reaches {loss}")


def _cell(cell: Cell, arm: Arm, trials: Mapping[int, TrialRow], seeds: Sequence[int]) -> dict[str, Any]:
    good = [trials[seed] for seed in arm.seeds]
    left_out = {seed: reason_left_out(trials[seed]) for seed in seeds if seed not in arm.seeds}
    return {
        "label": cell.label,
        "arm": cell.arm,
        "value": cell.value,
        "seeds": list(arm.seeds),
        "losses": list(arm.losses),
        "estimate": dataclasses.asdict(mean_estimate(arm.losses)) if arm.losses else None,
        "left_out": [{"seed": seed, "reason": reason} for seed, reason in left_out.items()],
        "parameters": next((each["total_parameters"] for each in good), None),
        "micro_batch_sizes": sorted({each["micro_batch_size"] for each in good}),
        **{name: _mean([each[name] for each in good]) for name in ("steps", "tokens", "minutes", "train_minutes")},
        "training_flops": _mean([each["tokens"] * each["training_flops_per_token"] for each in good]),
    }


def _drifts(
    of_cell: Mapping[str, Mapping[int, TrialRow]], run_folder: Callable[[TrialRow], Path]
) -> tuple[dict[str, list[dict[str, Any]] | None], list[str]]:
    """How far learned strengths moved beside how far seeds differ, a row a graph; and a note where that is unknown."""
    found: dict[str, list[dict[str, Any]] | None] = {}
    unknown = []
    for label, trials in of_cell.items():
        found[label] = None
        folders = [run_folder(trial) for trial in trials.values() if reason_left_out(trial) is None]
        if not folders:
            continue
        try:
            rows = [dataclasses.asdict(layer) for layer in read_drift(folders).layers]
        except BadInput as error:
            unknown.append(f"no drift of {label}: {error}")
            continue
        # A row a hyperedge of each layer stays with `gnn_moe.studies.drift`.
        found[label] = [{name: row[name] for name in row if name != "connections"} for row in rows]
    return found, unknown


def _coarse(comparison: Comparison, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where a budget of tokens or FLOPs, which whole steps spend, came out more than `_COARSE` apart."""
    unit = {"tokens": "tokens", "flops": "training_flops"}.get(comparison.budget)
    if unit is None:
        return []
    first = {cell["value"]: cell[unit] for cell in cells if cell["arm"] == comparison.first}
    shares = [
        (cell["label"], cell[unit] / first[cell["value"]]) for cell in cells if cell[unit] and first[cell["value"]]
    ]
    apart = [f"{label} has {share:.3g} times" for label, share in shares if abs(share - 1) > _COARSE]
    words = unit.replace("_", " ").replace("flops", "FLOPs")
    return [f"of the first arm's {words}, {', '.join(apart)}: a budget is whole steps"] if apart else []


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _notes(cells: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[str]:
    notes = []
    if len(seeds) < 2:
        notes.append("one seed: no interval can be given; run with --seeds 1,2,3,4,5")
    notes += [
        f"left out: {cell['label']}, seed {each['seed']}: {each['reason']}"
        for cell in cells
        for each in cell["left_out"]
    ]
    sizes = {size for cell in cells for size in cell["micro_batch_sizes"]}
    if len(sizes) > 1:
        notes.append(f"micro-batches differ ({', '.join(map(str, sorted(sizes)))}): dropout drew other masks")
    return notes
