"""One run from config to summary: data, model, training, record."""

from __future__ import annotations

import dataclasses
import math
import random
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator

from gnn_moe.config import COUPLED, RunConfig, Sampling
from gnn_moe.data.corpus import Corpus, load_corpus
from gnn_moe.data.samples import choose
from gnn_moe.errors import BadInput, NonFiniteError
from gnn_moe.figures import write_figures
from gnn_moe.hypergraph import build_hyperedges, incidence_matrix
from gnn_moe.model.causality import CausalityCheck, check_causality, rows_to_ask
from gnn_moe.model.folders import BEST, SELECTED
from gnn_moe.model.generation import generate
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.model.memory import largest_micro_batch, peak_memory, workload_of
from gnn_moe.model.size import describe_model, model_size
from gnn_moe.model.storage import load_model
from gnn_moe.plans import circumstances_of
from gnn_moe.run_folder import RunFolder, check_free, check_unchanged, write_config
from gnn_moe.run_summary import COMPLETED, Summary, explain, read_summary, summarise_run, summary_lines
from gnn_moe.training import checkpoints
from gnn_moe.training.compiling import any_shape, least_rows
from gnn_moe.training.device import accelerator_for, peak_memory_bytes, precision_of, reset_peak_memory
from gnn_moe.training.environment import describe_environment
from gnn_moe.training.evaluation import evaluate
from gnn_moe.training.loop import STEPS_BETWEEN_READS, Trainer
from gnn_moe.training.memory_limits import room_bytes
from gnn_moe.training.progress import build_reporter
from gnn_moe.training.record import CouplingHistory, Metrics, read_metrics, write_json
from gnn_moe.training.state import Progress
from gnn_moe.training.stopping import StopRequest, stop_on_signals

_SAMPLE_PROMPT, _SAMPLE_LENGTH = 8, 40


def run_training(
    config: RunConfig, command_line: Sequence[str], *, steps_between_reads: int = STEPS_BETWEEN_READS
) -> Summary:
    """Trains one run, fresh or resumed, and writes its whole record.

    Args:
        config: the run's settings; `model.vocab_size` is replaced by the tokenizer's.
        command_line: the words of the command, for the record.
        steps_between_reads: steps that a GPU may run ahead before the host reads their losses and the clock.

    Returns:
        The summary of a completed run.

    Raises:
        BadInput: the settings, the data or the run folder cannot be used; nothing was written.
        RunFailed: it could not be completed; summary.json says why.
        Interrupted: a signal stopped it; it can be resumed.
    """
    config = with_run_name(config)
    folder = RunFolder(Path(config.output.output_dir) / str(config.output.run_name))
    config = _with_stored_micro_batch(config, folder)
    check_free(folder, config)
    if (done := _completed(folder, config)) is not None:
        return done
    training = config.training
    with accelerator_for(training.device, training.precision) as accelerator, stop_on_signals() as stop:
        corpus = load_corpus(config.data, max_seq_length=config.model.max_seq_length, cache_dir=config.output.cache_dir)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=corpus.vocab_size))
        model_size(config.model)  # a control that cannot be matched is refused before anything is written
        config = _with_micro_batch_that_fits(config, corpus, accelerator)
        if config.output.overwrite and folder.path.exists():
            folder.discard()
        with folder.locked():
            # Another run of this name may have begun, or ended, while the data was read.
            check_free(folder, config)
            if (done := _completed(folder, config)) is not None:
                return done
            run = _Run(
                config=config,
                corpus=corpus,
                folder=folder,
                accelerator=accelerator,
                stop=stop,
                command_line=command_line,
                steps_between_reads=steps_between_reads,
            )
            return run.execute()


def _completed(folder: RunFolder, config: RunConfig) -> Summary | None:
    """The summary of a run that is to be resumed and is completed already, which is said; else None."""
    values = folder.read_summary() if config.output.resume else None
    if values is None or values.get("status") != COMPLETED:
        return None
    check_unchanged(folder.read_config(), config)
    summary = read_summary(values, str(folder.summary))
    print(f"{folder.path} is completed: best evaluation loss {summary.best_eval_loss}; nothing to resume")
    return summary


