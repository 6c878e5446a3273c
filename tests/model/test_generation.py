"""Sampling: which tokens stay possible, and that prompt, window and seed alone decide what comes.

Letters: T positions, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import pytest
import torch
from torch import Tensor

from gnn_moe.config import Sampling
from gnn_moe.model.generation import generate, kept_probabilities
from gnn_moe.model.language_model import LanguageModel
from tests.model.cases import one_of_each, random_model

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[torch.tensor([2, 0, 3, 1])]
"""Probabilities 0.15, 0.5, 0.05, 0.3."""


def model() -> LanguageModel:
    """One whose next token depends on what came before: what it reads must outweigh the biases of its head."""
    made = random_model(one_of_each(3)[1], dtype=torch.float32)
    with torch.no_grad():
        made.head_bias.zero_()
        made.norm_bias.zero_()
        made.token_embedding.mul_(10)
    return made


def greedy(steps: int, prompt: list[int], from_model: LanguageModel) -> list[int]:
    return list(generate(from_model, prompt, steps, Sampling(temperature=0.0)))


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (None, 1.0, [0.15, 0.5, 0.05, 0.3]),
        (4, 1.0, [0.15, 0.5, 0.05, 0.3]),
        (99, 1.0, [0.15, 0.5, 0.05, 0.3]),
        (2, 1.0, [0, 0.625, 0, 0.375]),
        (1, 1.0, [0, 1, 0, 0]),
        (None, 0.79, [0, 0.625, 0, 0.375]),
        (None, 0.81, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
        (None, 0.49, [0, 1, 0, 0]),
        (None, 1e-9, [0, 1, 0, 0]),
        (2, 0.6, [0, 1, 0, 0]),
        (2, 0.7, [0, 0.625, 0, 0.375]),
    ],
)
def test_kept_probabilities(top_k: int | None, top_p: float, expected: list[float]) -> None:
    before = LOGITS.clone()
    torch.testing.assert_close(kept_probabilities(LOGITS, top_k, top_p), torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(LOGITS, before)


@pytest.mark.parametrize("top_k", [None, 1, 5, 40])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 0.001])
def test_kept_probabilities_sum_to_one_and_keep_their_order(top_k: int | None, top_p: float) -> None:
    for seed in range(20):
        logits_V = 3 * torch.randn(40, generator=torch.Generator().manual_seed(seed))
        kept_V = kept_probabilities(logits_V, top_k, top_p)
        assert kept_V.sum().item() == pytest.approx(1, abs=1e-5)
        assert 1 <= int((kept_V > 0).sum()) <= (top_k or 40)
        assert kept_V[logits_V.argmax()] == kept_V.max() > 0
        # What is kept is likelier than what is not, and their ratios stay.
        if (kept_V == 0).any():
            assert logits_V[kept_V > 0].min() > logits_V[kept_V == 0].max()
        ratio = kept_V[kept_V > 0] / logits_V.softmax(dim=0)[kept_V > 0]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
        assert ratio[0].item() >= 1 - 1e-5


def test_greedy_takes_the_likeliest_of_the_whole_model() -> None:
    used, ids = model(), [3, 1, 4]
    expected: list[int] = []
    for _ in range(6):
        window = torch.tensor([(ids + expected)[-used.config.max_seq_length :]])
        expected.append(int(used(window).logits[0, -1].argmax()))
    assert greedy(6, ids, used) == expected == greedy(6, ids, used)
    assert len(set(expected)) > 2
    top_one = Sampling(temperature=5.0, top_k=1, seed=9)
    assert list(generate(used, ids, 6, top_one)) == expected


def test_seed_decides() -> None:
    used = model()
    sampling = Sampling(temperature=3.0, top_k=None, seed=5)
    torch.manual_seed(0)
    first = list(generate(used, [1], 20, sampling))
    torch.manual_seed(1)
    assert list(generate(used, [1], 20, sampling)) == first
    assert list(generate(used, [1], 20, dataclasses.replace(sampling, seed=6))) != first
    state = torch.get_rng_state()
    list(generate(used, [1], 3, sampling))
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_have_the_probabilities_of_the_model() -> None:
    used = model()
    with torch.no_grad():
        logits_V: Tensor = used(torch.tensor([[2]])).logits[0, -1]
    expected_V = (logits_V / 2.0).softmax(dim=0)
    draws = [next(generate(used, [2], 1, Sampling(temperature=2.0, top_k=None, seed=s))) for s in range(1500)]
    found_V = torch.bincount(torch.tensor(draws), minlength=len(expected_V)) / len(draws)
    error_V = (expected_V * (1 - expected_V) / len(draws)).sqrt()
    assert ((found_V - expected_V).abs() <= 5 * error_V + 1e-3).all()


def test_window_is_the_last_tokens() -> None:
    used = model()
    longest = used.config.max_seq_length
    prompt = [(7 * n) % 23 for n in range(3 * longest)]
    assert greedy(5, prompt, used) == greedy(5, prompt[-longest:], used) != greedy(5, prompt[:longest], used)
    assert len(greedy(2 * longest, [1], used)) == 2 * longest


def test_stops_where_asked_and_yields_as_it_goes() -> None:
    used = model()
    assert greedy(0, [1], used) == []
    stream = generate(used, [1, 2], 5, Sampling(temperature=0.0))
    assert [next(stream), next(stream)] == greedy(2, [1, 2], used)
    prompt = [1, 2]
    greedy(3, prompt, used)
    assert prompt == [1, 2]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training: bool) -> None:
    used = model().train(training)
    expected = greedy(4, [1], model())
    assert greedy(4, [1], used) == expected  # dropout does not touch it
    assert used.training is training
    stream = generate(used, [1], 5, Sampling())
    next(stream)
    assert isinstance(stream, Generator)
    stream.close()
    assert used.training is training
    with pytest.raises(IndexError):
        list(generate(used, [23], 1, Sampling()))  # no such token
    assert used.training is training


def test_nothing_is_kept_for_gradients() -> None:
    used = model()
    for parameter in used.parameters():
        assert parameter.requires_grad
    greedy(3, [1], used)
    assert all(parameter.grad is None for parameter in used.parameters())
