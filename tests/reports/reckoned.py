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
    quantities += [float(np.median(spreads)), _detectable(float(np.median(spreads)), 5)]
    for one, other in itertools.permutations(completed, 2):
        quantities += _of_pair(one, other)
    quantities += _scaling(completed)
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
        planned = plan_memory(record.config).peak.total
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
    model = records[0].config.model
    graph = model_size(dataclasses.replace(model, coupler_type="GNN")).training_flops_per_token
    yield 2 * 5 * records[0].minutes * graph / model_size(model).training_flops_per_token
    for name, unit in (("bits_per_byte", 1), ("train_minutes", 1), ("peak_memory_bytes", 2**30)):
        if name in records[0].summary:
            yield np.mean([record.summary[name] for record in records]) / unit
    for epoch in {row["epoch"] for row in records[0].rows if row["kind"] == "eval"}:
        ends = [[row for row in record.rows if row["kind"] == "eval" and row["epoch"] == epoch] for record in records]
        yield np.mean([rows[-1]["loss"] for rows in ends])
    trained = np.array([[row for row in record.rows if row["kind"] == "train"][-1]["loss"] for record in records])
    yield trained.mean()
    yield from _mean_and_interval(losses - trained)
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
    yield from (np.abs(moved).max(), weights[0, -1].min(), weights[0, -1].max())
    means, spreads = moved.mean(axis=0), moved.std(axis=0, ddof=1)
    ratio, count = math.sqrt((means**2).mean() / (spreads**2).mean()), len(records)
    half = float(stats.t.ppf(0.975, count - 1)) / math.sqrt(count)
    yield from (ratio, ratio - half, ratio + half, 1 / math.sqrt(count))
    yield float(np.mean([stats.spearmanr(*pair).statistic for pair in itertools.combinations(moved, 2)]))


def _of_pair(one: Sequence[Record], other: Sequence[Record]) -> Iterator[float]:
    ours, theirs = ({record.config.training.seed: record.loss for record in some} for some in (one, other))
    differences = np.array([ours[seed] - theirs[seed] for seed in sorted(ours)])
    yield from _mean_and_interval(differences)
    yield float(stats.ttest_1samp(differences, 0).pvalue)
    yield 2 / 2 ** len(differences)
    yield _detectable(float(differences.std(ddof=1)), len(differences))
    yield one[0].minutes / other[0].minutes


def _scaling(points: Sequence[Sequence[Record]]) -> Iterator[float]:
    """Rates for each doubling of minutes, how the last differs from the first, and the power laws."""
    ordered = sorted(points, key=lambda some: some[0].minutes)
    losses = np.array([_losses(some) for some in ordered])
    doublings = np.diff(np.log2([some[0].minutes for some in ordered]))
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


def _detectable(spread: float, pairs: int) -> float:
    """The true difference that a paired t test at 5 % finds 80 times in 100."""
    limit = float(stats.t.ppf(0.975, pairs - 1))

    def missing(away: float) -> float:
        return float(stats.nct.sf(limit, pairs - 1, away) + stats.nct.cdf(-limit, pairs - 1, away)) - 0.8

    return float(optimize.brentq(missing, 0.1, 8)) * spread / math.sqrt(pairs)


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
