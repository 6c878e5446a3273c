"""Files of the cache: arrays under a key, whole or not at all.

A file is written to a temporary name and renamed, so concurrent workers at worst do the same work twice. NPZ holds a
CRC-32 of every array, which is checked on reading: a damaged file is told apart from a missing one.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gnn_moe.errors import BadInput

Arrays = dict[str, npt.NDArray[Any]]


class DamagedCacheFile(Exception):
    """A cache file is there but cannot be used."""


def cache_folder(cache_dir: str | Path | None) -> Path:
    """`cache_dir`, or `gnn_moe` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache). It is not created here.

    Raises:
        BadInput: it is a file.
    """
    user_cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    default = (user_cache if user_cache.is_absolute() else Path("~/.cache").expanduser()) / "gnn_moe"
    folder = default if cache_dir is None else Path(cache_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--cache_dir {folder} is a file: give a folder")
    return folder


def read_arrays(path: Path) -> Arrays | None:
    """The arrays of a cache file, or None where there is none.

    Raises:
        DamagedCacheFile: the file is truncated, altered or unreadable.
    """
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            return {name: stored[name] for name in stored.files}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedCacheFile(f"{path}: {type(error).__name__}: {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Store arrays under `path`, replacing what is there at once.

    Raises:
        OSError: the folder cannot be written or the disk is full; whatever was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name + ".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **dict(arrays))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
