"""Sampling a continuation, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gnn_moe.config import Sampling
from gnn_moe.errors import BadInput
from gnn_moe.model.language_model import LanguageModel


def generate(model: LanguageModel, prompt: Sequence[int], new_tokens: int, sampling: Sampling) -> Iterator[int]:
    """Yields `new_tokens` token ids that continue `prompt` (at least one id).

    The model sees the last `max_seq_length` tokens; it is used in evaluation mode and left in the mode it was in.

    Raises:
        BadInput: the prompt is empty.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    device = model.norm_gain.device
    ids = list(prompt)
    if not ids:
        raise BadInput("the prompt is empty: give at least one token")
    was_training = model.training
    model.eval()
    try:
        for _ in range(new_tokens):
            window = torch.tensor([ids[-model.config.max_seq_length :]], device=device)
            with torch.inference_mode():
                last_D = model.hidden_states(window, model.norm_gain.dtype)[0, -1]
                logits_V = model.logits(last_D).cpu()
            ids.append(_choose(logits_V, sampling, generator))
            yield ids[-1]
    finally:
        model.train(was_training)


def _choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    # From the largest down, so that no temperature, however low, makes an infinity.
    scaled_V = (logits_V - logits_V.max()) / sampling.temperature
    probabilities_V = kept_probabilities(scaled_V, sampling.top_k, sampling.top_p)
    return int(torch.multinomial(probabilities_V, 1, generator=generator))


def kept_probabilities(logits_V: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """softmax over the k likeliest tokens, cut to the fewest whose probability reaches top_p: (V,), sums to 1."""
    if top_k is not None and top_k < len(logits_V):
        kept = logits_V.topk(top_k)
        logits_V = torch.full_like(logits_V, -math.inf).scatter(0, kept.indices, kept.values)
    probabilities_V = logits_V.softmax(dim=0)
    if top_p < 1:
        ordered, tokens = probabilities_V.sort(descending=True)
        before = ordered.cumsum(dim=0) - ordered
        probabilities_V[tokens[before >= top_p]] = 0
        probabilities_V /= probabilities_V.sum()
    return probabilities_V
