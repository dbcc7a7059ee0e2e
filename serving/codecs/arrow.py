"""Requests and answers as Arrow streams, for many rows at a time. Which columns and types a row may have is
`trimtab.requests.parser`'s business, as for JSON."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from serving.batching.microbatch import Encode, MicroBatch, PredictRequest
from serving.codecs.json import checked_size, encode
from trimtab.requests.parser import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA = b"application/vnd.apache.arrow.stream"
_HEADER, _LENGTH, _NODES, _COMPRESSION = 2, 0, 1, 3  # places of fields in Arrow's format/Message.fbs
_DICTIONARY_DATA = 1


def question(body: bytes, *, max_rows: int, answer: Encode = encode) -> PredictRequest:
    """What a body in Arrow's streaming format asks. Raises BadInput, TooLarge."""
    import pyarrow as pa

    try:
        for message in _messages(body):
            _check(message, max_rows)
        table = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
    except (pa.ArrowException, OSError, EOFError, struct.error, UnicodeDecodeError) as error:
        raise BadInput(f"the body is no Arrow stream: {error}") from error
    return PredictRequest(table, checked_size(table.num_rows, max_rows), answer)


def answer(round: MicroBatch, question: PredictRequest) -> bytes:
    """The answer to one question of a closed round: columns id, what the task has (probability, value, or label and
    probabilities), and the release that answered."""
    import numpy as np
    import pyarrow as pa

    first, last = question.first, question.first + question.size
    arms = np.zeros(question.size, np.bool_) if round.answered is None else round.answered[first:last]
    columns: dict[str, Any] = {"id": pa.array(round.ids[first:last], pa.string())}
    if round.scores.labels is None:
        name = "value" if round.scores.task == "regression" else "probability"
        values = round.scores.prediction[first:last]
        if round.outcome is not None:
            values = np.where(arms, round.outcome.prediction[first:last], values)
        columns[name] = pa.array(values)
    else:
        given = round.answers(first, last)
        columns["label"] = pa.array([str(row["label"]) for row in given], pa.string())
        columns["probabilities"] = pa.array([row["probabilities"] for row in given])
    names = [round.champion.digest, round.state.challenger_digest or ""]
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
    """Refuse what would take much more memory than its bytes: compressed columns, and lengths that no bytes stand
    behind. Nothing but the message's head has been looked at by then."""
    if message.type not in ("record batch", "dictionary"):
        return
    head = message.metadata.to_pybytes()
    at = _table(head, struct.unpack_from("<I", head)[0], _HEADER)
    if at is not None and message.type == "dictionary":
        at = _table(head, at, _DICTIONARY_DATA)
    if at is None:
        return
    if _field(head, at, _COMPRESSION) is not None:
        raise BadInput("compressed Arrow is not taken: send the stream without compression")
    length = _field(head, at, _LENGTH)
    rows = 0 if length is None else struct.unpack_from("<q", head, length)[0]
    checked_size(max(1, rows), max_rows)
    nodes = _field(head, at, _NODES)
    if nodes is not None:
        nodes += struct.unpack_from("<I", head, nodes)[0]
        for i in range(struct.unpack_from("<I", head, nodes)[0]):
            if struct.unpack_from("<q", head, nodes + 4 + 16 * i)[0] > max(1, rows):
                raise BadInput("columns must hold plain values, one for each row")


def _field(head: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table is, or None when it has its default."""
    vtable = table - struct.unpack_from("<i", head, table)[0]
    slot = 4 + 2 * number
    if slot + 2 > struct.unpack_from("<H", head, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", head, vtable + slot)[0]
    return table + offset if offset else None


def _table(head: bytes, table: int, number: int) -> int | None:
    """Where the table that a field points at begins."""
    at = _field(head, table, number)
    return None if at is None else at + int(struct.unpack_from("<I", head, at)[0])
