"""Figures belong to a commit: what is not committed is seen, and results do not count as a change."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.checkout import RESULTS, refuse_uncommitted, uncommitted_changes
from benchmarks.cli import main
from gnn_moe.errors import BadInput


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("src/a.py", "benchmarks/results/x.json", "docs/b.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "all")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("src/a.py", True),
        ("docs/b.md", True),
        ("src/new.py", True),
        ("benchmarks/new.py", True),
        ("notes.txt", False),
        ("benchmarks/results/x.json", False),
        ("benchmarks/results/new.md", False),
    ],
)
def test_what_is_not_committed_is_seen(name: str, counts: bool, checkout: Path) -> None:
    assert uncommitted_changes(checkout) == []
    (checkout / name).write_text("2")
    assert uncommitted_changes(checkout) == ([name] if counts else [])


def test_a_folder_outside_any_checkout_has_no_changes(tmp_path: Path) -> None:
    assert uncommitted_changes(tmp_path) == []


def test_only_the_results_of_the_checkout_refuse_changes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"src/a\.py and 1 more differ .* --allow_dirty"):
        refuse_uncommitted(RESULTS / "x.json", ["src/a.py", "b"])
    refuse_uncommitted(RESULTS / "x.json", [])
    refuse_uncommitted(tmp_path / "x.json", ["src/a.py"])


def test_a_changed_tree_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.report.uncommitted_changes", lambda: ["src/a.py"])
    monkeypatch.setattr("benchmarks.loss.compare_losses", lambda *args, **kwargs: pytest.fail("measured"))
    assert main(["loss", "--device", "cpu"]) == 2
    assert "commit first" in capsys.readouterr().err
