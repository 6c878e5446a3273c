"""Thousands of hyperedges cost what one does: the verdict from made figures, and what a forward pass keeps, counted."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Literal

import pytest

from benchmarks import hyperedges
from benchmarks.cases import Contestant
from benchmarks.children import Failure
from benchmarks.contestants import Ours
from benchmarks.hyperedges import HyperedgesResult, MemoryOfFew, many_hyperedges, memory_of
from benchmarks.measure import Race
from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.hypergraph import count_hyperedges
from tests.benchmarks.test_coupling import figures

MODEL = ModelConfig(
    coupler_type="HGNN",
    static_hyperedge_strategy="all_pairs",
    num_experts=64,
    vocab_size=50,
    embed_dim=16,
    num_heads=2,
    num_layers=1,
    max_seq_length=8,
)
TRAINING = TrainingConfig(batch_size=2, precision="fp32", device="cpu")
ONE = dataclasses.replace(MODEL, static_hyperedge_strategy="all")


@pytest.mark.parametrize(("rows", "layers", "precision"), [(1, 1, "fp32"), (4, 1, "fp32"), (2, 3, "bf16")])
def test_a_forward_pass_keeps_as_much_with_thousands_of_hyperedges_but_for_their_weights(
    rows: int, layers: int, precision: Literal["fp32", "bf16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact, whatever the batch: one float32 a hyperedge and layer, its positive weight."""
    monkeypatch.setattr("benchmarks.contestants.keep_freed_memory", lambda: None)
    training = dataclasses.replace(TRAINING, batch_size=rows, precision=precision)
    models = [dataclasses.replace(model, num_layers=layers) for model in (MODEL, ONE)]
    many, one = (Ours(Contestant(kind="ours", model=model, training=training)).kept_bytes() for model in models)
    assert [count_hyperedges(model) for model in models] == [2016, 1]
    assert many - one == 4 * layers * (2016 - 1)
    assert one > 2 * layers * 64 * rows * 8 * 16


def judged(
    monkeypatch: pytest.MonkeyPatch, *, seconds: float = 1.0, peaks: tuple[int, ...] = (100,) * 6, kept: int = 1000
) -> HyperedgesResult:
    found = Race(figures={"many": figures(*(seconds,) * 6), "one": figures(*(1.0,) * 6)}, failures={}, limit=None)
    memory = MemoryOfFew(step_bytes={"many": peaks, "one": (100,) * len(peaks)}, kept_bytes={"many": kept, "one": 1000})
    monkeypatch.setattr(hyperedges, "race", lambda *args, **kwargs: found)
    monkeypatch.setattr(hyperedges, "memory_of", lambda *args: memory)
    return many_hyperedges("x", MODEL, TRAINING, rounds=6, warmup=0, processes=6)


@pytest.mark.parametrize(("seconds", "met"), [(1.02, True), (1.05, False), (0.95, False)])
def test_time_is_held_to_one_hyperedge(seconds: float, met: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    result = judged(monkeypatch, seconds=seconds)
    assert result.hyperedges == 2016
    assert (result.time, result.time_met, result.memory_met) == (seconds, met, True)


@pytest.mark.parametrize(
    ("peaks", "kept", "met"),
    [
        ((98, 99, 100, 101, 102, 102), 1029, True),
        ((98, 99, 100, 101, 102, 102), 1031, False),
        ((100, 100, 100, 100, 100, 104), 1000, None),
        ((104,) * 6, 1000, False),
        ((100,) * 5, 1000, None),
    ],
)
def test_memory_is_held_by_what_is_kept_and_by_peaks(
    peaks: tuple[int, ...], kept: int, met: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = judged(monkeypatch, peaks=peaks, kept=kept)
    assert (result.kept, result.memory_met) == (kept / 1000, met)
    assert result.memory == pytest.approx(statistics.median(peaks) / 100)


def test_what_failed_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Race(figures={"one": figures(1.0)}, failures={"many": Failure(kind="killed", detail="")}, limit=None)
    monkeypatch.setattr(hyperedges, "race", lambda *args, **kwargs: found)
    monkeypatch.setattr(hyperedges, "memory_of", lambda *args: MemoryOfFew(step_bytes={}, kept_bytes={"one": 1}))
    result = many_hyperedges("x", MODEL, TRAINING, rounds=1, warmup=0, processes=1)
    assert (result.time_met, result.memory_met, result.kept) == (False, False, None)


def test_every_process_gives_a_peak(forked: None) -> None:
    models = {"many": MODEL, "one": ONE}
    entered = {name: Contestant(kind="ours", model=model, training=TRAINING) for name, model in models.items()}
    found = memory_of(entered, 2)
    assert {name: len(peaks) for name, peaks in found.step_bytes.items()} == {"many": 2, "one": 2}
    assert found.kept_bytes["many"] - found.kept_bytes["one"] == 4 * 2015
