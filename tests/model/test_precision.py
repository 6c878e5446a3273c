"""bf16 follows float32.

Autocast computes in bf16 on every CPU, if slowly on some, so nothing is skipped. A mask of dropout has other bits in
bf16 than in float32; without dropout the two runs differ by rounding alone.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.model.language_model import build_model
from gnn_moe.training.optimiser import build_optimiser, learning_rate, set_learning_rate
from tests.model.cases import controls, each, one_of_each

STEPS, ROWS, POSITIONS, VOCABULARY = 100, 16, 12, 23
TRAINING = TrainingConfig(learning_rate=3e-3)


def stream(seed: int, rows: int) -> Tensor:
    """(rows, T + 1) tokens with structure: the next is a function of the last one, one time in ten anything."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (rows, POSITIONS + 1), generator=generator)
    noise = torch.rand(tokens.shape, generator=generator) < 0.1
    for t in range(1, POSITIONS + 1):
        follows = (3 * tokens[:, t - 1] + 1) % VOCABULARY
        tokens[:, t] = torch.where(noise[:, t], tokens[:, t], follows)
    return tokens


def evaluation_loss_after_training(config: ModelConfig, *, bf16: bool) -> float:
    model = build_model(config)
    optimiser = build_optimiser(model, TRAINING)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        for step in range(STEPS):
            set_learning_rate(optimiser, learning_rate(step, STEPS, TRAINING))
            tokens = stream(step, ROWS)
            objective = model(tokens, labels=tokens).objective
            assert objective is not None
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING.gradient_clip)
            optimiser.step()
            optimiser.zero_grad()
        held_out = stream(10**6, 64)
        with torch.no_grad():
            return float(model.eval()(held_out, labels=held_out).loss)


SIZES = {"vocab_size": VOCABULARY, "embed_dim": 32, "num_heads": 4, "max_seq_length": POSITIONS + 1}


@each(
    [
        *one_of_each(3, dropout_rate=0.0, num_layers=1, **SIZES),
        one_of_each(3, dropout_rate=0.1, **SIZES)[1],
        *controls(3, dropout_rate=0.0, **SIZES),
    ]
)
def test_bf16_follows_float32(config: ModelConfig, one_thread: None) -> None:
    single = evaluation_loss_after_training(config, bf16=False)
    half = evaluation_loss_after_training(config, bf16=True)
    # It learned, so there is something to follow: well under the uniform guess.
    assert single < 0.8 * math.log(VOCABULARY)
    assert half == pytest.approx(single, rel=0.01)
    assert half != single
