"""evaluate --ablate and --coupling, as they are typed, on small runs."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest

from gnn_moe.cli import EvaluateArguments, main
from gnn_moe.evaluations import evaluate_ablated
from gnn_moe.model.ablations import ABLATIONS
from tests.small_runs import Setting, read_json

KEYS = [
    "ablate",
    "ablate_seed",
    "eval_loss",
    "ablated_eval_loss",
    "difference",
    "selection_loss",
    "ablated_selection_loss",
    "selection_difference",
    "reported_loss",
    "ablated_reported_loss",
    "reported_difference",
    "tokens",
    "largest_change",
]


def ask(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The JSON and what is said beside it."""
    capsys.readouterr()
    assert main(["evaluate", *words, "--json"]) == 0
    output = capsys.readouterr()
    return dict(json.loads(output.out)), output.err


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["evaluate", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


@pytest.fixture(autouse=True)
def cached(small_cache: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_cache))


def trained(setting: Setting, **flags: Any) -> str:
    """A small run whose coupler has moved."""
    assert main(setting.flags("it", **{"learning_rate": 0.03, "max_batches_per_epoch": 20, **flags})) == 0
    return str(setting.runs / "it")


def test_the_flag_takes_what_there_is() -> None:
    hint = typing.get_type_hints(EvaluateArguments)["ablate"]
    (words, _) = typing.get_args(hint)
    assert typing.get_args(words) == ABLATIONS


def test_each_ablation_beside_the_intact_model(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(setting, coupler_type="GNN")
    intact, _ = ask([run], capsys)
    assert intact["eval_loss"] == pytest.approx(read_json(Path(run) / "summary.json")["best_eval_loss"], abs=1e-9)
    seen = set()
    for ablation in ("coupler", "shuffle_graph", "uniform_weights"):
        found, said = ask([run, "--ablate", ablation], capsys)
        assert list(found) == KEYS
        assert said == ""
        assert found["ablate"] == ablation
        assert found["ablate_seed"] == (0 if ablation == "shuffle_graph" else None)
        assert (found["largest_change"] is None) == (ablation == "coupler")
        assert found["tokens"] == intact["tokens"]
        for half, difference in (("eval", ""), ("selection", "selection_"), ("reported", "reported_")):
            before, after = found[f"{half}_loss"], found[f"ablated_{half}_loss"]
            assert before == intact[f"{half}_loss"]
            assert found[f"{difference}difference"] == after - before != 0
        seen.add(found["ablated_eval_loss"])
    assert len(seen) == 3
    assert ask([run], capsys)[0] == intact


def test_a_seed_gives_one_order(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(setting, coupler_type="GNN")
    words = [run, "--ablate", "shuffle_graph", "--ablate_seed"]
    first, again, other = (ask([*words, seed], capsys)[0] for seed in ("0", "0", "3"))
    assert first == again
    assert other["ablated_eval_loss"] != first["ablated_eval_loss"]
    assert other["ablate_seed"] == 3
    assert ask([run, "--ablate", "shuffle_graph"], capsys)[0] == first


@pytest.mark.parametrize("coupler", ["HGNN", "sinkhorn"])
def test_what_changes_nothing_is_said(coupler: str, setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    """Two experts: one hyperedge, one doubly stochastic mix but for how much it mixes."""
    run = trained(setting, coupler_type=coupler, num_experts=2, epochs=1)
    found, said = ask([run, "--ablate", "shuffle_graph"], capsys)
    assert found["difference"] == pytest.approx(0, abs=1e-6)
    assert said.startswith("--ablate shuffle_graph changed nothing: ")
    assert said.count("\n") == 1
    found, said = ask([run, "--ablate", "uniform_weights"], capsys)
    assert found["difference"] == pytest.approx(0, abs=1e-6)
    assert said == "--ablate uniform_weights changed nothing: the strengths of each graph are equal already\n"


def test_the_coupling_of_a_run(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(setting, coupler_type="GNN", gnn_layers=2)
    found, said = ask([run, "--coupling"], capsys)
    assert said == ""
    # 16 numbers a token: 8 rows and a bit hold the 128 tokens.
    assert found["tokens"] >= 128 > found["tokens"] - 15
    assert found["samples"] < 20
    assert [layer["layer"] for layer in found["layers"]] == [0, 1]
    for layer in found["layers"]:
        assert [len(row) for row in layer["added_cka_matrix"]] == [3, 3, 3]
        assert 0 < layer["added_cka"] < layer["expert_cka"] <= 1
        assert len(layer["rounds"]) == 2
        for one in layer["rounds"]:
            assert 0 < one["gate_entropy"] < 1
            assert 0 < one["static_entropy"] < 1
            assert 1 < one["effective_rank"] <= 3
    assert main(["evaluate", run, "--coupling"]) == 0
    shown = capsys.readouterr().out
    assert f"{found['tokens']} tokens of {found['samples']} samples" in " ".join(shown.split())
    assert shown.count("│") == 9 * 4
    assert "matrix" not in shown


def test_an_ablation_as_lines(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(uninterrupted), "--ablate", "coupler"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == KEYS


def test_the_other_half_of_one_row_is_none(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = ask([str(uninterrupted), "--ablate", "coupler", "--num_eval_samples", "1"], capsys)
    assert (found["reported_loss"], found["ablated_reported_loss"], found["reported_difference"]) == (None, None, None)


def test_what_is_refused(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(uninterrupted)
    assert "--ablate coupler and --coupling are two questions" in refused(
        [run, "--coupling", "--ablate", "coupler"], capsys
    )
    assert "--ablate_seed -1 must be" in refused([run, "--ablate", "shuffle_graph", "--ablate_seed", "-1"], capsys)
    with pytest.raises(SystemExit) as left:
        main(["evaluate", run, "--ablate", "graph"])
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("flags", "words", "named"),
    [
        ({"architecture": "dense"}, ["--ablate", "coupler"], "--architecture dense"),
        ({"architecture": "top_k"}, ["--coupling"], "--architecture top_k"),
        ({"coupler_type": "mean"}, ["--ablate", "coupler"], "--coupler_type mean"),
        ({"coupler_type": "attention"}, ["--ablate", "uniform_weights"], "--coupler_type attention"),
    ],
)
def test_a_model_on_which_it_means_nothing(
    flags: dict[str, Any], words: list[str], named: str, setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(setting, epochs=1, max_batches_per_epoch=1, **flags)
    line = refused([run, *words], capsys)
    assert named in line
    assert "; use " in line


def test_an_unknown_ablation_from_python(uninterrupted: Path) -> None:
    from gnn_moe.config import DataConfig
    from gnn_moe.errors import BadInput

    with pytest.raises(BadInput, match="--ablate 'graph' is not known"):
        evaluate_ablated(str(uninterrupted), "graph", data=DataConfig())
