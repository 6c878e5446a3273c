"""The circumstances of a run: versions, machine, code, command."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gnn_moe.training.device import describe_device
from gnn_moe.training.memory_limits import room_bytes

_PACKAGES = ("gnn-moe", "torch", "tokenizers", "datasets", "safetensors", "accelerate", "numpy")


def describe_environment(
    device: torch.device, precision: str, data: dict[str, Any], command_line: Sequence[str]
) -> dict[str, Any]:
    """What environment.json holds; `room_bytes` is what the run may take of the device's memory.

    Args:
        device: where the model is.
        precision: `bf16` or `fp32`, as resolved.
        data: the corpus's record.
        command_line: the words of the command.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": list(command_line),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": describe_device(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "room_bytes": room_bytes(device),
        "git_commit": git_commit(),
        "data": data,
    }


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with `-dirty` if it was changed since; None outside one."""
    here = Path(__file__).parent
    try:
        inside = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here, capture_output=True, check=False
        )
        if inside.returncode != 0:  # installed beside, but not part of, somebody's checkout
            return None
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            check=False,
            text=True,
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return described.stdout.strip() or None
