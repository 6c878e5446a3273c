"""Samples: the rows that a model is trained and evaluated on, and the two protocols that make them.

`lines`   each line stripped, kept if longer than 30 characters, cut at T tokens (T: `max_seq_length`).
`packed`  the text, line ends included, as one stream of tokens in blocks of T + 1 that overlap by one, so that all but
          the stream's first token are predicted once. Each line is encoded by itself with its line end, so that the
          stream does not depend on files and records.

The first token of a row is given, not predicted. Suffixes: R rows, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gnn_moe.checks import ALL
from gnn_moe.data.documents import lines_of
from gnn_moe.data.encoding import Encoded, IntArray, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHORTEST_LINE = 31
"""Characters of the shortest line that `lines` keeps."""
SHUFFLE_SEED = 20240229
"""Of the one fixed shuffle that `num_train_samples` and `num_eval_samples` cut; no setting moves it."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Row r is `tokens[starts[r] : starts[r] + lengths[r]]`; every row has at least two tokens."""

    tokens: npt.NDArray[np.int32]
    """Token ids (N,), flat."""
    starts: IntArray
    """(R,) first token of each row."""
    lengths: IntArray
    """(R,) tokens of each row, its first included."""
    predicted_bytes: IntArray
    """(R,) UTF-8 bytes of the predicted tokens: all of a row but its first."""
    cut: IntArray
    """(R,) tokens that each row lost to the cut at `max_seq_length`."""
    available: int
    """Samples before `num_train_samples` or `num_eval_samples`."""
    dropped: int = 0
    """Rows of fewer than two tokens, which predict nothing and are left out."""
    words: int | None = None
    """`packed` and the whole split only: whitespace-separated words plus one a line end."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def predicted_tokens(self) -> int:
        """Tokens that are predicted: all but the first of each row."""
        return int(self.lengths.sum()) - len(self)

    @property
    def distinct_tokens(self) -> int:
        """Tokens of the rows in use, a token that two blocks share counted once."""
        shared = self.starts[1:] < self.starts[:-1] + self.lengths[:-1]
        return int(self.lengths.sum() - shared.sum())

    @property
    def cut_tokens(self) -> int:
        """Tokens lost to the cut at `max_seq_length`, over the rows in use."""
        return int(self.cut.sum())

    def row(self, number: int) -> npt.NDArray[np.int32]:
        """The tokens of one row."""
        start = self.starts[number]
        return self.tokens[start : start + self.lengths[number]]

    def predicted_ids(self) -> npt.NDArray[np.int32]:
        """The predicted tokens of all rows, one row after the other: (`predicted_tokens`,)."""
        predicted = self.lengths - 1
        before = np.cumsum(predicted) - predicted
        positions = np.arange(int(predicted.sum())) + np.repeat(self.starts + 1 - before, predicted)
        ids: npt.NDArray[np.int32] = self.tokens[positions]
        return ids


def line_samples(tokenizer: Tokenizer, documents: Iterable[str], max_seq_length: int) -> Samples:
    """All samples of the protocol `lines`."""
    encoded = encode(tokenizer, kept_lines(documents))
    lengths_R = np.minimum(encoded.lengths_R, max_seq_length)
    column_N = np.arange(len(encoded.ids_N)) - np.repeat(_starts(encoded.lengths_R), encoded.lengths_R)
    usable_R = lengths_R >= 2
    keep_N = (column_N < max_seq_length) & np.repeat(usable_R, encoded.lengths_R)
    lengths_R, cut_R = lengths_R[usable_R], (encoded.lengths_R - lengths_R)[usable_R]
    starts_R = _starts(lengths_R)
    return Samples(
        tokens=encoded.ids_N[keep_N],
        starts=starts_R,
        lengths=lengths_R,
        predicted_bytes=_predicted_bytes(encoded.bytes_N[keep_N], starts_R, lengths_R),
        cut=cut_R,
        available=len(starts_R),
        dropped=int((~usable_R).sum()),
    )


def packed_samples(tokenizer: Tokenizer, documents: Iterable[str], max_seq_length: int) -> Samples:
    """All samples of the protocol `packed`: row r holds tokens r·T to (r + 1)·T, both included; the last is short."""
    lines = list(lines_of(documents))
    encoded: Encoded = encode(tokenizer, (line + "\n" for line in lines))
    tokens = len(encoded.ids_N)
    starts_R = np.arange(0, max(tokens - 1, 0), max_seq_length)
    lengths_R = np.minimum(max_seq_length + 1, tokens - starts_R)
    return Samples(
        tokens=encoded.ids_N,
        starts=starts_R,
        lengths=lengths_R,
        predicted_bytes=_predicted_bytes(encoded.bytes_N, starts_R, lengths_R),
        cut=np.zeros_like(starts_R),
        available=len(starts_R),
        words=sum(len(line.split()) + 1 for line in lines),
    )


def kept_lines(documents: Iterable[str]) -> Iterator[str]:
    """The lines of the protocol `lines`."""
    stripped = (line.strip() for line in lines_of(documents))
    return (line for line in stripped if len(line) >= SHORTEST_LINE)


def choose(samples: Samples, count: int) -> Samples:
    """The first `count` samples of one fixed shuffle, in the order of the text; -1, or more than there are: all."""
    if count == ALL or count >= len(samples):
        return samples
    # RandomState's stream is frozen by numpy, so every version chooses the same rows.
    chosen = np.sort(np.random.RandomState(SHUFFLE_SEED).permutation(len(samples))[:count])
    return Samples(
        tokens=samples.tokens,
        starts=samples.starts[chosen],
        lengths=samples.lengths[chosen],
        predicted_bytes=samples.predicted_bytes[chosen],
        cut=samples.cut[chosen],
        available=samples.available,
        dropped=samples.dropped,
    )


def _starts(lengths_R: IntArray) -> IntArray:
    return np.cumsum(lengths_R, dtype=np.int64) - lengths_R


def _predicted_bytes(bytes_N: IntArray, starts_R: IntArray, lengths_R: IntArray) -> IntArray:
    before = np.concatenate([[0], np.cumsum(bytes_N, dtype=np.int64)])
    sums: IntArray = before[starts_R + lengths_R] - before[np.minimum(starts_R + 1, len(bytes_N))]
    return sums
