"""The numbers that a report may hold, reckoned from run folders by NumPy and SciPy: nothing of `gnn_moe.reports`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from gnn_moe.config import RunConfig
from gnn_moe.model.size import model_size
from gnn_moe.plans import plan_memory
from gnn_moe.run_folder import RunFolder

Floats = npt.NDArray[np.float64]
LEVELS = (0.95, 0.975)
"""Of intervals: of one alone, and of the first of two after Holm."""
ALPHAS = tuple(1 - level for level in LEVELS)


@dataclass(frozen=True)
class Record:
    """A completed run."""

    folder: Path

    @cached_property
    def config(self) -> RunConfig:
        return RunFolder(self.folder).read_config()

    @cached_property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return found

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    @cached_property
    def loss(self) -> float:
        """On one half of the text, at the evaluation with the least loss on the other."""
        evaluations = [row for row in self.rows if row["kind"] == "eval"]
        return float(min(evaluations, key=lambda row: row["selection_loss"])["reported_loss"])

    @property
    def minutes(self) -> float:
        return float(self.summary["train_minutes"] + self.summary["eval_minutes"])


def numbers_of(runs: Path) -> set[str]:
    """Every way to write a number that follows from the runs in a folder."""
    records = [Record(folder) for folder in sorted(runs.iterdir())]
    points: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        points.setdefault((record.config.model.num_experts, record.config.model.coupler_type), []).append(record)
    quantities = [size for record in records for size in _sizes(record)]
    completed = [some for some in points.values() if all(each.summary["status"] == "completed" for each in some)]
    for some in completed:
        some.sort(key=lambda record: record.config.training.seed)
        quantities += _of_point(some)
    pairs = itertools.combinations([_losses(some) for some in completed], 2)
    spreads = [np.std(one - other, ddof=1) for one, other in pairs]
    quantities += [float(np.median(spreads))]
    quantities += [_detectable(float(np.median(spreads)), seeds, alpha) for seeds in range(5, 21) for alpha in ALPHAS]
    for one, other in itertools.permutations(completed, 2):
        quantities += _of_pair(one, other)
    quantities += _scaling(completed)
    quantities += _comparisons_to_come(completed)
    return {form for quantity in quantities for form in _forms(float(quantity))}


def numbers_in(markdown: str) -> list[str]:
    """The numbers of a report that are more than counts: with a decimal point, a thousands comma, or a suffix."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    found = re.findall(r"(?<![\w.])[−+-]?\d[\d,]*(?:\.\d+)?(?:e[-−]\d+)?(?: × 10[⁰¹²³⁴⁵⁶⁷⁸⁹]+|k\b)?", text)
    return [each for each in (number.rstrip(",") for number in found) if re.search(r"[.,k×e]", each)]


def _sizes(record: Record) -> Iterator[float]:
    size = model_size(record.config.model)
    yield from (size.total_parameters, size.non_embedding_parameters)
    if record.summary["status"] == "completed":
        yield size.training_flops_per_token * record.summary["tokens"]
        planned = plan_memory(record.config, threads=1).peak.total
        yield planned / 2**30
        yield record.summary.get("peak_memory_bytes", 0) / planned
        yield from (record.loss, record.minutes, record.summary["tokens"])
        yield from (record.summary[name] for name in ("unigram_loss",) if name in record.summary)


def _losses(records: Sequence[Record]) -> Floats:
    return np.array([record.loss for record in records])


