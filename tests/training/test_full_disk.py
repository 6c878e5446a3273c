"""A disk that fills up: the run fails with its reason, no earlier checkpoint is lost, and it can go on later."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gnn_moe import load_model
from tests.small_runs import Accident, Commands, Setting, assert_same_run, file_size_limited, read_json

CHECKPOINTS = "gnn_moe.training.checkpoints"
# The second checkpoint is that of step 8; the model's file is larger than the limit, so its write fails in the middle.
FULL = [
    Accident("gnn_moe.model.storage:write_model_folder", 2, file_size_limited),
    Accident(f"{CHECKPOINTS}:write_training_state", 2, file_size_limited),
]


@pytest.mark.parametrize("moment", FULL, ids=str)
def test_no_earlier_checkpoint_is_lost(
    moment: Accident, setting: Setting, commands: Commands, uninterrupted: Path
) -> None:
    failed = commands.run(setting.flags("it"), moment)
    run = setting.runs / "it"
    assert failed.status == 1, failed.output
    assert "Traceback" not in failed.output
    assert "File too large" in failed.output.splitlines()[-1]
    assert "--resume" in failed.output.splitlines()[-1]
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["error_class"], summary["steps"]) == ("failed", "crash", 8)
    assert "File too large" in summary["error_message"]
    for link in ("last", "best"):
        load_model(run, checkpoint=link)
        assert read_json(run / "checkpoints" / link / "state.json")["step"] == 4
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == ["best", "last", "selected", "step_00000004"]
    done = commands.run(setting.resume("it"))
    assert done.status == 0, done.output
    assert_same_run(run, uninterrupted)


def test_a_disk_that_takes_nothing_at_all(setting: Setting, commands: Commands, uninterrupted: Path) -> None:
    """A file system of 1.2 MB that is filled in the middle of the run: not even the summary can be written."""
    setting.runs.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1200k", "none", str(setting.runs)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        failed = commands.run(setting.flags("it"), Accident(f"{CHECKPOINTS}:write_training_state", 2, disk_filled))
        assert failed.status == 1, failed.output
        assert "Traceback" not in failed.output
        assert "No space left on device" in failed.output
        run = setting.runs / "it"
        load_model(run, checkpoint="last")
        assert read_json(run / "checkpoints" / "last" / "state.json")["step"] == 4
        (setting.runs / "filler").unlink()
        done = commands.run(setting.resume("it"))
        assert done.status == 0, done.output
        assert_same_run(run, uninterrupted)
    finally:
        subprocess.run(["umount", str(setting.runs)], check=True)


def disk_filled(folder: Path, *arguments: object) -> None:
    """Writes until nothing more fits beside the run."""
    filler = folder.parents[2] / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass
