"""Checkpoints of the original: the five in `../shared/parity`, and small ones of the same format written here.

The five are not in the repository; they are found by the variable GNN_MOE_SHARED, else in `../shared` beside it.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import find_coupler
from gnn_moe.errors import BadInput
from gnn_moe.interop.original import convert_parameters, import_checkpoint, leak_warning
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.storage import load_model, read_config
from tests import textbook
from tests.model.cases import config_of, each, random_ids, random_model

PARITY = Path(os.environ.get("GNN_MOE_SHARED", Path(__file__).parents[3] / "shared")) / "parity"
NAMES = ["gnn_e3", "gnn_e5_deep", "hgnn_pairs_e2", "hgnn_pairs_e3", "hgnn_triplets_e4"]
needs_parity = pytest.mark.skipif(
    not PARITY.is_dir(), reason=f"no {PARITY}: set GNN_MOE_SHARED to the folder that holds parity/"
)

GNN, LEGACY = find_coupler("GNN", "hgnn"), find_coupler("HGNN", "HypergraphConv")
FORMS = [
    config_of(GNN, 1),
    config_of(GNN, 4),
    config_of(LEGACY, 2),
    config_of(LEGACY, 4),
    config_of(LEGACY, 5, "all_triplets"),
    config_of(LEGACY, 3, "all"),
    config_of(LEGACY, 3, hgnn_learnable_edge_weights=False),
]


def as_original(ours: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our parameters (or their gradients) under the original's names: one module an expert, one gate vector."""
    theirs = {
        "token_emb.weight": ours["token_embedding"],
        "pos_emb.weight": ours["position_embedding"],
        "output_norm.weight": ours["norm_gain"],
        "output_norm.bias": ours["norm_bias"],
        "lm_head.weight": ours["head_weight"],
        "lm_head.bias": ours["head_bias"],
    }
    for layer in range(config.num_layers):
        a, b = f"layers.{layer}.", f"model_layers.{layer}."
        for e in range(config.num_experts):
            of_expert = {
                "attention.in_proj_": "qkv_",
                "attention.out_proj.": "output_",
                "ffn.0.": "up_",
                "ffn.3.": "down_",
            }
            for their, our in of_expert.items():
                for kind in ("weight", "bias"):
                    theirs[f"{b}experts.{e}.{their}{kind}"] = ours[f"{a}experts.{our}{kind}"][e]
            for number in (1, 2):
                theirs[f"{b}experts.{e}.norm{number}.weight"] = ours[f"{a}experts.norm{number}_gain"][e]
                theirs[f"{b}experts.{e}.norm{number}.bias"] = ours[f"{a}experts.norm{number}_bias"][e]
        theirs[f"{b}coupler.combiner.0.weight"] = ours[f"{a}readout.combine_weight"]
        theirs[f"{b}coupler.combiner.0.bias"] = ours[f"{a}readout.combine_bias"]
        theirs[f"{b}coupler.combiner.2.weight"] = ours[f"{a}readout.norm_gain"]
        theirs[f"{b}coupler.combiner.2.bias"] = ours[f"{a}readout.norm_bias"]
        theirs |= coupler_as_original(ours, config, f"{a}coupler.", f"{b}coupler.")
    return {name: values.detach().clone() for name, values in theirs.items()}


def coupler_as_original(ours: Mapping[str, Tensor], config: ModelConfig, a: str, b: str) -> dict[str, Tensor]:
    """The parameters of our coupler `a` under the names of the original's `b`."""
    theirs = {}
    if f"{a}raw_hyperedge_weights" in ours:
        theirs[f"{b}hyperedge_weights"] = ours[f"{a}raw_hyperedge_weights"]
    for g in range(config.gnn_layers):
        own = f"{a}layers.{g}."
        if config.coupler_type == "HGNN":
            theirs[f"{b}hgnn_layers_module.{g}.conv.lin.weight"] = ours[f"{own}convolution_weight"]
            theirs[f"{b}hgnn_layers_module.{g}.conv.bias"] = ours[f"{own}convolution_bias"]
            continue
        module = f"{b}gnn_layers_module.{g}"
        theirs[f"{module}.adjacency_logits"] = ours[f"{own}adjacency_logits"]
        for their, our in (("neighbor", "neighbour"), ("self", "self")):
            for kind in ("weight", "bias"):
                theirs[f"{module}.{their}_transform.{kind}"] = ours[f"{own}{our}_{kind}"]
        gate = torch.cat([ours[f"{own}receiver_weight"], ours[f"{own}sender_weight"]])
        theirs[f"{module}.message_weight.weight"] = gate[None]
        theirs[f"{module}.message_weight.bias"] = ours[f"{own}gate_bias"][None]
    return theirs


