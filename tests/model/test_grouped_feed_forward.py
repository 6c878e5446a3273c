"""Feed-forward maps of experts with different numbers of rows: both forms equal one row after the other.

Letters: S rows, E experts, D width, F hidden width.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from gnn_moe.model import grouped_feed_forward
from gnn_moe.model.dropout import keep_mask
from gnn_moe.model.grouped_feed_forward import all_at_once, group_by_group
from tests import textbook
from tests.model.cases import assert_same, gradients

D, F = 8, 16
ENDS = {"some": [3, 7, 10], "none for one": [4, 4, 10], "none for the first": [0, 9, 10], "all for one": [10]}
each_grouping = pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
SEEDS = torch.tensor([1234, 99])
at_once: Any = all_at_once
NAMES = ["x", "up_weight", "up_bias", "down_weight", "down_bias"]


def inputs(experts: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(10, D), (experts, F, D), (experts, F), (experts, D, F), (experts, D)]
    made = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in zip(NAMES, made, strict=True)}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of at most 4 rows, filled up to multiples of 2."""
    monkeypatch.setattr(grouped_feed_forward, "PIECE_ROWS", 4)
    monkeypatch.setattr(grouped_feed_forward, "PIECE_ROWS_MULTIPLE", 2)


def row_by_row(given: dict[str, Tensor], ends: list[int], rate: float = 0.0, dtype: Any = torch.float64) -> Tensor:
    """Each row through its expert, with the masks that the seeds of its piece give."""
    rows = []
    for e, (start, end) in enumerate(itertools.pairwise([0, *ends])):
        for number, first in enumerate(range(start, end, 4), start=e << 32):
            piece = range(first, min(first + 4, end))
            filled = len(piece) + len(piece) % 2
            masks = [
                keep_mask(seed + number, (filled, size), rate, dtype) / (1 - rate) if rate else torch.ones(filled, size)
                for seed, size in zip(SEEDS, (F, D), strict=True)
            ]
            for row, inner_mask_F, mask_D in zip(piece, *masks, strict=False):
                inner_F = given["up_weight"][e] @ given["x"][row] + given["up_bias"][e]
                update_D = given["down_weight"][e] @ (textbook.gelu(inner_F) * inner_mask_F) + given["down_bias"][e]
                rows.append(update_D * mask_D)
    return torch.stack(rows)


def test_one_expert_needs_no_ends() -> None:
    x, *parameters = inputs(1).values()
    end_E = torch.tensor([10])
    by_group = [group_by_group(x, end, *parameters, SEEDS, 0.3)[0] for end in (None, end_E)]
    torch.testing.assert_close(*by_group, rtol=0, atol=0)
    torch.testing.assert_close(*(at_once(x, end, *parameters, 0.0) for end in (None, end_E)), rtol=1e-12, atol=1e-12)


@each_grouping
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_group_by_group_equals_row_by_row(ends: list[int], rate: float) -> None:
    given = inputs(len(ends))
    x, *parameters = given.values()
    fast_SD = group_by_group(x, torch.tensor(ends), *parameters, SEEDS, rate)[0]
    slow_SD = row_by_row(given, ends, rate)
    assert_same({"output": fast_SD}, {"output": slow_SD}, 1e-9)
    assert_same(gradients(fast_SD, given), gradients(slow_SD, given), 1e-9)


def test_the_masks_of_a_row_do_not_depend_on_other_experts_or_later_rows() -> None:
    x, *parameters = inputs(2).values()
    without_SD = group_by_group(x[1:7], torch.tensor([0, 6]), *parameters, SEEDS, 0.3)[0]
    with_one_SD = group_by_group(x[:7], torch.tensor([1, 7]), *parameters, SEEDS, 0.3)[0]
    with_more_SD = group_by_group(x, torch.tensor([1, 10]), *parameters, SEEDS, 0.3)[0]
    torch.testing.assert_close(with_one_SD[1:], without_SD, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(with_more_SD[1:7], without_SD, rtol=1e-12, atol=1e-12)


@each_grouping
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.bfloat16, 0.05)], ids=str)
def test_all_at_once_equals_row_by_row(ends: list[int], dtype: torch.dtype, tolerance: float) -> None:
    """In bf16 with torch's grouped products, else a product an expert."""
    given = inputs(len(ends), dtype)
    x, *parameters = given.values()
    fast_SD = at_once(x, torch.tensor(ends), *parameters, 0.0)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    slow_SD = row_by_row(exact, ends)
    fast, slow = gradients(fast_SD.double(), given), gradients(slow_SD, exact)
    for name, (ours, theirs) in {"output": (fast_SD, slow_SD), **{n: (fast[n], slow[n]) for n in slow}}.items():
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm(), name


def test_grouped_products_are_those_of_torch_where_they_are_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    product = torch.nn.functional.grouped_mm

    def counted(*arguments: Any, **named: Any) -> Tensor:
        calls.append(1)
        return product(*arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", counted)
    for dtype, cut, expected in ((torch.bfloat16, 8, 2), (torch.bfloat16, 7, 0), (torch.float32, 8, 0)):
        x, up, up_bias, down, down_bias = inputs(3, dtype).values()
        calls.clear()
        maps = (up[..., :cut], up_bias, down[:, :cut], down_bias[:, :cut])
        assert at_once(x[:, :cut].contiguous(), torch.tensor([3, 7, 10]), *maps, 0.0).shape == (10, cut)
        assert len(calls) == expected


def test_a_device_other_than_the_cpu_reads_no_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, which has shapes and no numbers: reading one is an error."""
    monkeypatch.setattr(grouped_feed_forward, "group_by_group", None)
    x, *parameters = (tensor.to("meta") for tensor in inputs(3, torch.bfloat16).values())
    compute: Any = grouped_feed_forward.grouped_feed_forward
    output_SD = compute(x, torch.zeros(3, dtype=torch.int64, device="meta"), *parameters, 0.3, training=True)
    assert output_SD.shape == (10, D)


def test_bf16_follows_float64() -> None:
    exact, given, ends = inputs(3), inputs(3, torch.float32), ENDS["some"]
    given["x"] = given["x"].detach().bfloat16().requires_grad_()
    x, *parameters = given.values()
    fast_SD = group_by_group(x, torch.tensor(ends), *parameters, SEEDS, 0.3)[0]
    slow_SD = row_by_row(exact, ends, 0.3, torch.bfloat16)
    assert fast_SD.dtype == torch.bfloat16
    fast, slow = gradients(fast_SD.double(), given), gradients(slow_SD, exact)
    for name, gradient in fast.items():
        assert gradient.dtype == given[name].dtype
        assert (gradient.double() - slow[name]).norm() <= 0.02 * slow[name].norm(), name


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_as_an_operator_of_torch(rate: float) -> None:
    x, *parameters = inputs(3, torch.float32).values()
    torch.library.opcheck(group_by_group, (x, torch.tensor([3, 3, 10]), *parameters, SEEDS, rate))
