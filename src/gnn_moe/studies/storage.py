"""Where a study's queue is kept: an Optuna storage in SQLite (one machine) or on a PostgreSQL server (many).

`open_storage` fails before anything runs where the database cannot be had. Later, everything that asks the database
does so inside `storage_errors`, so that a database that has gone away is one kind of error, `StorageLost`, and can be
waited for. `alone` keeps all other workers of a study out while the queue is changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from gnn_moe.errors import BadInput, GnnMoeError

DATABASE_FILE = "study.db"
_SILENT_FOR = 4
"""Heartbeats that a worker may miss before it is taken for dead."""
_LIMITS = {"psycopg": {"connect_timeout": 10}, "psycopg2": {"connect_timeout": 10}, "pysqlite": {"timeout": 60}}
"""Seconds that a driver waits for its database."""


class StorageLost(GnnMoeError):
    """The database does not answer; it may again."""


def default_url(study_folder: Path) -> str:
    """The database of a study whose command names none."""
    return f"sqlite:///{study_folder / DATABASE_FILE}"


_SECRET = ("password", "passfile", "sslpassword")
"""Parameters of a PostgreSQL URL that nobody else should see."""


def without_password(url: str) -> str:
    """A storage's URL as it may be shown and written."""
    try:
        parsed = sqlalchemy.make_url(url)
        hidden = {name: "hidden" for name in parsed.query if name.lower() in _SECRET}
        return (parsed.update_query_dict(hidden) if hidden else parsed).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def open_storage(url: str, *, heartbeat_seconds: int, lock_file: Path | None = None) -> RDBStorage:
    """The database of a URL, its tables made where they are not there.

    Args:
        url: as SQLAlchemy reads it.
        heartbeat_seconds: between two signs of life of a worker; one silent for four times as long is taken for dead.
        lock_file: that of `alone`, where the study's folder is there already.

    Raises:
        BadInput: the URL is none, its driver is not installed, or the database cannot be reached or read.
    """
    shown = without_password(url)
    # What it would say of each trial is on the terminal already.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        limits = _LIMITS.get(sqlalchemy.make_url(url).get_driver_name(), {})
        engine = sqlalchemy.create_engine(url, connect_args=limits)
        # Of two workers that begin together, one makes the tables and the other finds them.
        with expected_warnings(), _disposed(engine), _exclusive(engine, "tables", lock_file):
            return RDBStorage(
                url,
                # Asked whether it is alive before it is used: a connection outlives a server that was started anew.
                engine_kwargs={"pool_pre_ping": True, "connect_args": limits},
                heartbeat_interval=heartbeat_seconds,
                grace_period=_SILENT_FOR * heartbeat_seconds,
            )
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        raise BadInput(
            f"--storage {shown}: its driver is not installed ({error}); for PostgreSQL: pip install "
            "'gnn-moe[postgresql]' and a URL that begins with postgresql+psycopg://"
        ) from None
    except sqlalchemy.exc.ArgumentError:
        raise BadInput(
            f"--storage {shown!r} is no database URL: say sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise BadInput(
            f"--storage {shown} cannot be reached or read ({reason}); start its server, or leave --storage out for "
            "a file in the study's folder"
        ) from None


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what a lost database raises into `StorageLost`."""
    try:
        yield
    except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError, sqlalchemy.exc.TimeoutError) as error:
        cause = error.__cause__ or error
        raise StorageLost(str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]) from error


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Silences two warnings of Optuna that are answered.

    Its heartbeat may change with a version (constraints.txt pins the one that the tests ran with), and is not sent
    by itself where trials are asked for one by one (the worker sends it).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with Study.optimize")
        yield


@contextmanager
def alone(storage: RDBStorage, study_name: str, lock_file: Path) -> Iterator[None]:
    """Waits until no other worker of the study is in here, and keeps them out.

    The lock is let go by the server or the kernel when its holder ends, however it ends. Workers on several machines
    share a PostgreSQL server and lock there; any other database is used from one machine, where a file is enough.
    """
    with storage_errors(), _exclusive(storage.engine, study_name, lock_file):
        yield


@contextmanager
def _disposed(engine: sqlalchemy.Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()


@contextmanager
def _exclusive(engine: sqlalchemy.Engine, name: str, lock_file: Path | None) -> Iterator[None]:
    with ExitStack() as stack:
        if lock_file is not None:
            fcntl.flock(stack.enter_context(lock_file.open("a")), fcntl.LOCK_EX)
        if engine.dialect.name == "postgresql":
            number = int.from_bytes(hashlib.sha256(f"gnn-moe {name}".encode()).digest()[:8], signed=True)
            connection = stack.enter_context(engine.connect())
            # The lock is the session's, which is thrown away with it.
            stack.callback(connection.invalidate)
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": number})
        yield
