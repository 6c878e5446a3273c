"""bf16 within 2 % of float32, in the norm: what comes out, all gradients together, and each gradient by itself.

A gradient that is what a large sum leaves after it cancels is held to a wider bound by itself, which `SMALL_RESTS`
names; it weighs nothing among all gradients together. `test_precision.py` trains with both.

Letters: E experts, N tokens, D width, F = 4D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.hypergraph import hgnn_propagation
from gnn_moe.model import feed_forward
from gnn_moe.model.experts import Experts
from gnn_moe.model.language_model import build_model
from gnn_moe.model.propagation import gradient_of_propagation, learned_propagation, propagate
from gnn_moe.model.sinkhorn import doubly_stochastic
from tests.model.cases import assert_same, controls, each, gradients, one_of_each, random_ids

WITHIN = 0.02
E, N, D = 4, 1024, 64
SIZES = {"embed_dim": D, "num_heads": 4, "dropout_rate": 0.0, "vocab_size": 200, "max_seq_length": 32, "num_layers": 2}
CONFIGS = one_of_each(E, **SIZES)

SMALL_RESTS = {
    # The readout takes the mean over experts, and rows (and columns) of the mix sum to 1: of what a strength changes,
    # only the part in which the experts differ is left, which at the start is 1e-5 and less of all gradients.
    "mixing_logits": 0.3,
    "hyperedge_logits": 0.1,
    "content_gate_weight": 0.2,
    "raw_hyperedge_weights": 0.2,
    "adjacency_logits": 0.06,
    "gate_bias": 0.06,
    # Shares of a softmax sum to 1: what the values of all experts have in common cancels.
    "query_weight": 0.15,
    "key_weight": 0.15,
    # Two such layers without a residual: its gradient is a sum over experts and tokens of what differs in sign.
    "convolution_bias": 0.06,
}
"""Of a whole model at its start: the parameter's kind, and how far its gradient may be off, by its own norm."""
NOTHING = {"content_gate_bias": 1e-7}
"""The bias opens all gates alike, which moves the experts' mean in second order alone: how far its gradient may be off,
by the norm of all gradients."""
ALONE = {"content_gate_bias": 0.05, "raw_hyperedge_weights": 0.1}
"""What is left of `SMALL_RESTS` where a coupler is computed from the same numbers in both types."""

Result = tuple[Tensor, dict[str, Tensor]]


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach().double() - expected.detach()).norm() / expected.detach().double().norm())


def joined(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors.values()])


