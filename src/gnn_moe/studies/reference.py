"""The seed's own tables, with the protocol that they were made under, to be set beside a new sweep.

They are kept as published: one seed a row, and what failed is a row too.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

_FILE = "seed_tables.json"


def seed_tables() -> dict[str, Any]:
    """`protocol`, a text a setting; `tables`: for each preset, `field` and `rows`; `claims`, made of one table each;
    and `claims_of_sums`, which take the optima of several tables at once.

    A row has the field's `value`, `eval_loss` (nats a token), `perplexity`, `minutes`, `millions_of_parameters` and
    `failed`; None where the table has no such column. A claim has its words (`claim`), the `kind` of what it says, and
    the `value` that it says it of, or None; one of several tables has the `values` by field, and what it is `of`.
    """
    text = resources.files("gnn_moe.studies").joinpath(_FILE).read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def reference_of(preset: str | None) -> dict[str, Any] | None:
    """The protocol and the tables that a preset repeats, or None for another sweep."""
    stored = seed_tables()
    wanted = [name for name in stored["tables"] if preset in (name, "seed-all")]
    if not wanted:
        return None
    return {"protocol": stored["protocol"], "tables": {name: stored["tables"][name] for name in wanted}}
