"""The training loop: steps, evaluations and checkpoints, continued from wherever a run stopped.

What happens at a step depends on the step's number, the config and the data only, so a run that was interrupted and
resumed computes what an uninterrupted one computes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from gnn_moe.checks import ALL
from gnn_moe.config import RunConfig, TrainingConfig, to_dict
from gnn_moe.data.batches import RowNumbers, evaluation_batches, training_batches
from gnn_moe.data.corpus import Corpus
from gnn_moe.data.samples import Samples
from gnn_moe.errors import Interrupted, NonFiniteError
from gnn_moe.model import storage
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.training import checkpoints
from gnn_moe.training.compiling import any_shape, compile_layers, least_rows
from gnn_moe.training.device import peak_memory_bytes, precision_of
from gnn_moe.training.diagnosis import find_non_finite
from gnn_moe.training.evaluation import Evaluation, evaluate
from gnn_moe.training.loader import LoadedBatch, collate_pieces, load_ahead
from gnn_moe.training.optimiser import build_optimiser, learning_rate, set_learning_rate
from gnn_moe.training.progress import PlainReporter
from gnn_moe.training.record import CouplingHistory, Metrics, Row
from gnn_moe.training.stopping import StopRequest

_STEPS_BETWEEN_READS = 10
"""Steps that a device other than the CPU may run ahead before the host reads its losses."""


@dataclass(kw_only=True)
class Progress:
    """How far a run is: all that a checkpoint must know besides tensors."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Tokens predicted in training."""
    positions: int = 0
    """Positions computed in training: predicted tokens and padding."""
    evaluated_step: int = 0
    """The step of the last finished evaluation; 0 before the first."""
    best_step: int | None = None
    best_evaluation: Evaluation | None = None
    last_evaluation: Evaluation | None = None
    train_seconds: float = 0.0
    waiting_seconds: float = 0.0
    """Of the seconds of training, those in which a step waited for its batch."""
    eval_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def restore(self, values: dict[str, Any]) -> None:
        """Takes over what `dataclasses.asdict` gave of another."""
        for name, value in values.items():
            evaluation = name in ("best_evaluation", "last_evaluation") and value is not None
            setattr(self, name, Evaluation(**value) if evaluation else value)

    @property
    def tokens_per_second(self) -> float:
        """Predicted training tokens a second of training."""
        return self.tokens / self.train_seconds if self.train_seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """Seconds of training that were spent waiting for batches, over all."""
        return self.waiting_seconds / self.train_seconds if self.train_seconds else 0.0

    @property
    def padding_share(self) -> float:
        """Padded positions over all positions computed in training."""
        return 1 - self.tokens / self.positions if self.positions else 0.0


def steps_per_epoch(samples: Samples, config: TrainingConfig) -> int:
    """Batches of an epoch: all of them, the last short one included, or at most `max_batches_per_epoch`."""
    batches = math.ceil(len(samples) / config.batch_size)
    limit = config.max_batches_per_epoch
    return batches if limit == ALL else min(batches, limit)


def count_steps(samples: Samples, config: TrainingConfig) -> int:
    """Steps of a whole run."""
    return config.epochs * steps_per_epoch(samples, config)


