"""One run from config to summary: data, model, training, record."""

from __future__ import annotations

import dataclasses
import random
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from gnn_moe.config import RunConfig, Sampling
from gnn_moe.data.corpus import Corpus, load_corpus
from gnn_moe.data.unigram import unigram_loss
from gnn_moe.errors import BadInput, GnnMoeError, Interrupted, MemoryFull, RunFailed
from gnn_moe.figures import write_figures
from gnn_moe.hypergraph import build_hyperedges, incidence_matrix
from gnn_moe.model import storage
from gnn_moe.model.generation import generate
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.model.size import model_size
from gnn_moe.model.storage import read_json
from gnn_moe.run_folder import (
    COMPLETED,
    FAILED,
    INTERRUPTED,
    RunFolder,
    check_free,
    check_unchanged,
    write_config,
)
from gnn_moe.training import checkpoints
from gnn_moe.training.device import accelerator_for, is_out_of_memory, peak_memory_bytes, reset_peak_memory
from gnn_moe.training.environment import describe_environment
from gnn_moe.training.loop import Trainer
from gnn_moe.training.progress import build_reporter
from gnn_moe.training.record import CouplingHistory, Metrics, write_json
from gnn_moe.training.stopping import StopRequest, stop_on_signals

_SAMPLE_PROMPT, _SAMPLE_LENGTH = 8, 40


@dataclass(frozen=True, kw_only=True)
class Summary:
    """summary.json: how a run ended. Losses are in nats a predicted token; those of the evaluation set unless named."""

    status: str
    """completed, interrupted or failed."""
    run_name: str
    dataset: str
    best_eval_loss: float | None
    final_eval_loss: float | None
    perplexity: float | None
    """exp(best_eval_loss)."""
    bits_per_byte: float | None
    """At the best evaluation."""
    word_perplexity: float | None
    """At the best evaluation; None unless whole documents were read."""
    unigram_loss: float
    """Of token frequencies alone."""
    best_step: int | None
    steps: int
    total_steps: int
    tokens: int
    total_parameters: int
    train_minutes: float
    eval_minutes: float
    tokens_per_second: float
    peak_memory_bytes: int
    error_class: str | None = None
    error_message: str | None = None


def run_training(config: RunConfig, command_line: Sequence[str]) -> Summary:
    """Trains one run, fresh or resumed, and writes its whole record.

    Args:
        config: the run's settings; `model.vocab_size` is replaced by the tokenizer's.
        command_line: the words of the command, for the record.

    Returns:
        The summary of a completed run.

    Raises:
        BadInput: the settings, the data or the run folder cannot be used; nothing was written.
        RunFailed: it could not be completed; summary.json says why.
        Interrupted: a signal stopped it; it can be resumed.
    """
    config = with_run_name(config)
    folder = RunFolder(Path(config.output.output_dir) / str(config.output.run_name))
    check_free(folder, config)
    done = folder.read_summary() if config.output.resume else None
    if done is not None and done["status"] == COMPLETED:
        check_unchanged(folder.read_config(), config)
        print(f"{folder.path} is completed: best evaluation loss {done['best_eval_loss']:.4f}; nothing to resume")
        return Summary(**done)
    training = config.training
    with accelerator_for(training.device, training.precision) as accelerator, stop_on_signals() as stop:
        corpus = load_corpus(config.data, max_seq_length=config.model.max_seq_length, cache_dir=config.output.cache_dir)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=corpus.vocab_size))
        if config.output.overwrite and folder.path.exists():
            folder.discard()
        with folder.locked():
            run = _Run(
                config=config,
                corpus=corpus,
                folder=folder,
                accelerator=accelerator,
                stop=stop,
                command_line=command_line,
            )
            return run.execute()


