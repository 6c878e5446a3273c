"""The cache: whole or not at all, damage told apart from absence, safe for concurrent writers."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from gnn_moe.data.cache import DamagedCacheFile, cache_folder, read_arrays, write_arrays
from gnn_moe.errors import BadInput

ARRAYS = {"tokens": np.arange(5000, dtype=np.int32), "words": np.asarray(7), "empty": np.empty(0, np.int64)}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.npz"
    assert read_arrays(path) is None
    write_arrays(path, ARRAYS)
    stored = read_arrays(path)
    assert stored is not None
    assert list(stored) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(stored[name], array)
        assert stored[name].dtype == array.dtype
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_damaged(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, ARRAYS)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DamagedCacheFile, match=r"x\.npz"):
        read_arrays(path)


@pytest.mark.parametrize("where", [0.1, 0.4, 0.6])
def test_an_altered_byte_is_damage(tmp_path: Path, where: float) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, ARRAYS)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedCacheFile):
        read_arrays(path)


def test_a_file_of_another_kind_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for content in (b"not a cache file", b"PK\x03\x04", b"\x80\x04pickle", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(DamagedCacheFile):
            read_arrays(path)
    np.save(tmp_path / "y.npy", np.arange(3))
    (tmp_path / "y.npy").rename(path)
    with pytest.raises(DamagedCacheFile):
        read_arrays(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, ARRAYS)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_arrays(path, {"tokens": np.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def _write_often(path: Path, value: int) -> None:
    for _ in range(20):
        write_arrays(path, {"a": np.full(20_000, value)})


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_often, args=(path, value)) for value in (1, 2)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        stored = read_arrays(path)
        assert stored is None or len(set(stored["a"].tolist())) == 1
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "gnn_moe"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "gnn_moe"
    assert cache_folder("~/x") == tmp_path / "x"
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"--cache_dir .*file is a file: give a folder"):
        cache_folder(tmp_path / "file")
