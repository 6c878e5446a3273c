"""The settings of a run: one tree of frozen dataclasses, checked when built.

`RunConfig` holds `ModelConfig` (what is computed), `DataConfig` (from which text), `TrainingConfig` (how it is fitted)
and `OutputConfig` (where the record goes; nothing in it changes a number). The command line is made from this tree, so
a field is a flag of the same name and its docstring is the flag's help. No torch is imported here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import tyro

from gnn_moe.checks import ALL, check_count, check_rate, check_seed, check_size, check_words, is_number
from gnn_moe.coupler_types import (
    CouplerType,
    coupler_type_names,
    find_coupler,
    hgnn_conv_type_names,
    takes_content_gates,
)
from gnn_moe.errors import BadInput, unknown_name
from gnn_moe.hyperedges import STRATEGIES, Hyperedges, check_hyperedges, freeze_hyperedges, read_hyperedges

C = TypeVar("C")

COUPLED, DENSE, TOP_K = ARCHITECTURES = ("coupled", "dense", "top_k")
ARCHITECTURE_FIELDS: Mapping[str, tuple[str, ...]] = {
    DENSE: ("match",),
    TOP_K: ("router_top_k", "load_balancing_weight", "router_z_weight"),
}
"""The settings that only one architecture reads. All others describe the coupled model that a control is matched to."""

LONGEST_RUN_NAME = 200
"""Bytes; file systems take 255, and a few are ours."""

_HYPEREDGES_FILE: tyro.constructors.PrimitiveConstructorSpec[Hyperedges | None] = (
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FILE",
        instance_from_str=lambda words: read_hyperedges(words[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [json.dumps(value)],
    )
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The language model: what is computed from token ids."""

    vocab_size: Annotated[int, tyro.conf.Suppress] = 50257
    """Tokens in the vocabulary; a run takes it from its tokenizer."""
    architecture: str = "coupled"
    """coupled, or a control matched to the coupled model of the other flags: dense, or top_k (a sparse mixture)."""
    match: Literal["parameters", "flops"] = "parameters"
    """What dense has as much of as the coupled model, within 1 %: parameters, or FLOPs of training. (top_k: FLOPs.)"""
    router_top_k: int = 2
    """Experts that top_k sends a token to."""
    load_balancing_weight: float = 0.01
    """Weight of top_k's load-balancing loss beside the cross-entropy."""
    router_z_weight: float = 0.001
    """Weight of top_k's router z-loss beside the cross-entropy."""
    coupler_type: str = "GNN"
    """How the experts of a layer exchange what they found: GNN, HGNN, sinkhorn, attention or mean (no exchange)."""
    static_hyperedge_strategy: str = "all_pairs"
    """Which experts share a hyperedge (HGNN): all_pairs, all_triplets, all or custom."""
    hgnn_learnable_edge_weights: bool = True
    """Learn one weight a hyperedge; otherwise every weight is 1."""
    hgnn_conv_type: str = "hgnn"
    """Form of the HGNN layer: hgnn, or HypergraphConv (the original's form, to load and compare old models)."""
    hgnn_content_gates: bool = False
    """Scale each hyperedge's weight, for every token, by what its members found (HGNN, form hgnn)."""
    hyperedges: Annotated[Hyperedges | None, _HYPEREDGES_FILE] = None
    """JSON file with a list of lists of experts, counted from 0, for the strategy custom."""
    num_experts: int = 4
    """Experts in every layer; all of them run on every token."""
    embed_dim: int = 256
    """Width of the model."""
    num_layers: int = 4
    """Layers of coupled experts."""
    gnn_layers: int = 2
    """Layers of each coupler."""
    num_heads: int | None = None
    """Attention heads of an expert (default: embed_dim / 64 where that is whole, else 8)."""
    dropout_rate: float = 0.1
    """Dropout on embeddings, attention weights and feed-forward activations."""
    max_seq_length: int = 128
    """Longest sequence, in tokens: rows are cut there."""

    def __post_init__(self) -> None:
        check_words(self)
        for name in ("vocab_size", "num_experts", "embed_dim", "num_layers", "gnn_layers", "max_seq_length"):
            check_size(self, name)
        if self.num_heads is not None:
            check_size(self, "num_heads")
        if not (is_number(self.dropout_rate) and 0 <= self.dropout_rate < 1):
            raise BadInput(f"--dropout_rate {self.dropout_rate!r} must be at least 0 and below 1")
        if self.architecture not in ARCHITECTURES:
            raise unknown_name("--architecture", self.architecture, ARCHITECTURES)
        if self.coupler_type not in coupler_type_names():
            raise unknown_name("--coupler_type", self.coupler_type, coupler_type_names())
        if self.hgnn_conv_type not in hgnn_conv_type_names():
            raise unknown_name("--hgnn_conv_type", self.hgnn_conv_type, hgnn_conv_type_names())
        if self.static_hyperedge_strategy not in STRATEGIES:
            raise unknown_name("--static_hyperedge_strategy", self.static_hyperedge_strategy, STRATEGIES)
        self._check_architecture()
        self._check_content_gates()
        self._check_heads()
        self._check_hyperedges()

    @property
    def heads(self) -> int:
        """A, attention heads of an expert: `num_heads`, or D/64 where 64 divides D, else 8."""
        if self.num_heads is not None:
            return self.num_heads
        return self.embed_dim // 64 if self.embed_dim % 64 == 0 else 8

    @property
    def coupler(self) -> CouplerType:
        """The coupler's row in the table of couplers."""
        return find_coupler(self.coupler_type, self.hgnn_conv_type, self.hgnn_content_gates)

    @property
    def matched(self) -> ModelConfig:
        """The coupled model that a control is matched to; the model itself where it is coupled."""
        own = {name: _default(self, name) for names in ARCHITECTURE_FIELDS.values() for name in names}
        return dataclasses.replace(self, architecture=COUPLED, **own)

    def _check_architecture(self) -> None:
        check_size(self, "router_top_k")
        for name in ("load_balancing_weight", "router_z_weight"):
            check_rate(self, name, zero=True)
        for architecture, names in ARCHITECTURE_FIELDS.items():
            for name in names:
                if architecture != self.architecture and getattr(self, name) != _default(self, name):
                    raise BadInput(
                        f"--{name} {getattr(self, name)} is for --architecture {architecture}, "
                        f"not {self.architecture}: drop one of them"
                    )
        if self.architecture == TOP_K and self.router_top_k > self.num_experts:
            raise BadInput(
                f"--router_top_k {self.router_top_k} is more than --num_experts {self.num_experts}: "
                f"use at most {self.num_experts}"
            )

    def _check_content_gates(self) -> None:
        if self.hgnn_content_gates and not takes_content_gates(self.coupler_type, self.hgnn_conv_type):
            found = find_coupler(self.coupler_type, self.hgnn_conv_type)
            raise BadInput(
                "--hgnn_content_gates is for --coupler_type HGNN with --hgnn_conv_type hgnn, "
                f"not {found.hgnn_conv_type or found.coupler_type}: drop one of them"
            )

    def _check_heads(self) -> None:
        if self.embed_dim % self.heads:
            divisors = [n for n in range(1, min(self.embed_dim, 64) + 1) if self.embed_dim % n == 0]
            raise BadInput(
                f"--embed_dim {self.embed_dim} is not divisible by --num_heads {self.heads}: "
                f"use one of {', '.join(map(str, divisors))} heads or another width"
            )

    def _check_hyperedges(self) -> None:
        if self.hyperedges is not None:
            object.__setattr__(self, "hyperedges", freeze_hyperedges(self.hyperedges, "--hyperedges"))
            if not self.coupler.uses_hypergraph:
                raise BadInput(f"--hyperedges is for --coupler_type HGNN, not {self.coupler_type}: drop one of them")
        if self.coupler.uses_hypergraph:
            check_hyperedges(self.static_hyperedge_strategy, self.num_experts, self.hyperedges)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text: where it comes from, how it becomes tokens and samples."""

    dataset_name: str = "sotu"
    """sotu (embedded), a dataset of the Hugging Face hub (wikitext, ...), or a local file or folder."""
    dataset_config_name: str | None = None
    """Configuration of a hub dataset (default: wikitext-2-v1 for wikitext, else the dataset's own)."""
    text_column: str = "text"
    """Column that holds the text in a hub dataset, JSONL or Parquet file."""
    data_format: Literal["lines", "packed"] = "lines"
    """lines: a sample is a line of more than 30 characters; packed: blocks of one token stream."""
    tokenizer: str = "gpt2"
    """gpt2, bpe:N (N tokens, trained on the training split), a path, or a name on the hub."""
    num_train_samples: int = ALL
    """Training samples, the first of one fixed shuffle (-1: all)."""
    num_eval_samples: int = ALL
    """Evaluation samples, the first of one fixed shuffle (-1: all)."""

    def __post_init__(self) -> None:
        check_words(self)
        for name in ("dataset_name", "text_column", "tokenizer"):
            if not getattr(self, name):
                raise BadInput(f"--{name} is empty: leave it out for the default, {_default(self, name)}")
        for name in ("num_train_samples", "num_eval_samples"):
            check_count(self, name)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The fit: batches, optimiser, schedule, evaluation and the machine that computes it."""

    learning_rate: float = 5e-4
    """Highest learning rate of AdamW; it falls along a cosine to 1e-6."""
    epochs: int = 8
    """Passes over the training samples."""
    max_batches_per_epoch: int = ALL
    """Batches of an epoch (-1: all)."""
    max_steps: int = ALL
    """Steps of the whole run, in as many epochs as that takes (-1: those of --epochs)."""
    eval_every: int = 200
    """Steps between evaluations; the last step is always evaluated."""
    batch_size: int = 32
    """Samples a step."""
    micro_batch_size: int | Literal["auto"] = "auto"
    """Samples computed at once, to the same gradient (top_k balances each alone); auto: the fewest pieces that fit."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the layer again: less memory, more time."""
    group_by_length: bool = True
    """Batch rows of like length, which saves padding; otherwise batches are random."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on all parameters."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 42
    """Moves initial values, batch order and dropout."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 where the processor or GPU computes in it, else fp32."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:1."""
    compile: bool = False
    """Compile the model with torch.compile."""

    def __post_init__(self) -> None:
        check_words(self)
        for name in ("epochs", "eval_every", "batch_size"):
            check_size(self, name)
        for name in ("learning_rate", "gradient_clip"):
            check_rate(self, name)
        check_rate(self, "weight_decay", zero=True)
        for name in ("max_batches_per_epoch", "max_steps"):
            check_count(self, name)
        if self.micro_batch_size != "auto":
            check_size(self, "micro_batch_size")
        if type(self.warmup_steps) is not int or self.warmup_steps < 0:
            raise BadInput(f"--warmup_steps {self.warmup_steps!r} must be a whole number, 0 or more")
        check_seed(self.seed)

    @property
    def rows_at_once(self) -> int:
        """Rows of a micro-batch; the whole batch while their number is not decided."""
        return self.batch_size if self.micro_batch_size == "auto" else min(self.micro_batch_size, self.batch_size)

    def steps_per_epoch(self, samples: int) -> int:
        """Batches of an epoch: all of them, the last short one included, or at most `max_batches_per_epoch`."""
        batches = math.ceil(samples / self.batch_size)
        return batches if self.max_batches_per_epoch == ALL else min(batches, self.max_batches_per_epoch)

    def count_steps(self, samples: int) -> int:
        """Steps of a whole run over so many training samples."""
        return self.epochs * self.steps_per_epoch(samples) if self.max_steps == ALL else self.max_steps


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The record: where it goes and what the terminal shows. Nothing here changes a number."""

    run_name: str | None = None
    """Name of the run's folder (default: one is made up from coupler, sizes and time)."""
    output_dir: str = "runs"
    """Folder that holds the run folders."""
    save_every: int | None = None
    """Steps between checkpoints besides those at each evaluation (default: none)."""
    resume: bool = False
    """Continue the run of this name from its last checkpoint; settings not given are the run's own."""
    overwrite: bool = False
    """Delete the run folder of this name first."""
    cache_dir: str | None = None
    """Folder for encoded data (default: gnn_moe in the user's cache folder)."""
    quiet: bool = False
    """Plain lines instead of a live bar."""
    dry_run: bool = False
    """Print the resolved settings, parameters and FLOPs, and stop."""

    def __post_init__(self) -> None:
        check_words(self)
        if self.run_name is not None and (
            self.run_name in ("", ".", "..") or not self.run_name.isprintable() or {"/", "\\"} & set(self.run_name)
        ):
            raise BadInput(f"--run_name {self.run_name!r} leaves the output folder: use a plain name, without / or ..")
        if self.run_name is not None and len(os.fsencode(self.run_name)) > LONGEST_RUN_NAME:
            raise BadInput(f"--run_name {self.run_name!r} is too long: use at most {LONGEST_RUN_NAME} bytes")
        if self.save_every is not None:
            check_size(self, "save_every")
        if self.resume and self.overwrite:
            raise BadInput("--resume and --overwrite exclude each other: give one of them")
        if self.resume and self.run_name is None:
            raise BadInput("--resume needs --run_name: name the run to continue")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, whole."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    output: OutputConfig = field(default_factory=OutputConfig)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = 50
    """Keep only the k likeliest tokens."""
    top_p: float = 1.0
    """Keep only the likeliest tokens that together reach this probability."""
    seed: int = 42
    """Of the random choices."""

    def __post_init__(self) -> None:
        check_words(self)
        check_rate(self, "temperature", zero=True)
        if self.top_k is not None and self.top_k < 1:
            raise BadInput(f"--top_k {self.top_k} must be at least 1, or None for all tokens")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"--top_p {self.top_p} must be above 0 and at most 1")
        check_seed(self.seed)


