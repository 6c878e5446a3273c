"""Two fields: planted interactions are found, sums are none, and one-at-a-time designs say that they cannot tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gnn_moe.reports.interactions import Setting, interactions_of
from gnn_moe.studies.space import Value


def cell(experts: Value, rate: Value, *, together: float = 0.0, seeds: int = 6) -> Setting:
    """8 experts gain 0.1, rate 2 gains 0.05, and both `together` more."""
    loss = 4.5 - 0.1 * (experts == 8) - 0.05 * (rate == 2) - together * (experts == 8 and rate == 2)
    noise = np.random.default_rng([ord(letter) for letter in f"{experts} {rate}"]).normal(size=seeds)
    losses = {seed: float(loss + 0.05 * seed + 0.002 * noise[seed - 1]) for seed in range(1, seeds + 1)}
    return Setting(settings={"num_experts": experts, "rate": rate}, losses=losses)


def grid(together: float = 0.0, seeds: int = 6) -> list[Setting]:
    return [cell(*both, together=together, seeds=seeds) for both in itertools.product((8, 2, 4), (1, 2))]


def test_an_interaction_is_a_difference_of_differences() -> None:
    (found,) = interactions_of(grid(together=0.03))
    assert found.evidence["verdict"] == "better"
    assert found.evidence["difference"] == pytest.approx(-0.03, abs=0.003)
    assert (found.evidence["low"], found.evidence["high"]) == ((2, 1), (8, 2))
    assert found.evidence["effects"] == pytest.approx([-0.1, -0.13], abs=0.003)
    assert "num_experts and rate interact: together they lower the loss more than apart" in found.sentence
    (found,) = interactions_of(grid(together=-0.03))
    assert found.evidence["verdict"] == "worse"


def test_what_adds_up_does_not_interact() -> None:
    (found,) = interactions_of(grid())
    assert found.sentence.startswith("No interaction of num_experts and rate is seen")
    assert "6 seeds in common" in found.sentence


def test_one_seed_cannot_carry_it() -> None:
    (found,) = interactions_of(grid(together=1.0, seeds=1))
    assert found.evidence["verdict"] == "no evidence"
    assert "one seed cannot carry it" in found.sentence


def test_one_field_at_a_time_was_not_tested() -> None:
    (found,) = interactions_of([cell(2, 1), cell(8, 1), cell(2, 2)])
    assert found.sentence == (
        "Interaction was not tested: of 3 settings no four change two fields together and apart, so whether what "
        "num_experts and rate do adds up is not known."
    )


def test_a_corner_that_failed_is_no_corner() -> None:
    cells = [cell(2, 1), cell(8, 1), cell(2, 2), Setting(settings={"num_experts": 8, "rate": 2}, losses={})]
    assert "not tested" in interactions_of(cells)[0].sentence


def test_one_field_or_none_has_no_interaction() -> None:
    assert interactions_of([]) == ()
    assert interactions_of([Setting(settings={"num_experts": 2}, losses={1: 4.5})]) == ()
