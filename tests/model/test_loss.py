"""The head's loss, formed chunk by chunk, equals the plain cross-entropy of all logits, forward and backward.

Letters: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.data.batches import IGNORED
from gnn_moe.model import head as head_module
from gnn_moe.model import loss as loss_module
from gnn_moe.model import memory
from gnn_moe.model.head import HeadByColumns, TrainedHead, lay_out_by_columns, trained_head
from gnn_moe.model.loss import head_loss
from gnn_moe.model.workspace import Workspace
from tests.model.cases import LargestTensor, assert_same

N, D, V = 150, 5, 13
CHUNKS = [(1, 1, N), (3 * V, 1, 50), (4 * V + 1, 4, 38), (1, 64, 3), (N * V, 1, 1), (2**25, 64, 1)]
"""Logits at once, the number that a chunk's rows are a multiple of, and in how many chunks all N tokens then go."""
chunked = pytest.mark.parametrize("chunks", CHUNKS, indirect=True)


def logits_at_once(monkeypatch: pytest.MonkeyPatch, numbers: int, element_size: int = 8) -> None:
    monkeypatch.setattr(memory, "LOGITS_BYTES", {"cpu": numbers * element_size, "cuda": 0})
    # Softmax is cut finer still, to pieces that are no divisors.
    monkeypatch.setattr(loss_module, "_SOFTMAX_BYTES_AT_ONCE", {"cpu": 3 * V * element_size, "cuda": 0})


def rows_multiple(monkeypatch: pytest.MonkeyPatch, multiple: int) -> None:
    for module in (memory, loss_module):
        monkeypatch.setattr(module, "HEAD_ROWS_MULTIPLE", multiple)


def counted_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each product of the head that is to have gradients, as they come."""
    one_chunk, rows = loss_module._loss_to_gradients, list[int]()

    def counted(head: TrainedHead, chunk: slice, logits_CV: Tensor, target_C: Tensor) -> Tensor:
        rows.append(len(logits_CV))
        return one_chunk(head, chunk, logits_CV, target_C)

    monkeypatch.setattr(loss_module, "_loss_to_gradients", counted)
    return rows


@pytest.fixture
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets how the loss is cut, and checks that it was, so that no test of chunks is one of a single chunk."""
    at_once, multiple, expected = request.param
    logits_at_once(monkeypatch, at_once)
    rows_multiple(monkeypatch, multiple)
    rows = counted_rows(monkeypatch)
    yield
    assert max(rows) <= -(-N // expected) + multiple
    assert len(rows) >= min(expected, 3)


def inputs(dtype: torch.dtype = torch.float64, scale: float = 2.0) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (N, D), "weight": (V, D), "bias": (V,)}
    tensors = {
        name: (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }
    target_N = torch.randint(V, (N,), generator=generator)
    target_N[[0, 4, 10, 64, 149]] = IGNORED
    target_N[1] = 0
    return tensors, target_N


def loss_of(tensors: dict[str, Tensor], target_N: Tensor, denominator: Tensor) -> Tensor:
    return head_loss(tensors["hidden"], tensors["weight"], tensors["bias"], target_N, denominator)


def grads(loss: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))


@chunked
@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("ignored", ["some", "none", "first chunk"])
def test_equals_cross_entropy(ignored: str) -> None:
    tensors, target_N = inputs()
    if ignored == "none":
        target_N = target_N.clamp(min=0)
    if ignored == "first chunk":
        target_N[:5] = IGNORED
    denominator = (target_N != IGNORED).sum()
    # A factor other than 1 stands for whatever the caller does with the loss.
    loss = 3 * loss_of(tensors, target_N, denominator)
    expected = 3 * functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], target_N)
    assert_same({"loss": loss}, {"loss": expected}, 1e-12)
    assert_same(grads(loss, tensors), grads(expected, tensors), 1e-12)


