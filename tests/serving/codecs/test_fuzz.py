"""Whatever bytes a client sends, a decoder gives rows or an error that the client understands."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from serving.codecs import arrow
from serving.codecs import json as json_codec
from serving.exceptions import TooLarge
from serving.metrics.server import ServerMetrics
from stores.telemetry import Recorder
from tests.fuzzing import damaged, explain, odd_rows
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
    read = 0
    for number, body in damaged(valid):
        try:
            read += _parsed(decode(body).raw) > 0
        except (BadInput, TooLarge):
            pass
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(explain(number, body, error))
    assert read >= len(valid), "the valid ones are read"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shape", ["rows", "columns"])
def test_a_row_of_odd_values_is_rows_or_bad_input(shape: str) -> None:
    for number, row in odd_rows(ROW):
        raw: Any = [row, OTHER] if shape == "rows" else {name: [row[name], OTHER[name]] for name in row}
        try:
            _parsed(raw)
        except BadInput:
            pass
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(explain(number, repr(row).encode(), error))


@pytest.mark.timeout(1200)
def test_odd_labels_are_recorded_or_bad_input(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    metrics = ServerMetrics(tmp_path, recorder)
    (given,) = recorder.new_ids([0])
    for number, label in odd_rows({"id": given, "label": 1, "time": "2013-03-01T05:00:00Z"}):
        try:
            body = json.dumps({"labels": [label]}).encode(errors="replace")
            json_codec.record_labels(body, recorder, metrics, max_rows=100)
        except (BadInput, TooLarge):
            pass
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(explain(number, repr(label).encode(), error))
    recorder.close()


@pytest.mark.timeout(1200)
def test_labels_are_recorded_or_bad_input(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    metrics = ServerMetrics(tmp_path, recorder)
    given = recorder.new_ids([0, 0])
    labels = [{"id": given[0], "label": 1, "time": "2013-03-01T05:00:00Z"}, {"id": given[1], "label": "late"}]
    for number, body in damaged([json.dumps({"labels": labels}).encode()]):
        try:
            json_codec.record_labels(body, recorder, metrics, max_rows=100)
        except (BadInput, TooLarge):
            pass
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(explain(number, body, error))
    recorder.close()
