"""`python -m benchmarks loader`: batches a second, the share of padding, and how soon a run takes its first step."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.children import ChildFailed, Failure, Subject, contest
from benchmarks.measure import PASSIVE
from gnn_moe.config import DataConfig, OutputConfig, RunConfig, TrainingConfig, to_dict

MOST_PADDING, LONGEST_START = 0.1, 5
"""Targets: the share of padding of grouped lines, and seconds of a second start to its first step; both below."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The batches of one epoch."""

    grouped: bool
    batches: int
    seconds: float
    batches_per_second: float
    tokens_per_second: float
    padding: float
    """Padded positions over all positions."""


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """From the call that trains to the first step, in a fresh process."""

    imports_seconds: float
    """Of `gnn_moe.runs` with all that it imports; not counted below."""
    to_first_step_seconds: float
    """Until the model is first called."""
    to_first_update_seconds: float
    """Until the weights have moved."""


@dataclass(frozen=True, kw_only=True)
class LoaderResult:
    """One dataset."""

    data: dict[str, Any]
    model: dict[str, Any]
    batch_size: int
    epochs: tuple[Epoch, ...]
    first: StartUp | None
    """With nothing cached."""
    second: StartUp | None
    """With the encoded data of the first."""
    failure: Failure | None


class Loader:
    """The child that reads a corpus and makes the batches of an epoch."""

    def __init__(self, config: RunConfig) -> None:
        from gnn_moe.data.corpus import load_corpus

        self.config = config
        corpus = load_corpus(config.data, max_seq_length=config.model.max_seq_length, cache_dir=config.output.cache_dir)
        self.samples = corpus.split("train")

    def epoch(self, grouped: bool) -> Epoch:
        """Makes every batch of the first epoch."""
        from gnn_moe.data.batches import collate, epoch_batches

        training = self.config.training
        start = time.perf_counter()
        order = epoch_batches(
            self.samples.lengths,
            batch_size=training.batch_size,
            seed=training.seed,
            epoch=0,
            group_by_length=grouped,
        )
        predicted = positions = 0
        for rows in order:
            batch = collate(self.samples, rows, positions=self.config.model.max_seq_length)
            predicted += batch.predicted_tokens
            positions += batch.targets.numel()
        seconds = time.perf_counter() - start
        return Epoch(
            grouped=grouped,
            batches=len(order),
            seconds=seconds,
            batches_per_second=len(order) / seconds,
            tokens_per_second=predicted / seconds,
            padding=1 - predicted / positions,
        )


class Starter:
    """The child that starts a run and notes when the model is first called and when the weights first move."""

    def __init__(self) -> None:
        start = time.perf_counter()
        import gnn_moe.runs  # noqa: F401

        self.imports_seconds = time.perf_counter() - start

    def start(self, config: RunConfig) -> StartUp:
        """Runs one step and an evaluation."""
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from gnn_moe.runs import run_training
        from gnn_moe.training.device import keep_freed_memory

        moments: dict[str, float] = {}

        def note(name: str, *hooked: object) -> None:
            moments.setdefault(name, time.perf_counter())

        register_module_forward_pre_hook(partial(note, "called"))
        register_optimizer_step_post_hook(partial(note, "moved"))
        keep_freed_memory()
        start = time.perf_counter()
        run_training(config, ["python", "-m", "benchmarks", "loader"])
        return StartUp(
            imports_seconds=self.imports_seconds,
            to_first_step_seconds=moments["called"] - start,
            to_first_update_seconds=moments["moved"] - start,
        )


def measure_loader(config: RunConfig) -> LoaderResult:
    """Measures one dataset with a cache of its own, which is empty at first."""
    epochs: list[Epoch] = []
    starts: list[StartUp] = []
    failure = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            starts += [_start(_one_step(config, Path(folder), 0))]
            starts += [_start(_one_step(config, Path(folder), 1))]
            epochs += _epochs(_one_step(config, Path(folder), 2))
        except ChildFailed as failed:
            failure = failed.failure
    return LoaderResult(
        data=to_dict(config.data),
        model=to_dict(config.model),
        batch_size=config.training.batch_size,
        epochs=tuple(epochs),
        first=starts[0] if starts else None,
        second=starts[1] if len(starts) > 1 else None,
        failure=failure,
    )


def _start(config: RunConfig) -> StartUp:
    with contest({"start": Subject(target="benchmarks.loader:Starter", environment=PASSIVE)}) as running:
        found: StartUp = running.children["start"].ask("start", config)
        return found


def _epochs(config: RunConfig) -> list[Epoch]:
    subject = Subject(target="benchmarks.loader:Loader", arguments=(config,), environment=PASSIVE)
    with contest({"loader": subject}) as running:
        return [running.children["loader"].ask("epoch", grouped) for grouped in (True, False)]


def _one_step(config: RunConfig, folder: Path, number: int) -> RunConfig:
    """The run cut to one step, with its record and cache in a folder that goes."""
    training, data = config.training, config.data
    return RunConfig(
        model=config.model,
        data=DataConfig(**{**to_dict(data), "num_eval_samples": training.batch_size}),
        training=TrainingConfig(**{**to_dict(training), "epochs": 1, "max_batches_per_epoch": 1}),
        output=OutputConfig(
            run_name=f"start-{number}", output_dir=str(folder / "runs"), cache_dir=str(folder / "cache"), quiet=True
        ),
    )
