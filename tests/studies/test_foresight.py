"""What `sweep --dry_run` says of points that cannot run: each by itself, never instead of all the others."""

from __future__ import annotations

from typing import Any

import pytest

from gnn_moe.config import DataConfig, ModelConfig, RunConfig
from gnn_moe.errors import GnnMoeError
from gnn_moe.studies import foresight
from gnn_moe.studies.design import make_point
from gnn_moe.studies.foresight import Clock, foresee


def no_clock(baseline: RunConfig) -> Clock:
    raise GnnMoeError("not timed here")


def test_a_point_that_cannot_be_matched_leaves_the_others_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "time_baseline", no_clock)
    model = ModelConfig(embed_dim=16, num_heads=1, coupler_type="mean", num_experts=2, max_seq_length=4)
    baseline = RunConfig(model=model, data=DataConfig(tokenizer="bpe:256"))
    kinds: list[dict[str, Any]] = [{}, {"architecture": "dense"}, {"architecture": "dense", "embed_dim": 1}]
    points = [make_point(baseline, params, 1) for params in kinds]
    found, said = foresee(baseline, points)
    assert said == "no minutes: not timed here"
    assert [each.total_parameters is None for each in found] == [False, False, True]
    assert found[2].problem is not None
    assert "none of its widths comes within 1%" in found[2].problem
