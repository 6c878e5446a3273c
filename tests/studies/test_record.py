"""What a study says of itself at the end: no bare ranking, and what was changed of a preset."""

from __future__ import annotations

import dataclasses
from typing import Any

from gnn_moe.config import DataConfig
from gnn_moe.studies.presets import find_preset
from gnn_moe.studies.record import changes_of_preset, lowest_in_words, scale_note
from gnn_moe.studies.sweep import Sweep


def trial(loss: float, seed: int = 1, **params: Any) -> dict[str, Any]:
    return {
        "name": f"{params},seed={seed}",
        "params": params,
        "seed": seed,
        "state": "completed",
        "best_eval_loss": loss,
        "reported_loss": loss + 0.1,
    }


def test_the_lowest_loss_says_of_how_many_and_how_thin_it_is() -> None:
    trials = [trial(5.0, num_experts=2), trial(4.9, num_experts=4), trial(0.0, num_experts=8) | {"state": "failed"}]
    (said,) = lowest_in_words(trials)
    assert said.startswith(
        "lowest evaluation loss of 2 trials (one seed each, so no evidence that they differ): 4.9000"
    )
    assert "5.0000 on the half that chose nothing" in said
    assert "(2 seeds)" in lowest_in_words([*trials, trial(5.0, seed=2, num_experts=2)])[0]
    assert lowest_in_words([]) == []


def test_losses_of_other_texts_are_not_ranked() -> None:
    (said,) = lowest_in_words([trial(5.0, tokenizer="bpe:300"), trial(4.0, tokenizer="bpe:400")])
    assert said == "no lowest loss is named: points differ in tokenizer, and losses of other texts do not compare"


def test_a_preset_that_was_made_smaller_by_flags_says_so() -> None:
    preset = find_preset("seed-experts")
    sweep = Sweep(study="it", baseline=preset.baseline, variations=preset.variations, seeds=(1,), preset="seed-experts")
    assert changes_of_preset(sweep) == []
    assert scale_note(sweep) is None
    elsewhere = dataclasses.replace(sweep.baseline, data=DataConfig(dataset_name="a folder"))
    assert scale_note(dataclasses.replace(sweep, baseline=elsewhere)) is None
    model = dataclasses.replace(elsewhere.model, embed_dim=128)
    note = scale_note(dataclasses.replace(sweep, baseline=dataclasses.replace(elsewhere, model=model)))
    assert note is not None
    assert note.startswith("seed-experts with other settings than the seed's (embed_dim 128), so losses")
    assert scale_note(dataclasses.replace(sweep, preset=None)) is None
