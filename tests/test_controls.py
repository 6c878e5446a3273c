"""Controls are runs like any other: trained, recorded, evaluated, continued, interrupted and resumed to the bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from gnn_moe import load_model
from gnn_moe.cli import main
from gnn_moe.config import run_config_from_dict
from gnn_moe.model.size import model_size
from tests.small_runs import Accident, Commands, Setting, assert_same_run, coupling, interrupted, read_json, read_rows

CONTROLS: dict[str, dict[str, Any]] = {
    "dense": {"architecture": "dense", "match": "flops"},
    "top_k": {"architecture": "top_k", "load_balancing_weight": 0.02},
}
each_control = pytest.mark.parametrize("flags", CONTROLS.values(), ids=CONTROLS)


@each_control
def test_a_run_and_what_is_asked_of_it(
    flags: dict[str, Any], setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(setting.flags("it", **flags)) == 0
    run = setting.runs / "it"
    shown = capsys.readouterr().out
    assert f"model     {flags['architecture']}, D " in shown
    assert "HGNN, 3 experts, D 16" in shown
    assert "sample: [" in shown
    config, summary = run_config_from_dict(read_json(run / "config.json")).model, read_json(run / "summary.json")
    size = model_size(config)
    assert (config.architecture, config.embed_dim) == (flags["architecture"], 16)
    for name in ("width", "feed_forward_width", "total_parameters", "training_flops_per_token"):
        assert summary[name] == getattr(size, name)
    assert size.training_flops_per_token == pytest.approx(model_size(config.matched).training_flops_per_token, rel=0.01)
    assert summary["causal"] is True
    losses = [row["loss"] for row in read_rows(run, "train")]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert "incidence" not in coupling(run)

    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["eval_loss"] == pytest.approx(summary["best_eval_loss"], abs=1e-9, rel=0)
    assert main(["generate", str(run), "--prompt", "abc", "--max_new_tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("abc")
    model = load_model(run)
    assert sum(parameter.numel() for parameter in model.parameters()) == summary["total_parameters"]
    assert model(torch.zeros(1, 16, dtype=torch.int64)).logits.shape == (1, 16, 300)


@each_control
def test_interrupted_and_resumed_equals_uninterrupted(
    flags: dict[str, Any], setting: Setting, commands: Commands
) -> None:
    flags = {**flags, "micro_batch_size": 3, "dropout_rate": 0.1}
    assert commands.run(setting.flags("whole", "--activation_checkpointing", **flags)).status == 0
    stopped = Accident("gnn_moe.training.loop:Trainer._step", 6, interrupted)
    words = setting.flags("cut", "--activation_checkpointing", **flags)
    assert commands.run(words, stopped).status == 130
    done = commands.run(setting.resume("cut"))
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "cut", setting.runs / "whole")


def test_a_routed_run_records_where_its_tokens_go_and_what_keeps_them_apart(setting: Setting) -> None:
    """The load of step 0 and of each evaluation is of the same samples, however many are computed at once."""
    flags = {"architecture": "top_k", "dropout_rate": 0.0, "epochs": 1}
    assert main(setting.flags("it", **flags)) == 0
    rows, stored = read_rows(setting.runs / "it", "train"), coupling(setting.runs / "it")
    assert len(rows) == 6
    for row in rows:
        assert 1 - 1e-6 <= row["load_balancing_loss"] < 3
        assert row["router_z_loss"] == pytest.approx(1.2, abs=0.2)  # (log 3)² where logits are small
    assert stored["steps"].tolist() == [0, 4, 6]
    for layer in (0, 1):
        load_SE = stored[f"layer_{layer}/expert_load"]
        assert load_SE.shape == (3, 3)
        assert load_SE.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert main(setting.flags("split", micro_batch_size=3, **flags)) == 0
    split = coupling(setting.runs / "split")["layer_1/expert_load"]
    assert split[0] == pytest.approx(stored["layer_1/expert_load"][0], abs=1e-6)
    first = read_rows(setting.runs / "split", "train")[0]
    assert first["loss"] == pytest.approx(rows[0]["loss"], rel=1e-6)
    assert first["router_z_loss"] == pytest.approx(rows[0]["router_z_loss"], rel=1e-5)


def test_a_heavier_balancing_loss_spreads_the_tokens(setting: Setting) -> None:
    spread = []
    for weight in (0.0, 1.0):
        flags = {"architecture": "top_k", "num_experts": 6, "load_balancing_weight": weight, "router_z_weight": 0.0}
        assert main(setting.flags(f"of {weight}", learning_rate=0.02, epochs=6, **flags)) == 0
        loads = [values[-1] for name, values in coupling(setting.runs / f"of {weight}").items() if "load" in name]
        spread.append(max(load_E.max() for load_E in loads))
    assert spread[1] < spread[0]


def test_names_of_controls_say_what_they_are(setting: Setting) -> None:
    words = setting.flags("it", architecture="dense", epochs=1, max_batches_per_epoch=1)
    del words[words.index("--run_name") : words.index("--run_name") + 2]
    assert main(words) == 0
    (run,) = setting.runs.iterdir()
    assert run.name.startswith("dense-hgnn-e3-d16-l2-")


def test_a_control_that_cannot_be_matched_leaves_nothing_behind(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"architecture": "dense", "embed_dim": 1, "num_heads": 1, "tokenizer": "bpe:256", "coupler_type": "mean"}
    assert main(setting.flags("it", micro_batch_size=4, max_seq_length=4, num_experts=2, **tiny)) == 2
    assert "none of its widths comes within 1%" in capsys.readouterr().err
    assert not setting.runs.exists()
