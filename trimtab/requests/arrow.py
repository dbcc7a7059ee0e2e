"""Parse Arrow tables: types are checked once per column, and numbers are used without a copy where possible.

The rules are those of `trimtab.requests.parser`; callers use `RowParser.read_arrow`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from trimtab.data.features import Feature, texts
from trimtab.data.types import Columns
from trimtab.requests.rows import Micros, ParsedRows
from trimtab.requests.values import FIRST_US, LAST_US, BadInput, parse_times, with_article


def read(
    table: pa.Table | pa.RecordBatch, features: Sequence[Feature], columns: Columns, recorded: Sequence[str], *,
    now_us: int,
) -> ParsedRows:  # fmt: skip
    """Parse *table*, whose columns the parser knows. *recorded* names the id and key columns to keep as text.

    A row without a data time gets *now_us*. Raises BadInput.
    """
    sent = _columns(table)
    return ParsedRows(
        size=table.num_rows,
        columns={f.name: _feature(f, sent.get(f.name), table.num_rows) for f in features},
        recorded={name: _id_texts(name, sent[name]) for name in recorded if name in sent},
        time_us=_times(columns.time, sent.get(columns.time), table.num_rows, now_us),
        features=tuple(features),
    )


def _columns(table: pa.Table | pa.RecordBatch) -> dict[str, pa.Array]:
    """Each column as one array. The buffers of a request may be malformed, so Arrow validates all of them first."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise BadInput(f"not valid Arrow: {error}") from error
    if not table.num_rows:
        raise BadInput("must have at least one row")
    found: dict[str, pa.Array] = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if name in found:
            raise BadInput("is there twice", field=name)
        found[name] = _whole(column) if isinstance(column, pa.ChunkedArray) else column
    return found


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _feature(feature: Feature, column: pa.Array | None, size: int) -> Any:
    if column is not None and not _accepts(feature, column.type):
        null = " or null" if feature.nullable else ""
        raise BadInput(f"must be {with_article(feature.values)}{null}", field=feature.name, got=str(column.type))
    if column is None or types.is_null(column.type):
        if not feature.nullable:
            raise BadInput("missing" if column is None else "must not be null", row=0, field=feature.name)
        return np.full(size, np.nan) if feature.kind == "number" else [None] * size
    if not feature.nullable and column.null_count:
        raise _null(feature, column.is_null().to_numpy(zero_copy_only=False))
    if feature.kind == "category":
        return _texts(column)
    numbers = column.to_numpy(zero_copy_only=False)
    if numbers.dtype != np.float64:  # integers and booleans; with nulls they come as objects
        numbers = numbers.astype(np.float64)
    if not feature.nullable and np.isnan(numbers).any():
        raise _null(feature, np.isnan(numbers))
    return numbers


def _null(feature: Feature, where: np.ndarray[Any, np.dtype[np.bool_]]) -> BadInput:
    return BadInput("must not be null", row=int(where.argmax()), field=feature.name)


def _accepts(feature: Feature, kind: pa.DataType) -> bool:
    if types.is_dictionary(kind) and feature.kind == "category":
        kind = kind.value_type
    if types.is_null(kind):
        return True
    match feature.values:
        case "number":
            return bool(types.is_integer(kind) or types.is_floating(kind))
        case "integer":
            return bool(types.is_integer(kind))
        case "boolean":
            return bool(types.is_boolean(kind))
        case "text":
            return _is_text(kind) or bool(types.is_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _texts(column: pa.Array) -> list[str | None]:
    """The texts of a category column. Each distinct value is converted once."""
    if not types.is_dictionary(column.type):
        column = (column.cast(pa.string()) if types.is_string_view(column.type) else column).dictionary_encode()
    spelled = np.array([*texts(column.dictionary.to_pylist()), None], dtype=object)
    codes = column.indices.fill_null(len(spelled) - 1) if column.indices.null_count else column.indices
    return spelled[codes.to_numpy()].tolist()  # type: ignore[no-any-return]


def _id_texts(name: str, column: pa.Array) -> list[str | None]:
    """The ids or keys of the column *name* as text. Raises BadInput for other types."""
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or types.is_integer(kind) or types.is_null(kind)):
        raise BadInput("must be text or an integer", field=name, got=str(column.type))
    if types.is_dictionary(column.type):
        return _texts(column)
    if not _is_text(kind):
        column = column.cast(pa.string())
    return column.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]


def _times(name: str, column: pa.Array | None, size: int, now_us: int) -> Micros:
    """The data times in UTC microseconds, shape (size,): from Arrow timestamps, or from ISO 8601 text.

    A time without a time zone is UTC. A missing one becomes *now_us*. Raises BadInput.
    """
    if column is None or types.is_null(column.type):
        return np.full(size, now_us, dtype=np.int64)
    if types.is_timestamp(column.type):
        try:
            options = pc.CastOptions(pa.timestamp("us", tz=column.type.tz), allow_time_truncate=True)
            numbers = pc.cast(column, options=options).cast(pa.int64()).fill_null(now_us)
        except pa.ArrowInvalid as error:
            raise BadInput("must be a time between 1700 and 2261", field=name) from error
        found: Micros = numbers.to_numpy()
        if (strange := (found < FIRST_US) | (found > LAST_US)).any():
            raise BadInput("must be a time between 1700 and 2261", row=int(strange.argmax()), field=name)
        return found
    if not _is_text(column.type):
        raise BadInput("must be a time like 2013-03-01T05:00:00Z", field=name, got=str(column.type))
    return parse_times(name, column.to_numpy(zero_copy_only=False).tolist(), size, now_us)