def kind_of(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def assert_near(half: Result, single: Result, bounds: Mapping[str, float]) -> None:
    """Output, all gradients together, and each by itself within its bound."""
    assert distance(half[0], single[0]) <= WITHIN
    assert half[1].keys() == single[1].keys()
    everything = joined(single[1])
    assert distance(joined(half[1]), everything) <= WITHIN
    for name, expected in single[1].items():
        off = float((half[1][name].double() - expected).norm())
        if kind_of(name) in NOTHING and kind_of(name) not in bounds:
            assert off <= NOTHING[kind_of(name)] * everything.norm(), name
        else:
            bound = bounds.get(kind_of(name), WITHIN)
            assert off <= bound * expected.norm(), f"{name} is off by {off / expected.norm():.3f} of its norm"


def alike(seed: int, own: float) -> Tensor:
    """(E, N, D) in numbers that bf16 has: what the experts have in common, and `own` times as much of each."""
    generator = torch.Generator().manual_seed(seed)
    common_ND = torch.randn(N, D, generator=generator)
    return (common_ND + own * torch.randn(E, N, D, generator=generator)).bfloat16().float()


def results(run: Callable[[Tensor], Tensor], x: Tensor, parameters: Mapping[str, Tensor], cotangent: Tensor) -> Result:
    leaf = x.clone().requires_grad_()
    output = run(leaf)
    inputs = {"x": leaf, **parameters}
    found = torch.autograd.grad(
        output, list(inputs.values()), cotangent.to(output.dtype), allow_unused=True, materialize_grads=True
    )
    return output, dict(zip(inputs, found, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
@each(CONFIGS)
def test_every_coupler(config: ModelConfig, seed: int) -> None:
    coupler = build_model(config, seed=seed).layers[0].get_submodule("coupler")
    x_END = alike(seed, 0.5)
    cotangent_END = alike(seed + 5, 0.1) + 0.2 * x_END
    half, single = (
        results(coupler, x_END.to(dtype), dict(coupler.named_parameters()), cotangent_END)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert_near(half, single, ALONE)


@pytest.mark.parametrize("form", ["one expert at a time", "all at once"])
def test_experts(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a CPU computes them and with the products of a GPU, over 4096 tokens: what is added up must not drift."""
    if form == "all at once":

        def as_on_a_gpu(*given: Any, training: bool) -> Tensor:
            return feed_forward.all_at_once(*given)

        monkeypatch.setattr("gnn_moe.model.experts.feed_forward", as_on_a_gpu)
    stack = build_model(CONFIGS[0]).layers[0].get_submodule("experts")
    assert isinstance(stack, Experts)
    generator = torch.Generator().manual_seed(0)
    x_BTD, cotangent_END = torch.randn(64, 64, D, generator=generator), torch.randn(E, 4096, D, generator=generator)
    half, single = (
        results(lambda x_BTD: stack(x_BTD, dtype), x_BTD, dict(stack.named_parameters()), cotangent_END)  # noqa: B023
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert_near(half, single, {})


@pytest.mark.parametrize("form", ["one expert at a time", "all at once"])
def test_feed_forward_with_gains_and_shifts_of_any_size(form: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    parameters = {
        "norm2_gain": 1 + normal(E, D, scale=0.5),
        "norm2_bias": normal(E, D, scale=0.5),
        "up_weight": normal(E, 4 * D, D, scale=D**-0.5),
        "up_bias": normal(E, 4 * D, scale=0.5),
        "down_weight": normal(E, D, 4 * D, scale=D**-0.5),
        "down_bias": normal(E, D, scale=0.5),
    }
    for parameter in parameters.values():
        parameter.requires_grad_()
    seeds_2 = torch.zeros(2, dtype=torch.int64)

    def run(hidden_END: Tensor) -> Tensor:
        given: list[Any] = [hidden_END, *parameters.values()]
        if form == "all at once":
            return feed_forward.all_at_once(*[*given, 0.0])
        output_END: Tensor = feed_forward.expert_by_expert(*given, seeds_2, 0.0)[0]
        return output_END

    x_END, cotangent_END = normal(E, N, D).bfloat16(), normal(E, N, D).bfloat16()
    half = results(run, x_END, parameters, cotangent_END)
    assert_near(half, results(run, x_END.float(), parameters, cotangent_END), {})


@pytest.mark.parametrize("seed", [0, 1])
@each([*CONFIGS, *controls(E, **SIZES)[:2]])
def test_the_whole_model(config: ModelConfig, seed: int) -> None:
    """top_k is left out: where two experts are all but equally likely, rounding chooses the other one."""
    model, ids_BT = build_model(config, seed=seed), random_ids(config, 16, seed=seed)

    def run(bf16: bool) -> Result:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = model(ids_BT, labels=ids_BT, return_logits=True)
        output.objective.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        return output.logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    assert_near(run(True), run(False), SMALL_RESTS)


def mixed(tokens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    common_ND = torch.randn(tokens, D, generator=generator)
    x_END, grad_END = (common_ND + 0.3 * torch.randn(E, tokens, D, generator=generator) for _ in range(2))
    return x_END.bfloat16(), grad_END.bfloat16()


@pytest.mark.parametrize("tokens", [1, 511, 512, 1537])
def test_the_gradient_of_a_mix_is_not_rounded_to_bf16(tokens: int) -> None:
    """Of 16 strips an expert."""
    x_END, grad_END = mixed(tokens)
    exact_EE = torch.einsum("ind,jnd->ij", grad_END.double(), x_END.double())
    found_EE = gradient_of_propagation(grad_END, x_END)
    assert found_EE.dtype == torch.float32
    torch.testing.assert_close(found_EE.double(), exact_EE, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 7, 9), (17, 64, 16), (65, 8, 16)], ids=["no strips", "too few", "no room"])
def test_the_gradient_of_a_mix_without_enough_strips_is_added_up_in_float32(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x_END, grad_END = (torch.randn(shape, generator=generator).add_(1).bfloat16() for _ in range(2))
    exact_EE = torch.einsum("ind,jnd->ij", grad_END.double(), x_END.double())
    assert distance(gradient_of_propagation(grad_END, x_END), exact_EE) < 1e-6


@pytest.mark.parametrize("form", ["sinkhorn", "hypergraph"])
def test_what_a_mix_takes_away_of_its_gradient_leaves_no_rounding(form: str) -> None:
    pairs_EM = torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]])
    values = torch.randn(E, E) * 0.1 if form == "sinkhorn" else torch.rand(6) + 0.5
    x_END, grad_END = mixed(N)
    found: list[Tensor] = []
    for dtype in (torch.bfloat16, torch.float64):
        leaf = values.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
        if form == "sinkhorn":
            mix_EE = doubly_stochastic(leaf[None])[0]
        else:
            mix_EE = hgnn_propagation(pairs_EM.to(leaf.dtype), leaf)
        found += torch.autograd.grad(propagate(mix_EE, x_END.to(dtype)), leaf, grad_END.to(dtype))
    # What is taken away is 10⁴ times as much: the sum in float32 is off by 0.0004 then, rounded to bf16 by 2.8.
    assert distance(found[0], found[1]) < 1e-3


def test_a_fixed_mix_keeps_nothing_and_a_learned_one_equals_the_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    mix_EE, x_END = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((E, E), (E, 5, D)))
    fixed_END = propagate(mix_EE, x_END)
    mix_EE.requires_grad_()
    inputs = {"mix": mix_EE, "x": x_END.requires_grad_()}
    slow_END = torch.einsum("ij,jnd->ind", mix_EE, x_END)
    fast_END = propagate(mix_EE, x_END)
    assert_same({"fixed": fixed_END, "learned": fast_END}, {"fixed": slow_END, "learned": slow_END}, 1e-12)
    assert_same(gradients(fast_END, inputs), gradients(slow_END, inputs), 1e-12)
    with torch.no_grad():
        assert propagate(mix_EE, x_END).grad_fn is None
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        propagate(mix_EE.detach(), x_END)
    assert kept == [(E, E)]


@pytest.mark.parametrize("experts", [1, 2, 3, 4, 7, 8, 9, 16, 17])
@pytest.mark.parametrize("tokens", [1, 12])
def test_a_mix_taken_in_strips_is_the_mix(experts: int, tokens: int) -> None:
    """Whether the numbers of an expert fill whole strips, or not (an odd width of one token)."""
    generator = torch.Generator().manual_seed(experts)
    width = 16 if tokens > 1 else 5
    mix_EE = torch.randn(experts, experts, generator=generator).requires_grad_()
    x_END, grad_END = (torch.randn(experts, tokens, width, generator=generator).bfloat16() for _ in range(2))
    x_END.requires_grad_()
    exact = torch.einsum("ij,jnd->ind", mix_EE.detach().bfloat16().double(), x_END.double())
    mixed_END = propagate(mix_EE, x_END)
    torch.testing.assert_close(mixed_END.double(), exact, rtol=2**-7, atol=1e-2)
    (found_END,) = torch.autograd.grad(mixed_END, x_END, grad_END)
    expected_END = torch.einsum("ji,jnd->ind", mix_EE.detach().bfloat16().double(), grad_END.double())
    torch.testing.assert_close(found_END.double(), expected_END, rtol=2**-7, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_as_an_operator_of_torch(dtype: torch.dtype) -> None:
    x_END, grad_END = mixed(5)
    mix_EE = torch.rand(E, E).requires_grad_()
    torch.library.opcheck(gradient_of_propagation, (grad_END.to(dtype), x_END.to(dtype)))
    torch.library.opcheck(learned_propagation, (mix_EE, x_END.to(dtype).requires_grad_()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gradient_of_a_mix_on_a_gpu() -> None:
    x_END, grad_END = mixed(1537)
    found_EE = gradient_of_propagation(grad_END.cuda(), x_END.cuda())
    torch.testing.assert_close(found_EE.cpu(), gradient_of_propagation(grad_END, x_END), rtol=1e-4, atol=1e-2)
