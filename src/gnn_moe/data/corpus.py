"""A dataset ready for a model: text, tokenizer and protocol together, encoded once and then read from the cache.

corpus = load_corpus(DataConfig(), max_seq_length=128, cache_dir=None)
corpus.split("train"), corpus.split("valid")          # Samples
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gnn_moe.checks import ALL
from gnn_moe.config import DataConfig
from gnn_moe.data.cache import Arrays, DamagedCacheFile, cache_folder, read_arrays, write_arrays
from gnn_moe.data.documents import SPLITS, Documents, Texts, text_digest
from gnn_moe.data.samples import SHORTEST_LINE, Samples, choose, line_samples, packed_samples
from gnn_moe.data.sources import load_texts
from gnn_moe.data.tokenization import BPE_PREFIX, bpe_size, load_tokenizer, vocab_size
from gnn_moe.errors import BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CACHE_VERSION = "1"
"""Part of every key: raise it when the same text, tokenizer and protocol give other samples."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The samples of a dataset. A split that was not asked for is None."""

    dataset: str
    """Display name."""
    description: str
    """Where the splits come from."""
    train: Samples | None
    valid: Samples | None
    test: Samples | None
    tokenizer: Tokenizer
    vocab_size: int
    """V: one more than the highest token id."""
    fingerprint: str
    """Hex digest of text (all splits), tokenizer and protocol; the number of samples is not part of it."""
    split_fingerprints: dict[str, str]
    """The same of each split in use."""
    documents: dict[str, int]
    """Documents of each split in use."""
    settings: dict[str, Any]
    """tokenizer, data_format and max_seq_length, as asked for."""
    notices: tuple[str, ...]
    """Lines to show to the user."""

    def split(self, name: str) -> Samples:
        """The samples of a split that was asked for."""
        samples: Samples | None = {"train": self.train, "valid": self.valid, "test": self.test}[name]
        if samples is None:
            raise KeyError(f"the corpus was loaded without its {name} split")
        return samples

    def record(self) -> dict[str, Any]:
        """What environment.json says of the data: names and fingerprint, and counts of each split in use."""
        record: dict[str, Any] = {
            "dataset": self.dataset,
            "description": self.description,
            **self.settings,
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
        }
        for name in self.split_fingerprints:
            samples = self.split(name)
            record[name] = {
                "fingerprint": self.split_fingerprints[name],
                "documents": self.documents[name],
                "samples": len(samples),
                "samples_available": samples.available,
                "tokens": samples.distinct_tokens,
                "predicted_tokens": samples.predicted_tokens,
                "predicted_bytes": int(samples.predicted_bytes.sum()),
                "cut_tokens": samples.cut_tokens,
                "dropped_rows": samples.dropped,
                "words": samples.words,
            }
        return record


def load_corpus(
    config: DataConfig,
    *,
    max_seq_length: int,
    cache_dir: str | Path | None,
    splits: Sequence[str] = ("train", "valid"),
) -> Corpus:
    """Load, encode (or read from the cache) and choose the samples of `splits`.

    Args:
        config: source, protocol, tokenizer and numbers of samples.
        max_seq_length: T, where rows of `lines` are cut and by which blocks of `packed` advance.
        cache_dir: folder for encoded data; None is `gnn_moe` in the user's cache folder.
        splits: of train, valid and test.

    Raises:
        BadInput: the text or tokenizer cannot be had, a split is missing, or it yields no sample.
    """
    cache = _Cache(cache_folder(cache_dir))
    texts = load_texts(config)
    wanted = {name: texts.split(name) for name in splits}
    digests = {name: text_digest(documents) for name in SPLITS if (documents := getattr(texts, name)) is not None}
    tokenizer = _tokenizer(config.tokenizer, texts, digests, cache)
    protocol = (config.data_format, str(max_seq_length), _digest(tokenizer.to_str()))
    notices = list(texts.notices)
    keys = {name: _digest(CACHE_VERSION, *protocol, digests[name]) for name in wanted}
    samples = {}
    for name, documents in wanted.items():
        encoded = _samples(config, documents, tokenizer, max_seq_length, keys[name], cache)
        _check_usable(encoded, config, texts.name, name, max_seq_length)
        flag = "num_train_samples" if name == "train" else "num_eval_samples"
        count = getattr(config, flag)
        samples[name] = choose(encoded, count)
        if count != ALL and count > encoded.available:
            notices.append(f"--{flag} {count}: the {name} split has {encoded.available} samples, all are used")
    return Corpus(
        dataset=texts.name,
        description=texts.description,
        train=samples.get("train"),
        valid=samples.get("valid"),
        test=samples.get("test"),
        tokenizer=tokenizer,
        vocab_size=vocab_size(tokenizer),
        fingerprint=_digest(CACHE_VERSION, *protocol, *(f"{name}={digest}" for name, digest in digests.items())),
        split_fingerprints=keys,
        documents={name: len(documents) for name, documents in wanted.items()},
        settings={
            "tokenizer": config.tokenizer,
            "data_format": config.data_format,
            "max_seq_length": max_seq_length,
        },
        notices=(*notices, *cache.notices),
    )