def checkpoint_of(model: LanguageModel) -> dict[str, Any]:
    """What the original would have written, with the fields of its own config that we do not have."""
    own = ("vocab_size", "max_seq_length", "embed_dim", "num_layers", "num_heads", "dropout_rate", "num_experts")
    coupling = ("gnn_layers", "coupler_type", "hgnn_conv_type", "static_hyperedge_strategy")
    config = {name: getattr(model.config, name) for name in (*own, *coupling, "hgnn_learnable_edge_weights")}
    config |= {"hgnn_conv_type": "HypergraphConv", "batch_size": 16, "learning_rate": 3e-4, "epochs": 3, "seed": 7}
    config |= {"dataset_name": "wikitext", "dataset_config_name": "wikitext-2-v1", "num_workers_dataloader": 2}
    config |= {"checkpoint_dir": "checkpoints", "resume_checkpoint": None, "num_train_samples": 100}
    return {
        "epoch": 1,
        "step": 7,
        "model_state_dict": as_original(dict(model.named_parameters()), model.config),
        "optimizer_state_dict": {},
        "scheduler_state_dict": None,
        "best_eval_loss": 4.2,
        "config": config,
    }


def written(checkpoint: Any, folder: Path) -> Path:
    path = folder / "model.pth.tar"
    torch.save(checkpoint, path)
    return path


def good_checkpoint(config: ModelConfig = FORMS[1]) -> dict[str, Any]:
    return checkpoint_of(random_model(config, dtype=torch.float32))


@needs_parity
@pytest.mark.parametrize("name", NAMES)
def test_parity(name: str, tmp_path: Path) -> None:
    import_checkpoint(PARITY / f"{name}.pth.tar", tmp_path / "imported")
    model = load_model(tmp_path / "imported")
    arrays = np.load(PARITY / f"{name}.expected.npz")
    expected = json.loads((PARITY / f"{name}.expected.json").read_text())
    ids_BT = torch.from_numpy(arrays["input_ids"])
    output = model(ids_BT, labels=ids_BT, return_logits=True)
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits, torch.from_numpy(arrays["logits"]), rtol=1e-5, atol=1e-5)
    assert output.loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-6)
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-6)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["params"]
    output.loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    norms = {n: grad.norm().item() for n, grad in as_original(grads, model.config).items()}
    assert norms.keys() == expected["grad_norm_by_parameter"].keys()
    for parameter, norm in expected["grad_norm_by_parameter"].items():
        assert norms[parameter] == pytest.approx(norm, rel=1e-4, abs=1e-7), parameter


@needs_parity
def test_the_textbook_agrees_with_the_original_too() -> None:
    """The reference of the other tests is held to the original's logits without any of our model."""
    for name in ("gnn_e3", "hgnn_pairs_e3"):
        checkpoint = torch.load(PARITY / f"{name}.pth.tar", weights_only=True)
        config = ModelConfig(**{k: v for k, v in checkpoint["config"].items() if k in ModelConfig.__dataclass_fields__})
        parameters = convert_parameters(checkpoint["model_state_dict"], LanguageModel(config))
        arrays = np.load(PARITY / f"{name}.expected.npz")
        logits = textbook.logits(parameters, config, torch.from_numpy(arrays["input_ids"]))
        torch.testing.assert_close(logits, torch.from_numpy(arrays["logits"]), rtol=1e-5, atol=1e-5)