def to_dict(config: Any) -> dict[str, Any]:
    """A config, or a tree of them, as plain values for JSON."""
    return dataclasses.asdict(config)


def run_config_from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The inverse of `to_dict` for a `RunConfig`.

    Raises:
        BadInput: a group or field is unknown or missing, or a value fails its check.
    """
    groups = ("model", "data", "training", "output")
    training = dict(values.get("training", {}))
    if "micro_batch_size" in training and training["micro_batch_size"] is None:
        # So the first runs wrote the whole batch.
        training["micro_batch_size"] = training.get("batch_size", TrainingConfig.batch_size)
    if unknown := sorted(set(values) - set(groups)):
        raise BadInput(f"config: unknown group {unknown[0]!r}; the groups are {', '.join(groups)}")
    return RunConfig(
        model=model_config_from_dict(values.get("model", {})),
        data=_from_dict(DataConfig, values.get("data", {})),
        training=_from_dict(TrainingConfig, training),
        output=_from_dict(OutputConfig, values.get("output", {})),
    )


def model_config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """The inverse of `to_dict` for a `ModelConfig`."""
    return _from_dict(ModelConfig, values)


def changed_fields(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(field, old value, new value) wherever two configs of one class differ."""
    pairs = ((f.name, getattr(old, f.name), getattr(new, f.name)) for f in dataclasses.fields(old))
    return [(name, before, after) for name, before, after in pairs if before != after]


def _from_dict(config_class: type[C], values: Mapping[str, Any]) -> C:
    _check_mapping(values, config_class)
    known = [f.name for f in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown_name("config field", name, known)
    return config_class(**values)


def _check_mapping(values: object, config_class: type[Any]) -> None:
    if not isinstance(values, Mapping):
        raise BadInput(f"config: {config_class.__name__} is {values!r}; it must hold the fields by name")


def _default(config: Any, name: str) -> Any:
    return next(f.default for f in dataclasses.fields(config) if f.name == name)
