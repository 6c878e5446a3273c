"""Samples: both protocols against their slow textbook forms, and the choice of the first N."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gnn_moe.config import DataConfig
from gnn_moe.data.documents import as_document
from gnn_moe.data.encoding import byte_table
from gnn_moe.data.local_files import load_local
from gnn_moe.data.samples import Samples, choose, line_samples, packed_samples
from gnn_moe.data.sources import load_sotu
from gnn_moe.data.tokenization import gpt2_tokenizer

GPT2 = gpt2_tokenizer()
TABLE = byte_table(GPT2)
DOCUMENTS = (
    *load_sotu().split("test")[:2],
    as_document("short\n" + "x" * 30 + "\n  " + "y" * 31 + "  \n\né" + "漢字" * 40 + "\n!" * 3),
)
WIKITEXT = Path(os.environ.get("GNN_MOE_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "wikitext-2"


def token_bytes(ids: list[int]) -> int:
    assert TABLE is not None
    return int(sum(TABLE[i] for i in ids))


def rows(samples: Samples) -> list[list[int]]:
    return [samples.row(r).tolist() for r in range(len(samples))]


@pytest.mark.parametrize("max_seq_length", [2, 3, 16, 128, 4096])
def test_lines_equal_their_slow_form(max_seq_length: int) -> None:
    lines = [line.strip() for document in DOCUMENTS for line in document.split("\n")]
    whole = [GPT2.encode(line).ids for line in lines if len(line) > 30]
    samples = line_samples(GPT2, DOCUMENTS, max_seq_length)
    assert rows(samples) == [ids[:max_seq_length] for ids in whole]
    assert samples.predicted_bytes.tolist() == [token_bytes(ids[1:max_seq_length]) for ids in whole]
    assert samples.cut_tokens == sum(max(0, len(ids) - max_seq_length) for ids in whole)
    assert samples.predicted_tokens == sum(min(len(ids), max_seq_length) - 1 for ids in whole)
    assert samples.available == len(samples) == len(whole)
    assert samples.words is None
    assert samples.tokens.dtype == np.int32


def test_a_line_is_kept_from_31_characters_on() -> None:
    samples = line_samples(GPT2, ["  " + "x" * 30 + "  \n" + "é" * 31 + "\n"], 128)
    assert [GPT2.decode(row) for row in rows(samples)] == ["é" * 31]


def test_rows_that_predict_nothing_are_dropped_and_counted() -> None:
    samples = line_samples(GPT2, ["a long enough line to be kept by this protocol\n"], 1)
    assert (len(samples), samples.dropped, samples.available) == (0, 1, 0)
    one_token = "-" * 32
    assert len(GPT2.encode(one_token).ids) == 1
    samples = line_samples(GPT2, [f"{one_token}\na long enough line to be kept by this protocol\n"], 64)
    assert (len(samples), samples.dropped) == (1, 1)
    assert GPT2.decode(rows(samples)[0]).startswith("a long")


@pytest.mark.parametrize("max_seq_length", [1, 2, 7, 128, 100_000])
def test_packed_equals_its_slow_form(max_seq_length: int) -> None:
    stream = [i for d in DOCUMENTS for line in d.splitlines(keepends=True) for i in GPT2.encode(line).ids]
    samples = packed_samples(GPT2, DOCUMENTS, max_seq_length)
    blocks = [stream[start : start + max_seq_length + 1] for start in range(0, len(stream) - 1, max_seq_length)]
    assert rows(samples) == blocks
    assert samples.predicted_bytes.tolist() == [token_bytes(block[1:]) for block in blocks]
    # Every token but the stream's first is predicted once.
    assert samples.predicted_ids().tolist() == stream[1:]
    assert samples.predicted_tokens == len(stream) - 1
    assert samples.distinct_tokens == len(stream)
    assert samples.cut_tokens == 0
    assert samples.words == sum(len(d.split()) + d.count("\n") for d in DOCUMENTS)
    assert GPT2.decode(samples.tokens.tolist()) == "".join(DOCUMENTS)


def test_the_bytes_of_packed_text_are_all_but_the_first_tokens() -> None:
    samples = packed_samples(GPT2, DOCUMENTS, 50)
    first = token_bytes([int(samples.tokens[0])])
    assert samples.predicted_bytes.sum() == sum(len(d.encode()) for d in DOCUMENTS) - first


@pytest.mark.parametrize("text", ["", "\n", "!"])
def test_a_stream_of_one_token_or_two(text: str) -> None:
    samples = packed_samples(GPT2, [as_document(text)], 8)
    assert samples.predicted_tokens == len(samples.tokens) - 1
    assert len(packed_samples(GPT2, [], 8)) == 0


def test_predicted_ids_leave_out_the_first_of_each_row() -> None:
    samples = line_samples(GPT2, DOCUMENTS, 20)
    assert samples.predicted_ids().tolist() == [i for row in rows(samples) for i in row[1:]]


@pytest.mark.parametrize("make", [line_samples, packed_samples])
def test_the_first_n_of_one_fixed_shuffle(make: Callable[..., Samples]) -> None:
    samples = make(GPT2, DOCUMENTS, 24)
    few, more = choose(samples, 5), choose(samples, 12)
    assert (len(few), few.available, len(more)) == (5, len(samples), 12)
    # N more than before keeps those before; both keep the order of the text, and not only its beginning.
    assert set(few.starts.tolist()) < set(more.starts.tolist()) < set(samples.starts.tolist())
    assert more.starts.tolist() == sorted(more.starts.tolist())
    assert more.starts.tolist() != samples.starts[:12].tolist()
    assert all(row in rows(samples) for row in rows(more))
    chosen = np.isin(samples.starts, more.starts)
    assert np.array_equal(more.predicted_bytes, samples.predicted_bytes[chosen])
    assert more.cut_tokens == samples.cut[chosen].sum()
    assert more.words is None
    assert choose(samples, 12).starts.tolist() == more.starts.tolist()


def test_the_fixed_shuffle_is_the_same_in_every_version() -> None:
    samples = line_samples(GPT2, [f"line number {i} of a hundred lines\n" for i in range(100)], 64)
    chosen = [GPT2.decode(row).split()[2] for row in rows(choose(samples, 5))]
    assert chosen == ["29", "37", "40", "80", "96"]


def test_all_and_more_than_there_are_take_all() -> None:
    samples = packed_samples(GPT2, DOCUMENTS, 64)
    for count in (-1, len(samples), len(samples) + 1):
        assert choose(samples, count) is samples
    assert choose(samples, len(samples) - 1).words is None


@pytest.mark.skipif(not WIKITEXT.is_dir(), reason=f"WikiText-2 is not at {WIKITEXT} (set GNN_MOE_SHARED)")
def test_wikitext_2_has_the_published_counts() -> None:
    texts = load_local(str(WIKITEXT), DataConfig().text_column)
    valid = packed_samples(GPT2, texts.split("valid"), 128)
    assert (len(valid.tokens), valid.words) == (258_659, 217_646)
    train = packed_samples(GPT2, texts.split("train"), 128)
    assert (len(train.tokens), train.words) == (2_448_382, 2_088_628)
    lines = line_samples(GPT2, texts.split("valid"), 128)
    assert (len(lines), lines.cut_tokens, lines.predicted_tokens) == (1_913, 68_900, 176_672)
