"""The record of a device: one JSON file with every figure, and a Markdown page that is made from it.

An entry is replaced when its case is measured again; all others stay, each with the circumstances of its own run.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import platform
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.checkout import uncommitted_changes
from benchmarks.sections import SECTIONS
from benchmarks.tables import to_markdown
from gnn_moe.errors import BadInput

_PACKAGES = ("torch", "torch_geometric", "numpy", "gnn-moe")
_DIRTY = "-dirty"
_KEPT = ("speed", "memory", "memory_beyond_imports", "mfu", "met", "circumstances")
"""What stays of an earlier measurement, with the seconds of its steps."""
_MOST_KEPT = 4


def circumstances(arguments: Sequence[str], device_name: str) -> dict[str, Any]:
    """Where and how figures came about."""
    import torch

    from gnn_moe.training.device import describe_device, resolve_device
    from gnn_moe.training.environment import git_commit

    device = resolve_device(device_name)
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *arguments]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": (git_commit() or "").removesuffix(_DIRTY) or None,
        "uncommitted_changes": uncommitted_changes(),
        "device": describe_device(device),
        "processor": describe_device(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "on_cpu": device.type == "cpu",
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}},
    }


def load_average() -> list[float]:
    """How many processes wanted a processor in the last 1, 5 and 15 minutes; our own, of the case before, with them."""
    return [round(load, 2) for load in os.getloadavg()]


def device_slug(values: Mapping[str, Any]) -> str:
    """A file name for a device: `amd-epyc-2-threads`, `nvidia-h200`."""
    name = f"{values['device']} {values['threads']} threads" if values["on_cpu"] else str(values["device"])
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def plain(result: Any) -> dict[str, Any]:
    """A result dataclass as what JSON gives back."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(result)))
    return values


def update(path: Path, section: str, entries: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> Path:
    """Puts entries into the record and makes its page anew.

    Args:
        path: the JSON file; made where it is missing. The page and the figure go beside it.
        section: of `SECTIONS`.
        entries: by case.
        values: the circumstances of all of them.

    Returns:
        The page.

    Raises:
        BadInput: the JSON file is no record.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        return _update(path, section, entries, values)


def _update(path: Path, section: str, entries: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> Path:
    document = read(path)
    document["device"] = values["device"]
    stored = document["sections"].setdefault(section, {})
    for name, entry in entries.items():
        new = {**entry, "circumstances": dict(values)}
        before = _before(stored.get(name), new) if SECTIONS[section].repeats else []
        stored[name] = {**new, "before": before} if before else new
    _replace(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    page = path.with_suffix(".md")
    if SECTIONS[section].figure:
        from benchmarks.scaling_figure import draw_scaling, scaling_panels

        draw_scaling(scaling_panels(stored), _figure_path(path, section))
    _replace(page, render(document, path.stem))
    return page


def _before(old: dict[str, Any] | None, new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The earlier measurements of the same case, oldest first: ratios are to be taken twice."""
    if old is None or any(old[key] != new[key] for key in ("model", "training", "opponent")):
        return []
    seconds = {name: figures["timing"] for name, figures in old["race"]["figures"].items()}
    return [*old.get("before", []), {**{key: old[key] for key in _KEPT}, "seconds": seconds}][-_MOST_KEPT:]


def read(path: Path) -> dict[str, Any]:
    """The record as it is stored, or an empty one.

    Raises:
        BadInput: the file is there and is no record.
    """
    if not path.exists():
        return {"sections": {}}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sections = document["sections"].values()
        if not all(isinstance(entry, dict) for section in sections for entry in section.values()):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            f"{path} is damaged or no record of benchmarks: move it away, or name another --output"
        ) from None
    return document


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time update the records of a folder; the lock is the folder's own, so no file is left."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def render(document: Mapping[str, Any], stem: str) -> str:
    """The whole page from the whole record."""
    parts = [
        f"# Benchmarks on {document['device']}\n",
        f"Made by `python -m benchmarks` from `{stem}.json`, which holds every figure. Do not edit.\n",
    ]
    for name, section in SECTIONS.items():
        if not (entries := document["sections"].get(name)):
            continue
        parts.append(f"## {section.title}\n{section.about}\n")
        if section.figure:
            parts.append(f"![{section.title}]({stem}-{name}.png)\n")
        parts += [to_markdown(values) for values in section.tables(entries)]
        parts.append(_provenance(entries))
    return "\n".join(parts)


def _provenance(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Which entries were measured when, by which code, on what, beside what load; those of one run in one line."""
    runs: dict[str, list[str]] = {}
    for name, entry in entries.items():
        for seen in (entry, *reversed(entry.get("before", []))):
            shown = name if seen is entry else f"{name} before"
            load = seen["circumstances"]["load_average"][0]
            runs.setdefault(_run(seen["circumstances"]), []).append(f"{shown} (load {load:.1f})")
    return "Measured (load: the machine's average over the minute before the case):\n" + "".join(
        f"- {', '.join(names)}: {line}\n" for line, names in runs.items()
    )


def _run(seen: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in seen["versions"].items())
    commit = str(seen["git_commit"])
    if seen.get("uncommitted_changes") or commit.endswith(_DIRTY):
        commit = f"{commit.removesuffix(_DIRTY)} with **uncommitted changes**"
    return (
        f"{seen['date']}, commit {commit}, {seen['processor']}, {seen['threads']} threads, {versions}; "
        f"`{seen['command']}`"
    )


def _figure_path(path: Path, section: str) -> Path:
    return path.with_name(f"{path.stem}-{section}.png")


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
