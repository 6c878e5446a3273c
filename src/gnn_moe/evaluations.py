"""What a trained model is asked afterwards: its loss, with and without its coupling, how it couples, a continuation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from gnn_moe.checks import check_seed
from gnn_moe.config import DataConfig, RunConfig, Sampling, run_config_from_dict
from gnn_moe.data.corpus import load_corpus
from gnn_moe.data.samples import Samples
from gnn_moe.errors import BadInput
from gnn_moe.model.ablations import SHUFFLE_GRAPH, ablate, largest_change_of_strengths
from gnn_moe.model.coupling_measures import CouplingMeasures, measure_coupling
from gnn_moe.model.generation import generate
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.storage import (
    find_model_folder,
    find_tokenizer,
    load_model,
    read_config,
    read_tokenizer,
)
from gnn_moe.training.device import accelerator_for, precision_of
from gnn_moe.training.evaluation import Evaluation, evaluate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_EFFECT = 1e-6
"""Change of a strength, beside which strengths are of the order of 1, that an ablation may come to by rounding."""


@dataclass(frozen=True, kw_only=True)
class AblatedEvaluation:
    """The loss of one model on one text, intact and ablated, in nats a predicted token; positive differences harm.

    In bf16 a difference of some 1e-5 is rounding; fp32 resolves finer ones.
    """

    ablate: str
    """coupler, shuffle_graph or uniform_weights."""
    ablate_seed: int | None
    """Of the order of shuffle_graph; None for the others, which draw nothing."""
    eval_loss: float
    ablated_eval_loss: float
    difference: float
    """Ablated minus intact."""
    selection_loss: float
    """Of the first half of the rows, as in `Evaluation`."""
    ablated_selection_loss: float
    selection_difference: float
    reported_loss: float | None
    """Of the other half, which had no say in the checkpoint `selected`; None where there is one row only."""
    ablated_reported_loss: float | None
    reported_difference: float | None
    tokens: int
    """Predicted tokens."""
    largest_change: float | None
    """How far the strength that moved most moved; None where the coupler was taken out."""


def stored_config(path: str, checkpoint: str) -> RunConfig:
    """The settings of the run that a model folder is from."""
    return _stored(find_model_folder(path, checkpoint))


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
        checkpoint: `best`, `selected` or `last`, of a run.
        split: `train`, `valid` or `test`.
        device: as the flag.
        precision: `run` for what the run was trained in, else as the flag.
        cache_dir: folder for encoded data.
        on_notice: is told what the user should know of the data.

    Raises:
        BadInput: the model or the data cannot be used, or the tokenizer is not the model's.
    """
    folder = find_model_folder(path, checkpoint)
    samples = _samples(folder, data, split, cache_dir, on_notice)
    with accelerator_for(device, _precision(folder, precision)) as accelerator:
        return _evaluate(accelerator, load_model(folder), samples, _stored(folder))


def evaluate_ablated(
    path: str,
    ablation: str,
    *,
    data: DataConfig,
    ablate_seed: int = 0,
    checkpoint: str = "best",
    split: str = "valid",
    device: str = "auto",
    precision: str = "run",
    cache_dir: str | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> AblatedEvaluation:
    """Evaluates a trained model and the same with its coupling changed, on the same rows.

    Args:
        path: as for `evaluate_model`, and so are all others not named here.
        ablation: one of `gnn_moe.model.ablations.ABLATIONS`.
        data: the data.
        ablate_seed: of the order of `shuffle_graph`; nothing else draws.
        checkpoint: of a run.
        split: of the data.
        device: as the flag.
        precision: as the flag.
        cache_dir: for encoded data.
        on_notice: is also told where the ablation changed nothing.

    Raises:
        BadInput: as `evaluate_model`, or the ablation means nothing on this model.
    """
    check_seed(ablate_seed, "ablate_seed")
    folder = find_model_folder(path, checkpoint)
    model = load_model(folder)
    ablated = ablate(model, ablation, torch.Generator().manual_seed(ablate_seed))
    largest = largest_change_of_strengths(model, ablated)
    if largest is not None and largest <= NO_EFFECT:
        on_notice(_no_effect(ablation))
    samples = _samples(folder, data, split, cache_dir, on_notice)
    with accelerator_for(device, _precision(folder, precision)) as accelerator:
        # Accelerate ties a model to its forward, so the copy was made before.
        intact, changed = (_evaluate(accelerator, each, samples, _stored(folder)) for each in (model, ablated))
    reported = None
    if intact.reported_loss is not None and changed.reported_loss is not None:
        reported = changed.reported_loss - intact.reported_loss
    return AblatedEvaluation(
        ablate=ablation,
        ablate_seed=ablate_seed if ablation == SHUFFLE_GRAPH else None,
        eval_loss=intact.eval_loss,
        ablated_eval_loss=changed.eval_loss,
        difference=changed.eval_loss - intact.eval_loss,
        selection_loss=intact.selection_loss,
        ablated_selection_loss=changed.selection_loss,
        selection_difference=changed.selection_loss - intact.selection_loss,
        reported_loss=intact.reported_loss,
        ablated_reported_loss=changed.reported_loss,
        reported_difference=reported,
        tokens=intact.tokens,
        largest_change=largest,
    )


def measure_model(
    path: str,
    *,
    data: DataConfig,
    checkpoint: str = "best",
    split: str = "valid",
    device: str = "auto",
    precision: str = "run",
    cache_dir: str | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> CouplingMeasures:
    """Measures the coupling of a trained model on the first samples of a split; arguments as for `evaluate_model`.

    Raises:
        BadInput: as `evaluate_model`, or the model has no couplers.
    """
    folder = find_model_folder(path, checkpoint)
    samples = _samples(folder, data, split, cache_dir, on_notice)
    with accelerator_for(device, _precision(folder, precision)) as accelerator:
        return measure_coupling(
            load_model(folder).to(accelerator.device),
            samples,
            rows_at_once=_stored(folder).training.rows_at_once,
            compute_dtype=torch.bfloat16 if precision_of(accelerator) == "bf16" else torch.float32,
        )


def _no_effect(ablation: str) -> str:
    if ablation == SHUFFLE_GRAPH:
        return (
            "--ablate shuffle_graph changed nothing: no other order of the strengths is another graph (there is one, "
            "all are equal, or two experts share a doubly stochastic mix)"
        )
    return f"--ablate {ablation} changed nothing: the strengths of each graph are equal already"


def _evaluate(accelerator: Accelerator, model: LanguageModel, samples: Samples, stored: RunConfig) -> Evaluation:
    return evaluate(
        accelerator.prepare(model.to(accelerator.device)),
        samples,
        batch_size=stored.training.rows_at_once,
        positions=stored.model.max_seq_length,
        device=accelerator.device,
    )


def _samples(
    folder: Path, data: DataConfig, split: str, cache_dir: str | None, on_notice: Callable[[str], None]
) -> Samples:
    """The samples of a split, in the tokens of the model in a folder; errors as `evaluate_model`."""
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
    return corpus.split(split)


def _precision(folder: Path, precision: str) -> str:
    return _stored(folder).training.precision if precision == "run" else precision


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
