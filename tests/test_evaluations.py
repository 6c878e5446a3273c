"""evaluate and generate, on a run, a checkpoint and other data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gnn_moe import load_model
from gnn_moe.cli import main
from gnn_moe.model.storage import read_tokenizer
from gnn_moe.training.device import computes_bf16
from tests.small_runs import Commands, Setting, read_json, write_corpus

KEYS = [
    "eval_loss",
    "perplexity",
    "bits_per_byte",
    "word_perplexity",
    "tokens",
    "selection_loss",
    "reported_loss",
]


def evaluate(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["evaluate", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == KEYS
    assert found["perplexity"] == math.exp(found["eval_loss"])
    assert isinstance(found["tokens"], int)
    return dict(found)


def generate(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["generate", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def cached(small_cache: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_cache))


PROTOCOLS: dict[str, dict[str, Any]] = {
    "lines": {},
    "packed": {"data_format": "packed"},
    "few lines": {"num_eval_samples": 7, "num_train_samples": 20},
    "packed, few": {"data_format": "packed", "num_eval_samples": 5},
    "GNN, bf16": {"precision": "bf16", "coupler_type": "GNN"},
    "packed, bf16": {"precision": "bf16", "data_format": "packed"},
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_evaluate_reproduces_the_run(name: str, setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    changes = PROTOCOLS[name]
    if changes.get("precision") == "bf16" and not computes_bf16(torch.device("cpu")):
        pytest.skip("this processor has no bf16 products")
    # Overfits, so that the best and the last checkpoint differ.
    few = {"num_train_samples": 8, "epochs": 40, "max_batches_per_epoch": -1, "eval_every": 10, "learning_rate": 0.03}
    assert main(setting.flags("it", **{**few, **changes})) == 0
    capsys.readouterr()
    run = setting.runs / "it"
    summary = read_json(run / "summary.json")
    assert summary["best_step"] < summary["steps"]
    best, last = evaluate([str(run)], capsys), evaluate([str(run), "--checkpoint", "last"], capsys)
    assert best["eval_loss"] == pytest.approx(summary["best_eval_loss"], abs=1e-9, rel=0)
    assert best["bits_per_byte"] == pytest.approx(summary["bits_per_byte"], abs=1e-9, rel=0)
    assert last["eval_loss"] == pytest.approx(summary["final_eval_loss"], abs=1e-9, rel=0)
    assert last["eval_loss"] > best["eval_loss"]
    assert best["word_perplexity"] == summary["word_perplexity"]
    assert (best["word_perplexity"] is not None) == ("packed" in name and "few" not in name)
    data = read_json(run / "environment.json")["data"]
    assert best["tokens"] == data["valid"]["predicted_tokens"]
    train = evaluate([str(run), "--split", "train"], capsys)
    assert train["tokens"] == data["train"]["predicted_tokens"]
    assert summary["final_train_loss"] < summary["final_eval_loss"]
    if data["train"]["samples"] <= data["valid"]["samples"]:  # else it is of as many as those
        learned = evaluate([str(run), "--split", "train", "--checkpoint", "last"], capsys)["eval_loss"]
        assert learned == pytest.approx(summary["final_train_loss"], abs=1e-9, rel=0)
    # A checkpoint is as good as its run.
    assert evaluate([str(run / "checkpoints" / "best"), "--precision", "run"], capsys)["tokens"] == best["tokens"]


@pytest.fixture(scope="module")
def packed(commands: Commands, small_corpus: Path, small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    setting = Setting(small_corpus, small_cache, tmp_path_factory.mktemp("packed"))
    assert commands.run(setting.flags("it", data_format="packed")).status == 0
    return setting.runs / "it"


def test_splits_are_what_they_say(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = {
        split: evaluate([str(uninterrupted), "--split", split], capsys)["eval_loss"]
        for split in ("train", "valid", "test")
    }
    assert len(set(losses.values())) == 3
    tokens = [evaluate([str(uninterrupted), "--split", split], capsys)["tokens"] for split in ("valid", "test")]
    assert tokens == [20 * 15, 11 * 15]
    assert losses["valid"] == evaluate([str(uninterrupted)], capsys)["eval_loss"]


def test_word_perplexity_is_of_words_and_line_ends(
    packed: Path, small_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate([str(packed)], capsys)
    text = (small_corpus / "valid.txt").read_text(encoding="utf-8")
    words = len(text.split()) + text.count("\n")
    nats = found["eval_loss"] * found["tokens"]
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-9)
    # All bytes but those of the first token, which is given.
    tokenizer = read_tokenizer(packed / "checkpoints" / "best")
    assert tokenizer is not None
    given = len(tokenizer.decode(tokenizer.encode(text.split("\n")[0] + "\n").ids[:1]))
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / (len(text) - given), rel=1e-9)


def test_other_data(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's tokenizer goes with the model: bpe:300 is not trained again on the new text."""
    other = write_corpus(tmp_path / "other", seed=5, valid=9)
    own = evaluate([str(uninterrupted)], capsys)
    found = evaluate([str(uninterrupted), "--dataset_name", str(other)], capsys)
    assert found["tokens"] != own["tokens"]
    assert found["eval_loss"] != own["eval_loss"]
    stored = str(uninterrupted / "checkpoints" / "best" / "tokenizer.json")
    assert evaluate([str(uninterrupted), "--dataset_name", str(other), "--tokenizer", stored], capsys) == found
    fewer = evaluate([str(uninterrupted), "--dataset_name", str(other), "--num_eval_samples", "3"], capsys)
    assert fewer["tokens"] < found["tokens"]
    packed = evaluate([str(uninterrupted), "--data_format", "packed"], capsys)
    assert packed["word_perplexity"] > 1


