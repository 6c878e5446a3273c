"""Checkpoints of the original implementation → model folders of ours.

The original keeps one module an expert, `nn.MultiheadAttention` and PyG's `HypergraphConv`; its file is a dict with
`model_state_dict` and `config`. Its hypergraph couplers are the legacy form here. Files are read without running any
code that they hold.
"""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from gnn_moe.config import DataConfig, ModelConfig, RunConfig, TrainingConfig, to_dict
from gnn_moe.data.tokenization import GPT2, GPT2_VOCAB_SIZE, gpt2_tokenizer
from gnn_moe.errors import BadInput
from gnn_moe.hypergraph import count_hyperedges
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.storage import write_checksums, write_model_folder

_MODEL_FIELDS = (
    "vocab_size",
    "max_seq_length",
    "embed_dim",
    "num_layers",
    "num_heads",
    "dropout_rate",
    "num_experts",
    "gnn_layers",
    "coupler_type",
    "hgnn_conv_type",
    "static_hyperedge_strategy",
    "hgnn_learnable_edge_weights",
)

_TOP = {
    "token_embedding": "token_emb.weight",
    "position_embedding": "pos_emb.weight",
    "norm_gain": "output_norm.weight",
    "norm_bias": "output_norm.bias",
    "head_weight": "lm_head.weight",
    "head_bias": "lm_head.bias",
}
_EXPERT = {
    "norm1_gain": "norm1.weight",
    "norm1_bias": "norm1.bias",
    "qkv_weight": "attention.in_proj_weight",
    "qkv_bias": "attention.in_proj_bias",
    "output_weight": "attention.out_proj.weight",
    "output_bias": "attention.out_proj.bias",
    "norm2_gain": "norm2.weight",
    "norm2_bias": "norm2.bias",
    "up_weight": "ffn.0.weight",
    "up_bias": "ffn.0.bias",
    "down_weight": "ffn.3.weight",
    "down_bias": "ffn.3.bias",
}
_READOUT = {
    "combine_weight": "combiner.0.weight",
    "combine_bias": "combiner.0.bias",
    "norm_gain": "combiner.2.weight",
    "norm_bias": "combiner.2.bias",
}
_GNN_LAYER = {
    "adjacency_logits": "adjacency_logits",
    "neighbour_weight": "neighbor_transform.weight",
    "neighbour_bias": "neighbor_transform.bias",
    "self_weight": "self_transform.weight",
    "self_bias": "self_transform.bias",
}
_HYPERGRAPH_LAYER = {"convolution_weight": "conv.lin.weight", "convolution_bias": "conv.bias"}


# What the unpickler and the archive reader raise on bytes that are not what they should be.
_DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)


def import_checkpoint(path: str | Path, output: str | Path) -> list[str]:
    """Writes a checkpoint of the original as a model folder.

    Returns:
        Lines for the user: what was imported, and where the original leaked.

    Raises:
        BadInput: the file is missing, damaged, needs pickled code or is not the original's, or `output` exists or
            cannot be written.
    """
    path, output = Path(path), Path(output)
    if output.exists():
        raise BadInput(f"--output {output} exists; give a folder that does not")
    checkpoint = _load(path)
    config = _config(path, checkpoint["config"])
    model = LanguageModel(config.model)
    model.load_state_dict(convert_parameters(checkpoint["model_state_dict"], model))
    tokenizer = gpt2_tokenizer() if config.model.vocab_size == GPT2_VOCAB_SIZE else None
    temporary = output.with_name(f"{output.name}.writing")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_model_folder(temporary, model, to_dict(config), tokenizer)
        write_checksums(temporary)
        temporary.rename(output)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise BadInput(f"--output {output}: cannot be written ({error}); give another folder") from None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [f"imported {path}: {_describe(config.model)}, {parameters:,} parameters, to {output}"]
    if tokenizer is None:
        lines.append(
            f"its vocabulary of {config.model.vocab_size} is not GPT-2's: evaluate it with its own --tokenizer"
        )
    return [*lines, *leak_warning(config.model)]


def leak_warning(model: ModelConfig) -> list[str]:
    """A line where the original computed other logits than ours because it let tokens see each other, else none.

    Its batched hypergraph code shifted hyperedge ids by the number of experts, so with more hyperedges than experts
    neighbouring tokens shared hyperedges.
    """
    hyperedges = count_hyperedges(model)
    if hyperedges <= model.num_experts:
        return []
    warning = (
        f"the original leaked here: with {hyperedges} hyperedges over {model.num_experts} experts it let tokens see "
        "their neighbours, later ones too. Ours does not, so these logits rightly differ from the original's, and the "
        "losses that it reported for this model are not to be trusted"
    )
    return [warning]