@dataclass(kw_only=True)
class Trainer:
    """One run's training, from `progress.step` to the last step."""

    config: RunConfig
    corpus: Corpus
    model: LanguageModel
    accelerator: Accelerator
    run_folder: Path
    metrics: Metrics
    coupling: CouplingHistory
    stop: StopRequest
    progress: Progress

    def __post_init__(self) -> None:
        training = self.config.training
        self.train_samples, self.valid_samples = self.corpus.split("train"), self.corpus.split("valid")
        self.steps_per_epoch = steps_per_epoch(self.train_samples, training)
        self.total_steps = count_steps(self.train_samples, training)
        self.device = self.accelerator.device
        self.model.to(self.device)
        self.optimiser = build_optimiser(self.model, training)
        self.prepared, self.prepared_optimiser = self.accelerator.prepare(self.model, self.optimiser)
        if training.compile:
            compile_layers(self.model)
        # 1 from the first step on whose loss or gradient is not finite: from then on the optimiser stands still.
        self.diverged = torch.zeros((), device=self.device)
        self.optimiser.found_inf = self.diverged  # type: ignore[attr-defined]
        self.unread: list[tuple[Row, Tensor]] = []
        self.tokens_read = 0
        self.waited_seconds = 0.0
        self.losses: list[float] = []

    def resume_from(self, folder: Path) -> None:
        """Restores model, optimiser, generators and progress from a checkpoint.

        Raises:
            BadInput: the checkpoint is damaged.
        """
        storage.verify(folder)
        storage.load_parameters(self.model, folder)
        self.progress.restore(checkpoints.load_training_state(folder, self.model, self.optimiser))
        self.tokens_read = self.progress.tokens

    def run(self, reporter: PlainReporter) -> None:
        """Trains to the end, evaluating and saving on the way.

        Raises:
            NonFiniteError: a loss or gradient was not finite; the checkpoint `last` is from before.
            Interrupted: a signal asked for it; the checkpoint `last` is of this moment.
        """
        self.stop.defer()
        self.reporter = reporter
        self.clock = time.perf_counter()
        try:
            if self.coupling.is_empty():
                self.coupling.add(0, self._coupling())
            with any_shape(), closing(self._load()) as batches:
                self._advance(batches)
        except Interrupted:
            self.save()
            raise
        finally:
            reporter.close()

    def _load(self) -> Generator[LoadedBatch, None, None]:
        """The batches of the steps that are left."""
        training = self.config.training
        return load_ahead(
            self.train_samples,
            self._rows(self.progress.step),
            micro_batch_size=training.micro_batch_size,
            positions=self.config.model.max_seq_length,
            least_rows=least_rows(training.micro_batch_size or training.batch_size) if training.compile else 1,
            device=self.device,
        )

    def _advance(self, batches: Iterator[LoadedBatch]) -> None:
        while True:
            if self._evaluation_is_due():
                self._evaluate()
            if self.progress.step == self.total_steps:
                return
            self.stop.check()
            self._step(next(batches))
            if self._save_is_due():
                self.save()

    def save(self, *, best: bool = False) -> None:
        """Writes the checkpoint `last`, and `best` too if asked."""
        self._read_losses()
        self.progress.peak_memory_bytes = max(self.progress.peak_memory_bytes, peak_memory_bytes(self.device))

        def write(folder: Path) -> None:
            # The precision as resolved: whoever evaluates the checkpoint elsewhere computes as this run did.
            training = dataclasses.replace(self.config.training, precision=precision_of(self.accelerator))
            config = to_dict(dataclasses.replace(self.config, training=training))
            storage.write_model_folder(folder, self.model, config, self.corpus.tokenizer)
            state = dataclasses.asdict(self.progress)
            checkpoints.write_training_state(folder, self.model, self.optimiser, state)

        links = [storage.LAST, storage.BEST] if best else [storage.LAST]
        checkpoints.save_checkpoint(self.run_folder / storage.CHECKPOINTS, self.progress.step, links, write)
        self.clock = time.perf_counter()

    def _save_is_due(self) -> bool:
        every, step = self.config.output.save_every, self.progress.step
        return every is not None and step % every == 0 and not self._evaluation_is_due()

    def _evaluation_is_due(self) -> bool:
        step = self.progress.step
        at_its_time = step % self.config.training.eval_every == 0 or step == self.total_steps
        return step > 0 and at_its_time and self.progress.evaluated_step != step

    def _step(self, batch: LoadedBatch) -> None:
        training, progress = self.config.training, self.progress
        rate = learning_rate(progress.step, self.total_steps, training)
        set_learning_rate(self.optimiser, rate)
        loss = self._backward(batch)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
        self.diverged.copy_(torch.maximum(self.diverged, (~(loss + norm).isfinite()).to(self.diverged)))
        self.prepared_optimiser.step()
        self.prepared_optimiser.zero_grad()
        progress.step += 1
        progress.tokens += batch.predicted_tokens
        progress.positions += batch.positions
        self.waited_seconds += batch.waited_seconds
        row: Row = {
            "kind": "train",
            "step": progress.step,
            "epoch": self._epoch(progress.step),
            "tokens": progress.tokens,
            "learning_rate": rate,
            "padding_share": batch.padding_share,
        }
        self.unread.append((row, torch.stack([loss, norm])))
        if self.device.type == "cpu" or len(self.unread) >= _STEPS_BETWEEN_READS:
            self._read_losses()

    def _backward(self, batch: LoadedBatch) -> Tensor:
        """The batch's loss, () on the device; its gradient is accumulated over micro-batches."""
        total = torch.zeros((), device=self.device)
        for piece in batch.pieces:
            # A sum over the piece divided by the tokens of the whole batch: pieces add up to the batch's mean.
            output = self.prepared(piece.input_ids, targets=piece.targets, loss_denominator=batch.denominator)
            self.accelerator.backward(output.loss)
            total += output.loss.detach()
        return total

    def _rows(self, first_step: int) -> Iterator[RowNumbers]:
        """The rows of every step from `first_step` (0-based) to the last."""
        training = self.config.training
        return training_batches(
            self.train_samples.lengths,
            batch_size=training.batch_size,
            seed=training.seed,
            group_by_length=training.group_by_length,
            batches_per_epoch=self.steps_per_epoch,
            steps=range(first_step, self.total_steps),
        )

    def _epoch(self, step: int) -> int:
        return (step - 1) // self.steps_per_epoch + 1

    def _read_losses(self) -> None:
        """Brings the losses of the last steps to the host and writes their rows; the clock starts anew."""
        rows = [row for row, _ in self.unread]
        # Stacked on the device, so that the host asks it for numbers once.
        read = torch.stack([values for _, values in self.unread]).tolist() if self.unread else []
        self.unread.clear()
        good = list(itertools.takewhile(lambda values: math.isfinite(sum(values)), read))
        if good:
            self._record_steps(rows, good)
        if len(good) < len(read):
            self._fail(rows[len(good)], *read[len(good)])
        self.clock = time.perf_counter()

    def _record_steps(self, rows: list[Row], losses_and_norms: list[list[float]]) -> None:
        """Writes the rows of the steps whose numbers are finite, with what the stretch of them took."""
        progress = self.progress
        seconds = time.perf_counter() - self.clock
        progress.train_seconds += seconds
        progress.waiting_seconds += self.waited_seconds
        tokens = rows[len(losses_and_norms) - 1]["tokens"]
        measured = {
            "tokens_per_second": (tokens - self.tokens_read) / seconds,
            "waiting_share": self.waited_seconds / seconds,
        }
        self.tokens_read, self.waited_seconds = tokens, 0.0
        done = [
            row | {"loss": loss, "gradient_norm": norm} | measured
            for row, (loss, norm) in zip(rows, losses_and_norms, strict=False)
        ]
        self.metrics.add(done)
        self.losses.extend(row["loss"] for row in done)
        self.reporter.training(done[-1])

    def _fail(self, row: Row, loss: float, norm: float) -> NoReturn:
        step = row["step"]
        where = self._find_non_finite(self.train_samples, next(self._rows(step - 1)))
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
        raise NonFiniteError(
            f"step {step}: {what}; first seen in {where}. The optimiser has not moved; try a lower --learning_rate "
            "or --precision fp32"
        )

    def _find_non_finite(self, samples: Samples, rows: RowNumbers) -> str:
        size, positions = self.config.training.micro_batch_size, self.config.model.max_seq_length
        pieces = collate_pieces(samples, rows, size=size, positions=positions)
        return find_non_finite(self.model, pieces, self.device)

    def _evaluate(self) -> None:
        self._read_losses()
        training, progress = self.config.training, self.progress
        batches = math.ceil(len(self.valid_samples) / training.batch_size)
        done = itertools.count(1)

        def on_batch() -> None:
            self.stop.check()
            self.reporter.evaluating(next(done), batches)

        found = evaluate(
            self.prepared,
            self.valid_samples,
            batch_size=training.batch_size,
            positions=self.config.model.max_seq_length,
            device=self.device,
            least_rows=least_rows(training.batch_size) if training.compile else 1,
            on_batch=on_batch,
        )
        if not math.isfinite(found.eval_loss):
            rows = evaluation_batches(self.valid_samples.lengths, training.batch_size)[0]
            raise NonFiniteError(
                f"step {progress.step}: the evaluation loss is {found.eval_loss}; first seen in "
                f"{self._find_non_finite(self.valid_samples, rows)}. The last checkpoint is from before; try a lower "
                "--learning_rate"
            )
        seconds = time.perf_counter() - self.clock
        progress.eval_seconds += seconds
        progress.evaluated_step, progress.last_evaluation = progress.step, found
        best = progress.best_evaluation is None or found.eval_loss < progress.best_evaluation.eval_loss
        if best:
            progress.best_step, progress.best_evaluation = progress.step, found
        self._record_evaluation(found, seconds)
        self.coupling.add(progress.step, self._coupling())
        self.save(best=best)

    def _record_evaluation(self, found: Evaluation, seconds: float) -> None:
        progress = self.progress
        row: Row = {
            "kind": "eval",
            "step": progress.step,
            "epoch": self._epoch(progress.step),
            "tokens": progress.tokens,
            "loss": found.eval_loss,
            "perplexity": found.perplexity,
            "bits_per_byte": found.bits_per_byte,
            "word_perplexity": found.word_perplexity,
            "seconds": seconds,
            "minutes": (progress.train_seconds + progress.eval_seconds) / 60,
            "tokens_per_second": progress.tokens_per_second,
        }
        self.metrics.add([row])
        self.reporter.evaluation(row, float(np.mean(self.losses)) if self.losses else None)
        self.losses.clear()

    def _coupling(self) -> dict[str, npt.NDArray[np.float32]]:
        return {name: values.numpy() for name, values in self.model.coupling().items()}