@chunked
@pytest.mark.usefixtures("chunks")
def test_the_bias_inside_the_products_equals_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, which no run takes this form for."""
    monkeypatch.setattr(loss_module, "trained_head", HeadByColumns)
    tensors, target_N = inputs()
    lay_out_by_columns(tensors["weight"])
    loss = 3 * loss_of(tensors, target_N, torch.tensor(N - 5))
    expected = 3 * functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], target_N)
    assert_same({"loss": loss}, {"loss": expected}, 1e-12)
    found = grads(loss, tensors)
    assert_same(found, grads(expected, tensors), 1e-12)
    assert found["weight"].stride() == tensors["weight"].stride()  # or it would be copied before it is added


def test_the_bias_goes_inside_only_where_it_pays() -> None:
    tensors, _ = inputs(torch.float32)
    hidden, weight, bias = tensors["hidden"].detach(), tensors["weight"].detach().clone(), tensors["bias"].detach()
    assert type(trained_head(hidden.bfloat16(), weight, bias)) is TrainedHead
    before = weight.clone()
    lay_out_by_columns(weight)
    assert torch.equal(weight, before)
    assert type(trained_head(hidden, weight, bias)) is TrainedHead
    assert type(trained_head(hidden.bfloat16(), weight, bias)) is HeadByColumns


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_where_the_host_must_not_wait_losses_and_gradients_are_the_same(dtype: torch.dtype) -> None:
    tensors, target_N = inputs()
    logits_NV = (tensors["hidden"] @ tensors["weight"].T).detach().to(dtype)
    waiting, running = logits_NV.clone(), logits_NV.clone()
    exact_N = functional.cross_entropy(logits_NV.double(), target_N, reduction="none", ignore_index=IGNORED)
    for logits, may_wait in ((waiting, True), (running, False)):
        losses_N = loss_module._losses_to_gradients(logits, target_N, may_wait=may_wait)
        off = 0.004 if dtype == torch.bfloat16 else 1e-5  # half a step between two numbers of bf16 is at most 2⁻⁸
        assert (losses_N - exact_N).abs().max() < off
    assert torch.equal(waiting, running)


@chunked
@pytest.mark.usefixtures("chunks")
def test_ignored_targets_inside_the_product() -> None:
    """On a GPU nothing is selected before the product: the ignored tokens go through it and must count nothing."""
    tensors, target_N = inputs()
    denominator = (target_N != IGNORED).sum()
    loss = loss_module._HeadLoss.apply(*tensors.values(), target_N, denominator, Workspace(), True)  # type: ignore[no-untyped-call]
    expected = functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], target_N)
    assert_same({"loss": loss}, {"loss": expected}, 1e-12)
    assert_same(grads(loss, tensors), grads(expected, tensors), 1e-12)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_gradients_where_one_input_needs_none(frozen: str) -> None:
    tensors, target_N = inputs()
    tensors[frozen].requires_grad_(False)
    asked = {name: tensor for name, tensor in tensors.items() if name != frozen}
    loss = loss_of(tensors, target_N, torch.tensor(N - 5))
    expected = functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], target_N)
    assert_same(grads(loss, asked), grads(expected, asked), 1e-12)


@pytest.mark.parametrize("at_once", [3 * V, 2**25])
def test_gradcheck(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits_at_once(monkeypatch, at_once)
    rows_multiple(monkeypatch, 1)
    tensors, target_N = inputs(scale=1.0)
    tensors["hidden"], target_N = tensors["hidden"].detach()[:11].requires_grad_(), target_N[:11]
    assert torch.autograd.gradcheck(
        lambda h, w, b: head_loss(h, w, b, target_N, torch.tensor(5.0)), (*tensors.values(),)
    )


def test_denominator_divides_the_sum() -> None:
    tensors, target_N = inputs()
    logits_NV = tensors["hidden"] @ tensors["weight"].T + tensors["bias"]
    total = functional.cross_entropy(logits_NV, target_N, reduction="sum")
    loss = loss_of(tensors, target_N, torch.tensor(1000.0))
    assert_same({"loss": loss}, {"loss": total / 1000}, 1e-12)
    assert_same(grads(loss, tensors), grads(total / 1000, tensors), 1e-12)


def test_a_piece_without_targets_adds_nothing() -> None:
    tensors, target_N = inputs()
    loss = loss_of(tensors, torch.full_like(target_N, IGNORED), torch.tensor(7.0))
    assert loss.item() == 0
    for gradient in grads(loss, tensors).values():
        assert not gradient.any()


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_large_logits_do_not_overflow(offset: float) -> None:
    tensors, target_N = inputs(torch.float32)
    with torch.no_grad():
        tensors["bias"] += offset
    loss = loss_of(tensors, target_N, torch.tensor(N - 5))
    doubles = [tensor.detach().double() for tensor in tensors.values()]
    expected = functional.cross_entropy(doubles[0] @ doubles[1].T + doubles[2], target_N)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert all(gradient.isfinite().all() for gradient in grads(loss, tensors).values())


def test_bf16_products_with_a_float32_loss() -> None:
    tensors, target_N = inputs(torch.float32, scale=1.0)
    hidden = tensors["hidden"].detach().bfloat16().requires_grad_()
    loss = head_loss(hidden, tensors["weight"], tensors["bias"], target_N, torch.tensor(N - 5))
    expected = functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], target_N)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    found, exact = grads(loss, {**tensors, "hidden": hidden}), grads(expected, tensors)
    assert found["weight"].dtype == found["bias"].dtype == torch.float32
    for name, values in exact.items():
        assert (found[name].float() - values).norm() < 0.02 * values.norm(), name


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_target_whose_probability_is_lost_has_its_loss_all_the_same(dtype: torch.dtype, by_columns: bool) -> None:
    """e^-200 is no number of these types; the loss is 200 and the gradient that of a sure error."""
    hidden = torch.tensor([[1.0], [1.0]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[100.0], [-100.0], [-100.0]], requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    if by_columns:
        weight = torch.tensor([[100.0, 0.0], [-100.0, 0.0], [-100.0, 0.0]])
        lay_out_by_columns(weight.requires_grad_())
        hidden = functional.pad(hidden.detach(), (0, 1))
    loss = head_loss(hidden, weight, bias, torch.tensor([1, 0]), torch.tensor(1.0))
    assert loss.item() == 200
    (grad,) = torch.autograd.grad(loss, bias)
    assert grad.tolist() == [1, -1, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_target_whose_probability_has_few_digits_has_its_loss_all_the_same(dtype: torch.dtype) -> None:
    """e^-91 is a number of both types, of three digits and fewer."""
    hidden = torch.tensor([[1.0]] * 8, dtype=dtype, requires_grad=True)
    weight = torch.tensor([[0.0], [-86.0], [-87.0], [-88.0], [-89.0], [-90.0], [-91.0], [-92.0], [-93.0]])
    loss = head_loss(hidden, weight, torch.zeros(9), torch.arange(1, 9), torch.tensor(1.0))
    assert loss.item() == pytest.approx(sum(range(86, 94)), abs=2 * 0.004)


def test_many_lost_targets_are_made_again_in_products_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that diverges has any number of them: each shape is a kernel that a CPU keeps."""
    product, rows = head_module._product, list[int]()

    def counted(hidden_CK: Tensor, weight_KV: Tensor, room: Tensor | None) -> Tensor:
        rows.append(len(hidden_CK))
        return product(hidden_CK, weight_KV, room)

    monkeypatch.setattr(head_module, "_product", counted)
    hidden = torch.ones(150, 1, requires_grad=True)
    weight = torch.tensor([[100.0], [-100.0]])
    loss = head_loss(hidden, weight, torch.zeros(2), torch.arange(150) % 2, torch.tensor(75.0))
    assert loss.item() == 200
    assert rows == [150, 64, 64]


