"""A GPU computes behind the host's back: nothing inside a step asks it for a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gnn_moe.cli import main
from gnn_moe.config import ModelConfig
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.loss import head_loss
from gnn_moe.training.loop import Trainer
from tests.small_runs import Setting
from tests.training.test_compiling import COUPLERS


@pytest.mark.parametrize("coupler", COUPLERS)
def test_no_value_is_read_on_the_way_from_tokens_to_clipped_gradients(coupler: str) -> None:
    """On torch's meta device, which has shapes and no numbers: reading one is an error."""
    sizes = {"vocab_size": 50, "num_heads": 2, "num_layers": 2, "num_experts": 3, "gnn_layers": 2}
    with torch.device("meta"):
        # Wide enough for the experts of top_k to be multiples of 8, as torch's grouped products want them.
        width = 64 if coupler == "top_k" else 16
        config = ModelConfig(**sizes, embed_dim=width, max_seq_length=8, dropout_rate=0.1, **COUPLERS[coupler])  # type: ignore[arg-type]
        model = LanguageModel(config)
        ids = torch.zeros((4, 8), dtype=torch.int64)
        # The autocast around them does not know this device.
        hidden = model.hidden_states(ids, torch.bfloat16).flatten(0, 1)
        loss = head_loss(hidden, model.head_weight, model.head_bias, ids.flatten(), torch.ones(()))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for value in (loss, norm):
        assert value.shape == ()
        with pytest.raises(RuntimeError, match="meta"):
            float(value.detach())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_no_step_waits_for_the_gpu(
    micro_batch_size: int | None, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second step on (the first makes the optimiser's state), as torch itself watches."""

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(trainer: Trainer, *arguments: Any) -> Any:
            torch.cuda.set_sync_debug_mode("error" if trainer.progress.step else "default")
            try:
                return method(trainer, *arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    def unwatched(trainer: Trainer) -> None:
        torch.cuda.set_sync_debug_mode("default")
        read(trainer)

    read = Trainer._read_losses
    monkeypatch.setattr(Trainer, "_read_losses", unwatched)
    monkeypatch.setattr(Trainer, "_step", watched(Trainer._step))
    flags = {"device": "cuda", "precision": "bf16", "micro_batch_size": micro_batch_size, "dropout_rate": 0.1}
    assert main(setting.flags("it", **flags)) == 0
