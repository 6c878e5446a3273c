"""Folders that hold a model: written and read, and never by running code that is in them.

    model.safetensors  config.json  tokenizer.json  checksums.json

`config.json` holds at least the key `model`; a run's holds its whole config. `checksums.json` holds the hash of every
other file of the folder; loading checks them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gnn_moe.config import ModelConfig, model_config_from_dict
from gnn_moe.errors import BadInput
from gnn_moe.model.folders import BEST, CHECKPOINTS, LAST, read_json
from gnn_moe.model.language_model import LanguageModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"
TOKENIZER_FILE, CHECKSUM_FILE = "tokenizer.json", "checksums.json"


def write_model_folder(
    folder: Path, model: LanguageModel, config: Mapping[str, Any], tokenizer: Tokenizer | None
) -> None:
    """Writes what `load_model` reads into an existing folder.

    Args:
        folder: where to write.
        model: the model, on any device.
        config: plain values with the key `model`; a run's whole config has more.
        tokenizer: the run's, or None where it is not known.
    """
    tensors = {name: values.detach().cpu().contiguous() for name, values in model.state_dict().items()}
    save_file(tensors, folder / MODEL_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        (folder / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")


def write_checksums(folder: Path) -> None:
    """Records the hash of every file in a folder, so that loading can tell a damaged one."""
    hashes = {path.name: _hash(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUM_FILE).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


def find_model_folder(path: str | Path, checkpoint: str = BEST) -> Path:
    """The folder that holds the model of a run (its best or last checkpoint), a checkpoint or an imported model.

    Raises:
        BadInput: there is no model.
    """
    path = Path(path)
    if (path / MODEL_FILE).is_file():
        return path
    linked = path / CHECKPOINTS / checkpoint
    if (linked / MODEL_FILE).is_file():
        return linked.resolve()
    if (path / CHECKPOINTS / LAST / MODEL_FILE).is_file():
        raise BadInput(f"{path}: holds no {checkpoint} checkpoint yet; use --checkpoint {LAST}")
    if not path.exists():
        raise BadInput(f"{path}: there is no such run or checkpoint; give a run's folder or one of its checkpoints")
    raise BadInput(f"{path}: holds no {checkpoint} checkpoint; give a run's folder or one of its checkpoints")


def load_model(path: str | Path, *, checkpoint: str = BEST) -> LanguageModel:
    """The model of a run, a checkpoint or an imported folder, in float32 on the CPU, in evaluation mode.

    Args:
        path: the folder.
        checkpoint: `best`, `selected` or `last`, where the folder is a run's.

    Raises:
        BadInput: there is no model, or its files are damaged or do not belong together.
    """
    folder = find_model_folder(path, checkpoint)
    model = LanguageModel(read_model_config(folder))
    verify(folder, [MODEL_FILE])
    load_parameters(model, folder)
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The plain values of a model folder's config; the key `model` is there.

    Raises:
        BadInput: it is missing or damaged.
    """
    verify(folder, [CONFIG_FILE])
    config = read_json(folder / CONFIG_FILE)
    if "model" not in config:
        raise BadInput(f"{folder / CONFIG_FILE}: has no model settings; it is damaged or of another program")
    return config


def read_model_config(folder: Path) -> ModelConfig:
    """The `ModelConfig` of a model folder; errors as `read_config`."""
    return model_config_from_dict(read_config(folder)["model"])


def load_parameters(model: LanguageModel, folder: Path) -> None:
    """Fills a model from a model folder.

    Raises:
        BadInput: the file is damaged or holds another model's parameters.
    """
    tensors = read_tensors(folder / MODEL_FILE)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ").replace("\t", "")
        raise BadInput(f"{folder / MODEL_FILE}: does not fit its config ({reason})") from None


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer's file in a model folder, or None where the model was written without one.

    Raises:
        BadInput: it is damaged or missing.
    """
    if TOKENIZER_FILE not in read_json(folder / CHECKSUM_FILE):
        return None
    verify(folder, [TOKENIZER_FILE])
    return folder / TOKENIZER_FILE


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model folder, or None where it has none; errors as `find_tokenizer`."""
    import tokenizers

    path = find_tokenizer(folder)
    return None if path is None else tokenizers.Tokenizer.from_file(str(path))


def verify(folder: Path, names: Sequence[str] | None = None) -> None:
    """Checks files of a model folder (default: all) against their hashes.

    Raises:
        BadInput: a file is missing or differs from what was written.
    """
    way_out = "use another checkpoint, or train again with --overwrite"
    hashes = read_json(folder / CHECKSUM_FILE)
    for name in hashes if names is None else names:
        expected = hashes.get(name)
        if not (folder / name).is_file():
            raise BadInput(f"{folder}: {name} is missing; {way_out}")
        if _hash(folder / name) != expected:
            raise BadInput(f"{folder / name}: is damaged (its contents are not what was written); {way_out}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        BadInput: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); use another checkpoint") from None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
