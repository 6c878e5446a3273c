"""AdamW and its learning rate, alone and as a run records it; micro-batches."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from gnn_moe import load_model
from gnn_moe.cli import main
from gnn_moe.config import TrainingConfig
from gnn_moe.training.optimiser import build_optimiser, learning_rate, set_learning_rate
from tests.small_runs import Setting, read_rows


def test_a_cosine_from_the_highest_rate_to_a_millionth() -> None:
    config = TrainingConfig(learning_rate=5e-4)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == 5e-4
    assert rates[50] == pytest.approx((5e-4 + 1e-6) / 2, rel=1e-12)
    assert rates[25] == pytest.approx(1e-6 + (5e-4 - 1e-6) * (1 + math.sqrt(0.5)) / 2, rel=1e-12)
    assert rates[100] == pytest.approx(1e-6, rel=1e-9)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_is_a_line_and_the_cosine_starts_at_its_end() -> None:
    config = TrainingConfig(learning_rate=1e-3, warmup_steps=4)
    rates = [learning_rate(step, 20, config) for step in range(21)]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[4] == 1e-3
    assert rates[12] == pytest.approx((1e-3 + 1e-6) / 2, rel=1e-12)
    assert rates[20] == pytest.approx(1e-6, rel=1e-9)


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    config = TrainingConfig(learning_rate=1e-3, warmup_steps=100)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates == pytest.approx([1e-5 * (step + 1) for step in range(10)])


def test_a_rate_below_a_millionth_stays() -> None:
    config = TrainingConfig(learning_rate=1e-7)
    assert {learning_rate(step, 10, config) for step in range(10)} == {1e-7}


@pytest.mark.parametrize("given", ["by columns", "by rows"])
def test_a_matrix_by_columns_is_trained_like_one_by_rows(given: str) -> None:
    """Whichever way its gradient lies. AdamW's fused form would take one for the other without a word."""
    rows = nn.Parameter(torch.randn(30, 7))
    columns = nn.Parameter(rows.detach().T.contiguous().T)
    optimisers = [build_optimiser(nn.ParameterList([matrix]), TrainingConfig()) for matrix in (rows, columns)]
    for _ in range(5):
        rows.grad = torch.randn(30, 7)
        columns.grad = rows.grad.T.contiguous().T if given == "by columns" else rows.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
        torch.testing.assert_close(columns, rows, rtol=0, atol=0)
    assert columns.stride() == optimisers[1].state[columns]["exp_avg"].stride() == (1, 30)


def test_moments_that_do_not_lie_as_their_parameter_are_refused() -> None:
    columns = nn.Parameter(torch.randn(7, 30).T)
    optimiser = build_optimiser(nn.ParameterList([columns]), TrainingConfig())
    columns.grad = torch.ones_like(columns)
    optimiser.step()
    optimiser.state[columns]["exp_avg"] = optimiser.state[columns]["exp_avg"].contiguous()
    with pytest.raises(RuntimeError, match="moments must lie"):
        optimiser.step()


def test_the_settings_of_adamw_and_weight_decay_on_every_parameter() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimiser = build_optimiser(model, TrainingConfig(weight_decay=0.3, learning_rate=0.5))
    (group,) = optimiser.param_groups
    assert isinstance(optimiser, torch.optim.AdamW)
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.3)
    assert group["fused"] is True
    assert group["params"] == list(model.parameters())
    # Where the gradient is zero only the decay moves a parameter: biases and gains too.
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_learning_rate(optimiser, 0.1)
    optimiser.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.3), msg=name)


def test_a_run_records_its_rates(setting: Setting) -> None:
    assert main(setting.flags("it", warmup_steps=3)) == 0
    config = TrainingConfig(learning_rate=0.01, warmup_steps=3)
    rates = [row["learning_rate"] for row in read_rows(setting.runs / "it", "train")]
    assert rates == [learning_rate(step, 12, config) for step in range(12)]
    assert rates[2] == 0.01


def test_weight_decay_reaches_what_no_gradient_does(setting: Setting) -> None:
    """A position that no row reaches has no gradient: it shrinks by the decay alone, as in the seed's tables."""
    flags = setting.flags("it", max_seq_length=200, weight_decay=0.5, epochs=1, max_batches_per_epoch=3)
    assert main(flags) == 0
    from gnn_moe import build_model

    trained = load_model(setting.runs / "it", checkpoint="last")
    started = build_model(trained.config, seed=42).position_embedding[199]
    shrink = math.prod(1 - row["learning_rate"] * 0.5 for row in read_rows(setting.runs / "it", "train"))
    torch.testing.assert_close(trained.position_embedding[199], started * shrink)


def test_the_gradient_is_clipped_to_its_norm(setting: Setting) -> None:
    """Adam divides by the gradient's size, so the norm before clipping is recorded and a tighter clip moves less."""
    for name, clip in (("wide", 1e6), ("tight", 1e-9)):
        assert main(setting.flags(name, gradient_clip=clip, epochs=1, max_batches_per_epoch=2)) == 0
    wide, tight = (read_rows(setting.runs / name, "train") for name in ("wide", "tight"))
    assert wide[0]["gradient_norm"] == tight[0]["gradient_norm"] > 0.1
    # Biases start at 0; clipped to far below Adam's epsilon, the step is next to nothing.
    moved = [load_model(setting.runs / name, checkpoint="last").head_bias.abs().max() for name in ("wide", "tight")]
    assert moved[0] > 100 * moved[1]


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_micro_batches_give_the_whole_batch(size: int, setting: Setting, tmp_path: Path) -> None:
    """Rows of unlike length, so that a mean of means would differ."""
    shape = {"dropout_rate": 0.0, "max_seq_length": 60, "epochs": 1, "learning_rate": 1e-3}
    assert main(setting.flags("whole", "--no_group_by_length", **shape)) == 0
    assert main(setting.flags("pieces", "--no_group_by_length", micro_batch_size=size, **shape)) == 0
    whole, pieces = (read_rows(setting.runs / name) for name in ("whole", "pieces"))
    assert len(whole) == len(pieces)
    for one, other in zip(whole, pieces, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert other["tokens"] == one["tokens"]
        if one["kind"] == "train":
            assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-5)
