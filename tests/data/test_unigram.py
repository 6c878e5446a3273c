"""The loss of token frequencies, against a count by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from gnn_moe.data.samples import Samples
from gnn_moe.data.unigram import unigram_loss


def samples_of(*rows: list[int]) -> Samples:
    lengths = np.array([len(row) for row in rows], np.int64)
    return Samples(
        tokens=np.array([token for row in rows for token in row], np.int32),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        predicted_bytes=lengths - 1,
        cut=np.zeros_like(lengths),
        available=len(rows),
    )


def test_it_is_the_add_one_smoothed_frequency_of_predicted_tokens() -> None:
    train, evaluation = samples_of([9, 0, 0, 1], [9, 2]), samples_of([0, 0, 1], [5, 3, 9])
    counts = Counter([0, 0, 1, 2])
    expected = [-math.log((counts[token] + 1) / (4 + 10)) for token in (0, 1, 3, 9)]
    assert unigram_loss(train, evaluation, 10) == pytest.approx(sum(expected) / 4, rel=1e-12)


def test_unseen_tokens_cost_what_chance_does_and_a_constant_text_next_to_nothing() -> None:
    constant = samples_of([1] * 10_001)
    assert unigram_loss(constant, constant, 4) < 1e-3
    assert unigram_loss(samples_of([0, 0]), samples_of([0, 3]), 4) == pytest.approx(math.log(5))
