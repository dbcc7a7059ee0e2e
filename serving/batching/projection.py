"""Rows seen from outside a model: without the columns that only one of two models knows, and as the texts that decide
their arm and their slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.models.loaded import LoadedModel
from trimtab.data.features import texts
from trimtab.requests.rows import ParsedRows


def keys(loaded: LoadedModel, rows: ParsedRows, ids: Sequence[str]) -> Sequence[str]:
    """What decides a row's arm: the project's key, else its id, else the prediction's."""
    columns = loaded.bundle.manifest.columns
    found: list[Sequence[str | None]] = [spelled(rows, n) for n in (columns.key, columns.id) if n and _has(rows, n)]
    if not found:
        return ids
    return [next((name for name in names if name is not None), "") for names in zip(*found, ids, strict=True)]


def spelled(rows: ParsedRows, name: str) -> Sequence[str | None]:
    """A column's values as text; all missing when nobody sent it."""
    if name in rows.recorded:
        return rows.recorded[name]
    column = rows.columns.get(name)
    if column is None:
        return [None] * rows.size
    return texts(column.tolist()) if isinstance(column, np.ndarray) else list(column)


def _has(rows: ParsedRows, name: str) -> bool:
    return name in rows.recorded or name in rows.columns


def without(raw: Any, names: frozenset[str]) -> Any:
    """*raw* without columns that the champion does not know but its challenger does."""
    if not names:
        return raw
    return only(raw, None, names)


def only(raw: Any, known: frozenset[str] | None, but: frozenset[str] = frozenset()) -> Any:
    """Rows in any form with nothing but the columns *known* (None: all), and without those in *but*."""

    def wanted(name: str) -> bool:
        return name not in but and (known is None or name in known)

    if isinstance(raw, dict):
        return {name: values for name, values in raw.items() if wanted(name)}
    if not isinstance(raw, list):
        return raw.select([name for name in raw.schema.names if wanted(name)])
    return [{n: v for n, v in row.items() if wanted(n)} if isinstance(row, dict) else row for row in raw]
