"""Datasets of the Hugging Face hub, through `datasets`, and the one question asked before any download.

The libraries retry an unreachable hub for half a minute. `require_repository` asks once and says what to do instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from gnn_moe.data.documents import HOLD_OUT_EVERY, Documents, Texts, as_document, hold_out
from gnn_moe.errors import BadInput

ALIASES = {"wikitext": "Salesforce/wikitext"}
DEFAULT_CONFIGS = {"Salesforce/wikitext": "wikitext-2-v1"}
SPLIT_NAMES = {"train": ("train",), "valid": ("validation", "valid", "dev"), "test": ("test",)}
HUB_TIMEOUT_SECONDS = 10
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that keep the hub's libraries from the network."""


def load_hub_dataset(name: str, config_name: str | None, text_column: str) -> Texts:
    """The dataset `name` of the hub, its configuration `config_name`; a document is a record.

    Raises:
        BadInput: the hub cannot be reached, does not know the name or configuration, or the column is not there.
    """
    repository = ALIASES.get(name, name)
    config_name = config_name or DEFAULT_CONFIGS.get(repository)
    require_repository("dataset", repository, f"--dataset_name {name}", "give a local file or folder")
    return read_dataset(repository, config_name, text_column)


def read_dataset(repository: str, config_name: str | None, text_column: str) -> Texts:
    """Whatever `datasets.load_dataset` loads under this name, as `Texts`."""
    display = repository if config_name is None else f"{repository} ({config_name})"
    columns = _load_columns(repository, config_name, text_column)
    splits: dict[str, Documents | None] = {}
    parts = []
    for split, known in SPLIT_NAMES.items():
        found = next((hub_name for hub_name in known if hub_name in columns), None)
        splits[split] = None if found is None else _documents(columns[found], f"{display}, split {found}")
        parts += [] if found is None else [f"{split}: {found}"]
    if not parts:
        raise BadInput(f"--dataset_name {display} has no train, validation or test split: it has {', '.join(columns)}")
    notices: tuple[str, ...] = ()
    if splits["valid"] is None and splits["train"] is not None:
        splits["train"], splits["valid"] = hold_out(splits["train"], "record", display)
        parts.append(f"valid: every {HOLD_OUT_EVERY}th record of train")
        notices = (f"{display} has no validation split: every {HOLD_OUT_EVERY}th record is set aside for validation",)
    return Texts(name=display, description="hub dataset; " + "; ".join(parts), notices=notices, **splits)


def require_repository(kind: Literal["dataset", "model"], repository: str, flag: str, way_out: str) -> None:
    """Ask the hub once whether it has a repository. With HF_HUB_OFFLINE set, the local copy is left to decide.

    Raises:
        BadInput: the name is no hub name, the hub does not have it, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if is_offline_mode():
        return
    api = HfApi()
    try:
        info = api.dataset_info if kind == "dataset" else api.model_info
        info(repository, timeout=HUB_TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise BadInput(f"{flag} is neither a path here nor a name on the hub (owner/name): {way_out}") from error
    except RepositoryNotFoundError as error:
        raise BadInput(
            f"{flag} is no path here, and {api.endpoint} has no public {kind} {repository}: "
            f"check the name, log in with `hf auth login` if it is private, or {way_out}"
        ) from error
    except Exception as error:  # the hub's HTTP library differs by version, and so do its errors
        raise BadInput(
            f"{flag} cannot be reached at {api.endpoint} ({type(error).__name__}: {_brief(error)}): "
            f"check the network, set HF_HUB_OFFLINE=1 to use an earlier download, or {way_out}"
        ) from error


def _load_columns(repository: str, config_name: str | None, text_column: str) -> Mapping[str, Iterable[Any]]:
    """Split → the texts of its column."""
    import datasets

    try:
        splits = datasets.load_dataset(repository, config_name)
    except Exception as error:  # ValueError, RuntimeError, OSError and its own: all about this name
        flags = f"--dataset_name {repository}" + (f" --dataset_config_name {config_name}" if config_name else "")
        raise BadInput(
            f"{flags} cannot be loaded ({_brief(error)}): {_what_to_check()}, or give a local file or folder"
        ) from error
    for split, table in splits.items():
        if text_column not in table.column_names:
            raise BadInput(
                f"--text_column {text_column!r} is not in {repository}, split {split}: "
                f"its columns are {', '.join(table.column_names)}"
            )
    return {split: table[text_column] for split, table in splits.items()}


def _what_to_check() -> str:
    """What stands between the user and a dataset that did not load; a switched-off network before all else."""
    offline = [f"{name}={os.environ[name]}" for name in OFFLINE_VARIABLES if _is_on(os.environ.get(name, ""))]
    if offline:
        return f"unset {' and '.join(offline)} to download it (without a network only earlier downloads load)"
    return "check name, --dataset_config_name and network"


def _is_on(value: str) -> bool:
    """Whether the hub's libraries read the value of a variable as yes."""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def _documents(column: Iterable[Any], origin: str) -> Documents:
    documents = []
    for text in column:
        if text is None:
            continue
        if not isinstance(text, str):
            raise BadInput(f"--text_column of {origin} holds {type(text).__name__}, not text: name another column")
        documents.append(as_document(text))
    if not any(document.strip() for document in documents):
        raise BadInput(f"--dataset_name {origin} holds no text: give another dataset or --text_column")
    return tuple(documents)


def _brief(error: Exception) -> str:
    first = str(error).strip().split("\n", 1)[0]
    return first if len(first) <= 200 else first[:197] + "..."