def test_more_than_there_is_is_said_beside_the_result(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(uninterrupted), "--num_eval_samples", "1000", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["tokens"] == 300
    assert "--num_eval_samples 1000: the valid split has 20 samples, all are used" in output.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--tokenizer", "gpt2"], ["--tokenizer gpt2", "50257", "300"]),
        (["--dataset_name", "./nowhere"], ["--dataset_name ./nowhere"]),
        (["--num_eval_samples", "0"], ["--num_eval_samples 0"]),
        (["--device", "gpu"], ["--device 'gpu'"]),
    ],
)
def test_what_evaluate_refuses(
    words: list[str], named: list[str], uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(uninterrupted), *words]) == 2
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert output.out == ""
    for text in named:
        assert text in output.err


def test_a_split_that_is_not_there(uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_corpus(tmp_path / "other", seed=5)
    (other / "test.txt").unlink()
    assert main(["evaluate", str(uninterrupted), "--dataset_name", str(other), "--split", "test"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "test" in error


def test_evaluate_as_lines(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(uninterrupted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == KEYS
    assert float(lines[0].split()[1]) == read_json(uninterrupted / "summary.json")["best_eval_loss"]


def test_generate_continues_the_prompt(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(uninterrupted), "--prompt", "abc def", "--max_new_tokens", "20"]
    first = generate(words, capsys)
    assert first.startswith("abc def")
    assert first.endswith("\n")
    assert len(first) > len("abc def\n") + 10
    assert generate(words, capsys) == first
    assert generate([*words, "--seed", "1"], capsys) != first
    assert generate([*words, "--temperature", "5", "--top_k", "None"], capsys) != first


def test_ways_to_be_greedy_agree(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(uninterrupted), "--prompt", "abc def", "--max_new_tokens", "12"]
    greedy = generate([*words, "--temperature", "0"], capsys)
    assert generate([*words, "--top_k", "1", "--seed", "9"], capsys) == greedy
    assert generate([*words, "--top_p", "0.000001", "--seed", "9"], capsys) == greedy
    model, tokenizer = load_model(uninterrupted), read_tokenizer(uninterrupted / "checkpoints" / "best")
    assert tokenizer is not None
    ids = tokenizer.encode("abc def").ids
    for _ in range(12):
        logits = model(torch.tensor([ids[-16:]])).logits
        assert logits is not None
        ids.append(int(logits[0, -1].argmax()))
    assert greedy == tokenizer.decode(ids) + "\n"


def test_generate_from_the_last_checkpoint_and_past_the_positions(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(uninterrupted), "--prompt", "abc " * 30, "--max_new_tokens", "40", "--checkpoint", "last"]
    assert generate(words, capsys).startswith("abc " * 30)


def test_generate_prints_whole_characters_as_it_goes(uninterrupted: Path) -> None:
    """A model of bytes breaks characters; every piece is valid text, and together they are the continuation."""
    from gnn_moe.config import Sampling
    from gnn_moe.evaluations import continue_prompt

    pieces = list(continue_prompt(str(uninterrupted), "naïve é", 60, Sampling(temperature=2.0, top_k=None)))
    assert len(pieces) > 10
    assert "".join(pieces)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--prompt", ""], ["--prompt is empty"]),
        (["--prompt", "a", "--max_new_tokens", "0"], ["--max_new_tokens 0"]),
        (["--prompt", "a", "--temperature", "nan"], ["--temperature nan"]),
    ],
)
def test_what_generate_refuses(
    words: list[str], named: list[str], uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(uninterrupted), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for text in named:
        assert text in error
