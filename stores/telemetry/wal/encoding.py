"""Encodes the rows of predictions or pairs as a payload, and decodes it.

A payload is one byte for its kind, the length of its head, the head (JSON: what all rows share, and texts by column),
then the rows' ids (32 bytes each), data times (int64), numbers (float64, by column) and flags (a byte each). A reader
that lost its position searches for the next `MAGIC`, so a payload that contains it is written in base64."""

from __future__ import annotations

import base64
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from stores.telemetry.wal.framing import MAGIC
from stores.telemetry.wal.ids import ID_LENGTH

_PLAIN, _ARMOURED = b"\x01", b"\x02"
_HEAD_LENGTH = struct.Struct("<I")
_JSON = orjson.OPT_SERIALIZE_NUMPY


@dataclass(slots=True)
class EncodedRows:
    """A payload, read: *head* is what was given, *floats* has a row for each name in *names*; *ids*, *times* and
    *flags* are still bytes, as many rows' will be put together."""

    head: dict[str, Any]
    size: int
    names: tuple[str, ...]
    ids: bytes | memoryview
    times: bytes | memoryview
    floats: Any
    flags: bytes | memoryview


def encode(
    head: dict[str, Any],
    *,
    ids: Sequence[str],
    times_us: Any,
    floats: Mapping[str, Any],
    texts: Mapping[str, Sequence[str | None]],
    flags: Any = None,
) -> bytes:
    """The payload. Raises ValueError when something has not one value for each id: it could not be read again."""
    size, names = len(ids), "".join(ids).encode()
    columns = [_floats(values) for values in floats.values()]
    times: Any = np.asarray(times_us, dtype="<i8") if hasattr(times_us, "dtype") else array("q", times_us)
    ticks = b"" if flags is None else np.asarray(flags, dtype=np.bool_).tobytes()
    lengths = {len(times), *map(len, columns), *map(len, texts.values())}
    if lengths != {size} or len(names) != ID_LENGTH * size or len(ticks) not in (0, size):
        raise ValueError(f"telemetry needs one value of each column for each of {size} ids of {ID_LENGTH} characters")
    start = orjson.dumps({**head, "size": size, "floats": list(floats), "texts": texts}, default=_as_list, option=_JSON)
    payload = b"".join((_PLAIN, _HEAD_LENGTH.pack(len(start)), start, names, times, *columns, ticks))
    return _ARMOURED + base64.b64encode(payload[1:]) if MAGIC in payload else payload


def decode(payload: memoryview) -> EncodedRows:
    """The rows of a payload that `encode` made."""
    kind, content = bytes(payload[:1]), payload[1:]
    if kind == _ARMOURED:
        return _decode_rows(memoryview(base64.b64decode(content)))
    if kind != _PLAIN:
        raise ValueError(f"telemetry has no payload of kind {kind!r}")
    return _decode_rows(content)


def _decode_rows(content: memoryview) -> EncodedRows:
    (length,) = _HEAD_LENGTH.unpack_from(content)
    at = _HEAD_LENGTH.size
    head = orjson.loads(content[at : at + length])
    size, names = head["size"], tuple(head["floats"])
    ids = at + length
    times = ids + ID_LENGTH * size
    floats = times + 8 * size
    flags = floats + 8 * size * len(names)
    numbers = np.frombuffer(content, "<f8", size * len(names), floats).reshape(len(names), size)
    return EncodedRows(
        head, size, names, content[ids:times], content[times:floats], numbers, content[flags : flags + size]
    )


def _floats(values: Any) -> Any:
    """float64 without gaps, whatever came: an array of another type, a list with None for what is missing. A copy only
    where that is needed."""
    column = np.asarray(values, dtype="<f8")
    return column if column.flags.c_contiguous and column.ndim == 1 else np.ascontiguousarray(column.reshape(-1))


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"telemetry cannot record {type(value).__name__}")
