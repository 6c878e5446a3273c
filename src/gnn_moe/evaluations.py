"""What a trained model is asked afterwards: its loss on some data, a continuation of a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gnn_moe.config import DataConfig, RunConfig, Sampling, run_config_from_dict
from gnn_moe.data.corpus import load_corpus
from gnn_moe.errors import BadInput
from gnn_moe.model.generation import generate
from gnn_moe.model.storage import (
    find_model_folder,
    find_tokenizer,
    load_model,
    read_config,
    read_tokenizer,
)
from gnn_moe.training.device import accelerator_for
from gnn_moe.training.evaluation import Evaluation, evaluate

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def stored_data(path: str, checkpoint: str) -> DataConfig:
    """The data settings of the run that a model folder is from."""
    return _stored(find_model_folder(path, checkpoint)).data


def evaluate_model(
    path: str,
    *,
    data: DataConfig,
    checkpoint: str = "best",
    split: str = "valid",
    device: str = "auto",
    precision: str = "run",
    cache_dir: str | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Evaluates a trained model.

    Args:
        path: folder of a run, a checkpoint or an imported model.
        data: the data; with the run's own `tokenizer`, the one stored with the model is used.
        checkpoint: `best` or `last`, of a run.
        split: `train`, `valid` or `test`.
        device: as the flag.
        precision: `run` for what the run was trained in, else as the flag.
        cache_dir: folder for encoded data.
        on_notice: is told what the user should know of the data.

    Raises:
        BadInput: the model or the data cannot be used, or the tokenizer is not the model's.
    """
    folder = find_model_folder(path, checkpoint)
    stored = _stored(folder)
    if data.tokenizer == stored.data.tokenizer and (own := find_tokenizer(folder)) is not None:
        data = dataclasses.replace(data, tokenizer=str(own))
    corpus = load_corpus(data, max_seq_length=stored.model.max_seq_length, cache_dir=cache_dir, splits=(split,))
    if corpus.vocab_size != stored.model.vocab_size:
        raise BadInput(
            f"--tokenizer {data.tokenizer} has {corpus.vocab_size} tokens, the model {stored.model.vocab_size}: "
            "give the tokenizer that it was trained with"
        )
    for notice in corpus.notices:
        on_notice(notice)
    chosen = stored.training.precision if precision == "run" else precision
    with accelerator_for(device, chosen) as accelerator:
        model = accelerator.prepare(load_model(path, checkpoint=checkpoint).to(accelerator.device))
        return evaluate(
            model,
            corpus.split(split),
            batch_size=stored.training.rows_at_once,
            positions=stored.model.max_seq_length,
            device=accelerator.device,
        )


def continue_prompt(
    path: str, prompt: str, max_new_tokens: int, sampling: Sampling, *, checkpoint: str = "best"
) -> Iterator[str]:
    """The continuation of a prompt, in pieces of whole characters.

    Raises:
        BadInput: the model cannot be used, has no tokenizer, or the prompt is empty.
    """
    if max_new_tokens < 1:
        raise BadInput(f"--max_new_tokens {max_new_tokens} must be at least 1")
    folder = find_model_folder(path, checkpoint)
    model = load_model(folder)
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        raise BadInput(f"{folder}: was written without a tokenizer, so no text can be continued; use a run of ours")
    if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise BadInput(f"--prompt {prompt!r} is not UTF-8: give it in that encoding")
    ids = tokenizer.encode(prompt).ids
    if not ids:
        raise BadInput("--prompt is empty: give at least one character")
    return _whole_characters(generate(model, ids, max_new_tokens, sampling), tokenizer)


def _whole_characters(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    done: list[int] = []
    printed = ""
    for token in tokens:
        done.append(token)
        text = tokenizer.decode(done)
        # A token may end inside a character, which decodes to the replacement mark until the rest of it comes.
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(printed) :]
            printed = text
    yield tokenizer.decode(done)[len(printed) :]


def _stored(folder: Path) -> RunConfig:
    return run_config_from_dict(read_config(folder))