def with_run_name(config: RunConfig) -> RunConfig:
    """The config with a run name, made up from coupler, sizes, time and two random letters where none was given."""
    if config.output.run_name is not None:
        return config
    model = config.model
    letters = "".join(random.SystemRandom().choices("abcdefghijkmnpqrstuvwxyz", k=2))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{model.coupler_type.lower()}-e{model.num_experts}-d{model.embed_dim}-l{model.num_layers}-{stamp}-{letters}"
    return dataclasses.replace(config, output=dataclasses.replace(config.output, run_name=name))


@dataclass(kw_only=True)
class _Run:
    """A run whose data is loaded and whose folder is ours."""

    config: RunConfig
    corpus: Corpus
    folder: RunFolder
    accelerator: Accelerator
    stop: StopRequest
    command_line: Sequence[str]

    def execute(self) -> Summary:
        """Trains to the end and writes the summary and figures, whatever the end is."""
        torch.manual_seed(self.config.training.seed)
        reset_peak_memory(self.accelerator.device)
        begun = self.config.output.resume and self.folder.is_begun()
        checkpoint = self._check_resumable() if begun else None
        model = build_model(self.config.model, seed=self.config.training.seed)
        trainer = self._trainer(model)
        if checkpoint is None:
            self._begin()
        else:
            self._continue(trainer, checkpoint)
        self._announce(trainer)
        output = self.config.output
        try:
            trainer.run(build_reporter(trainer.total_steps, trainer.progress.step, quiet=output.quiet))
        except BaseException as error:
            cause = self._explain(error)
            try:
                self._conclude(trainer, cause)
            except OSError as second:  # a full disk; what ended the run is still the first error
                print(f"{self.folder.summary} could not be written: {second}", file=sys.stderr)
            if cause is error:
                raise
            raise cause from error
        summary, figures = self._conclude(trainer, None)
        self._report(summary, trainer.model, figures)
        return summary

    def _trainer(self, model: LanguageModel) -> Trainer:
        hyperedges = build_hyperedges(self.config.model)
        incidence = np.array(incidence_matrix(hyperedges, self.config.model.num_experts), np.float32)
        return Trainer(
            config=self.config,
            corpus=self.corpus,
            model=model,
            accelerator=self.accelerator,
            run_folder=self.folder.path,
            metrics=Metrics(self.folder.metrics),
            coupling=CouplingHistory(self.folder.coupling, incidence if hyperedges else None),
            stop=self.stop,
        )

    @property
    def _precision(self) -> str:
        return "bf16" if self.accelerator.mixed_precision == "bf16" else "fp32"

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
        then, now = read_json(self.folder.environment), self.corpus.record()
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
        if progress.best_step == progress.step:
            checkpoints.point(self.folder.checkpoints / storage.BEST, checkpoint.name)
        checkpoints.remove_unlinked(self.folder.checkpoints)
        trainer.metrics.cut(last_step=progress.step, last_evaluated=progress.evaluated_step)
        trainer.coupling.cut(progress.evaluated_step)
        self.folder.summary.unlink(missing_ok=True)
        write_config(self.folder, self.config)
        environment = read_json(self.folder.environment)
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
        print(
            f"model     {model.coupler_type}, {model.num_experts} experts, D {model.embed_dim}, {model.num_layers} "
            f"layers, {model.gnn_layers} coupler layers: {size.total_parameters / 1e6:.1f}M parameters"
        )
        start = f", from step {trainer.progress.step}" if trainer.progress.step else ""
        print(
            f"training  {trainer.total_steps} steps of {training.batch_size} samples in {self._precision} on "
            f"{self.accelerator.device}{start}",
            flush=True,
        )

    def _conclude(self, trainer: Trainer, error: BaseException | None) -> tuple[Summary, list[Path]]:
        progress = trainer.progress
        best, last = progress.best_evaluation, progress.last_evaluation
        status, error_class = _classify(error)
        summary = Summary(
            status=status,
            run_name=str(self.config.output.run_name),
            dataset=self.corpus.dataset,
            best_eval_loss=best.eval_loss if best else None,
            final_eval_loss=last.eval_loss if last else None,
            perplexity=best.perplexity if best else None,
            bits_per_byte=best.bits_per_byte if best else None,
            word_perplexity=best.word_perplexity if best else None,
            unigram_loss=unigram_loss(self.corpus.split("train"), self.corpus.split("valid"), self.corpus.vocab_size),
            best_step=progress.best_step,
            steps=progress.step,
            total_steps=trainer.total_steps,
            tokens=progress.tokens,
            total_parameters=model_size(self.config.model).total_parameters,
            train_minutes=progress.train_seconds / 60,
            eval_minutes=progress.eval_seconds / 60,
            tokens_per_second=progress.tokens_per_second,
            peak_memory_bytes=max(progress.peak_memory_bytes, peak_memory_bytes(self.accelerator.device)),
            error_class=error_class,
            error_message=None if error is None else _describe(error),
        )
        if error is not None:  # a full disk may leave no room for figures
            write_json(self.folder.summary, dataclasses.asdict(summary))
        figures = write_figures(self.folder.path)
        if error is None:  # a completed run has its figures
            write_json(self.folder.summary, dataclasses.asdict(summary))
        return summary, figures

    def _explain(self, error: BaseException) -> BaseException:
        """The error that a user should see: the same, or one that says what to do."""
        output = self.config.output
        words = ["--run_name", str(output.run_name), "--output_dir", output.output_dir, "--resume"]
        resume = shlex.join(["gnn-moe", "train", *words])
        if isinstance(error, Interrupted):
            return Interrupted(f"{error}; go on with: {resume}", error.exit_status - 128)
        if isinstance(error, OSError | SafetensorError):
            return RunFailed(f"the record could not be written ({error}); make room, then go on with: {resume}")
        if is_out_of_memory(error):
            return MemoryFull(
                f"out of memory with --micro_batch_size {self.config.training.micro_batch_size or 'the whole batch'}: "
                "use a smaller one, which gives the same result, under another --run_name"
            )
        return error

    def _report(self, summary: Summary, model: LanguageModel, figures: list[Path]) -> None:
        print()
        for line in summary_lines(summary):
            print(line)
        row = self.corpus.split("valid").row(0)[:_SAMPLE_PROMPT].tolist()
        new = list(generate(model, row, _SAMPLE_LENGTH, Sampling()))
        decode = self.corpus.tokenizer.decode
        print(f"\nsample: [{decode(row)}]{decode(new)}\n")
        for path in figures:
            print(f"figure  {path}")


