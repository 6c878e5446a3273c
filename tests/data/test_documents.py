"""Documents: line ends, paragraphs, and what is set aside for validation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_moe.data.documents import Texts, as_document, hold_out, lines_of, split_plain_text, text_digest
from gnn_moe.errors import BadInput

texts = st.text(alphabet=" ab\n\r\té\x0c\u2028", max_size=200)


@given(texts)
@settings(max_examples=200, deadline=None)
def test_documents_joined_are_the_text_with_plain_line_ends(text: str) -> None:
    documents, _ = split_plain_text(text)
    whole = as_document(text)
    assert "".join(documents) == whole
    assert "\r" not in whole
    assert list(lines_of(documents)) == whole.removesuffix("\n").split("\n")
    assert text_digest(documents) == text_digest((whole,))


def test_only_line_ends_end_lines() -> None:
    assert list(lines_of([as_document("a\r\nb\rc\x0cd\u2028e")])) == ["a", "b", "c\x0cd\u2028e"]
    assert list(lines_of([as_document("")])) == [""]


def test_a_paragraph_takes_the_blank_lines_after_it() -> None:
    text = " \n" + "".join(f"first {i}\nsecond {i}\n \n\n" for i in range(20))
    documents, unit = split_plain_text(text)
    assert unit == "paragraph"
    assert documents[0] == " \n"
    assert documents[1] == "first 0\nsecond 0\n \n\n"
    assert len(documents) == 21


def test_a_text_of_few_paragraphs_is_taken_by_lines() -> None:
    documents, unit = split_plain_text("a\nb\n\nc")
    assert (documents, unit) == (("a\n", "b\n", "\n", "c\n"), "line")


def test_every_20th_document_is_held_out() -> None:
    documents = [f"{i}\n" for i in range(1, 46)]
    train, valid = hold_out(documents, "line", "x")
    assert valid == ("20\n", "40\n")
    assert sorted(train + valid) == sorted(documents)
    assert list(train) == [d for d in documents if d not in valid]


def test_too_few_documents_to_hold_any_out() -> None:
    with pytest.raises(BadInput, match=r"--dataset_name x has no validation text, and its 19 lines are too few"):
        hold_out(["a\n"] * 19, "line", "x")


def test_a_missing_split_names_those_there_are() -> None:
    texts = Texts(name="x", description="", train=("a\n",), valid=("b\n",))
    with pytest.raises(BadInput, match=r"--dataset_name x has no test split: it has train, valid"):
        texts.split("test")