WIDE = [(1031, 2**31), (1031, 300 * 1031 * 2), (50257, 2**31)]
"""Vocabularies with many vectors to a row and a rest, and bytes of logits at once: one piece, several, one."""
on_each_device = pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)


@on_each_device
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("vocabulary", "at_once"), WIDE)
def test_a_wide_vocabulary_in_pieces_has_the_loss_and_gradients_of_float32(
    vocabulary: int,
    at_once: int,
    dtype: torch.dtype,
    by_columns: bool,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "LOGITS_BYTES", {"cpu": at_once, "cuda": at_once})
    generator = torch.Generator().manual_seed(1)
    hidden_ND = torch.randn(1000, 24, generator=generator).to(dtype).to(device).requires_grad_()
    weight_VD = torch.randn(vocabulary, 24, generator=generator).mul_(0.5).to(device).requires_grad_()
    if by_columns:
        lay_out_by_columns(weight_VD)
    bias_V = torch.randn(vocabulary, generator=generator).to(device).requires_grad_()
    target_N = torch.randint(vocabulary, (1000,), generator=generator).to(device)
    target_N[::7] = IGNORED
    tensors = {"hidden": hidden_ND, "weight": weight_VD, "bias": bias_V}
    denominator = (target_N != IGNORED).sum()
    loss = loss_of(tensors, target_N, denominator)
    wide = {name: tensor.detach().float().requires_grad_() for name, tensor in tensors.items()}
    expected = functional.cross_entropy(wide["hidden"] @ wide["weight"].T + wide["bias"], target_N)
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance / 20)
    exact = grads(expected, wide)
    for name, values in grads(loss, tensors).items():
        assert (values.float() - exact[name]).norm() < tolerance * exact[name].norm(), name


