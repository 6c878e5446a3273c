"""The loss of token frequencies alone: what a model has to beat to have learned anything about order."""

from __future__ import annotations

import numpy as np

from gnn_moe.data.samples import Samples


def unigram_loss(train: Samples, evaluation: Samples, vocab_size: int) -> float:
    """Nats a predicted token of `evaluation` under the add-one-smoothed frequencies of `train`'s predicted tokens.

    p(v) = (count(v) + 1) / (Σ count + V). Without any training token it is ln V.
    """
    counts_V = np.bincount(train.predicted_ids(), minlength=vocab_size).astype(np.float64) + 1
    losses_V = np.log(counts_V.sum()) - np.log(counts_V)
    return float(losses_V[evaluation.predicted_ids()].mean())
