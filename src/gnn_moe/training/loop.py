"""The training loop: steps, evaluations and checkpoints, continued from wherever a run stopped.

What happens at a step depends on the step's number, the config, the data and the number of threads only, so a run that
was interrupted and resumed on the same machine computes what an uninterrupted one computes.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from gnn_moe.config import TOP_K, RunConfig, to_dict
from gnn_moe.data.batches import Batch, RowNumbers, evaluation_batches, training_batches
from gnn_moe.data.corpus import Corpus
from gnn_moe.data.samples import Samples
from gnn_moe.errors import Interrupted, NonFiniteError
from gnn_moe.model import storage
from gnn_moe.model.folders import BEST, CHECKPOINTS, LAST, SELECTED
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.training import checkpoints
from gnn_moe.training.compiling import any_shape, compile_layers, least_rows
from gnn_moe.training.device import (
    is_out_of_memory,
    peak_memory_bytes,
    place,
    precision_of,
    release_freed_memory,
    to_host,
)
from gnn_moe.training.diagnosis import find_non_finite
from gnn_moe.training.evaluation import Evaluation, evaluate, measure_expert_load
from gnn_moe.training.generators import generator_states, restore_generators
from gnn_moe.training.idle_memory import hand_back_above, hand_back_between_layers
from gnn_moe.training.loader import LoadedBatch, collate_pieces, load_ahead
from gnn_moe.training.optimiser import build_optimiser, learning_rate, set_learning_rate
from gnn_moe.training.progress import PlainReporter
from gnn_moe.training.record import CouplingHistory, Metrics, Row
from gnn_moe.training.side_by_side import SideBySide
from gnn_moe.training.state import Progress
from gnn_moe.training.stopping import StopRequest

STEPS_BETWEEN_READS = 10


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
    plan_bytes: Callable[[RunConfig], int]
    """Of the process, as foretold for a config: idle memory beyond it is handed back between steps."""
    on_new_config: Callable[[RunConfig], None]
    """Called when the micro-batch had to be made smaller."""
    steps_between_reads: int = STEPS_BETWEEN_READS
    """Steps that a device other than the CPU may run ahead before the host reads its losses."""

    def __post_init__(self) -> None:
        training = self.config.training
        self.train_samples, self.valid_samples = self.corpus.split("train"), self.corpus.split("valid")
        self.steps_per_epoch = training.steps_per_epoch(len(self.train_samples))
        self.total_steps = training.count_steps(len(self.train_samples))
        self.device = self.accelerator.device
        self.planned_bytes = self.plan_bytes(self.config)
        place(self.model, self.accelerator)
        self.model.checkpoint_layers = training.activation_checkpointing
        self.optimiser = build_optimiser(self.model, training)
        self.side_by_side = SideBySide(self.model, training)
        self.prepared, self.prepared_optimiser = self.accelerator.prepare(self.model, self.optimiser)
        if training.compile:
            compile_layers(self.model)
        elif training.activation_checkpointing:  # what hands back is not for a compiler
            hand_back_between_layers(self.model, lambda: self.planned_bytes, self.device)
        # 1 from the first step on whose loss or gradient is not finite: from then on the optimiser stands still.
        self.diverged = torch.zeros((), device=self.device)
        self.optimiser.found_inf = self.diverged  # type: ignore[attr-defined]
        self.unread: list[tuple[Row, dict[str, Tensor]]] = []
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
            with any_shape():
                if self.coupling.is_empty():
                    self.coupling.add(0, self._coupling())
                while not self._advance():
                    self._halve_micro_batch()
        except Interrupted:
            self.save()
            raise
        finally:
            self.side_by_side.close()
            reporter.close()

    def _load(self) -> Generator[LoadedBatch, None, None]:
        """The batches of the steps that are left."""
        training = self.config.training
        return load_ahead(
            self.train_samples,
            self._rows(self.progress.step),
            micro_batch_size=training.rows_at_once,
            positions=self.config.model.max_seq_length,
            least_rows=least_rows(self.config.training),
            device=self.device,
        )

    def _advance(self) -> bool:
        """Trains to the end: True. False: the next step ran out of memory, and nothing of it was done."""
        with closing(self._load()) as batches:
            while True:
                if self._evaluation_is_due():
                    self._evaluate()
                if self.progress.step == self.total_steps:
                    return True
                self.stop.check()
                if not self._step(next(batches)):
                    return False
                hand_back_above(self.planned_bytes, self.device)
                if self._save_is_due():
                    self.save()

    def _halve_micro_batch(self) -> None:
        """Makes micro-batches smaller for the rest of the run, which gives the same gradients, and says so."""
        self._read_losses()
        was, step = self.config.training.rows_at_once, self.progress.step + 1
        now = math.ceil(was / 2)
        training = dataclasses.replace(self.config.training, micro_batch_size=now)
        self.config = dataclasses.replace(self.config, training=training)
        self.planned_bytes = self.plan_bytes(self.config)
        # Of this moment: a run that is resumed computes every step in pieces of the size that it had.
        self.save()
        self.on_new_config(self.config)
        self.metrics.add([{"kind": "memory", "step": step, "micro_batch_size": now, "micro_batch_size_before": was}])
        self.reporter.line(
            f"step {step} ran out of memory with micro-batches of {was} samples: repeated, and gone on, with {now}"
        )

    def save(self, *more_links: str) -> None:
        """Writes the checkpoint `last`, which is `best` or `selected` too if asked."""
        self._read_losses()
        began = time.perf_counter()
        self.progress.peak_memory_bytes = max(self.progress.peak_memory_bytes, peak_memory_bytes(self.device))

        def write(folder: Path) -> None:
            # The precision as resolved: whoever evaluates the checkpoint elsewhere computes as this run did.
            training = dataclasses.replace(self.config.training, precision=precision_of(self.accelerator))
            config = to_dict(dataclasses.replace(self.config, training=training))
            storage.write_model_folder(folder, self.model, config, self.corpus.tokenizer)
            state = dataclasses.asdict(self.progress)
            checkpoints.write_training_state(folder, self.model, self.optimiser, state)

        checkpoints.save_checkpoint(self.run_folder / CHECKPOINTS, self.progress.step, [LAST, *more_links], write)
        self.clock = time.perf_counter()
        self.progress.save_seconds += self.clock - began

    def _save_is_due(self) -> bool:
        every, step = self.config.output.save_every, self.progress.step
        return every is not None and step % every == 0 and not self._evaluation_is_due()

    def _evaluation_is_due(self) -> bool:
        step = self.progress.step
        at_its_time = step % self.config.training.eval_every == 0 or step == self.total_steps
        return step > 0 and at_its_time and self.progress.evaluated_step != step

    def _step(self, batch: LoadedBatch) -> bool:
        """Does one step: True. False: there was no memory for its gradient, and all is as it was before."""
        training, progress = self.config.training, self.progress
        rate = learning_rate(progress.step, self.total_steps, training)
        set_learning_rate(self.optimiser, rate)
        losses = self._backward_or_none(batch)
        if losses is None:
            return False
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
        self.diverged.copy_(torch.maximum(self.diverged, (~sum(losses.values(), norm).isfinite()).to(self.diverged)))
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
        self.unread.append((row, losses | {"gradient_norm": norm}))
        if self.device.type == "cpu" or len(self.unread) >= self.steps_between_reads:
            self._read_losses()
        return True

    def _backward_or_none(self, batch: LoadedBatch) -> dict[str, Tensor] | None:
        """The batch's losses, or None where memory ran out and smaller micro-batches can be tried."""
        before = generator_states(self.device)
        try:
            return self._backward(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or self.config.training.rows_at_once == 1:
                raise
        # Outside the handler, whose traceback holds the step's tensors, as the cycles that it is part of do.
        gc.collect()
        self.prepared_optimiser.zero_grad()
        self.model.workspace.release()
        release_freed_memory(self.device)
        restore_generators(before, self.device)
        return None

    def _backward(self, batch: LoadedBatch) -> dict[str, Tensor]:
        """The batch's `loss` and those of its routers, by name, () on the device.

        The gradient of the objective that they make is accumulated over micro-batches.
        """

        def backward(piece: Batch) -> dict[str, Tensor]:
            # A sum over the piece divided by the tokens of the whole batch: pieces add up to the batch's mean.
            output = self.prepared(piece.input_ids, targets=piece.targets, loss_denominator=batch.denominator)
            self.accelerator.backward(output.objective)
            return {name: value.detach() for name, value in {"loss": output.loss, **output.router_losses}.items()}

        losses = self.side_by_side.accumulate(batch.pieces, backward)
        return {name: torch.stack([each[name] for each in losses]).sum() for name in losses[0]}

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
        read = to_host([values for _, values in self.unread])
        self.unread.clear()
        good = list(itertools.takewhile(lambda values: math.isfinite(sum(values.values())), read))
        if good:
            self._record_steps(rows, good)
        if len(good) < len(read):
            self._fail(rows[len(good)]["step"], read[len(good)])
        self.clock = time.perf_counter()

    def _record_steps(self, rows: list[Row], losses_and_norms: list[dict[str, float]]) -> None:
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
        done = [row | values | measured for row, values in zip(rows, losses_and_norms, strict=False)]
        self.metrics.add(done)
        self.losses.extend(row["loss"] for row in done)
        self.reporter.training(done[-1])

    def _fail(self, step: int, losses_and_norm: dict[str, float]) -> NoReturn:
        where = self._find_non_finite(self.train_samples, next(self._rows(step - 1)))
        name, value = next((name, value) for name, value in losses_and_norm.items() if not math.isfinite(value))
        raise NonFiniteError(
            f"step {step}: the {name.replace('_', ' ')} is {value}; first seen in {where}. The optimiser has not "
            "moved; try a lower --learning_rate or --precision fp32"
        )

    def _find_non_finite(self, samples: Samples, rows: RowNumbers) -> str:
        size, positions = self.config.training.rows_at_once, self.config.model.max_seq_length
        pieces = collate_pieces(samples, rows, size=size, positions=positions)
        return find_non_finite(self.model, pieces, self.device)

    def _evaluate(self) -> None:
        self._read_losses()
        training, progress = self.config.training, self.progress
        batches = evaluation_batches(self.valid_samples.lengths, training.rows_at_once)
        done = itertools.count(1)

        def on_batch() -> None:
            self.stop.check()
            self.reporter.evaluating(next(done), len(batches))

        found = evaluate(
            self.prepared,
            self.valid_samples,
            batch_size=training.rows_at_once,
            positions=self.config.model.max_seq_length,
            device=self.device,
            least_rows=least_rows(self.config.training),
            on_batch=on_batch,
        )
        if not math.isfinite(found.eval_loss):
            raise NonFiniteError(
                f"step {progress.step}: the evaluation loss is {found.eval_loss}; first seen in "
                f"{self._find_non_finite(self.valid_samples, batches[0])}. The last checkpoint is from before; try a "
                "lower --learning_rate"
            )
        seconds = time.perf_counter() - self.clock
        progress.eval_seconds += seconds
        progress.evaluated_step, progress.last_evaluation = progress.step, found
        links = []
        if progress.best_evaluation is None or found.eval_loss < progress.best_evaluation.eval_loss:
            progress.best_step, progress.best_evaluation = progress.step, found
            links.append(BEST)
        if (chosen := progress.selected_evaluation) is None or found.selection_loss < chosen.selection_loss:
            progress.selected_step, progress.selected_evaluation = progress.step, found
            links.append(SELECTED)
        self._record_evaluation(found, seconds)
        self.coupling.add(progress.step, self._coupling())
        self.save(*links)

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
            "selection_loss": found.selection_loss,
            "reported_loss": found.reported_loss,
            "seconds": seconds,
            "minutes": (progress.train_seconds + progress.eval_seconds) / 60,
            "tokens_per_second": progress.tokens_per_second,
        }
        self.metrics.add([row])
        self.reporter.evaluation(row, float(np.mean(self.losses)) if self.losses else None)
        self.losses.clear()

    def _coupling(self) -> dict[str, npt.NDArray[np.float32]]:
        """What the couplers have learned, or where the routers send the first evaluation samples."""
        model = self.config.model
        if model.architecture != TOP_K:
            return {name: values.numpy() for name, values in self.model.coupling().items()}
        load_LE = measure_expert_load(
            self.prepared,
            self.valid_samples,
            top_k=model.router_top_k,
            batch_size=self.config.training.rows_at_once,
            positions=model.max_seq_length,
            device=self.device,
            least_rows=least_rows(self.config.training),
        )
        return {f"layer_{number}/expert_load": load_E for number, load_E in enumerate(load_LE.numpy())}
