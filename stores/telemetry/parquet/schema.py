"""The Arrow tables of predictions, pairs and labels, the same for rows of a segment and of a part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stores.telemetry.wal.encoding import EncodedRows, decode

if TYPE_CHECKING:
    import pyarrow as pa

    from stores.telemetry.wal.framing import Frame

SLICE = "slice:"  # before a slice column's name in a part, so that it is none of the stream's own


def prediction_table(records: Iterable[Frame]) -> pa.Table | None:
    """Return the predictions in *records*, or None."""
    return _table(records, _prediction_columns)


def pair_table(records: Iterable[Frame], *, rollout: str | None = None) -> pa.Table | None:
    """The pairs in *records* (only those of *rollout*, if one is given), or None when there are none."""
    return _table(records, _pair_columns, rollout=rollout)


def _table(records: Iterable[Frame], columns: Any, *, rollout: str | None = None) -> pa.Table | None:
    """Records of one shape share their columns' arrays; what a shape lacks is missing in its rows."""
    import pyarrow as pa

    shapes: dict[tuple[Any, ...], list[EncodedRows]] = {}
    for record in records:
        rows = decode(record.payload)
        if rollout is None or rows.head.get("rollout") == rollout:
            shapes.setdefault((rows.names, tuple(rows.head["texts"])), []).append(rows)
    tables = [pa.table(dict(columns(many))) for many in shapes.values()]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _prediction_columns(many: Sequence[EncodedRows]) -> Iterable[tuple[str, pa.Array]]:
    yield from _shared(many, ("release", "arm", "rollout"))
    yield "propensity", _repeated_numbers(many, "propensity")
    yield from _numbers(many)
    yield from _probabilities(many, {"predicted_label": "text", "probabilities": "list"})
    yield from _texts(many, prefix="")


def _pair_columns(many: Sequence[EncodedRows]) -> Iterable[tuple[str, pa.Array]]:
    import numpy as np
    import pyarrow as pa

    yield from _shared(many, ("rollout", "champion", "challenger"))
    flags = b"".join(rows.flags if len(rows.flags) else bytes(rows.size) for rows in many)
    yield "by_challenger", pa.array(np.frombuffer(flags, np.uint8) != 0)
    yield from _numbers(many)
    yield from _probabilities(many, {"champion_probabilities": "list", "challenger_probabilities": "list"})
    yield "error", pa.array(_listed(many, "error"), pa.string())
    for name in ("champion_us", "challenger_us"):
        yield name, _repeated_numbers(many, name)
    yield "rows_in_call", pa.array(np.repeat([rows.size for rows in many], [rows.size for rows in many]), pa.int64())
    yield from _texts(many, prefix=SLICE)


def _shared(many: Sequence[EncodedRows], names: Iterable[str]) -> Iterable[tuple[str, pa.Array]]:
    """Ids, times, and the texts that are the same for all rows of a record."""
    import numpy as np
    import pyarrow as pa

    kind = pa.timestamp("us", "UTC")
    yield "prediction_id", id_array(b"".join(rows.ids for rows in many))
    yield "time", pa.array(np.frombuffer(b"".join(rows.times for rows in many), "<i8")).view(kind)
    received = np.array([rows.head["received"] for rows in many], np.int64)
    yield "received_at", pa.array(np.repeat(received, [rows.size for rows in many])).view(kind)
    for name in names:
        yield name, _repeated_texts(many, name)


def id_array(content: bytes) -> pa.Array:
    """Ids, one after another, as texts without a copy of each."""
    import numpy as np
    import pyarrow as pa

    from stores.telemetry.wal.ids import ID_LENGTH

    ends = np.arange(0, len(content) + 1, ID_LENGTH, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(content))


def _repeated_texts(many: Sequence[EncodedRows], name: str) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    known: dict[str | None, int] = {}
    codes = [known.setdefault(rows.head.get(name), len(known)) for rows in many]
    return pa.array(list(known), pa.string()).take(pa.array(np.repeat(codes, [rows.size for rows in many])))


def _repeated_numbers(many: Sequence[EncodedRows], name: str) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    values = np.array([rows.head[name] for rows in many], np.float64)
    return pa.array(np.repeat(values, [rows.size for rows in many]))


def _numbers(many: Sequence[EncodedRows]) -> Iterable[tuple[str, pa.Array]]:
    """Numbers by name; what is no number is missing."""
    import numpy as np
    import pyarrow as pa

    together = np.concatenate([rows.floats for rows in many], axis=1)
    for name, values in zip(many[0].names, together, strict=True):
        yield name, pa.array(values, from_pandas=True)


def _probabilities(many: Sequence[EncodedRows], kinds: Mapping[str, str]) -> Iterable[tuple[str, pa.Array]]:
    """What only multiclass models answer; nothing at all when there are none."""
    import pyarrow as pa

    for name, kind in kinds.items():
        if any(rows.head.get(name) is not None for rows in many):
            yield name, pa.array(_listed(many, name), pa.string() if kind == "text" else pa.list_(pa.float64()))


def _texts(many: Sequence[EncodedRows], *, prefix: str) -> Iterable[tuple[str, pa.Array]]:
    import pyarrow as pa

    for name in many[0].head["texts"]:
        yield prefix + name, pa.array([v for rows in many for v in rows.head["texts"][name]], pa.string())


def _listed(many: Sequence[EncodedRows], name: str) -> list[Any]:
    """A column that a record has for all its rows or not at all."""
    return [v for rows in many for v in (rows.head.get(name) or [None] * rows.size)]


def label_table(records: Iterable[Frame]) -> pa.Table | None:
    """The labels in *records* in the order they arrived, or None. A label is a number (booleans too) or a text."""
    import orjson
    import pyarrow as pa

    ids: list[str] = []
    arrived: list[int] = []
    times: list[int | None] = []
    number: list[float | None] = []
    text: list[str | None] = []
    for record in records:
        content = orjson.loads(record.payload)
        ids += content["ids"]
        times += content["times"]
        arrived += [content["received"]] * len(content["ids"])
        number += [float(v) if isinstance(v, int | float) else None for v in content["labels"]]
        text += [None if isinstance(v, int | float) else str(v) for v in content["labels"]]  # of null too
    if not ids:
        return None
    return pa.table(
        {
            "prediction_id": pa.array(ids, pa.string()),
            "number": pa.array(number, pa.float64()),
            "text": pa.array(text, pa.string()),
            "label_time": pa.array(times, pa.timestamp("us", "UTC")),
            "received_at": pa.array(arrived, pa.timestamp("us", "UTC")),
        }
    )
