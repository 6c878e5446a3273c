"""gnn-moe: language models whose experts talk to each other.

    from gnn_moe import ModelConfig, build_model, load_model

Importing the package loads no torch; the names below bring what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnn_moe.config import ModelConfig
    from gnn_moe.model.language_model import build_model
    from gnn_moe.model.storage import load_model

__all__ = ["ModelConfig", "build_model", "load_model"]

__version__ = "0.1.0"

_HOMES = {
    "ModelConfig": "gnn_moe.config",
    "build_model": "gnn_moe.model.language_model",
    "load_model": "gnn_moe.model.storage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