def with_run_name(config: RunConfig) -> RunConfig:
    """The config with a run name, made up from model, sizes, time and two random letters where none was given."""
    if config.output.run_name is not None:
        return config
    model = config.model
    letters = "".join(random.SystemRandom().choices("abcdefghijkmnpqrstuvwxyz", k=2))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kind = (
        model.coupler_type.lower()
        if model.architecture == COUPLED
        else f"{model.architecture}-{model.coupler_type.lower()}"
    )
    name = f"{kind}-e{model.num_experts}-d{model.embed_dim}-l{model.num_layers}-{stamp}-{letters}"
    return dataclasses.replace(config, output=dataclasses.replace(config.output, run_name=name))


def _with_stored_micro_batch(config: RunConfig, folder: RunFolder) -> RunConfig:
    """A run that goes on keeps the micro-batch that it was started with, or had to go down to from what is asked."""
    asked = config.training.micro_batch_size
    if not (config.output.resume and folder.is_begun()):
        return config
    if asked == "auto" or asked in _came_down_from(folder):
        return _with_micro_batch(config, folder.read_config().training.micro_batch_size)
    return config


def _came_down_from(folder: RunFolder) -> list[int]:
    """The micro-batches for which there was no memory; none where the run was killed before its first row."""
    rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
    return [row["micro_batch_size_before"] for row in rows if row["kind"] == "memory"]


def _with_micro_batch_that_fits(config: RunConfig, corpus: Corpus, accelerator: Accelerator) -> RunConfig:
    """The config with a number for `--micro_batch_size auto`: in the fewest pieces that fit the memory."""
    if config.training.micro_batch_size != "auto":
        return config
    model, training, room = config.model, config.training, room_bytes(accelerator.device)
    circumstances = circumstances_of(config, corpus, accelerator)
    rows = largest_micro_batch(model, training, room_bytes=room, **circumstances)
    peak = peak_memory(model, workload_of(model, training, rows=rows, **circumstances)).total
    if peak > room:
        print(
            f"memory    {peak / 2**30:.1f} GiB are expected with one sample at once, {room / 2**30:.1f} GiB are there: "
            "it may well run out; --activation_checkpointing or a smaller model take less",
            file=sys.stderr,
        )
    return _with_micro_batch(config, rows)


def _with_micro_batch(config: RunConfig, size: int | Literal["auto"]) -> RunConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, micro_batch_size=size))


