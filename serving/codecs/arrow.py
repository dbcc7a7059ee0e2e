"""Decodes requests from Arrow streams and encodes answers as Arrow streams, for many rows at a time. Which columns and
types a row may have is checked in `trimtab.requests`, as for JSON."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from serving.batching.microbatch import Encode, MicroBatch, PredictRequest
from serving.codecs import json
from trimtab.requests.values import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA = b"application/vnd.apache.arrow.stream"
_HEADER, _LENGTH, _NODES, _COMPRESSION = 2, 0, 1, 3  # field numbers in Arrow's format/Message.fbs
_DICTIONARY_DATA = 1


def decode(body: bytes, *, max_rows: int, encoder: Encode = json.encode) -> PredictRequest:
    """The request in *body*, an uncompressed Arrow stream. *encoder* makes its answer. Raises BadInput and TooLarge."""
    import pyarrow as pa

    try:
        for message in _messages(body):
            _check(message, max_rows)
        table = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
        _ = table.schema.names  # decoded as UTF-8 only when they are asked for
    except (pa.ArrowException, OSError, EOFError, struct.error, UnicodeDecodeError) as error:
        raise BadInput(f"the body is not an Arrow stream: {error}") from error
    return PredictRequest(table, json.checked_size(table.num_rows, max_rows), encoder)


def encode(batch: MicroBatch, request: PredictRequest) -> bytes:
    """The answer to one request of a finished microbatch, as an Arrow stream. Its columns are id, the task's output
    (probability, value, or label and probabilities), and the release that answered."""
    import numpy as np
    import pyarrow as pa

    first, last = request.first, request.first + request.size
    arms = np.zeros(request.size, np.bool_) if batch.answered is None else batch.answered[first:last]
    columns: dict[str, Any] = {"id": pa.array(batch.ids[first:last], pa.string())}
    if batch.scores.labels is None:
        name = "value" if batch.scores.task == "regression" else "probability"
        values = batch.scores.prediction[first:last]
        if batch.result is not None:
            values = np.where(arms, batch.result.prediction[first:last], values)
        columns[name] = pa.array(values)
    else:
        answers = batch.answers(first, last)
        columns["label"] = pa.array([str(row["label"]) for row in answers], pa.string())
        columns["probabilities"] = pa.array([row["probabilities"] for row in answers])
    names = [batch.champion.digest, batch.state.challenger_digest or ""]
    columns["release"] = pa.DictionaryArray.from_arrays(pa.array(arms.astype(np.int8)), pa.array(names))
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _messages(body: bytes) -> Any:
    import pyarrow as pa

    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        yield message


def _check(message: pa.Message, max_rows: int) -> None:
    """Reject what would take much more memory than its bytes: compressed columns, and lengths that the body does not
    have. Only the message's metadata is read for this. Raises BadInput and TooLarge."""
    if message.type not in ("record batch", "dictionary"):
        return
    head = message.metadata.to_pybytes()
    at = _table(head, struct.unpack_from("<I", head)[0], _HEADER)
    if at is not None and message.type == "dictionary":
        at = _table(head, at, _DICTIONARY_DATA)
    if at is None:
        return
    if _field(head, at, _COMPRESSION) is not None:
        raise BadInput("compressed Arrow is not accepted: send the stream without compression")
    length = _field(head, at, _LENGTH)
    rows = 0 if length is None else struct.unpack_from("<q", head, length)[0]
    json.checked_size(max(1, rows), max_rows)
    nodes = _field(head, at, _NODES)
    if nodes is not None:
        nodes += struct.unpack_from("<I", head, nodes)[0]
        for i in range(struct.unpack_from("<I", head, nodes)[0]):
            if struct.unpack_from("<q", head, nodes + 4 + 16 * i)[0] > max(1, rows):
                raise BadInput("columns must hold plain values, one for each row")


def _field(head: bytes, table: int, number: int) -> int | None:
    """The offset of a field of a flatbuffer's table, or None when the field is absent."""
    vtable = table - struct.unpack_from("<i", head, table)[0]
    slot = 4 + 2 * number
    if slot + 2 > struct.unpack_from("<H", head, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", head, vtable + slot)[0]
    return table + offset if offset else None


def _table(head: bytes, table: int, number: int) -> int | None:
    """The offset of the table that a field points at, or None."""
    at = _field(head, table, number)
    return None if at is None else at + int(struct.unpack_from("<I", head, at)[0])
