"""Text → token ids with the bytes that each token stands for.

Bits a byte needs the bytes of the predicted tokens. A byte-level tokenizer has a fixed number for each id, so a table
answers (and the fast encoder, which keeps no offsets, is enough). Any other tokenizer answers by its offsets: a token
counts the bytes from the end of the token before it to its own end. Either way a text's tokens sum to its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

IntArray = npt.NDArray[np.int64]
TEXTS_A_CHUNK = 8192


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """R texts, N tokens in all."""

    ids_N: npt.NDArray[np.int32]
    """Token ids, one text after the other."""
    bytes_N: IntArray
    """UTF-8 bytes that each token stands for."""
    lengths_R: IntArray
    """Tokens of each text."""


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Encoded:
    """Encode texts without begin or end token, on all threads that TOKENIZERS_PARALLELISM allows."""
    table = byte_table(tokenizer)
    parts = [_encode_chunk(tokenizer, chunk, table) for chunk in _chunks(texts)]
    return Encoded(
        ids_N=np.concatenate([p.ids_N for p in parts] or [np.empty(0, np.int32)]),
        bytes_N=np.concatenate([p.bytes_N for p in parts] or [np.empty(0, np.int64)]),
        lengths_R=np.concatenate([p.lengths_R for p in parts] or [np.empty(0, np.int64)]),
    )


def byte_table(tokenizer: Tokenizer) -> IntArray | None:
    """Bytes of each token id (V,) for a byte-level tokenizer, else None.

    Byte-level vocabularies write each byte as one character; only added tokens stand in plain text.
    """
    from tokenizers import decoders

    if not isinstance(tokenizer.decoder, decoders.ByteLevel) or tokenizer.normalizer is not None:
        return None
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    table = np.zeros(1 + max(vocab.values()), np.int64)
    for token, token_id in vocab.items():
        table[token_id] = len(token)
    for token_id, added in tokenizer.get_added_tokens_decoder().items():
        table[token_id] = len(added.content.encode())
    return table


def _chunks(texts: Iterable[str]) -> Iterator[tuple[str, ...]]:
    remaining = iter(texts)
    while chunk := tuple(islice(remaining, TEXTS_A_CHUNK)):
        yield chunk


def _encode_chunk(tokenizer: Tokenizer, texts: Sequence[str], table: IntArray | None) -> Encoded:
    if table is not None:
        ids_N, lengths_R = _flatten(tokenizer.encode_batch_fast(list(texts), add_special_tokens=False))
        bytes_N = table[ids_N]
        sums_R = np.diff(_boundaries(bytes_N)[_boundaries(lengths_R)])
        # A tokenizer that adds, drops or strips characters fails this, and is measured by its offsets.
        if np.array_equal(sums_R, [len(text.encode()) for text in texts]):
            return Encoded(ids_N=ids_N, bytes_N=bytes_N, lengths_R=lengths_R)
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    ids_N, lengths_R = _flatten(encodings)
    return Encoded(ids_N=ids_N, bytes_N=_bytes_by_offsets(encodings, texts), lengths_R=lengths_R)


def _flatten(encodings: Sequence[Encoding]) -> tuple[npt.NDArray[np.int32], IntArray]:
    rows = [np.array(encoding.ids, np.int32) for encoding in encodings]
    return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)


def _bytes_by_offsets(encodings: Sequence[Encoding], texts: Sequence[str]) -> IntArray:
    """Bytes of each token; those of a text without tokens go to the next token there is."""
    parts = [np.empty(0, np.int64)]
    carried = 0
    for encoding, text in zip(encodings, texts, strict=True):
        code_points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        byte_ends = _boundaries(1 + (code_points > 0x7F) + (code_points > 0x7FF) + (code_points > 0xFFFF))
        if not len(encoding):
            carried += int(byte_ends[-1])
            continue
        ends = byte_ends[[end for _, end in encoding.offsets]]
        ends[-1] = byte_ends[-1]
        sizes = np.diff(np.maximum.accumulate(ends), prepend=0)
        sizes[0] += carried
        carried = 0
        parts.append(sizes)
    return np.concatenate(parts)


def _boundaries(sizes: IntArray) -> IntArray:
    """[0, s0, s0 + s1, ...]"""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
