"""The memory that a run may take: what the container allows, not what the host has; on a GPU, what is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from gnn_moe.errors import BadInput

if TYPE_CHECKING:
    import torch

RUNS_AT_ONCE = "GNN_MOE_RUNS_AT_ONCE"
"""Environment variable: how many runs share what there is (default: 1)."""
_SPARED = 0.1
"""Of the room, left for what a prediction cannot know."""
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, usage and the part of the usage that the kernel gives back: of cgroup version 2 and of version 1."""
_KILL_FILES = ("memory.events", "memory.oom_control")


def room_bytes(device: torch.device) -> int:
    """Bytes that a run of this process may take on the device, those that it has already taken included."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int((free + torch.cuda.memory_reserved(device)) * (1 - _SPARED)) // _runs_at_once()
    return cpu_room_bytes()


def cpu_room_bytes() -> int:
    """The same of the machine's own memory, without torch."""
    free = min([psutil.virtual_memory().available, *container_headrooms()])
    return int((free + _resident_bytes()) * (1 - _SPARED)) // _runs_at_once()


def _runs_at_once() -> int:
    asked = os.environ.get(RUNS_AT_ONCE, "1")
    if not asked.isdecimal() or int(asked) == 0:
        raise BadInput(f"{RUNS_AT_ONCE}={asked!r} in the environment must be a positive whole number; unset it")
    return int(asked)


def container_headrooms(root: Path = Path("/")) -> Iterator[int]:
    """Bytes that are left under the limit of each control group that this process is in; none without a limit.

    Args:
        root: of the file system, for tests.
    """
    for group in _memory_groups(root):
        yield from _headroom(group)


def _resident_bytes() -> int:
    resident: int = psutil.Process().memory_info().rss
    return resident


def count_oom_kills(root: Path = Path("/")) -> int:
    """Processes that the kernel has killed for want of memory: on the machine, and in the control groups of this one.

    What matters is whether the count grew; one kill may count several times.

    Args:
        root: of the file system, for tests.
    """
    files = [root / "proc/vmstat", *(group / name for group in _memory_groups(root) for name in _KILL_FILES)]
    counts = (dict(line.split() for line in _lines(file)) for file in files)
    return sum(int(count.get("oom_kill", 0)) for count in counts)


def _memory_groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in and of those above them, which may hold limits."""
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for mount in (mounts / controllers, mounts / "memory") if controllers else (mounts, mounts / "unified"):
            group = mount / path.lstrip("/")
            # A limit holds for all below it. In a container the path may be the host's: then only the mount is there.
            for folder in (group, *group.parents):
                if folder == mounts.parent:
                    break
                yield folder


def _headroom(group: Path) -> Iterator[int]:
    for limit_name, usage_name, given_back in _CGROUP_FILES:
        limit, usage = _lines(group / limit_name), _lines(group / usage_name)
        if limit and usage and limit[0] != "max":
            statistics = dict(line.split() for line in _lines(group / "memory.stat"))
            yield int(limit[0]) - int(usage[0]) + int(statistics.get(given_back, 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:  # not this version of control groups, or not this system
        return []
