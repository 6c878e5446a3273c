"""What the points of a sweep will take, before any runs: parameters, memory, minutes.

Parameters and memory follow from each config. Minutes come from some steps of the baseline on this machine, and are
carried over to the other points in proportion to their FLOPs: those of a training token times the tokens of all steps,
and those of an evaluated token times the evaluations. A point that uses the machine better or worse than the baseline,
or needs smaller micro-batches, differs from that.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from gnn_moe.checks import ALL
from gnn_moe.config import OutputConfig, RunConfig
from gnn_moe.data.corpus import Corpus, load_corpus
from gnn_moe.data.tokenization import nominal_vocab_size
from gnn_moe.errors import BadInput, GnnMoeError
from gnn_moe.model.size import model_size
from gnn_moe.plans import Calibration, calibrate, plan_memory
from gnn_moe.studies.design import Point, config_of


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What one point will take."""

    point: Point
    problem: str | None
    """Why it cannot run; the rest is then None."""
    total_parameters: int | None = None
    peak_memory_bytes: int | None = None
    """With the micro-batch that `--micro_batch_size auto` would take now."""
    minutes: float | None = None
    """None where the baseline could not be timed."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The baseline's minutes, and what they were for."""

    baseline: RunConfig
    found: Calibration
    train_samples: int
    """Of the baseline."""
    train_available: int

    def minutes(self, config: RunConfig) -> float:
        """Of a run of the config, in proportion to its FLOPs."""
        trained = self._work(config) / self._work(self.baseline)
        evaluated = self._evaluation_work(config) / self._evaluation_work(self.baseline)
        return self.found.train_minutes * trained + self.found.eval_minutes * evaluated

    def _work(self, config: RunConfig) -> float:
        rows = self._steps(config) * config.training.batch_size
        return rows * config.model.max_seq_length * model_size(config.model).training_flops_per_token

    def _evaluation_work(self, config: RunConfig) -> float:
        times = math.ceil(self._steps(config) / config.training.eval_every)
        return times * config.model.max_seq_length * model_size(config.model).forward_flops_per_token

    def _steps(self, config: RunConfig) -> int:
        asked = config.data.num_train_samples
        samples = self.train_available if asked == ALL else min(asked, self.train_available)
        return config.training.count_steps(samples)


def time_baseline(baseline: RunConfig) -> Clock:
    """Times some steps of the baseline. Its encoded data is put away with the rest: nothing stays.

    Raises:
        GnnMoeError: the data cannot be had, or the steps failed.
    """
    with tempfile.TemporaryDirectory() as cache:
        config = dataclasses.replace(baseline, output=OutputConfig(cache_dir=cache))
        found = calibrate(config)
        corpus: Corpus = load_corpus(config.data, max_seq_length=config.model.max_seq_length, cache_dir=cache)
    train = corpus.split("train")
    return Clock(
        baseline=_with_vocabulary(baseline),
        found=found,
        train_samples=len(train),
        train_available=train.available,
    )


def foresee(baseline: RunConfig, points: Sequence[Point], *, at_once: int = 1) -> tuple[list[Foresight], str]:
    """What every point will take with so many at once, and a line on where the minutes come from."""
    try:
        clock = time_baseline(baseline)
    except GnnMoeError as error:
        return [_of_point(baseline, point, None, at_once) for point in points], f"no minutes: {error}"
    said = (
        f"minutes: from some steps of the baseline here, as busy as this machine is, in {clock.found.precision}; "
        "for the other points in proportion to their FLOPs"
    )
    return [_of_point(baseline, point, clock, at_once) for point in points], said


def _of_point(baseline: RunConfig, point: Point, clock: Clock | None, at_once: int) -> Foresight:
    try:
        config = _with_vocabulary(config_of(baseline, point))
        size = model_size(config.model)  # a control that cannot be matched has none
    except BadInput as error:
        return Foresight(point=point, problem=str(error))
    return Foresight(
        point=point,
        problem=None,
        total_parameters=size.total_parameters,
        peak_memory_bytes=plan_memory(config, at_once=at_once).peak.total,
        minutes=None if clock is None else clock.minutes(config),
    )


def _with_vocabulary(config: RunConfig) -> RunConfig:
    vocabulary = nominal_vocab_size(config.data.tokenizer)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocabulary))


def foresight_table(title: str, points: Sequence[Foresight]) -> Table:
    """The points with what they will take."""
    table = Table(title=f"{title}: {len(points)} points", title_justify="left")
    table.add_column("trial", overflow="fold")
    for name in ("parameters", "peak memory", "minutes"):
        table.add_column(name, justify="right")
    for each in points:
        cells = (
            "bad_config" if each.problem else _shown(each.total_parameters, ","),
            _shown(None if each.peak_memory_bytes is None else each.peak_memory_bytes / 2**30, ".2f", " GiB"),
            _shown(each.minutes, ".1f"),
        )
        table.add_row(escape(each.point.name), *cells)
    return table


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