def convert_parameters(original: Mapping[str, Any], model: LanguageModel) -> dict[str, Tensor]:
    """The original's parameters under our names, experts stacked, for a model of the same settings.

    Raises:
        BadInput: a parameter is missing, left over, or of another shape.
    """
    config, shapes = model.config, {name: values.shape for name, values in model.state_dict().items()}
    source = _Source(original)
    converted = {ours: source.take(theirs, shapes[ours]) for ours, theirs in _TOP.items()}
    for number in range(config.num_layers):
        ours, theirs = f"layers.{number}", f"model_layers.{number}"
        for name, old in _EXPERT.items():
            shape = shapes[f"{ours}.experts.{name}"][1:]
            experts = [source.take(f"{theirs}.experts.{e}.{old}", shape) for e in range(config.num_experts)]
            converted[f"{ours}.experts.{name}"] = torch.stack(experts)
        for name, old in _READOUT.items():
            new = f"{ours}.readout.{name}"
            converted[new] = source.take(f"{theirs}.coupler.{old}", shapes[new])
        for name, old in _coupler_names(config).items():
            new = f"{ours}.coupler.{name}"
            converted[new] = source.take(f"{theirs}.coupler.{old}", shapes[new])
        if not config.coupler.uses_hypergraph:
            converted |= _convert_gates(source, f"{theirs}.coupler", f"{ours}.coupler", config)
    source.check_empty()
    return converted


def _coupler_names(config: ModelConfig) -> dict[str, str]:
    """Our names of a coupler's parameters → the original's, within the coupler, of those that stay as they are."""
    hypergraph = config.coupler.uses_hypergraph
    module, layer = ("hgnn_layers_module", _HYPERGRAPH_LAYER) if hypergraph else ("gnn_layers_module", _GNN_LAYER)
    names = {
        f"layers.{number}.{ours}": f"{module}.{number}.{theirs}"
        for number in range(config.gnn_layers)
        for ours, theirs in layer.items()
    }
    if hypergraph and config.hgnn_learnable_edge_weights:
        names["raw_hyperedge_weights"] = "hyperedge_weights"
    return names


def _convert_gates(source: _Source, theirs: str, ours: str, config: ModelConfig) -> dict[str, Tensor]:
    """One map of the concatenated (receiver, sender) results → two dot products."""
    converted: dict[str, Tensor] = {}
    for number in range(config.gnn_layers):
        old, new = f"{theirs}.gnn_layers_module.{number}.message_weight", f"{ours}.layers.{number}"
        gate = source.take(f"{old}.weight", torch.Size([1, 2 * config.embed_dim]))
        converted[f"{new}.receiver_weight"], converted[f"{new}.sender_weight"] = gate[0].chunk(2)
        converted[f"{new}.gate_bias"] = source.take(f"{old}.bias", torch.Size([1]))[0]
    return converted


class _Source:
    """The original's parameters, each taken once."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self.left = dict(tensors)

    def take(self, name: str, shape: torch.Size) -> Tensor:
        if name not in self.left:
            raise BadInput(f"the checkpoint has no parameter {name}; it is not of the original implementation")
        values = self.left.pop(name)
        found = tuple(values.shape) if isinstance(values, Tensor) else repr(values)
        if found != tuple(shape):
            raise BadInput(f"the checkpoint's parameters do not fit its config: {name} is {found}, not {tuple(shape)}")
        kept: Tensor = values
        return kept

    def check_empty(self) -> None:
        if self.left:
            raise BadInput(f"the checkpoint has parameters that its config does not explain: {', '.join(self.left)}")


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file; give a checkpoint of the original (.pth.tar)")
    try:
        _check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadInput(
            f"{path}: is damaged, or needs code that is pickled inside it; such a file can do anything and is refused"
        ) from None
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path}: cannot be read ({reason}); it is damaged or truncated") from None
    parts = ("model_state_dict", "config")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), Mapping) for part in parts):
        raise BadInput(f"{path}: has no model_state_dict and config; it is not a checkpoint of the original")
    return checkpoint


def _check_archive(path: Path) -> None:
    """torch does not compare a zip archive's contents with its checksums, so a damaged number would be a weight."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} differs from its checksum")


def _config(path: Path, original: Mapping[str, Any]) -> RunConfig:
    missing = [name for name in _MODEL_FIELDS if name not in original]
    if missing:
        raise BadInput(f"{path}: its config has no {', '.join(missing)}; it is not a checkpoint of the original")
    model = ModelConfig(**{name: original[name] for name in _MODEL_FIELDS})
    if model.coupler_type == "HGNN" and model.hgnn_conv_type != "HypergraphConv":
        raise BadInput(f"{path}: hgnn_conv_type {model.hgnn_conv_type} is not one that the original had")
    fields = ({f.name for f in dataclasses.fields(DataConfig)} & set(original)) - {"tokenizer"}
    data = DataConfig(**{name: original[name] for name in fields if original[name] is not None}, tokenizer=GPT2)
    kept = ("batch_size", "learning_rate", "epochs", "seed")
    training = TrainingConfig(**{name: original[name] for name in kept if name in original})
    return RunConfig(model=model, data=data, training=training)


def _describe(model: ModelConfig) -> str:
    form = f"{model.coupler_type} {model.static_hyperedge_strategy}" if model.coupler.uses_hypergraph else "GNN"
    return f"{form}, {model.num_experts} experts, D {model.embed_dim}, {model.num_layers} layers"
