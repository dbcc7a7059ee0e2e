"""Requests and answers in Arrow, and malformed streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from serving.app import ModelServer
from stores.telemetry import predictions
from tests.ports import free_port
from tests.serving.asgi import server_of, together
from tests.serving.conftest import ServerHome
from tests.serving.sample_project import flights
from trimtab.data.types import Task
from trimtab.rollout.assignment import bucket

STREAM = "application/vnd.apache.arrow.stream"
BOTH = {"Content-Type": STREAM, "Accept": STREAM}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    """A state folder with a live release, and a challenger that answers half of the keys."""
    place = ServerHome(tmp_path_factory.mktemp("arrow"), free_port())
    other = place.release(version=2, seed=5).digest
    place.go_live(place.release().digest, challenger=other, share=0.5, rollout="half")
    return place


@pytest.fixture(scope="module")
def server(there: ServerHome) -> Iterator[ModelServer]:
    """A server in this process."""
    made = server_of(there, max_rows=1000, challenger_s=5.0)
    yield made
    made.recorder.close()
    made.guard.close()


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def sent(rows: int = 300) -> pd.DataFrame:
    return flights(rows, seed=9).drop(columns="late")


def read(content: bytes) -> pd.DataFrame:
    found: pd.DataFrame = pa.ipc.open_stream(content).read_all().to_pandas()
    return found


def test_arrow_gets_the_same_answers_as_json(there: ServerHome, server: ModelServer) -> None:
    rows = sent()
    status, answer = together(server, "/predict", [stream(pa.Table.from_pandas(rows))], headers=BOTH)[0]
    assert status == 200, answer
    found = read(answer)
    text = rows.assign(scheduled=rows["scheduled"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    objects = text.astype(object).where(text.notna(), None).to_dict("records")
    wanted = together(server, "/predict", [{"rows": objects}])[0][1]["predictions"]
    assert found["probability"].tolist() == pytest.approx([p["probability"] for p in wanted], abs=1e-12)
    assert list(found.columns) == ["id", "probability", "release"]
    live = there.ledger.live()
    assert live is not None
    by_other = [bucket("half", tail) < 0.5 for tail in rows["tail"]]
    assert (found["release"] == live.challenger).tolist() == by_other
    kept = predictions(there.telemetry).set_index("prediction_id").loc[found["id"]]
    assert kept["prediction"].tolist() == found["probability"].tolist()
    assert kept["release"].tolist() == found["release"].tolist()
    assert kept["tail"].tolist() == rows["tail"].tolist()
    assert (kept["time"] == rows["scheduled"].to_numpy()).all()


def test_request_and_answer_may_have_different_formats(server: ModelServer) -> None:
    body = stream(pa.Table.from_pandas(sent(3)))
    status, answer = together(server, "/predict", [body], headers={"Content-Type": STREAM})[0]
    assert (status, len(answer["predictions"])) == (200, 3)
    row = {"distance": 900, "hour": 7, "carrier": "UA"}
    status, answer = together(server, "/predict", [{"rows": [row] * 2}], headers={"Accept": f"{STREAM}, */*"})[0]
    assert (status, len(read(answer))) == (200, 2)


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_every_task_has_its_columns(tmp_path_factory: pytest.TempPathFactory, task: Task) -> None:
    place = ServerHome(tmp_path_factory.mktemp(task), free_port())
    other = place.release(task=task, version=2, seed=3).digest
    place.go_live(place.release(task=task).digest, challenger=other, share=0.5, rollout="half")
    server = server_of(place, challenger_s=5.0)
    body = stream(pa.Table.from_pandas(sent(40)))
    found = read(together(server, "/predict", [body], headers=BOTH)[0][1])
    names = ["value"] if task == "regression" else ["label", "probabilities"]
    assert list(found.columns) == ["id", *names, "release"]
    assert set(found["release"]) == set(server.models.digests)
    kept = predictions(place.telemetry).set_index("prediction_id").loc[found["id"]]
    if task == "regression":
        assert kept["prediction"].tolist() == found["value"].tolist()
    else:
        assert kept["predicted_label"].tolist() == found["label"].tolist()
        for label, shares, share in zip(found["label"], found["probabilities"], kept["prediction"], strict=True):
            assert max(shares.values()) == shares[label] == share
    server.recorder.close()
    server.guard.close()


def _bomb() -> bytes:
    """A few kilobytes that claim a billion empty rows."""
    batch = pa.RecordBatch.from_arrays([pa.nulls(10**9)], names=["distance"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _table(**columns: Any) -> bytes:
    return stream(pa.table({"distance": pa.array([1.0, 2.0]), **columns}))


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 422, "not an Arrow stream"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f", 422, "not an Arrow stream"),
        (_table()[:-40], 422, "not an Arrow stream"),
        (_table(speed=pa.array([1, 2])), 422, "unknown field"),
        (_table(hour=pa.array(["a", "b"])), 422, "must be a number"),
        (_table(carrier=pa.array([["UA"], ["DL"]])), 422, "plain values|must be text"),
        (_table(hour=pa.array([[1] * 50, [1]])), 422, "plain values"),
        (stream(pa.table({"distance": pa.array([0.0] * 5000)})), 413, "5000 rows"),
        (stream(pa.table({"distance": pa.array([0.0] * 900)}), "zstd"), 422, "compression"),
        (stream(pa.table({"distance": pa.array([], pa.float64())})), 422, "at least one row"),
        (_bomb(), 413, "rows"),
    ],
    ids=["empty", "huge", "torn", "unknown", "type", "list", "nested", "many", "compressed", "none", "bomb"],
)
def test_malformed_and_oversized_streams_are_rejected(
    server: ModelServer, body: bytes, status: int, problem: str
) -> None:
    got, answer = together(server, "/predict", [body], headers=BOTH)[0]
    assert got == status
    assert pytest.importorskip("re").search(problem, answer["error"]["problem"]), answer


def test_a_stream_with_any_byte_changed_breaks_nothing(server: ModelServer) -> None:
    body = stream(pa.Table.from_pandas(sent(5)[["distance", "carrier"]], preserve_index=False))
    changed = [bytes([*body[:i], body[i] ^ 0x55, *body[i + 1 :]]) for i in range(0, len(body), 7)]
    statuses = {status for status, _ in together(server, "/predict", changed, headers=BOTH)}
    assert statuses <= {200, 413, 422}
    assert 422 in statuses
