"""Decodes requests and labels from JSON, and encodes answers as JSON. `serving.http.asgi` does HTTP itself,
`serving.codecs.arrow` the same for Arrow."""

from __future__ import annotations

import time
from typing import Any

import orjson

from serving.batching.microbatch import Encode, MicroBatch, PredictRequest
from serving.exceptions import TooLarge
from serving.metrics.server import ServerMetrics
from serving.models.loaded import LoadedModel
from stores.telemetry import LabelCounts, Recorder
from stores.telemetry.wal.ids import is_prediction_id
from trimtab.data.labels import MAX_CHARACTERS, LabelRule, NoLabel
from trimtab.requests.values import BadInput, parse_time

_SHAPE = 'must be {"rows": [{…}, …]}, {"columns": {"…": […], …}} or one row'


def decode(body: bytes, *, max_rows: int, encoder: Encode | None = None) -> PredictRequest:
    """The request in a body of ``POST /predict``. *encoder* makes its answer; JSON if None. Raises BadInput and
    TooLarge."""
    content = _parsed(body)
    raw: Any = [content]
    size = 1
    if type(content) is dict and len(content) == 1:
        if "rows" in content:
            raw = content["rows"]
            if type(raw) is not list:
                raise BadInput(_SHAPE)
            size = len(raw)
        elif "columns" in content:
            raw = content["columns"]
            if type(raw) is not dict:
                raise BadInput(_SHAPE)
            size = max((len(values) for values in raw.values() if isinstance(values, list)), default=0)
    return PredictRequest(raw, checked_size(size, max_rows), encoder or encode)


def checked_size(rows: int, max_rows: int) -> int:
    """*rows*, if a request may have that many. Raises BadInput for 0 and TooLarge beyond *max_rows*."""
    if rows == 0:
        raise BadInput("must have at least one row")
    if rows > max_rows:
        raise TooLarge(f"{rows} rows; at most {max_rows} in one request (TRIMTAB_MAX_ROWS)")
    return rows


def encode(batch: MicroBatch, request: PredictRequest) -> bytes:
    """The answer to one request of a finished microbatch. When both arms answered rows of it, the answer's release is
    the champion and the challenger's rows name theirs."""
    first, last = request.first, request.first + request.size
    answers = [{"id": i, **answer} for i, answer in zip(batch.ids[first:last], batch.answers(first, last), strict=True)]
    release: LoadedModel = batch.champion
    challenger = batch.state.challenger
    if batch.answered is not None and challenger is not None:
        by_challenger = batch.answered[first:last].tolist()
        if all(by_challenger):
            release = challenger
        else:
            other = {"release": challenger.digest, "version": challenger.version}
            answers = [{**a, **other} if is_other else a for a, is_other in zip(answers, by_challenger, strict=True)]
    return orjson.dumps({"release": release.digest, "version": release.version, "predictions": answers})


def _parsed(body: bytes) -> Any:
    """The JSON in *body*. Raises BadInput."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = " (NaN is no JSON: send null)" if b"NaN" in body else ""
        raise BadInput(f"the body is not JSON: {error}{hint}") from error


def record_labels(
    body: bytes, recorder: Recorder, metrics: ServerMetrics, *, max_rows: int, rule: LabelRule | None = None
) -> LabelCounts:
    """Record the labels in a body of ``POST /labels``: all, or none when it raises TooLarge, BadInput or Unwritable.

    *rule* is that of the live release. Without one, as before the first model, every short label is recorded.
    """
    content = _parsed(body)
    rows = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise BadInput('must be {"labels": [{"id": …, "label": …}, …]}')
    if len(rows) > max_rows:
        raise TooLarge(f"{len(rows)} labels; at most {max_rows} in one request (TRIMTAB_MAX_ROWS)")
    times = [_checked_label(i, row) for i, row in enumerate(rows)]
    counts = recorder.labels(
        [row["id"] for row in rows],
        [_read_label(i, row["label"], rule) for i, row in enumerate(rows)],
        received_us=time.time_ns() // 1000,
        times_us=times,
    )
    for outcome in ("accepted", "duplicates", "conflicts"):
        metrics.labels.labels(outcome).inc(getattr(counts, outcome))
    return counts


def _checked_label(index: int, row: Any) -> int | None:
    """The time of a label in microseconds of Unix time, or None. Raises BadInput when *row* is not a label."""
    if type(row) is not dict:
        raise BadInput("a label must be an object", row=index, got=row)
    if unknown := row.keys() - {"id", "label", "time"}:
        name = min(unknown)
        raise BadInput("unknown field", row=index, field=name, got=row[name])
    if not is_prediction_id(row.get("id")):
        raise BadInput("must be an id that /predict answered", row=index, field="id", got=row.get("id"))
    if type(row.get("label")) not in (str, int, float, bool):
        raise BadInput("must be a number, a text, true or false", row=index, field="label", got=row.get("label"))
    at = row.get("time")
    if at is None:
        return None
    try:
        return parse_time(at)
    except (TypeError, ValueError) as error:
        raise BadInput(
            "must be a time like 2013-03-01T05:00:00Z, between 1700 and 2261", row=index, field="time", got=at
        ) from error


def _read_label(index: int, value: Any, rule: LabelRule | None) -> Any:
    """The label as it is recorded. Raises BadInput for a value that is no label of the task."""
    try:
        if rule is None:
            if isinstance(value, str) and len(value) > MAX_CHARACTERS:
                raise NoLabel(f"must have at most {MAX_CHARACTERS} characters")
            return value
        label = rule.read(value)
        if label is None:
            raise NoLabel("must not be missing")
    except NoLabel as error:
        raise BadInput(str(error), row=index, field="label", got=value) from error
    return label
