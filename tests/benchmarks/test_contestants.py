"""Both contestants take the same step; its parts and memory add up; head and loss are one number in every form."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cases import CASES, GPU_CASES, LISTS, Case, Contestant, Targets, contestants, on_device
from benchmarks.contestants import Ours, Textbook, build, random_rows
from benchmarks.loss import FORMS, HeadLoss, LossSizes
from benchmarks.parts import Forwards, part_memory, part_of, saved_bytes
from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.model import halves
from gnn_moe.model.size import model_size
from tests.model.cases import assert_same
from tests.small_runs import ROOT

MODEL = ModelConfig(
    coupler_type="HGNN",
    num_experts=3,
    embed_dim=32,
    num_heads=2,
    num_layers=2,
    vocab_size=101,
    max_seq_length=16,
    dropout_rate=0.0,
)
TRAINING = TrainingConfig(batch_size=4, precision="fp32", device="cpu", gradient_clip=0.5, weight_decay=0.1)
OURS = Contestant(kind="ours", model=MODEL, training=TRAINING)


@pytest.fixture(autouse=True)
def plain_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("benchmarks.contestants", "gnn_moe.training.device"):
        monkeypatch.setattr(f"{module}.keep_freed_memory", lambda: None)


def weights_after(setup: Contestant, steps: int = 3) -> dict[str, Tensor]:
    """Our parameters after some steps, by our names."""
    racer = build(setup)
    assert len(racer.run(steps)) == steps
    if isinstance(racer, Textbook):
        views = racer.textbook.counterparts(lambda parameter: parameter.detach())
        return {name: torch.stack(pieces) if ".experts." in name else pieces[0] for name, pieces in views.items()}
    return {name: parameter.detach() for name, parameter in racer.model.named_parameters()}


def test_halves_take_the_step_of_the_whole(in_halves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = weights_after(OURS)
    monkeypatch.setattr(halves, "LEAST_NUMBERS", 2**30)
    expected = weights_after(OURS)
    compared = [name for name in expected if not name.endswith("qkv_bias")]
    assert_same({name: found[name] for name in compared}, {name: expected[name] for name in compared}, 2e-4)


def test_parts_of_a_step_in_halves_are_of_half_of_the_rows(in_halves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    racer = Ours(OURS)
    asked: list[int] = []
    forwards = racer.forwards

    def of_rows(rows: int) -> Forwards:
        asked.append(rows)
        return forwards(rows)

    monkeypatch.setattr(racer, "forwards", of_rows)
    parts = racer.parts(2)
    racer.side_by_side.close()
    assert asked == [2, 4]  # seconds of two halves at once, bytes of the whole
    assert all(seconds > 0 for seconds in parts["seconds"].values())


def test_contestants_move_the_same_weights_alike() -> None:
    textbook = dataclasses.replace(OURS, kind="textbook")
    graphs = [dataclasses.replace(OURS, kind=kind) for kind in LISTS]
    expected = weights_after(OURS)
    before = weights_after(OURS, steps=0)
    assert max(float((expected[name] - before[name]).abs().max()) for name in expected) > 1e-3
    # AdamW's first steps turn a gradient's sign into a step, so gradients that are zero but for rounding may differ.
    for setup in (textbook, *graphs):
        found = weights_after(setup)
        ignored = {name for name in expected if name.endswith("qkv_bias")}
        assert_same(
            {name: value for name, value in found.items() if name not in ignored},
            {name: value for name, value in expected.items() if name not in ignored},
            2e-4,
        )


def imports_of_a_textbook(**model: object) -> list[bool]:
    """Whether torch_geometric is there as memory is first read, and in the end."""
    code = f"""
