"""Local files: formats, names, and what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from gnn_moe.data.documents import Texts, lines_of
from gnn_moe.data.local_files import load_local, split_of
from gnn_moe.errors import BadInput

RECORDS = ["first record", "with a\nsecond line", "é and 漢字 \u2028 and \U0001f600", ""]


def write(path: Path, records: list[str]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": r, "n": [i]}) + "\n" for i, r in enumerate(records)), "utf-8")
    elif path.suffix == ".parquet":
        pa.parquet.write_table(pa.table({"text": records, "n": list(range(len(records)))}), path)
    else:
        path.write_text("".join(record + "\n" for record in records), encoding="utf-8")


def load(path: Path, text_column: str = "text") -> Texts:
    return load_local(str(path), text_column)


@pytest.mark.parametrize("suffix", [".tokens", ".txt", ".jsonl", ".parquet"])
def test_every_format_yields_the_same_lines(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"train{suffix}", RECORDS)
    write(tmp_path / f"validation{suffix}", RECORDS[:2])
    texts = load(tmp_path)
    assert list(lines_of(texts.split("train"))) == [line for r in RECORDS for line in r.split("\n")]
    assert list(lines_of(texts.split("valid"))) == ["first record", "with a", "second line"]
    assert texts.test is None
    assert texts.notices == ()
    assert texts.description == f"train: train{suffix}; valid: validation{suffix}"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("wiki.train.tokens", "train"),
        ("wiki.valid.tokens", "valid"),
        ("validation-00000-of-00001.parquet", "valid"),
        ("dev.jsonl", "valid"),
        ("my_TEST.txt", "test"),
        ("mytrainset.txt", "train"),
        ("latest.train.txt", "train"),
        ("corpus.txt", None),
    ],
)
def test_the_name_says_the_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_name_of_two_splits_is_refused() -> None:
    with pytest.raises(BadInput, match=r"train_test\.txt says test and train: rename"):
        split_of("train_test.txt")


def test_other_files_are_ignored_and_several_of_a_split_joined_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train-b.txt", ["b"])
    write(tmp_path / "train-a.txt", ["a"])
    write(tmp_path / "dev.txt", ["v"])
    write(tmp_path / "notes.txt", ["ignored"])
    write(tmp_path / ".train.txt", ["ignored"])
    (tmp_path / "train.csv").write_text("ignored")
    (tmp_path / "train.txt").mkdir()
    texts = load(tmp_path)
    assert "".join(texts.split("train")) == "a\nb\n"
    assert texts.split("valid") == ("v\n",)


@pytest.mark.parametrize(("suffix", "unit"), [(".txt", "line"), (".jsonl", "record"), (".parquet", "record")])
def test_without_a_validation_file_every_20th_document_is_set_aside_and_said(
    tmp_path: Path, suffix: str, unit: str
) -> None:
    records = [f"record {i}" for i in range(1, 61)]
    write(tmp_path / f"train{suffix}", records)
    write(tmp_path / f"test{suffix}", ["t"])
    for source in (tmp_path, tmp_path / f"train{suffix}"):
        texts = load(source)
        assert texts.split("valid") == ("record 20\n", "record 40\n", "record 60\n")
        assert len(texts.split("train")) == 57
        assert f"valid: every 20th {unit} of the training text" in texts.description
        assert f"every 20th {unit} is set aside for validation" in texts.notices[0]
    assert load(tmp_path).split("test") == ("t\n",)


def test_a_folder_without_training_text_can_be_evaluated(tmp_path: Path) -> None:
    write(tmp_path / "test.txt", ["t"])
    texts = load(tmp_path)
    assert texts.split("test") == ("t\n",)
    with pytest.raises(BadInput, match="has no train split: it has test"):
        texts.split("train")


def test_nulls_are_left_out_and_records_of_any_size_read(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    lines = [{"text": "a"}, {"text": None, "other": {"deep": 1}}, {"text": long, "other": None}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write(tmp_path / "valid.jsonl", ["v"])
    assert load(tmp_path).split("train") == ("a\n", long + "\n")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    write(tmp_path / "valid.txt", ["v"])
    assert "".join(load(tmp_path).split("train")) == "a\nb\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_missing_column_lists_those_there_are(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"x{suffix}", RECORDS)
    with pytest.raises(BadInput, match=r"--text_column 'body' is not in .*: its columns are text, n$"):
        load(tmp_path / f"x{suffix}", "body")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_another_kind_is_refused(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"x{suffix}", RECORDS)
    with pytest.raises(BadInput, match=r"--text_column 'n' of .* holds .*, not text: name another column"):
        load(tmp_path / f"x{suffix}", "n")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_text_that_is_not_utf8_names_the_byte(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(BadInput, match=r"x\.\w+ is not UTF-8 text \(byte 0xe9 at 13\): convert it"):
        load(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("suffix", [".txt", ".tokens", ".jsonl"])
@pytest.mark.parametrize("content", ["", " \n\n"])
def test_a_file_without_text_is_refused(tmp_path: Path, suffix: str, content: str) -> None:
    (tmp_path / f"x{suffix}").write_text(content)
    with pytest.raises(BadInput, match=r"--dataset_name: .* is a file without text"):
        load(tmp_path / f"x{suffix}")


def test_empty_records_are_a_file_without_text(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".parquet"):
        write(tmp_path / f"x{suffix}", ["", " "])
        with pytest.raises(BadInput, match="is a file without text"):
            load(tmp_path / f"x{suffix}")


@pytest.mark.parametrize(("suffix", "kind"), [(".jsonl", "JSON Lines"), (".parquet", "Parquet")])
def test_a_file_of_another_format_is_refused_in_one_line(tmp_path: Path, suffix: str, kind: str) -> None:
    (tmp_path / f"x{suffix}").write_text("this is\nsomething else")
    with pytest.raises(BadInput, match=f"is no {kind} file") as caught:
        load(tmp_path / f"x{suffix}")
    assert "\n" not in str(caught.value)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path, RECORDS * 100)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInput, match="--dataset_name"):
        load(path)


def test_a_folder_without_readable_files_lists_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "corpus.txt", ["a"])
    with pytest.raises(BadInput, match=r"--dataset_name .*\(found: corpus\.txt\): rename the files"):
        load(tmp_path)