def summary_lines(summary: Summary) -> list[str]:
    """The summary for a terminal; the first line names the dataset and what its numbers compare with."""
    assert summary.best_eval_loss is not None
    assert summary.final_eval_loss is not None
    return [
        (
            f"Dataset {summary.dataset}. The seed's tables compare only with WikiText-2 "
            "(--dataset_name wikitext, or a folder of it)."
        ),
        (
            f"evaluation loss   {summary.best_eval_loss:.4f} at best (step {summary.best_step}), "
            f"{summary.final_eval_loss:.4f} at the end; token frequencies alone: {summary.unigram_loss:.4f}"
        ),
        f"perplexity        {summary.perplexity:.2f}",
        f"bits a byte       {summary.bits_per_byte:.4f}",
        f"parameters        {summary.total_parameters:,}",
        f"time              {summary.train_minutes:.1f} min training, {summary.eval_minutes:.1f} min evaluation",
        f"speed             {summary.tokens_per_second:,.0f} tokens/s",
        f"peak memory       {summary.peak_memory_bytes / 2**30:.2f} GiB",
    ]


def _classify(error: BaseException | None) -> tuple[str, str | None]:
    """(status, error class) of what ended a run."""
    if error is None:
        return COMPLETED, None
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    return FAILED, error.error_class if isinstance(error, RunFailed) else RunFailed.error_class


def _describe(error: BaseException) -> str:
    if isinstance(error, GnnMoeError):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()