import sys
from benchmarks import process_memory
from benchmarks.cases import Contestant
from benchmarks.contestants import build
from gnn_moe.config import ModelConfig, TrainingConfig
seen, read = [], process_memory.used_bytes
process_memory.used_bytes = lambda device: seen.append("torch_geometric" in sys.modules) or read(device)
model = ModelConfig(num_experts=2, embed_dim=16, num_heads=2, num_layers=1, max_seq_length=8, vocab_size=50, **{model})
training = TrainingConfig(batch_size=2, device="cpu", precision="fp32")
build(Contestant(kind="textbook", model=model, training=training)).run(1)
print([*seen, "torch_geometric" in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found: list[bool] = json.loads(done.stdout.lower())
    return found


@pytest.mark.parametrize("coupler", ["GNN", "mean", "attention"])
def test_a_textbook_without_hypergraph_has_no_torch_geometric(coupler: str) -> None:
    """Its 90 MB would flatter ours wherever whole processes are compared."""
    assert imports_of_a_textbook(coupler_type=coupler) == [False, False]


def test_a_textbook_with_hypergraph_has_torch_geometric_before_memory_is_read() -> None:
    assert imports_of_a_textbook(coupler_type="HGNN") == [True, True]


@pytest.mark.parametrize("kind", ["ours", "textbook"])
def test_an_update_clips_decays_and_forgets(kind: Any) -> None:
    racer = build(dataclasses.replace(OURS, kind=kind))
    for parameter in racer.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    norms: list[float] = []

    def note(*hooked: object) -> None:
        norms.append(math.sqrt(sum(float((p.grad**2).sum()) for p in racer.model.parameters() if p.grad is not None)))

    racer.optimiser.register_step_pre_hook(note)
    racer._update()
    assert norms == pytest.approx([TRAINING.gradient_clip], rel=1e-4)
    assert all(parameter.grad is None for parameter in racer.model.parameters())
    (group,) = racer.optimiser.param_groups
    assert {name: group[name] for name in ("lr", "weight_decay", "betas", "eps")} == {
        "lr": TRAINING.learning_rate,
        "weight_decay": TRAINING.weight_decay,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    }


def test_micro_batches_are_the_same_step() -> None:
    training = dataclasses.replace(TRAINING, micro_batch_size=3)
    whole, cut = Ours(OURS), Ours(dataclasses.replace(OURS, training=training))
    for racer in (whole, cut):
        racer._backward()
    expected = {name: p.grad for name, p in whole.model.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in cut.model.named_parameters() if p.grad is not None}
    assert_same(found, expected, 1e-6)


def test_rows_are_full_fixed_and_shifted() -> None:
    ids_BT, targets_BT = random_rows(MODEL, 4)
    assert ids_BT.shape == targets_BT.shape == (4, 16)
    assert torch.equal(ids_BT[:, 1:], targets_BT[:, :-1])
    assert torch.equal(ids_BT, random_rows(MODEL, 4)[0])
    assert 90 < int(ids_BT.max()) < 101


@pytest.mark.parametrize("kind", ["ours", "textbook"])
def test_parts_and_memory(kind: Any) -> None:
    racer = build(dataclasses.replace(OURS, kind=kind))
    racer.run(1)
    parts = racer.parts(1)
    assert list(parts["seconds"]) == ["experts", "coupler", "head and loss", "optimiser"]
    assert all(seconds > 0 for seconds in parts["seconds"].values())
    found, expected = parts["bytes"], model_size(MODEL)
    assert {part: row["parameters"] // 4 for part, row in found.items()} == {
        "embeddings": expected.embedding_parameters,
        "experts": expected.expert_parameters,
        "coupler": expected.coupler_parameters,
        "head and loss": expected.head_parameters,
    }
    for row in found.values():
        assert row["gradients"] == row["parameters"]
        assert 2 * row["parameters"] <= row["optimiser"] <= 2 * row["parameters"] + 1000
    tokens = TRAINING.batch_size * MODEL.max_seq_length
    assert found["experts"]["activations"] >= 2 * 3 * tokens * 4 * 32 * 4  # layers × experts × tokens × FFN, at least
    assert found["embeddings"]["activations"] == 0
    memory = racer.memory()
    assert memory["peak_bytes"] > memory["step_bytes"]


def test_kept_activations_are_counted_once_and_without_weights() -> None:
    layer = nn.Linear(8, 16)
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(lambda: [layer(x)], layer) == x.nbytes
    assert saved_bytes(lambda: [layer(x) + layer(x[:2]).sum()], layer) == x.nbytes
    assert saved_bytes(lambda: [layer(x).exp()], layer) == x.nbytes + 4 * 16 * 4


def test_parts_of_parameters() -> None:
    model = nn.Module()
    model.norm_gain = nn.Parameter(torch.zeros(3))
    assert set(part_memory(model, torch.optim.AdamW(model.parameters()), dict)) == {"head and loss"}
    names = {
        "layers.0.experts.norm1_gain": "experts",
        "layers.0.experts.1.norm1.weight": "experts",
        "layers.0.coupler.layers.0.self_bias": "coupler",
        "layers.0.readout.norm.weight": "coupler",
        "position_embedding.weight": "embeddings",
        "head_bias": "head and loss",
    }
    assert {name: part_of(name) for name in names} == names


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_loss_is_the_same_number(form: str) -> None:
    if form.startswith("linear") and not hasattr(nn, "LinearCrossEntropyOptions"):
        pytest.skip("this torch has no chunked linear_cross_entropy")
    sizes = LossSizes(tokens=64, width=16, vocabulary=50, device="cpu")
    head = HeadLoss(form, sizes)
    reference = HeadLoss("cross_entropy float32", sizes)
    tolerance = 1e-5 if form.endswith("float32") else 2e-2
    torch.testing.assert_close(head.loss().float(), reference.loss(), rtol=tolerance, atol=0)
    assert len(head.run(2)) == len(reference.run(2)) == 2
    assert head.weight_VD.grad is not None
    assert reference.weight_VD.grad is not None
    error = (head.weight_VD.grad - reference.weight_VD.grad).norm() / reference.weight_VD.grad.norm()
    assert error < tolerance


def test_the_table_of_cases() -> None:
    assert list(CASES) == [
        "config1-gnn",
        "config1-hgnn",
        "config1-hgnn-legacy",
        "config1-hgnn-list",
        "config1-hgnn-list-unbound",
        "eight-experts",
        "sixteen-experts",
        "float32-config1",
    ]
    first, eight, sixteen = CASES["config1-gnn"], CASES["eight-experts"], CASES["sixteen-experts"]
    assert (first.model.num_experts, first.model.embed_dim, first.model.num_layers) == (2, 384, 6)
    assert (first.model.gnn_layers, first.model.vocab_size, first.model.max_seq_length) == (3, 50257, 128)
    assert first.training.batch_size == 32
    assert (eight.model.num_layers, eight.model.gnn_layers, eight.training.batch_size) == (4, 2, 16)
    assert (sixteen.model.num_experts, sixteen.training.batch_size, sixteen.opponent) == (16, 64, None)
    reached = {name: (c.targets.speed, c.targets.memory, c.targets.peak_bytes) for name, c in CASES.items()}
    assert reached["config1-hgnn-list"] == (12, 0.5, None)
    assert reached["config1-hgnn-list-unbound"] == (None, None, None)
    assert reached["eight-experts"] == (6, 0.33, None)
    assert reached["sixteen-experts"] == (None, None, 10**10)
    assert reached["float32-config1"] == (1, 0.7, None)


def test_the_table_of_a_gpu() -> None:
    sizes = {name: (c.model.num_experts, c.model.embed_dim, c.model.num_layers) for name, c in GPU_CASES.items()}
    assert {name: size for name, size in sizes.items() if "config1" not in name} == {
        "gpu-config2-hgnn": (4, 512, 8),
        "gpu-config3-gnn": (2, 512, 8),
        "gpu-config3-hgnn": (2, 512, 8),
        "gpu-wide-4-gnn": (4, 512, 8),
        "gpu-wide-8-gnn": (8, 512, 8),
        "gpu-wide-8-hgnn": (8, 512, 8),
    }
    for name, case in GPU_CASES.items():
        assert case.model.coupler_type == ("HGNN" if "hgnn" in name else "GNN")
        assert (case.model.gnn_layers, case.training.batch_size, case.model.max_seq_length) == (3, 32, 128)
        wide = case.model.num_experts * case.model.embed_dim >= 2048
        assert case.targets == Targets(mfu=0.35 if wide else None, speed=15 if name.endswith("list") else None)
    opponents = {name: c.opponent for name, c in GPU_CASES.items() if c.opponent != "textbook"}
    assert opponents == {
        "gpu-config1-hgnn-list": "textbook_list",
        "gpu-config1-hgnn-list-unbound": "textbook_unbound",
    }
    assert not set(GPU_CASES) & set(CASES)


def test_contestants_of_a_case() -> None:
    case = on_device(Case(name="x", model=MODEL, training=TRAINING, targets=Targets()), "cuda")
    entered = contestants(case)
    assert {name: setup.kind for name, setup in entered.items()} == {"ours": "ours", "textbook": "textbook"}
    assert all(setup.training.device == "cuda" for setup in entered.values())
    assert list(contestants(dataclasses.replace(case, opponent=None))) == ["ours"]
