"""Whatever bytes a client sends, a decoder gives rows or an error that the client understands."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.codecs import arrow
from serving.codecs import json as json_codec
from serving.exceptions import TooLarge
from serving.metrics.server import ServerMetrics
from stores.telemetry import LabelCounts, Recorder
from stores.telemetry.wal.ids import new_ids
from tests.fuzzing import damaged, odd_rows, outcomes
from trimtab.data.features import Feature
from trimtab.data.types import Columns
from trimtab.requests.parser import RowParser
from trimtab.requests.values import BadInput

FEATURES = [
    Feature(name="distance", kind="number", nullable=False),
    Feature(name="seats", kind="number"),
    Feature(name="is_late", kind="number", values="boolean"),
    Feature(name="carrier", kind="category"),
    Feature(name="gate", kind="category", values="integer"),
]
PARSER = RowParser(FEATURES, Columns(time="scheduled", id="flight", key="tail", target="late"))
ROW = {
    "distance": 900, "seats": None, "is_late": True, "carrier": "ÜA", "gate": 7,
    "scheduled": "2013-03-01T05:15:00Z", "flight": "F1", "tail": 9007199254740993,
}  # fmt: skip
OTHER = {**ROW, "distance": 1e-300, "seats": 3.5, "carrier": None, "scheduled": None, "flight": None}


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _tables() -> list[pa.Table]:
    plain = pa.table(
        {
            "distance": [1.0, 2.0], "seats": pa.array([1, None], pa.int16()), "is_late": [True, None],
            "carrier": ["ÜA", None], "gate": pa.array([1, 2], pa.int32()), "flight": ["a", "b"], "tail": [1, 2],
            "scheduled": pa.array(np.array(["2013-03-01", "2013-03-02"], "datetime64[us]")),
        }
    )  # fmt: skip
    coded = plain.set_column(3, "carrier", plain["carrier"].dictionary_encode())
    texts = plain.set_column(7, "scheduled", pa.array(["2013-03-01T05:00:00Z", None]))
    return [plain, coded, texts]


BODIES: dict[str, tuple[Callable[[bytes], Any], list[bytes]]] = {
    "json": (
        lambda body: json_codec.decode(body, max_rows=100),
        [json.dumps(body).encode() for body in (
            ROW, {"rows": [ROW, OTHER]}, {"columns": {name: [ROW[name], OTHER[name]] for name in ROW}},
        )],
    ),
    "arrow": (lambda body: arrow.decode(body, max_rows=100), [_stream(table) for table in _tables()]),
}  # fmt: skip


def _parsed(raw: Any) -> int:
    if isinstance(raw, pa.Table):
        rows = PARSER.read_arrow(raw, now_us=0)
    else:
        rows = PARSER.read_columns(raw, now_us=0) if isinstance(raw, dict) else PARSER.read(raw, now_us=0)
    return rows.size


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("media", BODIES)
def test_a_request_is_rows_or_bad_input(media: str) -> None:
    decode, valid = BODIES[media]
    read, refused = outcomes(damaged(valid), lambda body: _parsed(decode(body).raw), (BadInput, TooLarge))
    assert read >= len(valid) and refused


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", ["rows", "columns"])
def test_a_row_of_odd_values_is_rows_or_bad_input(shape: str) -> None:
    def parse(row: dict[str, Any]) -> int:
        return _parsed([row, OTHER] if shape == "rows" else {name: [row[name], OTHER[name]] for name in row})

    read, refused = outcomes(chain([(0, ROW)], odd_rows(ROW)), parse, (BadInput,))
    assert read and refused
    assert parse(ROW) == 2


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[[bytes], LabelCounts]]:
    """Records a body of labels, as the server does."""
    recorder = Recorder(tmp_path)
    metrics = ServerMetrics(tmp_path, recorder)
    yield lambda body: json_codec.record_labels(body, recorder, metrics, max_rows=100)
    recorder.close()


@pytest.mark.timeout(1200)
def test_odd_labels_are_recorded_or_bad_input(record: Callable[[bytes], LabelCounts]) -> None:
    (given,) = new_ids([0])
    valid = {"id": given, "label": 1, "time": "2013-03-01T05:00:00Z"}

    def send(label: dict[str, Any]) -> LabelCounts:
        return record(json.dumps({"labels": [label]}).encode(errors="replace"))

    assert send(valid).accepted == 1
    read, refused = outcomes(odd_rows(valid), send, (BadInput, TooLarge))
    assert read and refused


@pytest.mark.timeout(1200)
def test_labels_are_recorded_or_bad_input(record: Callable[[bytes], LabelCounts]) -> None:
    given = new_ids([0, 0])
    labels = [{"id": given[0], "label": 1, "time": "2013-03-01T05:00:00Z"}, {"id": given[1], "label": "late"}]
    body = json.dumps({"labels": labels}).encode()
    read, refused = outcomes(damaged([body]), record, (BadInput, TooLarge))
    assert read and refused
    assert record(body).accepted + record(body).duplicates
