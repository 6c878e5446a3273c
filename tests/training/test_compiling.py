"""`--compile`: no graph break in a layer, nothing compiled again after the second step, and the same numbers.

`test_causality.py` holds compiled layers to plain ones, batch by batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from gnn_moe.cli import main
from gnn_moe.config import ModelConfig
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.training.compiling import any_shape, compile_layers
from gnn_moe.training.loader import LoadedBatch
from gnn_moe.training.loop import Trainer
from tests.small_runs import Setting, read_rows

COUPLERS = {
    "GNN": {"coupler_type": "GNN"},
    "HGNN": {"coupler_type": "HGNN"},
    "content gates": {"coupler_type": "HGNN", "hgnn_content_gates": True},
    "HypergraphConv": {"coupler_type": "HGNN", "hgnn_conv_type": "HypergraphConv"},
    "sinkhorn": {"coupler_type": "sinkhorn"},
    "attention": {"coupler_type": "attention"},
    "mean": {"coupler_type": "mean"},
    "dense": {"architecture": "dense"},
    "top_k": {"architecture": "top_k"},
}
WIDTH = 16
# torch 2.13 looks at the gradient of the layer's input while it traces; where warnings are errors, hiding it fails.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def nothing_compiled_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither in this process nor, by an earlier one, on the disk."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def config_of(coupler: str) -> ModelConfig:
    sizes = {"vocab_size": 50, "embed_dim": WIDTH, "num_heads": 2, "num_layers": 3, "num_experts": 3, "gnn_layers": 2}
    return ModelConfig(**sizes, max_seq_length=64, dropout_rate=0.1, **COUPLERS[coupler])  # type: ignore[arg-type]


def step(model: LanguageModel, rows: int, positions: int) -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (rows, positions)))
    loss = model(ids, targets=ids).loss
    if model.training:
        loss.backward()


@pytest.mark.parametrize(
    ("coupler", "first"),
    [(coupler, (8, 48)) for coupler in COUPLERS] + [("mean", first) for first in ((48, 48), (8, WIDTH), (WIDTH, 48))],
    ids=str,
)
def test_one_graph_a_mode_for_batches_of_all_shapes(coupler: str, first: tuple[int, int]) -> None:
    """Among the first shapes are those that torch would take to be one size: rows, positions and width."""
    model = build_model(config_of(coupler))
    compile_layers(model, backend="eager")
    with any_shape():
        for mode in (True, False):
            model.train(mode)
            step(model, *first)
            step(model, *first)
            with torch.compiler.set_stance("fail_on_recompile"):
                for rows, positions in ((8, 64), (64, 8), (5, 5), (2, 48), first):
                    step(model, rows, positions)
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("coupler", COUPLERS)
def test_the_form_of_a_gpu_is_one_graph_too(coupler: str) -> None:
    """On no device, whose tensors have sizes only: what is no CPU takes the batched products and fused attention.

    Of a width for which torch has a grouped product; for others the host waits to hear where an expert's rows end.
    """
    config = dataclasses.replace(config_of(coupler), embed_dim=64)
    with torch.device("meta"):
        model = LanguageModel(config)
        compile_layers(model, backend="eager")
        with any_shape():
            for number, (rows, positions) in enumerate(((8, 48), (8, 48), (8, 64), (64, 8), (5, 5), (2, 48))):
                with torch.compiler.set_stance("fail_on_recompile" if number > 1 else "default"):
                    ids_BT = torch.zeros((rows, positions), dtype=torch.int64)
                    hidden_BTD = model.hidden_states(ids_BT, torch.bfloat16)
                    hidden_BTD.sum().backward()  # type: ignore[no-untyped-call]
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_a_run_compiles_nothing_after_its_second_step(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """31 samples in batches of 6: the last batch of an epoch has one row, and an empty one; so has the sample."""
    trained = Trainer._step
    rows: list[int] = []

    def checked(trainer: Trainer, batch: LoadedBatch) -> bool:
        rows.append(len(batch.pieces[0].targets))
        with torch.compiler.set_stance("fail_on_recompile" if trainer.progress.step >= 2 else "default"):
            return trained(trainer, batch)

    monkeypatch.setattr(Trainer, "_step", checked)
    flags = {"num_train_samples": 31, "batch_size": 6, "max_seq_length": 60, "dropout_rate": 0.0}
    assert main(setting.flags("compiled", "--compile", **flags)) == 0
    assert sorted(rows) == [2] * 2 + [6] * 10
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 2
    assert main(setting.flags("plain", **flags)) == 0
    compiled, plain = ([row["loss"] for row in read_rows(setting.runs / name)] for name in ("compiled", "plain"))
    assert compiled == pytest.approx(plain, rel=1e-4)
