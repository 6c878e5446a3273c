"""A run killed at any moment and resumed is the run that nothing happened to, to the bit."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.small_runs import (
    Accident,
    Commands,
    Setting,
    assert_same_run,
    curve,
    killed,
    killed_with_half_a_model,
    killed_with_half_a_row,
    killed_with_half_a_state,
)

LOOP, RECORD = "gnn_moe.training.loop", "gnn_moe.training.record"
CHECKPOINTS = "gnn_moe.training.checkpoints"
# Saved at 3, 4 (evaluated), 6, 8 (evaluated), 9 and 12 (evaluated); the evaluations are all better than the one before.
MOMENTS = [
    Accident("gnn_moe.runs:write_config", 1, killed, "after"),
    Accident("gnn_moe.runs:Trainer.run", 1, killed),
    Accident(f"{LOOP}:Trainer._step", 1, killed),
    Accident(f"{LOOP}:Trainer._step", 2, killed),
    Accident(f"{LOOP}:Trainer._step", 3, killed, "after"),
    Accident(f"{LOOP}:Trainer._step", 6, killed),
    Accident(f"{LOOP}:Trainer._step", 8, killed),
    Accident(f"{LOOP}:Trainer._evaluate", 2, killed),
    Accident(f"{LOOP}:Trainer._record_evaluation", 2, killed),
    Accident(f"{LOOP}:Trainer._record_evaluation", 2, killed, "after"),
    Accident("gnn_moe.training.progress:PlainReporter.evaluating", 5, killed),
    Accident("gnn_moe.training.loader:collate", 5, killed),
    Accident(f"{RECORD}:CouplingHistory.add", 3, killed, "after"),
    Accident(f"{RECORD}:np.savez_compressed", 3, killed, "after"),
    Accident(f"{RECORD}:Metrics.add", 5, killed_with_half_a_row, "after"),
    Accident(f"{RECORD}:Metrics.add", 7, killed_with_half_a_row, "after"),
    Accident(f"{RECORD}:Metrics.add", 10, killed_with_half_a_row, "after"),
    Accident("gnn_moe.model.storage:write_model_folder", 1, killed_with_half_a_model, "after"),
    Accident("gnn_moe.model.storage:write_model_folder", 4, killed_with_half_a_model, "after"),
    Accident(f"{CHECKPOINTS}:write_training_state", 3, killed_with_half_a_state, "after"),
    Accident(f"{CHECKPOINTS}:write_checksums", 4, killed),
    Accident(f"{CHECKPOINTS}:write_checksums", 4, killed, "after"),
    Accident(f"{CHECKPOINTS}:point", 1, killed),
    Accident(f"{CHECKPOINTS}:point", 3, killed),
    Accident(f"{CHECKPOINTS}:point", 5, killed),
    Accident(f"{CHECKPOINTS}:point", 6, killed),
    Accident(f"{CHECKPOINTS}:point", 9, killed),
    Accident(f"{CHECKPOINTS}:Path.symlink_to", 5, killed, "after"),
    Accident(f"{CHECKPOINTS}:shutil.rmtree", 2, killed),
    Accident(f"{CHECKPOINTS}:shutil.rmtree", 3, killed, "after"),
    Accident("gnn_moe.runs:_Run._write_summary", 1, killed),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_killed_at(moment: Accident, setting: Setting, commands: Commands, uninterrupted: Path) -> None:
    flags = setting.flags("it", "--save_every", "3")
    assert commands.run(flags, moment).status == -9
    assert not (setting.runs / "it" / "summary.json").exists()
    done = commands.run([*flags, "--resume"])
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "it", uninterrupted)
    left = sorted(path.name for path in (setting.runs / "it" / "checkpoints").iterdir())
    assert left == ["best", "last", "selected", "step_00000012"]


def test_half_a_checkpoint_has_another_name(setting: Setting, commands: Commands) -> None:
    moment = Accident("gnn_moe.model.storage:write_model_folder", 2, killed_with_half_a_model, "after")
    assert commands.run(setting.flags("it"), moment).status == -9
    left = sorted(path.name for path in (setting.runs / "it" / "checkpoints").iterdir())
    assert left == ["best", "last", "selected", "step_00000004", "step_00000008.writing"]


@pytest.mark.slow
def test_killed_again_and_again_at_random(setting: Setting, commands: Commands, uninterrupted: Path) -> None:
    draw = random.Random(7)
    flags = setting.flags("it", "--save_every", "1", "--resume")
    statuses: list[int] = []
    while 0 not in statuses:
        started = commands.start(flags)
        time.sleep(0.15 + 0.05 * len(statuses) * draw.random())
        started.process.kill()
        statuses.append(started.wait().status)
        assert statuses[-1] in (0, -9), started.written
    assert len(statuses) > 2
    assert_same_run(setting.runs / "it", uninterrupted)


BEGINNING = [
    Accident("gnn_moe.runs:write_config", 1, killed),
    Accident("gnn_moe.training.record:Path.replace", 1, killed),
    Accident("gnn_moe.training.record:Path.replace", 2, killed),
]


@pytest.mark.parametrize("moment", BEGINNING, ids=str)
def test_killed_before_its_config_was_whole(
    moment: Accident, setting: Setting, commands: Commands, uninterrupted: Path
) -> None:
    assert commands.run(setting.flags("it"), moment).status == -9
    done = commands.run(setting.flags("it", "--resume"))
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "it", uninterrupted)


DELETION = [
    Accident("gnn_moe.run_folder:Path.rename", 1, killed, "after"),
    Accident("gnn_moe.run_folder:shutil.rmtree", 2, killed),
    Accident("gnn_moe.run_folder:shutil.rmtree", 2, killed, "after"),
]


@pytest.mark.parametrize("moment", DELETION, ids=str)
def test_killed_while_the_old_run_was_deleted(
    moment: Accident, setting: Setting, commands: Commands, uninterrupted: Path
) -> None:
    assert commands.run(setting.flags("it", seed=1)).status == 0
    assert commands.run(setting.flags("it", "--overwrite"), moment).status == -9
    resumed = commands.run(setting.flags("it", "--resume"))
    assert resumed.status == 0, resumed.output
    assert_same_run(setting.runs / "it", uninterrupted)
    assert commands.run(setting.flags("it", "--overwrite")).status == 0
    assert [path.name for path in setting.runs.iterdir()] == ["it"]


def test_killed_before_the_old_run_was_deleted(setting: Setting, commands: Commands) -> None:
    assert commands.run(setting.flags("it", seed=1)).status == 0
    before = curve(setting.runs / "it")
    moment = Accident("gnn_moe.run_folder:Path.rename", 1, killed)
    assert commands.run(setting.flags("it", "--overwrite"), moment).status == -9
    assert curve(setting.runs / "it") == before
    assert "is completed" in commands.run(setting.flags("it", "--resume")).output


def test_killed_between_summary_and_figures(setting: Setting, commands: Commands, uninterrupted: Path) -> None:
    moment = Accident("gnn_moe.runs:write_figures", 1, killed)
    assert commands.run(setting.flags("it"), moment, figures=True).status == -9
    done = commands.run(setting.resume("it"), figures=True)
    assert done.status == 0, done.output
    assert_same_run(setting.runs / "it", uninterrupted)
    drawn = sorted(path.name for path in (setting.runs / "it" / "figures").iterdir())
    assert drawn == sorted(path.name for path in (uninterrupted / "figures").iterdir())
