"""Idle memory: handed back where the process outgrows its plan, kept where it does not."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys

import pytest
import torch

from gnn_moe.model.language_model import build_model
from gnn_moe.training import idle_memory
from tests.model.cases import one_of_each, random_ids

HOLES = """
import torch
from gnn_moe.training.device import keep_freed_memory
from gnn_moe.training.idle_memory import hand_back_above
from gnn_moe.training.process_memory import resident_bytes

keep_freed_memory()
device, sizes = torch.device("cpu"), []
blocks = [torch.ones(2**20) for _ in range(100)]
sizes.append(resident_bytes())
del blocks[:-1]
for planned in (2**50, 0):
    hand_back_above(planned, device)
    sizes.append(resident_bytes())
print(*sizes)
"""
"""99 blocks of 4 MiB freed below one that is not."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in other ways")
def test_holes_are_handed_back_above_the_plan_only() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    full, within, above = map(int, done.stdout.split())
    assert full - within < 2**22
    assert within - above > 99 * 2**22 - 2**23


def test_checkpointed_layers_look_each_time_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, and once more on the way back."""
    looked: list[int] = []
    monkeypatch.setattr(idle_memory, "hand_back_above", lambda planned_bytes, _: looked.append(planned_bytes))
    config = dataclasses.replace(one_of_each()[0], num_layers=3)
    model = build_model(config)
    model.checkpoint_layers = True
    idle_memory.hand_back_between_layers(model, lambda: 7, torch.device("cpu"))
    ids_BT = random_ids(config)
    loss = model(ids_BT, targets=ids_BT).loss
    assert looked == [7] * 3
    loss.backward()
    assert looked == [7] * 6
