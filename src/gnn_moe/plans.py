"""What a run will take, before it runs: memory from its config alone, minutes from a few of its own steps."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gnn_moe.checks import ALL
from gnn_moe.config import OutputConfig, RunConfig
from gnn_moe.errors import RunFailed
from gnn_moe.model.halves import threads_to_expect
from gnn_moe.model.memory import Circumstances, PeakMemory, largest_micro_batch, peak_memory, workload_of
from gnn_moe.model.size import model_size
from gnn_moe.training.memory_limits import cpu_room_bytes

if TYPE_CHECKING:
    from accelerate import Accelerator

    from gnn_moe.data.corpus import Corpus
    from gnn_moe.data.samples import Samples
    from gnn_moe.run_folder import RunFolder

_FEWEST_STEPS, _MOST_STEPS = 12, 60
"""Of a calibration; the first third of them is not counted."""
_CALIBRATION_FLOPS = 3 * 10**12
"""Of its steps, where that makes no fewer and no more of them."""
_EVALUATED = 6
"""Batches of a calibration's evaluation."""
_RUN = "calibration"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a run is expected to take on this machine as busy as it was, from a few of its own steps."""

    micro_batch_size: int
    """As `--micro_batch_size auto` chose it."""
    precision: str
    """bf16 or fp32, as resolved."""
    threads: int
    """That it computed with."""
    steps: int
    evaluations: int
    positions: int
    """Of the longest batch."""
    train_minutes: float
    eval_minutes: float
    save_minutes: float
    """Writing checkpoints."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The fullest moment of a run, and what was taken for granted."""

    device_type: str
    """cpu or cuda; `--device auto` counts as a CPU."""
    precision: str
    """bf16 or fp32; `--precision auto` counts as bf16."""
    threads: int
    """Of a CPU that computes."""
    micro_batch_size: int
    """What `auto` would choose in the memory that there is now; on a GPU, whose memory is not asked, the batch."""
    peak: PeakMemory


