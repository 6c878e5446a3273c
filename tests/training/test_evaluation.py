"""An evaluation weighs every predicted token alike and keeps apart the half that chooses and the half that reports."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from gnn_moe.data.samples import Samples
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.training import evaluation
from gnn_moe.training.evaluation import Evaluation, evaluate, measure_expert_load
from tests.model.cases import controls, one_of_each, random_model

CONFIG = one_of_each()[0]


def samples(lengths: list[int]) -> Samples:
    counts = np.array(lengths)
    tokens = np.random.default_rng(1).integers(CONFIG.vocab_size, size=counts.sum()).astype(np.int32)
    return Samples(
        tokens=tokens,
        starts=np.cumsum(counts) - counts,
        lengths=counts,
        predicted_bytes=3 * (counts - 1),
        cut=np.zeros_like(counts),
        available=len(counts),
    )


def nats(model: LanguageModel, rows: Samples, numbers: range) -> tuple[float, int]:
    """Summed loss and predicted tokens of some rows, one row at a time."""
    total, tokens = 0.0, 0
    for number in numbers:
        row = torch.from_numpy(rows.row(number).astype(np.int64))
        with torch.no_grad():
            logits = model(row[None, :-1]).logits
        assert logits is not None
        total += functional.cross_entropy(logits[0], row[1:], reduction="sum").item()
        tokens += len(row) - 1
    return total, tokens


def evaluated(rows: Samples, *, batch_size: int) -> tuple[LanguageModel, Evaluation]:
    model = random_model(CONFIG)
    found = evaluate(model, rows, batch_size=batch_size, positions=CONFIG.max_seq_length, device=torch.device("cpu"))
    return model, found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_losses_of_all_rows_and_of_each_half(batch_size: int) -> None:
    rows = samples([2, 7, 5, 3, 8, 4, 2])
    model, found = evaluated(rows, batch_size=batch_size)
    first, second = nats(model, rows, range(4)), nats(model, rows, range(4, 7))
    total, tokens = first[0] + second[0], first[1] + second[1]
    assert found.tokens == tokens == 24
    assert found.eval_loss == pytest.approx(total / tokens, rel=1e-9)
    assert found.perplexity == math.exp(found.eval_loss)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / (3 * tokens), rel=1e-9)
    assert found.selection_loss == pytest.approx(first[0] / first[1], rel=1e-9)
    assert found.reported_loss == pytest.approx(second[0] / second[1], rel=1e-9)


def test_one_row_chooses_and_nothing_is_left_to_report() -> None:
    rows = samples([6])
    _, found = evaluated(rows, batch_size=4)
    assert found.selection_loss == found.eval_loss
    assert found.reported_loss is None


ROUTED = controls(vocab_size=CONFIG.vocab_size)[2]


def load(model: LanguageModel, rows: Samples, batch_size: int, least_rows: int = 1) -> list[list[float]]:
    positions, device = ROUTED.max_seq_length, torch.device("cpu")
    found = measure_expert_load(
        model,
        rows,
        top_k=ROUTED.router_top_k,
        batch_size=batch_size,
        positions=positions,
        device=device,
        least_rows=least_rows,
    )
    assert found.dtype == torch.float32
    return [list(layer) for layer in found.tolist()]


@pytest.mark.parametrize(("batch_size", "least_rows"), [(1, 1), (1, 2), (3, 2), (16, 1)])
def test_load_is_of_the_predicting_tokens_of_the_first_rows(
    batch_size: int, least_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, a row at a time: no padding, no last token, no row that fills a batch up, no later row counts."""
    monkeypatch.setattr(evaluation, "LOAD_SAMPLES", 5)
    rows, model = samples([2, 7, 5, 3, 8, 4, 2]), random_model(ROUTED).train()
    chosen = torch.zeros(ROUTED.num_layers, ROUTED.num_experts)
    for number in range(5):
        row = torch.from_numpy(rows.row(number).astype(np.int64))
        routed_LNE = model.eval()(row[None, :-1]).router_logits
        assert routed_LNE is not None
        for layer, logits_NE in enumerate(routed_LNE):
            for logits_E in logits_NE:
                chosen[layer, logits_E.topk(ROUTED.router_top_k).indices] += 1
    found = load(model.train(), rows, batch_size, least_rows)
    torch.testing.assert_close(torch.tensor(found), chosen / (ROUTED.router_top_k * 20), rtol=1e-6, atol=0)
    assert model.training


def test_what_stops_the_measure_of_the_load_leaves_the_model_in_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(evaluation, "expert_load", full)
    model = random_model(ROUTED).train()
    with pytest.raises(MemoryError):
        load(model, samples([4, 4]), 2)
    assert model.training