class _Cache:
    """Arrays by key, made when they are not there. What goes wrong with a file is a notice, never a failure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notices: list[str] = []

    def get(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        path = self.folder / f"{name}.npz"
        try:
            if (stored := read_arrays(path)) is not None:
                return stored
        except DamagedCacheFile as damage:
            self.notices.append(f"a damaged cache file was made anew ({damage})")
        arrays = make()
        try:
            write_arrays(path, arrays)
        except OSError as error:
            self.notices.append(
                f"encoded data could not be cached in {self.folder} ({error.strerror or error}): "
                f"every start encodes again; give another --cache_dir"
            )
        return arrays


def _tokenizer(spec: str, texts: Texts, digests: dict[str, str], cache: _Cache) -> Tokenizer:
    """As `load_tokenizer`; a trained one comes from the cache."""
    if not spec.startswith(BPE_PREFIX):
        return load_tokenizer(spec, ())
    import tokenizers

    size, documents = bpe_size(spec), texts.split("train")
    key = _digest(CACHE_VERSION, tokenizers.__version__, str(size), digests["train"])

    def train() -> Arrays:
        content = load_tokenizer(spec, documents).to_str().encode()
        return {"tokenizer_json": np.frombuffer(content, np.uint8)}

    stored = cache.get(f"bpe-{size}-{key}", train)
    return tokenizers.Tokenizer.from_str(stored["tokenizer_json"].tobytes().decode())


def _samples(
    config: DataConfig, documents: Documents, tokenizer: Tokenizer, max_seq_length: int, key: str, cache: _Cache
) -> Samples:
    """All samples of a split, before `num_train_samples` or `num_eval_samples`."""
    make = line_samples if config.data_format == "lines" else packed_samples

    def encode() -> Arrays:
        values = dataclasses.asdict(make(tokenizer, documents, max_seq_length))
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    stored = cache.get(f"{config.data_format}-{key}", encode)
    values: dict[str, Any] = {name: array if array.ndim else int(array) for name, array in stored.items()}
    return Samples(**values)


def _check_usable(samples: Samples, config: DataConfig, dataset: str, split: str, max_seq_length: int) -> None:
    where = f"--dataset_name {dataset}: the {split} text"
    if config.data_format == "packed":
        if len(samples.tokens) <= max_seq_length:
            raise BadInput(
                f"{where} has {len(samples.tokens)} tokens, fewer than the {max_seq_length + 1} of a packed sample: "
                f"give more text or a smaller --max_seq_length"
            )
    elif not len(samples) and samples.dropped:
        raise BadInput(f"{where} has no line of two tokens within --max_seq_length {max_seq_length}: use a larger one")
    elif not len(samples):
        raise BadInput(
            f"{where} has no line of more than {SHORTEST_LINE - 1} characters: "
            f"give other text or use --data_format packed"
        )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