@dataclass(kw_only=True)
class _Run:
    """A run whose data is loaded and whose folder is ours."""

    config: RunConfig
    corpus: Corpus
    folder: RunFolder
    accelerator: Accelerator
    stop: StopRequest
    command_line: Sequence[str]
    steps_between_reads: int

    def execute(self) -> Summary:
        """Trains to the end and writes the summary and figures, whatever the end is."""
        torch.manual_seed(self.config.training.seed)
        reset_peak_memory(self.accelerator.device)
        begun = self.config.output.resume and self.folder.is_begun()
        checkpoint = self._check_resumable() if begun else None
        if checkpoint is None:
            self._begin()
        progress = Progress()
        try:
            trainer = self._trainer(progress)
            if checkpoint is not None:
                self._continue(trainer, checkpoint)
            self._announce(trainer)
            quiet = self.config.output.quiet
            trainer.run(build_reporter(trainer.total_steps, progress.step, quiet=quiet))
            figures = write_figures(self.folder.path)
            train_loss = self._final_train_loss(trainer)
            causality = self._check_causality(trainer)
            # Last: a run that is called completed has its figures.
            summary = self._write_summary(progress, final_train_loss=train_loss, causality=causality)
        except BadInput:  # a damaged checkpoint: the run is as it was
            raise
        except BaseException as error:
            cause = self._record_failure(progress, error)
            if cause is error:
                raise
            raise cause from error
        self._report(summary, trainer.model, figures)
        return summary

    def _record_failure(self, progress: Progress, error: BaseException) -> BaseException:
        """Records why the run ended, and returns what the user should see."""
        output = self.config.output
        words = ["--run_name", str(output.run_name), "--output_dir", output.output_dir, "--resume"]
        cause = explain(error, shlex.join(["gnn-moe", "train", *words]), self.config.training.rows_at_once)
        try:
            self._write_summary(progress, error=cause)
            write_figures(self.folder.path)
        except OSError as second:  # a full disk; what ended the run is still the first error
            print(f"{self.folder.path}: the summary could not be written ({second})", file=sys.stderr)
        return cause

    def _final_train_loss(self, trainer: Trainer) -> float:
        """Of the model as it is, on as many training samples as there are evaluation samples, and as those are."""
        began, training = time.perf_counter(), self.config.training
        with any_shape():
            found = evaluate(
                trainer.prepared,
                choose(self.corpus.split("train"), len(self.corpus.split("valid"))),
                batch_size=training.rows_at_once,
                positions=self.config.model.max_seq_length,
                device=self.accelerator.device,
                least_rows=least_rows(training),
                on_batch=self.stop.check,
            )
        trainer.progress.eval_seconds += time.perf_counter() - began
        if not math.isfinite(found.eval_loss):
            raise NonFiniteError(
                f"the training loss of the last model is {found.eval_loss}, measured on as many training samples as "
                "there are evaluation samples; try a lower --learning_rate"
            )
        return found.eval_loss

    def _check_causality(self, trainer: Trainer) -> CausalityCheck:
        """Of the checkpoints whose losses are results, `best` and `selected`: the one that leaks most."""
        progress, device = trainer.progress, self.accelerator.device
        found = []
        # What the trainer holds comes first: it makes room for the others.
        asked = {progress.best_step: BEST, progress.selected_step or progress.best_step: SELECTED}
        for step in sorted(asked, key=lambda step: step != progress.step):
            model = trainer.model
            if step != progress.step:
                trainer.optimiser.state.clear()  # nothing moves any more
                link = BEST if step == progress.best_step else SELECTED
                model = load_model(self.folder.path, checkpoint=link)
            rows_BT = rows_to_ask(self.corpus.split("valid"), self.config.model.max_seq_length)
            # Two shapes, seen once: nothing is compiled for them.
            with torch.compiler.set_stance("force_eager"):
                found.append(check_causality(model.to(device), rows_BT.to(device)))
        return max(found, key=lambda one: (not one.causal, one.largest_change))

    def _write_summary(
        self,
        progress: Progress,
        *,
        final_train_loss: float | None = None,
        causality: CausalityCheck | None = None,
        error: BaseException | None = None,
    ) -> Summary:
        summary = summarise_run(
            str(self.config.output.run_name),
            self.config.model,
            self.corpus,
            progress,
            total_steps=self.config.training.count_steps(len(self.corpus.split("train"))),
            peak_memory_bytes=peak_memory_bytes(self.accelerator.device),
            final_train_loss=final_train_loss,
            causality=causality,
            error=error,
        )
        write_json(self.folder.summary, dataclasses.asdict(summary))
        return summary

    def _trainer(self, progress: Progress) -> Trainer:
        model = self.config.model
        hyperedges = build_hyperedges(model) if model.architecture == COUPLED else ()
        incidence = np.array(incidence_matrix(hyperedges, model.num_experts), np.float32)
        return Trainer(
            config=self.config,
            corpus=self.corpus,
            model=build_model(model, seed=self.config.training.seed),
            accelerator=self.accelerator,
            run_folder=self.folder.path,
            metrics=Metrics(self.folder.metrics),
            coupling=CouplingHistory(self.folder.coupling, incidence if hyperedges else None),
            stop=self.stop,
            progress=progress,
            plan_bytes=self._plan_bytes,
            on_new_config=self._take_config,
            steps_between_reads=self.steps_between_reads,
        )

    def _plan_bytes(self, config: RunConfig) -> int:
        circumstances = circumstances_of(config, self.corpus, self.accelerator)
        workload = workload_of(config.model, config.training, rows=config.training.rows_at_once, **circumstances)
        return peak_memory(config.model, workload).total

    def _take_config(self, config: RunConfig) -> None:
        self.config = config
        write_config(self.folder, config)

    @property
    def _precision(self) -> str:
        return precision_of(self.accelerator)

    def _begin(self) -> None:
        write_config(self.folder, self.config)
        self.folder.metrics.write_text("", encoding="utf-8")
        self.folder.summary.unlink(missing_ok=True)
        environment = describe_environment(
            self.accelerator.device, self._precision, self.corpus.record(), self.command_line
        )
        write_json(self.folder.environment, environment)

    def _check_resumable(self) -> Path | None:
        """The checkpoint to go on from, or None where the run was killed before its first."""
        checkpoint = self.folder.last_checkpoint()
        check_unchanged(self.folder.read_config(), self.config)
        if checkpoint is None:
            return None
        then, now = self.folder.read_environment(), self.corpus.record()
        if then["precision"] != self._precision:
            raise BadInput(
                f"--resume: --precision was {then['precision']} and is {self._precision} here; "
                "go on where the run was started, or give the run another --run_name"
            )
        for split in ("train", "valid"):
            if then["data"][split] != now[split]:
                raise BadInput(
                    f"--resume: --dataset_name {self.config.data.dataset_name}: the {split} text has changed since "
                    "the run was started; restore it, or give the run another --run_name"
                )
        return checkpoint

    def _continue(self, trainer: Trainer, checkpoint: Path) -> None:
        trainer.resume_from(checkpoint)
        progress = trainer.progress
        for link, step in ((BEST, progress.best_step), (SELECTED, progress.selected_step)):
            if step == progress.step:
                checkpoints.point(self.folder.checkpoints / link, checkpoint.name)
        checkpoints.remove_unlinked(self.folder.checkpoints)
        trainer.metrics.cut(last_step=progress.step, last_evaluated=progress.evaluated_step)
        trainer.coupling.cut(progress.evaluated_step)
        self.folder.summary.unlink(missing_ok=True)
        write_config(self.folder, self.config)
        environment = self.folder.read_environment()
        threads, before = torch.get_num_threads(), environment.get("threads")
        if self.accelerator.device.type == "cpu" and before not in (None, threads):
            print(
                f"threads   {threads}, where the run had {before}: dropout may draw other masks from here on",
                file=sys.stderr,
            )
        resumed = {"step": progress.step, "command_line": list(self.command_line)}
        write_json(self.folder.environment, environment | {"resumed": [*environment.get("resumed", []), resumed]})

    def _announce(self, trainer: Trainer) -> None:
        model, training, size = self.config.model, self.config.training, model_size(self.config.model)
        train, valid = self.corpus.split("train"), self.corpus.split("valid")
        for notice in self.corpus.notices:
            print(notice)
        print(f"run       {self.folder.path}")
        print(
            f"data      {self.corpus.dataset}: {len(train):,} training and {len(valid):,} evaluation samples, "
            f"{train.predicted_tokens:,} and {valid.predicted_tokens:,} predicted tokens"
        )
        print(f"model     {describe_model(model)}: {size.total_parameters / 1e6:.1f}M parameters")
        start = f", from step {trainer.progress.step}" if trainer.progress.step else ""
        at_once = f", {training.rows_at_once} at once," if training.rows_at_once < training.batch_size else ""
        print(
            f"training  {trainer.total_steps} steps of {training.batch_size} samples{at_once} in {self._precision} on "
            f"{self.accelerator.device}{start}",
            flush=True,
        )

    def _report(self, summary: Summary, model: LanguageModel, figures: list[Path]) -> None:
        print()
        for line in summary_lines(summary):
            print(line)
        row = self.corpus.split("valid").row(0)[:_SAMPLE_PROMPT].tolist()
        # One row, a token longer each time: to compile for it takes many times what it takes.
        with torch.compiler.set_stance("force_eager"):
            new = list(generate(model, row, _SAMPLE_LENGTH, Sampling()))
        decode = self.corpus.tokenizer.decode
        print(f"\nsample: [{decode(row)}]{decode(new)}\n")
        for path in figures:
            print(f"figure  {path}")
