"""The loss of a model on held-out samples, in units that can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gnn_moe.data.batches import IGNORED, evaluation_batches, selection_rows
from gnn_moe.data.samples import Samples
from gnn_moe.model.router import expert_load
from gnn_moe.training.loader import collate_pieces, load_ahead

LOAD_SAMPLES = 64
"""Evaluation samples whose routing is recorded."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one pass over an evaluation set found; every predicted token weighs the same."""

    eval_loss: float
    """Nats a predicted token."""
    perplexity: float | None
    """exp(eval_loss); None where that is no number that JSON has."""
    bits_per_byte: float
    """Total nats / ln 2 / bytes of the predicted tokens; compares across tokenizers."""
    word_perplexity: float | None
    """exp(total nats / words), where whole documents were read (`packed`, the whole split); else None."""
    tokens: int
    """Predicted tokens."""
    selection_loss: float
    """Nats a predicted token of the first half of the rows: for choosing among checkpoints or settings."""
    reported_loss: float | None
    """The same of the other half: the loss to report of what was chosen; None where there is one row only."""


def evaluate(
    model: nn.Module,
    samples: Samples,
    *,
    batch_size: int,
    positions: int,
    device: torch.device,
    least_rows: int = 1,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluates on all samples, without dropout; leaves the model in the mode it was in.

    Args:
        model: a `LanguageModel`, or the same prepared by Accelerate.
        samples: the rows to predict.
        batch_size: rows computed at once.
        positions: the model's `max_seq_length`.
        device: where the model is.
        least_rows: of a batch; see `collate`.
        on_batch: called before each batch; may raise to stop.
    """
    was_training = model.training
    model.eval()
    one = torch.ones((), device=device)
    nats_2 = torch.zeros(2, dtype=torch.float64, device=device)
    chooses = selection_rows(len(samples))
    try:
        with torch.inference_mode():
            rows = evaluation_batches(samples.lengths, batch_size)
            coming = load_ahead(samples, rows, positions=positions, least_rows=least_rows, device=device)
            with closing(coming) as batches:
                for numbers, batch in zip(rows, batches, strict=True):
                    on_batch()
                    half = int(numbers[0] >= chooses)
                    for piece in batch.pieces:
                        nats_2[half] += model(piece.input_ids, targets=piece.targets, loss_denominator=one).loss
    finally:
        model.train(was_training)
    return _summarise(nats_2.tolist(), samples)


def measure_expert_load(
    model: nn.Module,
    samples: Samples,
    *,
    top_k: int,
    batch_size: int,
    positions: int,
    device: torch.device,
    least_rows: int = 1,
) -> Tensor:
    """The share of the first samples' assignments that each expert of each layer gets: (L, E) float32 on the CPU.

    Args:
        model: as for `evaluate`; it routes its tokens. It is left in the mode it was in.
        samples: of these the first `LOAD_SAMPLES`, so that the figure does not depend on `batch_size`.
        top_k: experts a token.
        batch_size: rows computed at once.
        positions: the model's `max_seq_length`.
        device: where the model is.
        least_rows: of a batch; see `collate`.
    """
    was_training = model.training
    model.eval()
    rows = np.arange(min(LOAD_SAMPLES, len(samples)))
    total = torch.zeros((), device=device)
    try:
        with torch.inference_mode():
            for piece in collate_pieces(samples, rows, size=batch_size, positions=positions, least_rows=least_rows):
                targets_BT = piece.targets.to(device)
                logits_LNE = model(piece.input_ids.to(device), targets=targets_BT).router_logits
                load_LE = expert_load(logits_LNE, targets_BT.flatten() != IGNORED, top_k)
                total = total + load_LE * piece.predicted_tokens
    finally:
        model.train(was_training)
    return total.float().cpu() / int(samples.lengths[rows].sum() - len(rows))


def _summarise(nats: list[float], samples: Samples) -> Evaluation:
    """The evaluation that the summed losses of the two halves amount to."""
    tokens, total_nats = samples.predicted_tokens, sum(nats)
    loss = total_nats / tokens
    first = int((samples.lengths[: selection_rows(len(samples))] - 1).sum())
    return Evaluation(
        eval_loss=loss,
        perplexity=_exp(loss),
        bits_per_byte=total_nats / math.log(2) / int(samples.predicted_bytes.sum()),
        word_perplexity=None if samples.words is None else _exp(total_nats / samples.words),
        tokens=tokens,
        selection_loss=nats[0] / first,
        reported_loss=nats[1] / (tokens - first) if tokens > first else None,
    )


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 700 else None
