"""The memory of a step from the config alone: what the built model really keeps, on a CPU and in the form of a GPU.

Letters: B rows, T positions.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import find_coupler
from gnn_moe.model import memory
from gnn_moe.model.head import lay_out_by_columns
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.model.loss import head_loss
from gnn_moe.model.memory import Workload, kept_bytes, peak_memory
from gnn_moe.model.router import router_losses
from gnn_moe.model.size import model_size
from tests.model.cases import config_of, controls, each, one_of_each, random_ids

B, T = 24, 32
NUMBERS = {torch.bfloat16: 2, torch.float32: 4}
CONFIGS = [
    dataclasses.replace(config, embed_dim=64, num_heads=4, max_seq_length=T, vocab_size=97, dropout_rate=rate)
    for experts in (1, 3)
    for rate in (0.0, 0.1)
    for config in [*one_of_each(experts, static_hyperedge_strategy="all"), *controls(experts)]
]
MANY_GATES = dataclasses.replace(
    config_of(find_coupler("HGNN", "hgnn", True), 8, "all_triplets"),
    embed_dim=16,
    gnn_layers=4,
    max_seq_length=T,
    dropout_rate=0.0,
)
"""56 gates a token and coupler layer, beside 128 numbers of results."""

FEW_TOKENS = 64


class Kept:
    """Counts the bytes of what autograd keeps, each storage once, parameters left out."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        if model.head_weight.device.type == "cpu":
            lay_out_by_columns(model.head_weight)  # as training in bf16 does; float32 does not mind
        self.own = [parameter.data_ptr() for parameter in model.parameters()]
        self.alive: dict[int, Tensor] = {}

    def bytes(self, ids_BT: Tensor, dtype: torch.dtype) -> int:
        parameters = {id(parameter) for parameter in self.model.parameters()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            base = tensor._base if tensor._base is not None else tensor
            if id(base) not in parameters:
                self.alive[storage._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            hidden_BTD, routed_LNE = self.model.routed_states(ids_BT, dtype)
            one = torch.ones((), device=ids_BT.device)
            if routed_LNE is not None:
                router_losses(routed_LNE, ids_BT.flatten() >= 0, self.model.config.router_top_k)
            head_loss(hidden_BTD.flatten(0, 1), self.model.head_weight, self.model.head_bias, ids_BT.flatten(), one)
        return sum(tensor.untyped_storage().nbytes() for tensor in self.alive.values())


def workload(dtype: torch.dtype, config: ModelConfig, device_type: str = "cpu") -> Workload:
    return Workload(
        rows=B,
        positions=T,
        accumulates=False,
        number_bytes=NUMBERS[dtype],
        dropout=config.dropout_rate > 0,
        device_type=device_type,
    )


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@each([*CONFIGS, MANY_GATES])
def test_what_is_kept_on_a_cpu_is_what_is_counted(config: ModelConfig, dtype: torch.dtype) -> None:
    kept = Kept(build_model(config)).bytes(random_ids(config, B, T), dtype)
    assert kept_bytes(config, workload(dtype, config)) == pytest.approx(kept, rel=0.02)


def test_what_gates_keep_of_their_hypergraph_is_counted() -> None:
    """560 hyperedges of 16 experts: a number a hyperedge and pair of experts, however few the tokens."""
    config = dataclasses.replace(
        MANY_GATES, num_experts=16, embed_dim=64, gnn_layers=2, max_seq_length=FEW_TOKENS, vocab_size=97
    )
    for dtype in NUMBERS:
        kept = Kept(build_model(config)).bytes(random_ids(config, 1, FEW_TOKENS), dtype)
        few = dataclasses.replace(workload(dtype, config), rows=1, positions=FEW_TOKENS)
        assert kept_bytes(config, few) == pytest.approx(kept, rel=0.02)


@each([config for config in CONFIGS if config.dropout_rate == 0])
def test_what_is_kept_on_a_gpu_is_what_is_counted(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On no device, whose tensors have sizes only, with the attention kernel that a GPU takes for bf16.

    Without dropout: a GPU keeps its masks as bytes, no device as whole numbers.
    """

    def flash(query: Tensor, key: Tensor, value: Tensor, *, dropout_p: float, is_causal: bool) -> Tensor:
        output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal)[0]
        return output

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", flash)
    with torch.device("meta"):
        model, ids_BT = LanguageModel(config), torch.zeros(B, T, dtype=torch.int64)
    kept = Kept(model).bytes(ids_BT, torch.bfloat16)
    assert kept_bytes(config, workload(torch.bfloat16, config, "cuda")) == pytest.approx(kept, rel=0.03)


@each(one_of_each(3))
def test_masks_are_bytes_on_a_gpu(config: ModelConfig) -> None:
    rates = [
        kept_bytes(config, dataclasses.replace(workload(torch.bfloat16, config, "cuda"), dropout=on))
        for on in (False, True)
    ]
    results = config.num_experts * B * T * config.embed_dim
    assert rates[1] - rates[0] == config.num_layers * 5 * results + B * T * config.embed_dim


def test_accumulated_gradients_are_there_at_the_peak() -> None:
    config = dataclasses.replace(CONFIGS[0], vocab_size=5000)
    once = workload(torch.bfloat16, config)
    whole, split = (peak_memory(config, dataclasses.replace(once, accumulates=on)) for on in (False, True))
    parameters = 4 * model_size(config).total_parameters
    assert (whole.gradients, split.gradients) == (0, parameters)
    assert split.total - whole.total == parameters
    assert (split.parameters, split.optimiser) == (parameters, 2 * parameters)


def test_a_tiny_batch_is_fullest_as_the_optimiser_moves() -> None:
    config = ModelConfig(num_experts=8, embed_dim=512, vocab_size=1000)
    tiny = dataclasses.replace(workload(torch.bfloat16, config, "cuda"), rows=1, positions=8)
    peak = peak_memory(config, tiny)
    assert peak.total == 4 * 4 * model_size(config).total_parameters


def test_checkpointed_layers_keep_their_inputs_and_one_layer_more() -> None:
    config = dataclasses.replace(CONFIGS[0], num_layers=12)
    plain = workload(torch.float32, config)
    kept = [kept_bytes(config, dataclasses.replace(plain, checkpoint_layers=on)) for on in (False, True)]
    deeper = dataclasses.replace(config, num_layers=13)
    growth = kept_bytes(deeper, dataclasses.replace(plain, checkpoint_layers=True)) - kept[1]
    assert growth == 4 * B * T * config.embed_dim
    assert kept[1] < 0.25 * kept[0]


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_rows_of_one_length_leave_less_idle_and_layers_computed_again_more(dtype: torch.dtype) -> None:
    plain = workload(dtype, CONFIGS[0])
    even, again = dataclasses.replace(plain, one_length=True), dataclasses.replace(plain, checkpoint_layers=True)
    both = dataclasses.replace(again, one_length=True)
    of_even, of_plain, of_again, of_both = (memory._idle_share(each) for each in (even, plain, again, both))
    assert of_even < of_plain <= of_again == of_both
    assert of_plain < of_again or dtype == torch.float32  # not measured there
    assert peak_memory(CONFIGS[0], even).working < peak_memory(CONFIGS[0], plain).working


def test_memory_is_known_without_torch() -> None:
    code = "import sys, gnn_moe.model.memory; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