@each(FORMS)
def test_a_checkpoint_of_the_same_format(config: ModelConfig, tmp_path: Path) -> None:
    model = random_model(config, dtype=torch.float32)
    lines = import_checkpoint(written(checkpoint_of(model), tmp_path), tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert not loaded.training
    assert loaded.config.hgnn_conv_type == "HypergraphConv"
    ids_BT = random_ids(config)
    logits = loaded(ids_BT).logits
    assert torch.equal(logits, model(ids_BT).logits)
    expected = textbook.logits(dict(model.double().named_parameters()), config, ids_BT)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"{parameters:,} parameters" in lines[0]
    assert "vocabulary of 23 is not GPT-2's" in lines[1]
    assert lines[2:] == leak_warning(config)


def test_the_runs_settings_come_along(tmp_path: Path) -> None:
    import_checkpoint(written(good_checkpoint(), tmp_path), tmp_path / "deep" / "out")
    config = read_config(tmp_path / "deep" / "out")
    expected = {"batch_size": 16, "learning_rate": 3e-4, "epochs": 3, "seed": 7}
    assert {name: config["training"][name] for name in expected} == expected
    assert config["data"]["dataset_name"] == "wikitext"
    assert config["data"]["num_train_samples"] == 100


@pytest.mark.parametrize("strategy", ["all_pairs", "all_triplets", "all"])
@pytest.mark.parametrize("experts", range(3, 9))
def test_says_where_the_original_leaked(strategy: str, experts: int) -> None:
    first = {"all_pairs": 4, "all_triplets": 5, "all": 99}[strategy]
    lines = leak_warning(config_of(LEGACY, experts, strategy))
    assert len(lines) == (experts >= first)
    assert all("the original leaked" in line and f"over {experts} experts" in line for line in lines)
    assert leak_warning(config_of(GNN, experts)) == []


def refused(path: Path, output: Path) -> str:
    """The message; nothing may be left behind."""
    before = set(output.parent.iterdir())
    with pytest.raises(BadInput) as caught:
        import_checkpoint(path, output)
    assert "\n" not in str(caught.value)
    assert set(output.parent.iterdir()) == before
    return str(caught.value)


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_needs_pickled_code_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "trap.pth.tar"
    torch.save({**good_checkpoint(), "extra": Trap(sprung)}, path, _use_new_zipfile_serialization=zipped)
    assert "needs code that is pickled inside it" in refused(path, tmp_path / "out")
    assert not sprung.exists()
    # The trap works: whoever trusts the file runs it.
    torch.load(path, weights_only=False)["extra"].close()
    assert sprung.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "trap.pth.tar"
    path.write_bytes(pickle.dumps({"config": Trap(tmp_path / "sprung")}, protocol=2))
    refused(path, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kept", [0, 1, 2, 30, 1000, "1/4", "1/2", "9/10", "999/1000", -1])
def test_a_truncated_file_is_refused(kept: int | str, tmp_path: Path) -> None:
    path = written(good_checkpoint(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(Fraction(kept) * len(whole)) if isinstance(kept, str) else kept])
    assert refused(path, tmp_path / "out").startswith(f"{path}: ")


@pytest.mark.parametrize(
    "content", [b"hello", b"{}", b"\x80\x02", b"\x80\x02}q\x00.", b"PK\x03\x04 torn", b"\x00" * 600, b"aea"]
)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar"
    path.write_bytes(content)
    assert refused(path, tmp_path / "out").startswith(f"{path}: ")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    assert refused(path, tmp_path / "out").startswith(f"{path}: ")


def test_a_damaged_number_is_refused(tmp_path: Path) -> None:
    """A zip holds a checksum of every member; a byte that changed on the disk is not imported as a weight."""
    path = written(good_checkpoint(), tmp_path)
    with zipfile.ZipFile(path) as archive:
        numbers = next(member.filename for member in archive.infolist() if "/data/" in member.filename)
        values = archive.read(numbers)
    content = path.read_bytes()
    assert content.count(values) == 1
    path.write_bytes(content.replace(values, bytes([values[0] ^ 0xFF]) + values[1:]))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == numbers
    assert refused(path, tmp_path / "out").startswith(f"{path}: ")


Change = Callable[[dict[str, Any]], Any]
EXPERT = "model_layers.0.experts.1.norm1.weight"
GATE = "model_layers.0.coupler.gnn_layers_module.0.message_weight.weight"


def state(name: str, value: Any) -> Change:
    return lambda checkpoint: checkpoint["model_state_dict"].__setitem__(name, value)


def setting(name: str, value: Any) -> Change:
    return lambda checkpoint: checkpoint["config"].__setitem__(name, value)


CHANGES: dict[str, tuple[Change, str]] = {
    "no state": (lambda c: c.pop("model_state_dict"), "no model_state_dict"),
    "no config": (lambda c: c.pop("config"), "no model_state_dict and config"),
    "config of another kind": (lambda c: c.update(config=5), "config"),
    "state of another kind": (lambda c: c.update(model_state_dict=[1]), "model_state_dict"),
    "config field missing": (lambda c: c["config"].pop("embed_dim"), "no embed_dim"),
    "config field of another kind": (setting("embed_dim", "8"), "embed_dim"),
    "learning rate of another kind": (setting("learning_rate", None), "learning_rate"),
    "unknown coupler": (setting("coupler_type", "GAT"), "--coupler_type 'GAT'"),
    "no experts": (setting("num_experts", 0), "--num_experts 0"),
    "parameter missing": (lambda c: c["model_state_dict"].pop("lm_head.bias"), "no parameter lm_head.bias"),
    "expert missing": (lambda c: c["model_state_dict"].pop(EXPERT), f"no parameter {EXPERT}"),
    "parameter left over": (state("extra.weight", torch.zeros(1)), "does not explain: extra.weight"),
    "fewer layers in the config": (setting("num_layers", 1), "does not explain: model_layers.1"),
    "more layers in the config": (setting("num_layers", 3), "no parameter model_layers.2"),
    "fewer experts in the config": (setting("num_experts", 2), "do not fit its config"),
    "another width": (setting("embed_dim", 16), "do not fit its config"),
    "another vocabulary": (setting("vocab_size", 24), "do not fit its config"),
    "an expert of another shape": (state(EXPERT, torch.zeros(5)), "norm1"),
    "a gate without dimensions": (state(GATE, torch.tensor(1.0)), "message_weight"),
    "a gate of odd width": (state(GATE, torch.zeros(1, 15)), "weight"),
    "a parameter that is no tensor": (state("lm_head.bias", 5), "lm_head.bias|head_bias"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    checkpoint = copy.deepcopy(good_checkpoint())
    change(checkpoint)
    assert re.search(message, refused(written(checkpoint, tmp_path), tmp_path / "out"))


def test_a_list_is_no_checkpoint(tmp_path: Path) -> None:
    assert "it is not a checkpoint of the original" in refused(written([1, 2], tmp_path), tmp_path / "out")


def test_a_form_that_the_original_did_not_have_is_refused(tmp_path: Path) -> None:
    checkpoint = good_checkpoint(FORMS[2])
    checkpoint["config"]["hgnn_conv_type"] = "hgnn"
    assert "hgnn_conv_type hgnn" in refused(written(checkpoint, tmp_path), tmp_path / "out")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path, output = written(good_checkpoint(), tmp_path), tmp_path / "out"
    output.mkdir()
    (output / "mine").write_text("keep")
    assert refused(path, output) == f"--output {output} exists; give a folder that does not"
    assert (output / "mine").read_text() == "keep"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    absent = tmp_path / "absent.pth.tar"
    assert refused(absent, tmp_path / "out").startswith(f"{absent}: there is no such file")


def test_an_imported_model_that_was_damaged_afterwards_is_refused(tmp_path: Path) -> None:
    import_checkpoint(written(good_checkpoint(), tmp_path), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match="is damaged"):
        load_model(tmp_path / "out")
