"""How much memory a run may take: under limits of control groups in both of the kernel's forms."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from gnn_moe.errors import BadInput
from gnn_moe.training import memory_limits
from gnn_moe.training.memory_limits import container_headrooms, count_oom_kills, room_bytes

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(path: str, version: int, limit: str, used: int, given_back: int) -> dict[str, str]:
    limit_name, usage_name, statistic = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    return {
        f"sys/fs/cgroup/{path}/{limit_name}": f"{limit}\n",
        f"sys/fs/cgroup/{path}/{usage_name}": f"{used}\n",
        f"sys/fs/cgroup/{path}/memory.stat": f"anon 12\n{statistic} {given_back}\n",
    }


def test_version_2_takes_the_tightest_of_the_groups_above(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"proc/self/cgroup": "0::/user/job\n"}
        | group("user/job", 2, "max", 5 * GIB, 0)
        | group("user", 2, str(8 * GIB), 6 * GIB, GIB),
    )
    assert min(container_headrooms(root)) == 3 * GIB


def test_version_1_reads_the_groups_of_memory_alone(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n"}
        | group("memory/job", 1, str(4 * GIB), 3 * GIB, GIB // 2)
        | group("cpu/job", 1, str(GIB), GIB, 0),
    )
    assert min(container_headrooms(root)) == GIB + GIB // 2


@pytest.mark.parametrize(("version", "line", "mount"), [(1, "4:memory:/docker/abc", "memory"), (2, "0::/", "")])
def test_a_container_sees_its_own_group_at_the_mount(version: int, line: str, mount: str, tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/cgroup": f"{line}\n"} | group(mount, version, str(2 * GIB), GIB, 0))
    assert min(container_headrooms(root)) == GIB


def test_the_room_is_the_tightest_limit_with_what_is_taken_less_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 100 * 2**20
    monkeypatch.setattr(memory_limits, "_resident_bytes", lambda: taken)
    monkeypatch.setattr(memory_limits, "container_headrooms", lambda: iter([7 * GIB, 2**28, 3 * GIB]))
    assert room_bytes(torch.device("cpu")) == int((2**28 + taken) * 0.9)
    monkeypatch.setattr(memory_limits, "container_headrooms", lambda: iter([]))
    free = psutil.virtual_memory().available
    assert room_bytes(torch.device("cpu")) == pytest.approx((free + taken) * 0.9, rel=0.1)


def test_no_limit_is_no_headroom(tmp_path: Path) -> None:
    assert list(container_headrooms(tmp_path)) == []
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n"} | group("", 2, "max", GIB, 0))
    assert list(container_headrooms(root)) == []


@pytest.mark.parametrize(
    ("line", "file"),
    [("0::/job", "sys/fs/cgroup/job/memory.events"), ("4:memory:/job", "sys/fs/cgroup/memory/job/memory.oom_control")],
)
def test_kills_for_want_of_memory_are_counted_in_the_groups_and_on_the_machine(
    line: str, file: str, tmp_path: Path
) -> None:
    root = write(tmp_path, {"proc/self/cgroup": f"{line}\n", "proc/vmstat": "nr_free_pages 7\noom_kill 2\n"})
    assert count_oom_kills(root) == 2
    write(root, {file: "oom 5\noom_kill 3\n"})
    assert count_oom_kills(root) >= 2 + 3


def test_room_on_this_machine() -> None:
    room = room_bytes(torch.device("cpu"))
    assert 0 < room <= psutil.virtual_memory().total


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", ""])
def test_runs_at_once_that_are_no_number_are_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory_limits.RUNS_AT_ONCE, asked)
    with pytest.raises(BadInput, match=r"GNN_MOE_RUNS_AT_ONCE=.* must be a positive whole number"):
        room_bytes(torch.device("cpu"))
