"""Rows that come as Arrow are understood like the same rows as JSON, and refused for the same reasons."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.trimtab.requests.test_shape_cache import COLUMNS, FEATURES, same
from trimtab.requests.parser import RowParser
from trimtab.requests.values import BadInput

PARSER = RowParser(FEATURES, COLUMNS)
ROWS: list[dict[str, Any]] = [
    {"distance": 900.5, "hour": 7, "carrier": "UA", "gate": 3, "cargo": True, "private": False, "flight": "F1",
     "tail": 7, "scheduled": "2013-03-01T05:00:00"},
    {"distance": 100.0, "hour": None, "carrier": None, "gate": None, "cargo": None, "private": None, "flight": None,
     "tail": None, "scheduled": None},
    {"distance": -1.0, "hour": 2**60 + 1, "carrier": "zürich", "gate": -4, "cargo": False, "private": True,
     "flight": "F3", "tail": 8, "scheduled": "2013-03-01T06:00:00"},
]  # fmt: skip


def changed(name: str, values: Any) -> pa.Table:
    """The rows, with other values in one column."""
    table = pa.Table.from_pylist(ROWS)
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return table.set_column(table.schema.get_field_index(name), name, column)


def no_text() -> pa.Array:
    """A text column whose bytes are no UTF-8, as only a broken or an evil client sends it."""
    ends = pa.array([0, 2], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff\xfe")])


def times(*moments: str | None, unit: str = "us", tz: str | None = None) -> pa.Array:
    stamps = [None if m is None else datetime.fromisoformat(m).replace(tzinfo=UTC if tz else None) for m in moments]
    return pa.array(stamps, type=pa.timestamp(unit, tz=tz))


@pytest.mark.parametrize(
    "table",
    [
        pa.Table.from_pylist(ROWS),
        pa.Table.from_pylist(ROWS).to_batches()[0],
        pa.concat_tables([pa.Table.from_pylist(ROWS).slice(0, 1), pa.Table.from_pylist(ROWS).slice(1)]),
        changed("carrier", pa.array(["UA", None, "zürich"]).dictionary_encode()),
        changed("carrier", pa.array(["UA", None, "zürich"], type=pa.large_string())),
        changed("carrier", pa.array(["UA", None, "zürich"], type=pa.string_view())),
        changed("distance", pa.array([900.5, 100, -1], type=pa.float32())),
        changed("scheduled", times("2013-03-01T05:00:00", None, "2013-03-01T06:00:00", unit="s")),
        changed("scheduled", times("2013-03-01T05:00:00", None, "2013-03-01T06:00:00", unit="ns", tz="Europe/Vienna")),
        changed("tail", ["7", None, "8"]),
    ],
    ids=["table", "batch", "chunks", "dictionary", "large", "view", "float32", "seconds", "zone", "text key"],
)  # fmt: skip
def test_arrow_reads_as_json_does(table: Any) -> None:
    assert same(PARSER.read(ROWS, now_us=5), PARSER.read_arrow(table, now_us=5))


def test_columns_may_be_left_out() -> None:
    sent = [{"distance": 1.0}, {"distance": 2.0}]
    assert same(PARSER.read(sent, now_us=5), PARSER.read_arrow(pa.Table.from_pylist(sent), now_us=5))


def test_numbers_without_gaps_are_not_copied() -> None:
    distances = np.arange(1000.0)
    rows = PARSER.read_arrow(pa.table({"distance": distances}), now_us=0)
    assert np.shares_memory(rows.columns["distance"], distances)


@pytest.mark.parametrize(
    ("table", "field", "row", "problem"),
    [
        (changed("distance", ["a", "b", "c"]), "distance", None, "must be a number"),
        (changed("distance", [1.0, 2.0, None]), "distance", 2, "must not be null"),
        (changed("distance", [1.0, float("nan"), 1.0]), "distance", 1, "must not be null"),
        (changed("distance", [None] * 3), "distance", 0, "must not be null"),
        (changed("distance", [True, False, True]), "distance", None, "must be a number"),
        (changed("hour", [[1], [2], [3]]), "hour", None, "must be a number or null"),
        (changed("carrier", [1.5, 2.0, 3.0]), "carrier", None, "must be text or null"),
        (changed("carrier", pa.array([1.5, 2.0, 3.0]).dictionary_encode()), "carrier", None, "must be text or null"),
        (changed("gate", [1.5, 2.0, 3.0]), "gate", None, "must be an integer or null"),
        (changed("private", [0, 1, 0]), "private", None, "must be true or false or null"),
        (changed("scheduled", [1, 2, 3]), "scheduled", None, "must be a time"),
        (changed("scheduled", ["2013-03-01", "soon", None]), "scheduled", 1, "must be a time"),
        (changed("scheduled", pa.array([0, 2**62, 0], type=pa.timestamp("s"))), "scheduled", None, "between 1700"),
        (changed("scheduled", pa.array([0, 2**62, 0], type=pa.timestamp("us"))), "scheduled", 1, "between 1700"),
        (changed("flight", [1.5, 2.5, 3.5]), "flight", None, "must be text or an integer"),
        (pa.Table.from_pylist(ROWS).drop(["distance"]), "distance", 0, "missing"),
        (pa.table({"distance": [1.0], "speed": [1]}), "speed", None, "unknown field"),
        (pa.table({"distance": [1.0], "late": [1]}), "late", None, "send it to /labels"),
        (pa.table([[1.0], [2.0]], names=["distance", "distance"]), "distance", None, "is there twice"),
        (pa.Table.from_pylist(ROWS).slice(0, 0), None, None, "at least one row"),
        (pa.table({"distance": [1.0], "carrier": no_text()}), None, None, "not valid Arrow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_is_named(table: Any, field: str | None, row: int | None, problem: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        PARSER.read_arrow(table, now_us=0)
    assert (caught.value.field, caught.value.row) == (field, row)
