"""What data and machine decide before a comparison begins: steps, one micro-batch, minutes a step."""

from __future__ import annotations

from typing import Any

import pytest

from gnn_moe.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from gnn_moe.studies.arguments import CompareArguments
from gnn_moe.studies.compare_command import resolve_comparison, settled
from gnn_moe.studies.design import config_of
from gnn_moe.studies.sweep import Sweep
from tests.small_runs import Setting

MODEL = ModelConfig(num_experts=2, embed_dim=16, num_heads=2, num_layers=1, gnn_layers=1, max_seq_length=16)
TRAINING = TrainingConfig(batch_size=8, epochs=2, eval_every=10, micro_batch_size=8, precision="fp32", device="cpu")


@pytest.fixture
def asked(setting: Setting) -> Any:
    """A comparison of some arms, as its flags ask for it; the corpus has 160 training samples."""

    def make(*arms: str, training: TrainingConfig = TRAINING, **others: Any) -> Sweep:
        data = DataConfig(dataset_name=str(setting.corpus), tokenizer=setting.data["tokenizer"])
        arguments = CompareArguments(
            study="it",
            arm=arms,
            model=MODEL,
            data=data,
            training=training,
            output_dir=str(setting.runs),
            cache_dir=str(setting.cache),
            **others,
        )
        return resolve_comparison(arguments)

    return make


def configs(sweep: Sweep) -> dict[str, RunConfig]:
    return {str(point.arm): config_of(sweep.baseline, point) for point in sweep.points()}


def test_steps_are_counted_over_the_samples_of_each_arm(asked: Any) -> None:
    """Of half the samples an epoch has half the steps; a budget of steps is then two epochs for one."""
    found = configs(settled(asked("all:", "half:--num_train_samples 80"), {}, 1))
    steps = {
        "all": found["all"].training.count_steps(160),
        "half": found["half"].training.count_steps(80),
    }
    assert steps == {"all": 40, "half": 40}
    across = settled(asked("a:", "b:--coupler_type mean", across="num_train_samples=40,80", budget="flops"), {}, 1)
    for value, least in ((40, 10), (80, 20)):
        cells = {name: config.training for name, config in configs(across).items() if name.endswith(f"={value}")}
        assert cells[f"a,num_train_samples={value}"].count_steps(value) == least
        assert least < cells[f"b,num_train_samples={value}"].count_steps(value) < 2 * least


def test_a_cell_that_cannot_run_keeps_nobody_waiting(asked: Any) -> None:
    """No dense model is as small as that: a failed trial of class bad_config, in its turn."""
    arms = ("gnn:", "dense:--architecture dense --embed_dim 8", "mean:--coupler_type mean")
    found = configs(settled(asked(*arms, budget="flops"), {}, 1))
    assert found["dense"].training.max_steps == -1
    assert found["mean"].training.max_steps > 40
