"""Checkpoints: a model folder with the state that training needs to go on as if never stopped.

    checkpoints/step_00000200/   model.safetensors  config.json  tokenizer.json  checksums.json      a model folder
                                 training.safetensors  state.json          optimiser, generators, progress
    checkpoints/last, best, selected             links to one of them

A checkpoint is written under a temporary name, renamed, and only then linked, so a link always leads to a whole one,
whenever the process is killed.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gnn_moe.model.folders import read_json
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.storage import read_tensors, write_checksums
from gnn_moe.training.generators import generator_states, restore_generators

TRAINING_FILE, STATE_FILE = "training.safetensors", "state.json"


def save_checkpoint(checkpoints: Path, step: int, links: Sequence[str], write: Callable[[Path], None]) -> None:
    """Writes the checkpoint of a step and points `links` to it; unlinked checkpoints are deleted.

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


def write_training_state(folder: Path, model: LanguageModel, optimiser: torch.optim.Optimizer, state: Any) -> None:
    """Writes the optimiser's moments, the generators and the progress (plain values) into a checkpoint."""
    tensors: dict[str, Tensor] = generator_states(model.norm_gain.device)
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
    tensors = read_tensors(folder / TRAINING_FILE)
    restore_generators(tensors, model.norm_gain.device)
    parameters = dict(model.named_parameters())
    for key, values in tensors.items():
        kind, name = key.split("/", 1)
        if kind == "generator":
            continue
        optimiser.state[parameters[name]][kind] = _laid_out_as(parameters[name], values)
    return read_json(folder / STATE_FILE)


def _laid_out_as(parameter: Tensor, values: Tensor) -> Tensor:
    """A moment on its parameter's device and in memory as that is: AdamW's fused form goes by memory, not by index.

    The count of steps, one number, is laid out like none.
    """
    if values.shape != parameter.shape:
        return values.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(values)
