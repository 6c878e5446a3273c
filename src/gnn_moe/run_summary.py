"""How a run ended: summary.json, its lines on the terminal, and the names of its ends."""

from __future__ import annotations

import dataclasses
import errno
import signal
import traceback
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from gnn_moe.config import ModelConfig
from gnn_moe.data.corpus import Corpus
from gnn_moe.data.unigram import unigram_loss
from gnn_moe.errors import BadInput, GnnMoeError, Interrupted, MemoryFull, RunFailed
from gnn_moe.model.causality import CausalityCheck
from gnn_moe.model.size import model_size
from gnn_moe.training.device import is_out_of_memory
from gnn_moe.training.state import Progress

COMPLETED, INTERRUPTED, FAILED = "completed", "interrupted", "failed"

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


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
    save_minutes: float = 0.0
    """Writing checkpoints."""
    waiting_share: float | None = None
    """Of the seconds of training, those in which a step waited for its batch."""
    padding_share: float | None = None
    """Of the positions computed in training, those that were padding."""
    final_train_loss: float | None = None
    """Of the last model on as many training samples as there are evaluation samples, without dropout: beside
    `final_eval_loss` it says what was learned by heart. None where the run did not end."""
    causal: bool | None = None
    """Whether the best and the selected checkpoint see no later token and no other row; None where it did not end."""
    largest_leak: float | None = None
    """What changing later tokens and other rows changed in a state, over the largest state."""
    error_class: str | None = None
    error_message: str | None = None
    width: int | None = None
    """Of the model: `embed_dim`, or what a dense control's was solved for; like the next two, None in old summaries."""
    feed_forward_width: int | None = None
    """Hidden width of an FFN."""
    training_flops_per_token: int | None = None


def summarise_run(
    run_name: str,
    model: ModelConfig,
    corpus: Corpus,
    progress: Progress,
    *,
    total_steps: int,
    peak_memory_bytes: int,
    final_train_loss: float | None = None,
    causality: CausalityCheck | None = None,
    error: BaseException | None = None,
) -> Summary:
    """The summary of a run that got as far as `progress` and was ended by `error`, or by its last step."""
    best, last = progress.best_evaluation, progress.last_evaluation
    status, error_class = _classify(error)
    size = model_size(model)
    return Summary(
        status=status,
        run_name=run_name,
        dataset=corpus.dataset,
        best_eval_loss=best.eval_loss if best else None,
        final_eval_loss=last.eval_loss if last else None,
        perplexity=best.perplexity if best else None,
        bits_per_byte=best.bits_per_byte if best else None,
        word_perplexity=best.word_perplexity if best else None,
        unigram_loss=unigram_loss(corpus.split("train"), corpus.split("valid"), corpus.vocab_size),
        best_step=progress.best_step,
        steps=progress.step,
        total_steps=total_steps,
        tokens=progress.tokens,
        total_parameters=size.total_parameters,
        train_minutes=progress.train_seconds / 60,
        eval_minutes=progress.eval_seconds / 60,
        tokens_per_second=progress.tokens_per_second,
        peak_memory_bytes=max(progress.peak_memory_bytes, peak_memory_bytes),
        save_minutes=progress.save_seconds / 60,
        waiting_share=progress.waiting_share,
        padding_share=progress.padding_share,
        final_train_loss=final_train_loss,
        causal=causality.causal if causality else None,
        largest_leak=causality.largest_change if causality else None,
        error_class=error_class,
        error_message=None if error is None else _describe(error),
        width=size.width,
        feed_forward_width=size.feed_forward_width,
        training_flops_per_token=size.training_flops_per_token,
    )


def read_summary(values: dict[str, Any], where: str) -> Summary:
    """The inverse of `dataclasses.asdict`.

    Raises:
        BadInput: fields are missing or unknown.
    """
    fields = dataclasses.fields(Summary)
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    if not needed <= set(values) <= {field.name for field in fields}:
        raise BadInput(f"{where}: is damaged (its fields are not a summary's); replace the run with --overwrite")
    return Summary(**values)


def summary_lines(summary: Summary) -> list[str]:
    """The summary for a terminal; the first line names the dataset and what its numbers compare with."""
    assert summary.best_eval_loss is not None
    assert summary.final_eval_loss is not None
    assert summary.final_train_loss is not None
    assert summary.padding_share is not None
    assert summary.waiting_share is not None
    return [
        (
            f"Dataset {summary.dataset}. The seed's tables compare only with WikiText-2 "
            "(--dataset_name wikitext, or a folder of it)."
        ),
        (
            f"evaluation loss   {summary.best_eval_loss:.4f} at best (step {summary.best_step}), "
            f"{summary.final_eval_loss:.4f} at the end; token frequencies alone: {summary.unigram_loss:.4f}"
        ),
        f"training loss     {summary.final_train_loss:.4f} at the end, measured as the evaluation loss is",
        f"perplexity        {'too large for a number' if summary.perplexity is None else f'{summary.perplexity:.2f}'}",
        f"bits a byte       {summary.bits_per_byte:.4f}",
        f"parameters        {summary.total_parameters:,}",
        (
            f"time              {summary.train_minutes:.1f} min training, {summary.eval_minutes:.1f} min evaluation, "
            f"{summary.save_minutes:.1f} min saving"
        ),
        f"speed             {summary.tokens_per_second:,.0f} tokens/s",
        f"batches           {summary.padding_share:.1%} padding; {summary.waiting_share:.1%} of training spent waiting",
        f"peak memory       {summary.peak_memory_bytes / 2**30:.2f} GiB",
        _causality_line(summary),
    ]


def _causality_line(summary: Summary) -> str:
    if summary.causal:
        return "causality         no state moves with a later token or another row"
    return (
        f"CAUSALITY         THE MODEL LEAKS: later tokens or other rows move a state by {summary.largest_leak:.1e} of "
        "the largest; its losses mean nothing"
    )


def explain(error: BaseException, resume: str, micro_batch_size: int) -> BaseException:
    """The error that a user should see: the same, or one that says what to do.

    Args:
        error: what ended the run.
        resume: the command that goes on with it.
        micro_batch_size: that of the run.
    """
    if isinstance(error, Interrupted):
        return Interrupted(f"{error}; go on with: {resume}", error.exit_status - 128)
    if isinstance(error, BrokenPipeError):
        return Interrupted(f"stopped by the end of its reader; go on with: {resume}", signal.SIGPIPE)
    if isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in _DISK_ERRORS):
        return RunFailed(f"the record could not be written ({error}); make room, then go on with: {resume}")
    if is_out_of_memory(error):
        smaller = "a smaller one, which learns from the same batches, " if micro_batch_size > 1 else ""
        return MemoryFull(
            f"out of memory with --micro_batch_size {micro_batch_size}: use {smaller}--activation_checkpointing or a "
            "smaller model, under another --run_name"
        )
    return error


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
