"""The databases that a queue is kept in: those that cannot be had, and those that several workers open at once."""

from __future__ import annotations

import multiprocessing
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from gnn_moe.errors import BadInput
from gnn_moe.studies.storage import default_url, open_storage, without_password

PROCESSES = multiprocessing.get_context("forkserver")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("nonsense", ["--storage 'nonsense' is no database URL", "sqlite:///FILE"]),
        ("postgresql+psycopg://u:secret@127.0.0.1:9/d", ["u:***@127.0.0.1:9", "cannot be reached"]),
        ("nodatabase://h/d", ["its driver is not installed", "gnn-moe[postgresql]"]),
        ("sqlite:////nowhere/at/all.db", ["cannot be reached or read", "unable to open database file"]),
    ],
)
def test_a_storage_that_cannot_be_had(url: str, named: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        open_storage(url, heartbeat_seconds=60)
    for text in named:
        assert text in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("a text that is not a database, and long enough to be seen as none" * 20)
    with pytest.raises(BadInput, match="file is not a database"):
        open_storage(default_url(tmp_path), heartbeat_seconds=60)


def test_passwords_are_not_shown() -> None:
    assert without_password("postgresql://a:b@h/d") == "postgresql://a:***@h/d"
    assert without_password("nonsense") == "nonsense"
    assert without_password("postgresql:///d?user=a&password=b&sslpassword=c") == (
        "postgresql:///d?password=hidden&sslpassword=hidden&user=a"
    )


def open_and_close(url: str, lock_file: Path) -> None:
    storage = open_storage(url, heartbeat_seconds=60, lock_file=lock_file)
    storage.remove_session()
    storage.engine.dispose()


def test_workers_that_begin_together_make_one_set_of_tables(url: str, tmp_path: Path) -> None:
    if url.startswith("postgresql"):
        with closing(psycopg.connect(url.replace("+psycopg", ""), autocommit=True)) as connection:
            connection.execute("DROP DATABASE IF EXISTS together")
            connection.execute("CREATE DATABASE together")
        url = url.rpartition("/")[0] + "/together"
    workers = [PROCESSES.Process(target=open_and_close, args=(url, tmp_path / ".lock")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
