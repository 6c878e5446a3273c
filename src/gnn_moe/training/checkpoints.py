"""Checkpoints: a model with its config and tokenizer, and the state that training needs to go on as if never stopped.

    checkpoints/step_00000200/   model.safetensors  config.json  tokenizer.json      the model: what load_model reads
                                 training.safetensors  state.json                    optimiser, generators, progress
    checkpoints/last, best       links to one of them

A checkpoint is written under a temporary name, renamed, and only then linked, so a link always leads to a whole one,
whenever the process is killed. `checksums.json` holds the hash of every other file; loading checks it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gnn_moe.config import ModelConfig, model_config_from_dict
from gnn_moe.errors import BadInput
from gnn_moe.model.language_model import LanguageModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL_FILE, CONFIG_FILE, TOKENIZER_FILE = "model.safetensors", "config.json", "tokenizer.json"
TRAINING_FILE, STATE_FILE, CHECKSUM_FILE = "training.safetensors", "state.json", "checksums.json"
LAST, BEST = "last", "best"


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


def save_checkpoint(checkpoints: Path, step: int, links: Sequence[str], write: Callable[[Path], None]) -> None:
    """Writes the checkpoint of a step and points `links` (`last`, `best`) to it; unlinked checkpoints are deleted.

    Args:
        checkpoints: the run's folder of checkpoints; made if it is not there.
        step: its step, for the name.
        links: the links to point to it, in this order.
        write: writes the files into the folder that it is given.

    Raises:
        OSError, SafetensorError: it could not be written (a full disk, for one); earlier checkpoints are untouched.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    remove_unlinked(checkpoints)
    name = f"step_{step:08d}"
    # A step may be saved twice, before and after its evaluation; what a link leads to is never touched.
    final = next(path for n in itertools.count() if not (path := checkpoints / (f"{name}_{n}" if n else name)).exists())
    temporary = checkpoints / f"{final.name}.writing"
    try:
        temporary.mkdir()
        write(temporary)
        write_checksums(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    temporary.rename(final)
    for link in links:
        point(checkpoints / link, final.name)
    remove_unlinked(checkpoints)


def point(link: Path, target: str) -> None:
    """Makes `link` lead to its sibling `target`, in one step."""
    temporary = link.with_name(f"{link.name}.linking")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def remove_unlinked(checkpoints: Path) -> None:
    """Deletes checkpoints that no link leads to, half-written ones among them."""
    kept = {path.resolve().name for path in checkpoints.iterdir() if path.is_symlink()}
    for path in checkpoints.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in kept:
            shutil.rmtree(path)


def find_model_folder(path: str | Path, checkpoint: str = BEST) -> Path:
    """The folder that holds the model of a run (its best or last checkpoint), a checkpoint or an imported model.

    Raises:
        BadInput: there is no model.
    """
    path = Path(path)
    if (path / MODEL_FILE).is_file():
        return path
    linked = path / "checkpoints" / checkpoint
    if (linked / MODEL_FILE).is_file():
        return linked.resolve()
    if not path.exists():
        raise BadInput(f"{path}: there is no such run or checkpoint; give a run's folder or one of its checkpoints")
    raise BadInput(f"{path}: holds no {checkpoint} checkpoint; give a run's folder or one of its checkpoints")


def load_model(path: str | Path, *, checkpoint: str = BEST) -> LanguageModel:
    """The model of a run, a checkpoint or an imported folder, in float32 on the CPU, in evaluation mode.

    Args:
        path: the folder.
        checkpoint: `best` or `last`, where the folder is a run's.

    Raises:
        BadInput: there is no model, or its files are damaged or do not belong together.
    """
    folder = find_model_folder(path, checkpoint)
    model = LanguageModel(read_model_config(folder))
    load_parameters(model, folder)
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The plain values of a model folder's config; the key `model` is there.

    Raises:
        BadInput: it is missing or damaged.
    """
    verify(folder)
    config = _read_json(folder / CONFIG_FILE)
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
    tensors = _read_tensors(folder / MODEL_FILE)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ").replace("\t", "")
        raise BadInput(f"{folder / MODEL_FILE}: does not fit its config ({reason})") from None


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model folder, or None where it has none."""
    if not (folder / TOKENIZER_FILE).is_file():
        return None
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))


def write_training_state(folder: Path, model: LanguageModel, optimiser: torch.optim.Optimizer, state: Any) -> None:
    """Writes the optimiser's moments, the generators and the progress (plain values) into a checkpoint."""
    tensors: dict[str, Tensor] = {"generator/cpu": torch.get_rng_state()}
    if model.norm_gain.device.type == "cuda":
        tensors["generator/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in model.named_parameters():
        for kind, values in optimiser.state[parameter].items():
            tensors[f"{kind}/{name}"] = values.detach().cpu().contiguous()
    save_file(tensors, folder / TRAINING_FILE)
    (folder / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_training_state(folder: Path, model: LanguageModel, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Restores what `write_training_state` wrote and returns the progress.

    Raises:
        BadInput: a file is missing or damaged.
    """
    tensors = _read_tensors(folder / TRAINING_FILE)
    torch.set_rng_state(tensors.pop("generator/cpu"))
    cuda_state = tensors.pop("generator/cuda", None)
    if cuda_state is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda_state)
    parameters = dict(model.named_parameters())
    for key, values in tensors.items():
        kind, name = key.split("/", 1)
        optimiser.state[parameters[name]][kind] = values.to(parameters[name].device)
    return _read_json(folder / STATE_FILE)


def verify(folder: Path) -> None:
    """Checks a model folder against its hashes.

    Raises:
        BadInput: a file is missing or differs from what was written.
    """
    way_out = "use another checkpoint, or train again with --overwrite"
    hashes = _read_json(folder / CHECKSUM_FILE)
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise BadInput(f"{folder}: {name} is missing; {way_out}")
        if _hash(folder / name) != expected:
            raise BadInput(f"{folder / name}: is damaged (its contents are not what was written); {way_out}")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); use another checkpoint") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); use another checkpoint") from None
    except ValueError as error:
        raise BadInput(f"{path}: is damaged ({error}); use another checkpoint") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path}: is damaged (not a JSON object); use another checkpoint")
    return values


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