def test_an_evaluation_in_bf16_is_exact_for_its_logits() -> None:
    """Also where a target is all but sure, and bf16 knows no probability between 0.996 and 1."""
    hidden = torch.tensor([[1.0], [0.5]], dtype=torch.bfloat16)
    weight, target = torch.tensor([[6.0], [0.0]]), torch.tensor([0, 0])
    with torch.no_grad():
        loss = head_loss(hidden, weight, torch.zeros(2), target, torch.tensor(2.0))
    expected = functional.cross_entropy(hidden.double() @ weight.double().T, target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_logits_of_all_tokens_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_at_once(monkeypatch, 64 * 512, element_size=4)
    hidden, weight = torch.randn(512, 4, requires_grad=True), torch.randn(512, 4, requires_grad=True)
    with LargestTensor() as largest:
        loss = head_loss(hidden, weight, torch.zeros(512), torch.arange(512), torch.tensor(512))
        torch.autograd.grad(loss, [hidden, weight])
    assert largest.numbers == 64 * 512  # of 512 · 512


def test_padding_costs_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, target_N = inputs()
    target_N[20:140] = IGNORED
    rows = counted_rows(monkeypatch)
    loss = loss_of(tensors, target_N, (target_N != IGNORED).sum())
    expected = functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], target_N)
    assert_same({"loss": loss}, {"loss": expected}, 1e-12)
    assert_same(grads(loss, tensors), grads(expected, tensors), 1e-12)
    assert sum(rows) <= 64  # of 150; 26 are predicted, and a CPU takes rows by 64


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_formed_where_none_is_asked_for(
    context: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, target_N = inputs()
    monkeypatch.setattr(loss_module, "trained_head", None)  # cannot be called
    with context():
        loss = loss_of(tensors, target_N, torch.tensor(N - 5))
    assert not loss.requires_grad
    expected = functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], target_N)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("target", [-1, -99, V])
def test_a_target_outside_the_vocabulary_is_an_error(target: int) -> None:
    tensors, target_N = inputs()
    target_N[3] = target
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        loss_of(tensors, target_N, torch.tensor(N - 5))


def test_without_a_predicted_token_the_mean_is_nan() -> None:
    tensors, target_N = inputs()
    nothing_N = torch.full_like(target_N, IGNORED)
    assert loss_of(tensors, nothing_N, (nothing_N != IGNORED).sum()).isnan()
    assert functional.cross_entropy(tensors["hidden"] @ tensors["weight"].T + tensors["bias"], nothing_N).isnan()
