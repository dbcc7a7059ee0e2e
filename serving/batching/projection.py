"""Selects columns of raw rows, and reads columns of parsed rows as text: for the keys that assign an arm and for
slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.models.loaded import LoadedModel
from trimtab.data.features import texts
from trimtab.requests.rows import ParsedRows


def assignment_keys(loaded: LoadedModel, rows: ParsedRows, ids: Sequence[str]) -> Sequence[str]:
    """The text by which each row is assigned to an arm: the value of the key column, else of the id column, else the
    prediction's id."""
    columns = loaded.bundle.manifest.columns
    found: list[Sequence[str | None]] = [as_text(rows, n) for n in (columns.key, columns.id) if n and _has(rows, n)]
    if not found:
        return ids
    return [next((name for name in names if name is not None), "") for names in zip(*found, ids, strict=True)]


def as_text(rows: ParsedRows, name: str) -> Sequence[str | None]:
    """The values of column *name* as text; all None when the rows do not have it."""
    if name in rows.recorded:
        return rows.recorded[name]
    column = rows.columns.get(name)
    if column is None:
        return [None] * rows.size
    return texts(column.tolist()) if isinstance(column, np.ndarray) else list(column)


def _has(rows: ParsedRows, name: str) -> bool:
    return name in rows.recorded or name in rows.columns


def drop(raw: Any, names: frozenset[str]) -> Any:
    """*raw* without the columns *names*."""
    return _keep(raw, lambda name: name not in names) if names else raw


def select(raw: Any, names: frozenset[str]) -> Any:
    """*raw* with only the columns *names*. Both take a list of objects, an object of lists or an Arrow table; items
    of a list that are not objects are kept."""
    return _keep(raw, names.__contains__)


def _keep(raw: Any, wanted: Callable[[str], bool]) -> Any:
    if isinstance(raw, dict):
        return {name: values for name, values in raw.items() if wanted(name)}
    if not isinstance(raw, list):
        return raw.select([name for name in raw.schema.names if wanted(name)])
    return [{n: v for n, v in row.items() if wanted(n)} if isinstance(row, dict) else row for row in raw]
