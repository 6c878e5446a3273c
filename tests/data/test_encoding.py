"""Tokens and their bytes: exact for byte-level tokenizers, by offsets for others; they always sum to the text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from gnn_moe.data import encoding
from gnn_moe.data.encoding import byte_table, encode
from gnn_moe.data.tokenization import gpt2_tokenizer, train_bpe

GPT2 = gpt2_tokenizer()
UNICODE_TO_BYTE = {  # GPT-2's own alphabet: printable bytes stand for themselves, the others follow from 256
    chr(byte if byte in keep else 256 + shift): byte
    for keep in [{*range(33, 127), *range(161, 173), *range(174, 256)}]
    for byte, shift in [(b, sum(1 for c in range(b) if c not in keep)) for b in range(256)]
}


def size_of(token_id: int) -> int:
    token = GPT2.id_to_token(token_id)
    assert token is not None
    return len(bytes(UNICODE_TO_BYTE[character] for character in token))


def words() -> Tokenizer:
    """Whole words, lower-cased, without blanks: no byte-level tokenizer."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "two": 2}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_the_table_is_the_length_of_each_tokens_bytes() -> None:
    table = byte_table(GPT2)
    assert table is not None
    assert len(table) == 50257
    for token_id in range(0, 50256, 97):
        assert table[token_id] == size_of(token_id)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_bytes_of_a_byte_level_tokenizer_are_those_of_each_token(texts: list[str]) -> None:
    encoded = encode(GPT2, texts)
    ends = np.cumsum(encoded.lengths_R)
    for text, end, length in zip(texts, ends, encoded.lengths_R, strict=True):
        ids = encoded.ids_N[end - length : end].tolist()
        assert ids == GPT2.encode(text).ids
        sizes = [size_of(token_id) for token_id in ids]
        assert encoded.bytes_N[end - length : end].tolist() == sizes
        assert sum(sizes) == len(text.encode())


def test_offsets_count_blanks_with_the_token_after_them() -> None:
    encoded = encode(words(), ["one  TWO 漢字 \n", "x"])
    assert encoded.ids_N.tolist() == [1, 2, 0, 0]
    assert encoded.bytes_N.tolist() == [3, 5, 7 + 2, 1]
    assert encoded.lengths_R.tolist() == [3, 1]


@pytest.mark.parametrize("character", ["\x7f", "\x80", "\u07ff", "\u0800", "\uffff", "\U00010000"])
def test_offsets_count_the_bytes_of_a_character(character: str) -> None:
    encoded = encode(words(), [f"{character} one"])
    assert encoded.bytes_N.tolist() == [len(character.encode()), 4]


def test_a_text_without_tokens_gives_its_bytes_to_the_next_token() -> None:
    encoded = encode(words(), ["one\n", "\n", " \n", "two\n"])
    assert encoded.lengths_R.tolist() == [1, 0, 0, 1]
    assert encoded.bytes_N.tolist() == [4, 3 + 4]


@given(st.lists(st.text(alphabet="ab é\u07ff\u0800漢\uffff\U0001f600\n", max_size=30), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_offsets_sum_to_the_bytes_of_the_text(texts: list[str]) -> None:
    texts = [*texts, "end"]
    encoded = encode(words(), texts)
    assert encoded.bytes_N.sum() == sum(len(text.encode()) for text in texts)
    assert (encoded.bytes_N > 0).all()


def test_a_byte_level_tokenizer_that_adds_characters_is_measured_by_offsets() -> None:
    tokenizer = train_bpe(256, ["x"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    encoded = encode(tokenizer, ["ab"])
    assert encoded.lengths_R.tolist() == [3]
    assert encoded.bytes_N.sum() == 2


def test_added_tokens_and_begin_tokens() -> None:
    tokenizer = train_bpe(256, ["x"])
    tokenizer.add_special_tokens(["<é>"])
    table = byte_table(tokenizer)
    assert table is not None
    assert table[256] == 4
    encoded = encode(tokenizer, ["a<é>b"])
    assert encoded.ids_N.tolist()[1] == 256
    assert encoded.bytes_N.tolist() == [1, 4, 1]


def test_a_tokenizer_of_another_kind_has_no_table() -> None:
    assert byte_table(words()) is None
    normalised = gpt2_tokenizer()
    normalised.normalizer = normalizers.NFC()
    assert byte_table(normalised) is None
    other = gpt2_tokenizer()
    other.decoder = decoders.WordPiece()
    assert byte_table(other) is None


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {i} é" for i in range(20)] + [""]
    whole = encode(GPT2, texts)
    monkeypatch.setattr(encoding, "TEXTS_A_CHUNK", 3)
    parts = encode(GPT2, iter(texts))
    assert np.array_equal(whole.ids_N, parts.ids_N)
    assert np.array_equal(whole.bytes_N, parts.bytes_N)
    assert np.array_equal(whole.lengths_R, parts.lengths_R)
    assert len(encode(GPT2, []).ids_N) == 0
