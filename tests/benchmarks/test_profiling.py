"""What takes the time of a step: operations are grouped by where they happen, and the groups make up the step."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import profiling, report
from benchmarks.cases import Case
from benchmarks.children import ChildFailed, Failure
from benchmarks.profiling import group_of, grouped, profile_case
from gnn_moe.config import ModelConfig, TrainingConfig
from tests.benchmarks.test_report import SEEN

CASE = Case(
    name="tiny",
    model=ModelConfig(num_experts=2, embed_dim=32, num_heads=2, num_layers=1, max_seq_length=16, vocab_size=200),
    training=TrainingConfig(batch_size=2, device="cpu", precision="fp32"),
)


def event(*names: str, microseconds: float = 1.0) -> Any:
    """The innermost of nested events, the outermost named first."""
    found = None
    for name in names:
        found = SimpleNamespace(name=name, cpu_parent=found, self_cpu_time_total=microseconds)
    return found


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["gnn_moe::feed_forward", "aten::mm"], "products"),
        (["update", "aten::_fused_adamw_"], "optimiser"),
        (["update", "Optimizer.step#AdamW.step", "aten::mul_"], "optimiser"),
        (["gnn_moe::dropped_attention", "gnn_moe::keep_mask", "aten::lt_"], "masks"),
        (["_HeadLoss", "aten::exp_"], "softmax"),
        (["_HeadLoss", "aten::mm"], "products"),
        (["_HeadLoss", "aten::copy_"], "copies"),
        (["aten::_softmax"], "softmax"),
        (["aten::native_layer_norm_backward"], "norms"),
        (["aten::gelu"], "activations"),
        (["aten::mul_"], "sums and scalings"),
        (["gnn_moe::feed_forward"], "other"),
    ],
)
def test_operations_belong_to_groups(names: list[str], group: str) -> None:
    assert group_of(event(*names)) == group


def test_operations_of_a_kind_are_added_up() -> None:
    found = grouped([event("aten::mm", microseconds=2e6), event("aten::mm"), event("update", "aten::mm")])
    assert [(name, group, calls) for name, group, _, calls in found] == [("mm", "products", 2), ("mm", "optimiser", 1)]
    assert [seconds for _, _, seconds, _ in found] == pytest.approx([2.000001, 1e-6])


def test_a_step_is_taken_apart(forked: None, tmp_path: Path) -> None:
    result = profile_case(CASE, rounds=2, warmup=1)
    assert result.failure is None
    assert result.profiled_seconds is not None
    assert {"products", "masks", "copies", "softmax", "norms", "optimiser", "activations"} <= set(result.groups)
    assert sum(result.groups.values()) == pytest.approx(result.profiled_seconds)
    assert list(result.groups.values()) == sorted(result.groups.values(), reverse=True)
    (adamw,) = [operation for operation in result.operations if operation.name == "_fused_adamw_"]
    assert (adamw.group, adamw.calls) == ("optimiser", 1)
    # What no group has is little: the names above are those of the operations that a step has.
    assert result.groups.get("other", 0.0) < 0.5 * result.profiled_seconds
    page = report.update(tmp_path / "x.json", "profile", {"tiny": report.plain(result)}, SEEN).read_text()
    assert "| tiny | whole step |" in page
    assert "| tiny | optimiser |" in page


class FailsInSteps:
    def ask(self, method: str, *arguments: Any) -> Any:
        raise ChildFailed(Failure(kind="out_of_memory", detail="no more"))


def test_a_failure_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    running = SimpleNamespace(children={"ours": FailsInSteps()})
    monkeypatch.setattr(profiling, "contest", lambda subjects: nullcontext(running))
    result = profile_case(CASE, rounds=1, warmup=0)
    assert (result.groups, result.operations, result.profiled_seconds) == ({}, (), None)
    page = report.update(tmp_path / "x.json", "profile", {"tiny": report.plain(result)}, SEEN).read_text()
    assert "| tiny | out_of_memory |" in page