def _of_point(records: Sequence[Record]) -> Iterator[float]:
    losses = _losses(records)
    yield from _mean_and_interval(losses)
    yield math.exp(losses.mean())
    for name, unit in (("bits_per_byte", 1), ("peak_memory_bytes", 2**30)):
        if name in records[0].summary:
            yield np.mean([record.summary[name] for record in records]) / unit
    yield float(np.median([record.minutes for record in records]))
    for epoch in {row["epoch"] for row in records[0].rows if row["kind"] == "eval"}:
        ends = [[row for row in record.rows if row["kind"] == "eval" and row["epoch"] == epoch] for record in records]
        yield np.mean([rows[-1]["loss"] for rows in ends])
    trained = np.array([[row for row in record.rows if row["kind"] == "train"][-1]["loss"] for record in records])
    yield trained.mean()
    yield from _mean_and_interval(losses - trained)
    if "tokens_per_second" in records[0].summary:
        speeds = [record.summary["tokens_per_second"] for record in records]
        yield max(speeds) / min(speeds)
    if "final_train_loss" in records[0].summary:
        alike = np.array([[record.summary[f"final_{name}_loss"] for record in records] for name in ("train", "eval")])
        yield from alike.mean(axis=1)
        yield from _mean_and_interval(alike[1] - alike[0])
    if (records[0].folder / "coupling.npz").exists():
        yield from _of_coupling(records)


def _of_coupling(records: Sequence[Record]) -> Iterator[float]:
    """Of hyperedge weights of one layer."""
    weights = np.array([np.load(record.folder / "coupling.npz")["layer_0/hyperedge_weights"] for record in records])
    moved = weights[:, -1] - weights[:, 0]
    yield from _mean_and_interval(moved.mean(axis=1))
    # One graph: Holm leaves its p value.
    yield float(stats.ttest_1samp(moved.mean(axis=1), 0).pvalue)
    yield from (np.abs(moved).max(), weights[0, -1].min(), weights[0, -1].max())
    means, spreads = moved.mean(axis=0), moved.std(axis=0, ddof=1)
    ratio, count = math.sqrt((means**2).mean() / (spreads**2).mean()), len(records)
    yield from (ratio, 1 / math.sqrt(count))
    yield from _ratio_with_ends(moved.mean(axis=1))
    yield float(np.mean([stats.spearmanr(*pair).statistic for pair in itertools.combinations(moved, 2)]))


def _ratio_with_ends(values: Floats) -> Iterator[float]:
    """|mean| over spread, and the ratios at which one as large, or as small, comes about 25 times in 1000."""
    count, ratio = len(values), abs(values.mean()) / values.std(ddof=1)
    yield ratio
    for chance in (0.025, 0.975):

        def missing(truth: float, chance: float = chance) -> float:
            return float(stats.nct.sf(ratio * math.sqrt(count), count - 1, truth * math.sqrt(count))) - chance

        yield max(0.0, float(optimize.brentq(missing, -5, 5 * ratio + 5)))


def _of_pair(one: Sequence[Record], other: Sequence[Record]) -> Iterator[float]:
    ours, theirs = ({record.config.training.seed: record.loss for record in some} for some in (one, other))
    differences = np.array([ours[seed] - theirs[seed] for seed in sorted(ours)])
    yield from _mean_and_interval(differences)
    yield float(stats.ttest_1samp(differences, 0).pvalue)
    yield 2 / 2 ** len(differences)
    yield _detectable(float(differences.std(ddof=1)), len(differences))
    first, second = (_flops(some) for some in (one, other))
    yield from (first / second, second / first)
    ratios = np.array([ours.minutes / theirs.minutes for ours, theirs in zip(one, other, strict=True)])
    yield from np.exp(list(_mean_and_interval(np.log(ratios))))
    reached = np.array([_to_one_loss(*pair) for pair in zip(one, other, strict=True)])
    yield from np.median(reached, axis=0)
    logs = np.log(reached[:, 0] / reached[:, 1])
    yield from np.exp(list(_mean_and_interval(logs)))
    yield float(stats.ttest_1samp(logs, 0).pvalue)
    yield math.exp(_detectable(float(logs.std(ddof=1)), len(logs)))
    yield from _sign_flips(logs)