def plan_memory(
    config: RunConfig, found: Calibration | None = None, *, at_once: int = 1, threads: int | None = None
) -> MemoryPlan:
    """What a run of the config takes at its fullest moment, without torch.

    Args:
        config: the run's.
        found: what a calibration of it found out; without it, rows are as long as the model has positions.
        at_once: runs that share the memory and the processors.
        threads: that the run computes with on a CPU (default: those that it would have here).
    """
    model, training = config.model, config.training
    circumstances: Circumstances = {
        "precision": "fp32" if training.precision == "fp32" else "bf16",
        "device_type": "cuda" if training.device.startswith("cuda") else "cpu",
        "positions": model.max_seq_length,
        "threads": threads_to_expect(at_once) if threads is None else threads,
        "one_length": config.data.data_format == "packed",
    }
    if found is not None:
        circumstances["precision"], circumstances["positions"] = found.precision, found.positions
        circumstances["threads"] = found.threads
        rows = found.micro_batch_size
    elif training.micro_batch_size == "auto" and circumstances["device_type"] == "cpu":
        rows = largest_micro_batch(model, training, room_bytes=cpu_room_bytes() // at_once, **circumstances)
    else:
        rows = training.rows_at_once
    return MemoryPlan(
        device_type=circumstances["device_type"],
        precision=circumstances["precision"],
        threads=circumstances["threads"],
        micro_batch_size=rows,
        peak=peak_memory(model, workload_of(model, training, rows=rows, **circumstances)),
    )


def circumstances_of(
    config: RunConfig, corpus: Corpus, accelerator: Accelerator, *, threads: int | None = None
) -> Circumstances:
    """What the memory of a run in this process depends on besides its model and training.

    Args:
        config: the run's.
        corpus: its data.
        accelerator: what it computes with.
        threads: of a CPU (default: those of this process).
    """
    import torch

    from gnn_moe.data.batches import longest_batch
    from gnn_moe.training.device import precision_of

    return {
        "precision": precision_of(accelerator),
        "device_type": accelerator.device.type,
        "positions": longest_batch(corpus.split("train"), config.model.max_seq_length),
        "threads": torch.get_num_threads() if threads is None else threads,
        "one_length": config.data.data_format == "packed",
    }


def calibrate(config: RunConfig) -> Calibration:
    """Trains and evaluates for some steps in a process of its own, and reckons what the whole run will take.

    A step's seconds are a constant and a share for each position, padding included; how many positions every step of
    the run has follows from the text. The whole run is `epochs` epochs with an evaluation every `eval_every` steps.

    Raises:
        BadInput: the data cannot be used.
        RunFailed: the short run failed.
    """
    from gnn_moe.data.corpus import load_corpus
    from gnn_moe.run_folder import RunFolder

    training, longest = config.training, config.model.max_seq_length
    rows = _EVALUATED * training.batch_size
    if config.data.num_eval_samples != ALL:
        rows = min(rows, config.data.num_eval_samples)
    whole = load_corpus(config.data, max_seq_length=longest, cache_dir=config.output.cache_dir)
    steps = _count_steps(config, whole)
    short = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, num_eval_samples=rows),
        training=dataclasses.replace(training, max_steps=steps, eval_every=steps),
    )
    part = load_corpus(short.data, max_seq_length=longest, cache_dir=config.output.cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        output = OutputConfig(output_dir=folder, run_name=_RUN, quiet=True, cache_dir=config.output.cache_dir)
        _run_apart(dataclasses.replace(short, output=output))
        seen = _read(RunFolder(Path(folder) / _RUN))
    return _reckon(config, seen, whole.split("train"), whole.split("valid"), part.split("valid"))


def _count_steps(config: RunConfig, corpus: Corpus) -> int:
    """More of a small model's, which takes longer to reach its speed: every new length of a batch costs it kernels."""
    steps, positions = _steps_and_positions(config, corpus.split("train"), size=config.training.batch_size)
    model = dataclasses.replace(config.model, vocab_size=corpus.vocab_size)
    flops = model_size(model).training_flops_per_token * max(1, positions // steps)
    return min(_MOST_STEPS, max(_FEWEST_STEPS, _CALIBRATION_FLOPS // flops))


def _steps_and_positions(config: RunConfig, train: Samples, *, size: int) -> tuple[int, int]:
    """Steps of the whole run, and the positions that it computes in pieces of `size` rows, padding included."""
    from gnn_moe.data.batches import computed_positions, training_batches

    training = config.training
    steps = training.count_steps(len(train))
    batches = training_batches(
        train.lengths,
        batch_size=training.batch_size,
        seed=training.seed,
        group_by_length=training.group_by_length,
        batches_per_epoch=training.steps_per_epoch(len(train)),
        steps=range(steps),
    )
    return steps, computed_positions(train, batches, size=size, positions=config.model.max_seq_length)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a short run left."""

    step_seconds: float
    """Of a step, whatever its length."""
    position_seconds: float
    """Of a position in training, besides."""
    eval_seconds: float
    save_seconds: float
    """Of a checkpoint."""
    micro_batch_size: int
    precision: str
    threads: int


def _run_apart(config: RunConfig) -> None:
    """Runs a training as a process that keeps nothing of this one; its output is thrown away.

    Raises:
        RunFailed: it did not end well.
    """
    process = multiprocessing.get_context("spawn").Process(target=_train_silently, args=(config,))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RunFailed(f"--calibrate: the short run ended with status {process.exitcode}; see what gnn-moe train says")


def _train_silently(config: RunConfig) -> None:
    from gnn_moe.runs import run_training
    from gnn_moe.training.device import keep_freed_memory

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    keep_freed_memory()
    # Each step has a clock of its own, on a GPU too.
    run_training(config, ["calibration"], steps_between_reads=1)


def _read(run: RunFolder) -> _Seen:
    from scipy.optimize import nnls

    from gnn_moe.run_summary import read_summary
    from gnn_moe.training.record import read_metrics

    rows, environment = read_metrics(run.metrics), run.read_environment()
    trained = [row for row in rows if row["kind"] == "train"]
    tokens = np.diff([0, *(row["tokens"] for row in trained)])
    positions = tokens / (1 - np.array([row["padding_share"] for row in trained]))
    seconds = tokens / np.array([row["tokens_per_second"] for row in trained])
    timed = slice(min(max(_FEWEST_STEPS, len(trained)) // 3, len(trained) - 1), None)
    # Neither part of the cost is negative, whatever the noise.
    cost, _ = nnls(np.stack([np.ones_like(positions), positions], axis=1)[timed], seconds[timed])
    return _Seen(
        step_seconds=float(cost[0]),
        position_seconds=float(cost[1]),
        eval_seconds=sum(row["seconds"] for row in rows if row["kind"] == "eval"),
        # Its one evaluation is followed by its one checkpoint.
        save_seconds=60 * read_summary(run.read_summary() or {}, str(run.summary)).save_minutes,
        micro_batch_size=run.read_config().training.rows_at_once,
        precision=environment["precision"],
        threads=environment["threads"],
    )


def _reckon(config: RunConfig, seen: _Seen, train: Samples, valid: Samples, evaluated: Samples) -> Calibration:
    """The whole run, from what a short run left that evaluated only some of the samples."""
    from gnn_moe.data.batches import computed_positions, evaluation_batches, longest_batch

    training, longest = config.training, config.model.max_seq_length
    size = seen.micro_batch_size
    steps, positions = _steps_and_positions(config, train, size=size)
    all_of_them, some = (
        computed_positions(samples, evaluation_batches(samples.lengths, size), size=size, positions=longest)
        for samples in (valid, evaluated)
    )
    evaluations = math.ceil(steps / training.eval_every)
    return Calibration(
        micro_batch_size=size,
        precision=seen.precision,
        threads=seen.threads,
        steps=steps,
        evaluations=evaluations,
        positions=longest_batch(train, longest),
        train_minutes=(steps * seen.step_seconds + positions * seen.position_seconds) / 60,
        # And one of as many training samples at the end.
        eval_minutes=(evaluations + 1) * seen.eval_seconds * all_of_them / some / 60,
        save_minutes=evaluations * seen.save_seconds / 60,
    )
