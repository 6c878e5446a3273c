"""Drift of learned strengths over seeds: by hand, under the null, and from the folders of small runs.

Letters: n seeds, K connections.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gnn_moe.config import ModelConfig, OutputConfig, RunConfig, TrainingConfig, to_dict
from gnn_moe.errors import BadInput
from gnn_moe.studies.drift import Change, layer_drift, layer_drifts, read_drift
from gnn_moe.studies.statistics import Floats, holm, mean_and_spread, t_interval, t_p_value


def change(change_nK: Any, first_nK: Any = 1.0) -> Change:
    change_nK = np.asarray(change_nK, dtype=np.float64)
    first = np.broadcast_to(np.asarray(first_nK, dtype=np.float64), change_nK.shape)
    labels = tuple(f"{{0,{k + 1}}}" for k in range(change_nK.shape[1]))
    return Change(title="Layer 0", labels=labels, first_nK=first, last_nK=first + change_nK)


def drawn(shape: tuple[int, ...], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape)


def test_an_example_by_hand() -> None:
    found = layer_drift(change([[0.2, 0.0], [0.4, 0.0]]))
    assert found.common.mean == pytest.approx(0.15)
    assert found.common.spread == pytest.approx(0.1 / math.sqrt(2))
    assert found.common_ratio == pytest.approx(0.15 / (0.1 / math.sqrt(2)))
    assert found.apart.mean == pytest.approx(0.15)
    assert found.ratio == pytest.approx(0.3 / math.sqrt(0.02))
    assert found.ratio_by_chance == pytest.approx(1 / math.sqrt(2))
    first, second = found.connections
    assert (first.label, second.label) == ("{0,1}", "{0,2}")
    assert first.change.mean == pytest.approx(0.3)
    assert (second.change.mean, second.change.spread, second.p_value) == (0, 0, None)


def test_numbers_are_those_of_the_statistics() -> None:
    change_nK = 0.3 + 0.1 * drawn((5, 4))
    found = layer_drift(change(change_nK, first_nK=drawn((5, 4), seed=1)))
    for one, change_n in zip(found.connections, change_nK.T, strict=True):
        mean, spread = mean_and_spread(change_n)
        assert one.change.mean == pytest.approx(mean)
        assert one.change.spread == pytest.approx(spread)
        assert one.p_value == pytest.approx(t_p_value(change_n))
    expected = t_interval(change_nK.mean(axis=1))
    assert found.common.interval is not None
    assert found.common.interval.low == pytest.approx(expected.low)
    assert found.common.interval.excludes_zero
    squares = np.square(change_nK.mean(axis=0)).sum() / change_nK.var(axis=0, ddof=1).sum()
    assert found.ratio == pytest.approx(math.sqrt(squares))


def test_the_order_of_seeds_does_not_matter() -> None:
    change_nK = drawn((4, 3))
    found, other = (layer_drift(change(values)) for values in (change_nK, change_nK[::-1]))
    assert found.ratio == pytest.approx(other.ratio)
    assert found.common.mean == pytest.approx(other.common.mean)


def test_opposite_changes_cancel_in_common_and_not_in_the_ratio() -> None:
    change_nK = np.array([1.0, -1.0]) + 0.01 * drawn((5, 2))
    found = layer_drift(change(change_nK))
    assert found.common.interval is not None
    assert not found.common.interval.excludes_zero
    assert found.ratio is not None
    assert found.ratio > 20
    assert found.apart.mean == pytest.approx(1, abs=0.02)


def test_what_each_seed_does_in_its_own_way_is_apart_and_no_drift() -> None:
    """Every seed opens one connection, another each."""
    found = layer_drift(change(np.eye(6)[:, ::-1]))
    assert found.ratio == pytest.approx(found.ratio_by_chance, rel=1e-9)
    assert found.apart.mean == pytest.approx(math.sqrt(5) / 6)
    assert found.apart.spread == pytest.approx(0, abs=1e-12)


def test_the_ratio_by_chance_is_what_noise_gives() -> None:
    found = layer_drift(change(drawn((5, 4000))))
    assert found.ratio == pytest.approx(found.ratio_by_chance, rel=0.02)


def test_p_values_hold_for_all_layers_together() -> None:
    layers = layer_drifts([change(0.5 + drawn((4, 3), seed)) for seed in (0, 1)])
    ones = [one for layer in layers for one in layer.connections]
    adjusted = holm([one.p_value for one in ones if one.p_value is not None]).adjusted
    assert [one.holm_p_value for one in ones] == list(adjusted)
    assert len(adjusted) == 6
    still = layer_drifts([change(np.zeros((3, 2))), change(drawn((3, 2)))])
    assert [one.holm_p_value is None for layer in still for one in layer.connections] == [True, True, False, False]
    assert layer_drifts([]) == ()


def test_p_values_of_whole_graphs_hold_for_all_graphs_together() -> None:
    changes = [0.5 + drawn((4, 3), 0), 0.1 + drawn((4, 2), 1), np.zeros((4, 2))]
    layers = layer_drifts([change(each) for each in changes])
    alone = [float(stats.ttest_1samp(each.mean(axis=1), 0).pvalue) for each in changes[:2]]
    assert [layer.common_p_value for layer in layers] == [*map(pytest.approx, alone), None]
    least = min(2 * min(alone), 1.0)
    greatest = max(least, *alone)
    expected = [least, greatest] if alone[0] < alone[1] else [greatest, least]
    assert [layer.common_holm_p_value for layer in layers] == [*map(pytest.approx, expected), None]


def test_one_seed_has_no_spread() -> None:
    (found,) = layer_drifts([change([[0.5, 0.1]])])
    assert found.common.mean == pytest.approx(0.3)
    assert found.common.interval is None
    assert found.common.reason is not None
    assert (found.common_ratio, found.ratio, found.ratio_by_chance) == (None, None, None)
    assert [one.p_value for one in found.connections] == [None, None]
    assert (found.common_p_value, found.common_holm_p_value) == (None, None)


def test_rounding_of_the_record_is_no_change() -> None:
    first = np.float32(0.1) * np.ones((3, 2))
    found = layer_drift(change(1e-9 * drawn((3, 2)), first_nK=first))
    assert (found.common.mean, found.common.spread, found.ratio) == (0, 0, None)


def test_a_strength_that_is_no_number_is_named() -> None:
    with pytest.raises(BadInput, match=r"Layer 0: the strength \{0,2\} of run 1 is not finite"):
        layer_drift(change([[0.0, 0.0], [0.0, math.nan]]))


def write_run(
    folder: Path, seed: int, *, last: float = 1.5, steps: tuple[int, ...] = (0, 4, 8), rows: int = 8, **model: Any
) -> str:
    """A run folder as far as drift reads it: HGNN of 3 experts, whose hyperedges end at last, last + seed, 1."""
    folder.mkdir(parents=True)
    config = RunConfig(
        model=ModelConfig(**{"coupler_type": "HGNN", "num_experts": 3, "num_layers": 2, **model}),
        training=TrainingConfig(seed=seed, micro_batch_size=rows),
        output=OutputConfig(run_name=folder.name),
    )
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    weight_SM = np.ones((len(steps), 3))
    weight_SM[-1] = [last, last + seed, 1]
    weights = {f"layer_{layer}/hyperedge_weights": weight_SM.astype(np.float32) for layer in (0, 1)}
    incidence_EM = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.float32)
    np.savez(folder / "coupling.npz", steps=np.array(steps), incidence=incidence_EM, **weights)  # type: ignore[arg-type]
    return str(folder)


def test_run_folders_are_read_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, seed, rows=seed) for name, seed in (("a", 3), ("b", 1), ("c", 2))]
    found = read_drift(folders)
    assert found.seeds == (1, 2, 3)
    assert (found.first_step, found.last_step) == (0, 8)
    assert [layer.title for layer in found.layers] == ["Layer 0", "Layer 1"]
    connections = found.layers[1].connections
    assert [one.label for one in connections] == ["{0,1}", "{0,2}", "{1,2}"]
    assert [one.change.mean for one in connections] == pytest.approx([0.5, 2.5, 0])
    assert connections[1].change.spread == pytest.approx(1)
    assert found == read_drift(folders[::-1])


def test_a_run_without_strengths_has_no_layers(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"of {seed}", seed, coupler_type="mean") for seed in (1, 2)]
    for folder in folders:
        np.savez(Path(folder) / "coupling.npz", steps=np.array([0, 8]))
    assert read_drift(folders).layers == ()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a seed twice": ({"seed": 1}, "seed 1 stands twice"),
    "another arm": ({"seed": 2, "embed_dim": 128}, "--embed_dim is 128, where another run has 256"),
    "not ended": ({"seed": 2, "steps": (0, 4)}, "recorded steps 0 to 4, where"),
    "one step": ({"seed": 2, "steps": (8,)}, "1 recorded step, and a change needs two"),
}


@pytest.mark.parametrize("name", BAD)
def test_runs_that_are_not_one_arm_are_refused(name: str, tmp_path: Path) -> None:
    values, said = BAD[name]
    folders = [write_run(tmp_path / "a", 1), write_run(tmp_path / "b", **values)]
    with pytest.raises(BadInput) as refused:
        read_drift(folders)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_run_and_a_missing_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run"):
        read_drift([])
    folder = write_run(tmp_path / "a", 1)
    (tmp_path / "a" / "coupling.npz").unlink()
    with pytest.raises(BadInput, match="cannot be read"):
        read_drift([folder])