def _sign_flips(values: Floats) -> Iterator[float]:
    """The share of all ways to set the signs that give a mean at least as far from 0."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    yield float(np.mean(np.abs(signs @ values) >= abs(values.sum()) * (1 - 1e-12)))


def _to_one_loss(*pair: Record) -> list[float]:
    """Minutes of two runs of a seed to the loss that the worse of them reaches, on lines between evaluations."""
    curves = [
        np.array([(row["minutes"], row["reported_loss"]) for row in record.rows if row["kind"] == "eval"])
        for record in pair
    ]
    target = max(curve[:, 1].min() for curve in curves)
    found = []
    for minutes, losses in (curve.T for curve in curves):
        there = int(np.argmax(losses <= target))
        line = slice(max(there - 1, 0), there + 1)
        found.append(float(np.interp(-target, -losses[line], minutes[line])))
    return found


def _flops(some: Sequence[Record]) -> float:
    return float(model_size(some[0].config.model).training_flops_per_token * some[0].summary["tokens"])


def _scaling(points: Sequence[Sequence[Record]]) -> Iterator[float]:
    """Rates for each doubling of training FLOPs, how the last differs from the first, and the power laws."""

    ordered = sorted(points, key=_flops)
    losses = np.array([_losses(some) for some in ordered])
    doublings = np.diff(np.log2([_flops(some) for some in ordered]))
    rates = np.diff(losses, axis=0) / doublings[:, None]
    yield from rates.mean(axis=1)
    yield from _mean_and_interval(rates[-1] - rates[0])
    if len(ordered) < 3:
        return
    for name in ("total_parameters", "training_flops_per_token"):
        sizes = [getattr(model_size(some[0].config.model), name) for some in ordered]
        tokens = ordered[0][0].summary["tokens"] if name.startswith("training") else 1
        fit = stats.linregress(np.log(np.array(sizes) * tokens), np.log(losses.mean(axis=1)))
        errors = float(stats.t.ppf(0.975, len(ordered) - 2))
        for sign in (-1, 0, 1):
            yield math.exp(fit.intercept + sign * errors * fit.intercept_stderr)
            yield fit.slope + sign * errors * fit.stderr


def _mean_and_interval(values: Floats) -> Iterator[float]:
    yield values.mean()
    for level in LEVELS:
        half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * values.std(ddof=1) / math.sqrt(len(values))
        yield from (values.mean() - half, values.mean() + half)


def _comparisons_to_come(points: Sequence[Sequence[Record]]) -> Iterator[float]:
    """Minutes of all runs of a comparison of GNN, HGNN and mean at equal FLOPs, for 5 to 20 seeds.

    A coupler goes at the speed (FLOPs a minute) of its own run of middle length, or else of the point it is made from.
    """
    for point in points:
        speeds = dict.fromkeys(("GNN", "HGNN", "mean"), _speed(point))
        for other in points:
            if other[0].config.model.num_experts == point[0].config.model.num_experts:
                speeds[other[0].config.model.coupler_type] = _speed(other)
        graph = dataclasses.replace(point[0].config.model, coupler_type="GNN")
        flops = model_size(graph).training_flops_per_token * point[0].summary["tokens"]
        for seeds in range(5, 21):
            yield sum(seeds * flops / speed for speed in speeds.values())


def _speed(records: Sequence[Record]) -> float:
    middle = sorted(records, key=lambda record: record.minutes)[len(records) // 2]
    return float(model_size(middle.config.model).training_flops_per_token * middle.summary["tokens"] / middle.minutes)


def _detectable(spread: float, pairs: int, alpha: float = 0.05) -> float:
    """The true difference that a paired t test finds 80 times in 100."""
    limit = float(stats.t.ppf(1 - alpha / 2, pairs - 1))

    def missing(away: float) -> float:
        return float(stats.nct.sf(limit, pairs - 1, away) + stats.nct.cdf(-limit, pairs - 1, away)) - 0.8

    return float(optimize.brentq(missing, 0.1, 6)) * spread / math.sqrt(pairs)


def _forms(value: float) -> Iterator[str]:
    """A number in each way in which a report writes one."""
    for decimals in (1, 2, 4, 5):
        yield f"{value:.{decimals}f}".replace("-", "−")
        yield f"{value:+.{decimals}f}".replace("-", "−")
    for digits in (2, 3, 4):
        short = f"{value:.{digits}g}"
        yield from (short, short.replace("-", "−"), f"{value:+.{digits}g}")
    yield f"{value:,.0f}"
    if abs(value) >= 1000:
        yield f"{value / 1000:.3g}k"
        yield f"{value / 1000:.1f}k"
    if abs(value) >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        yield f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
