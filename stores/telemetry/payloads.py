"""What a record of predictions or pairs says, as bytes and back. Framing is `stores.telemetry.records`' business, the
table that rows become is `stores.telemetry.tables`'.

A payload is a byte for its kind, the length of its head, the head (JSON: what all rows share, and texts by column),
then the rows' ids (32 bytes each), data times (int64), numbers (float64, column by column) and flags (a byte each).
A scan that lost its place looks for the next `MAGIC`, so none may be in a payload: one whose numbers happen to contain
it is written in base64. What servers wrote before that is JSON throughout, and is read as well."""

from __future__ import annotations

import base64
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from stores.telemetry.ids import ID_LENGTH
from stores.telemetry.records import MAGIC

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

_PLAIN, _ARMOURED = b"\x01", b"\x02"
_HEAD_LENGTH = struct.Struct("<I")
_JSON = orjson.OPT_SERIALIZE_NUMPY


@dataclass(slots=True)
class Rows:
    """A payload, read: *head* is what was given, *floats* has a row for each name in *names*; *ids*, *times* and
    *flags* are still bytes, as many rows' will be put together."""

    head: dict[str, Any]
    size: int
    names: tuple[str, ...]
    ids: bytes | memoryview
    times: bytes | memoryview
    floats: Any
    flags: bytes | memoryview


def packed(
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
    times = times_us.astype("<i8") if hasattr(times_us, "astype") else array("q", times_us)
    columns = [_float_bytes(values) for values in floats.values()]
    ticks = b"" if flags is None else bytes(flags if isinstance(flags, list) else list(flags))
    _check(size, len(names) == ID_LENGTH * size, "ids")
    _check(size, len(times) == size, "times")
    _check(size, len(ticks) in (0, size), "flags")
    for (name, _), column in zip(floats.items(), columns, strict=True):
        _check(size, len(column) == 8 * size, name)
    for name, values in texts.items():
        _check(size, len(values) == size, name)
    start = orjson.dumps({**head, "size": size, "floats": list(floats), "texts": texts}, default=_listed, option=_JSON)
    blocks = b"".join((names, times.tobytes(), *columns, ticks))
    if MAGIC in blocks:
        return _ARMOURED + base64.b64encode(b"".join((_HEAD_LENGTH.pack(len(start)), start, blocks)))
    return b"".join((_PLAIN, _HEAD_LENGTH.pack(len(start)), start, blocks))


def unpacked(payload: memoryview) -> Rows:
    """The rows of a payload that `packed` made, or of the JSON that was written before."""
    kind = bytes(payload[:1])
    if kind == _PLAIN:
        return _rows(payload[1:])
    if kind == _ARMOURED:
        return _rows(memoryview(base64.b64decode(payload[1:])))
    return _rows_of_json(orjson.loads(payload))


def _rows(content: memoryview) -> Rows:
    import numpy as np

    (length,) = _HEAD_LENGTH.unpack_from(content)
    at = _HEAD_LENGTH.size
    head = orjson.loads(content[at : at + length])
    size, names = head["size"], tuple(head["floats"])
    ids = at + length
    times = ids + ID_LENGTH * size
    floats = times + 8 * size
    flags = floats + 8 * size * len(names)
    numbers = np.frombuffer(content, "<f8", size * len(names), floats).reshape(len(names), size)
    return Rows(head, size, names, content[ids:times], content[times:floats], numbers, content[flags : flags + size])


def _rows_of_json(head: dict[str, Any]) -> Rows:
    """Predictions as they were written before there were rollouts."""
    import numpy as np

    floats = {"prediction": head.pop("prediction"), **head.pop("numbers")}
    ids, times = head.pop("ids"), array("q", head.pop("times"))
    matrix = np.array(list(floats.values()), dtype=np.float64)
    return Rows(head, len(ids), tuple(floats), "".join(ids).encode(), times.tobytes(), matrix, b"")


def _float_bytes(values: Any) -> bytes:
    """float64, whatever came: an array of another type or with gaps, a list with None for what is missing."""
    import numpy as np

    return np.asarray(values, dtype=np.float64).tobytes()


def _listed(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"telemetry cannot record {type(value).__name__}")


def _check(size: int, fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"{what!r} has not one value for each of {size} ids")
