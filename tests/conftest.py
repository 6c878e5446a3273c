"""What the tests of runs share: a small corpus, a cache, one thread, and commands as processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when torch starts its threads: without it, tests that run beside anything else spin for processors.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tests.small_runs import PRELOADED, Commands, Setting, write_corpus


def pytest_configure() -> None:
    """Before any test starts the process that forks others: there is one, and what it imports is settled then."""
    multiprocessing.set_forkserver_preload(PRELOADED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of many slow tests first: shared out by file, a long one at the end would run beside nothing."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus")


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def setting(
    small_corpus: Path, small_cache: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> Setting:
    """A corpus, a cache and a new folder for runs of this process, without figures: those take longer than the run."""
    monkeypatch.setattr("gnn_moe.runs.write_figures", lambda folder: [])
    return Setting(small_corpus, small_cache, tmp_path / "runs")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums in one order, so that two processes agree to the bit, and a process whose memory stays as it was."""
    import torch

    # It cannot be undone in this process; the tests that start processes of their own run it.
    monkeypatch.setattr("gnn_moe.training.device.keep_freed_memory", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, and every micro-batch of two rows and more worth both."""
    import torch

    monkeypatch.setattr("gnn_moe.model.halves.LEAST_NUMBERS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands as processes."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    found = Commands(tmp_path_factory.mktemp("logs"))
    yield found
    found.close()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture
def forked(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the code would start afresh come from where commands do: two seconds of imports less each."""
    get_context = multiprocessing.get_context

    def quick(method: str | None = None) -> object:
        return commands.context if method == "spawn" else get_context(method)

    monkeypatch.setattr(multiprocessing, "get_context", quick)


@pytest.fixture(scope="session")
def uninterrupted(
    commands: Commands, small_corpus: Path, small_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a small run that nothing happened to; only to be read."""
    setting = Setting(small_corpus, small_cache, tmp_path_factory.mktemp("whole"))
    done = commands.run(setting.flags("whole"), figures=True)
    assert done.status == 0, done.output
    return setting.runs / "whole"
