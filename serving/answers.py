"""From a request's bytes to an answer's bytes, by way of telemetry: parse, understand, score, record, encode. Runs in
worker threads; HTTP itself is `serving.app`'s business. Batching several requests into one call to the model will
go between `understand` and `record`."""

from __future__ import annotations

import time
from typing import Any

import orjson

from serving.metrics import Metrics
from serving.roster import Loaded, Roster
from stores.telemetry import LabelCounts, Recorder, Unwritable
from stores.telemetry.ids import is_prediction_id
from trimtab.intake import BadInput, Rows, micros
from trimtab.scoring import Scores


class TooLarge(Exception):
    """More than one request may hold."""


class NoChampion(Exception):
    """No release is live."""


class Answers:
    """What the server can say."""

    def __init__(self, roster: Roster, recorder: Recorder, metrics: Metrics, *, max_rows: int) -> None:
        self._roster, self._recorder, self._metrics = roster, recorder, metrics
        self._max_rows = max_rows

    def predict(self, body: bytes) -> bytes:
        """The answer to ``POST /predict``, recorded before it is given.

        Raises NoChampion, TooLarge, BadInput, Unwritable.
        """
        loaded = self._roster.standing.champion
        if loaded is None:
            raise NoChampion
        now_us = time.time_ns() // 1000
        rows, scores = loaded.score(self._rows(body), now_us=now_us)
        ids = self._record(loaded, "champion", rows, scores, now_us)
        self._metrics.rows.labels(loaded.digest, "champion").inc(rows.size)
        answers = [{"id": i, **answer} for i, answer in zip(ids, scores.answers(), strict=True)]
        version = loaded.bundle.manifest.model_version
        return orjson.dumps({"release": loaded.digest, "version": version, "predictions": answers})

    def _rows(self, body: bytes) -> Any:
        """The rows of a request, or its columns."""
        content = _parsed(body)
        match content:
            case {"rows": list() as rows} if len(content) == 1:
                size = len(rows)
            case {"columns": dict() as rows} if len(content) == 1:
                size = max((len(values) for values in rows.values() if isinstance(values, list)), default=0)
            case {"rows": _} | {"columns": _} if len(content) == 1:
                raise BadInput('must be {"rows": [{…}, …]}, {"columns": {"…": […], …}} or one row')
            case _:
                return [content]
        if size > self._max_rows:
            raise TooLarge(f"{size} rows; at most {self._max_rows} in one request (TRIMTAB_MAX_ROWS)")
        return rows

    def _record(self, loaded: Loaded, arm: str, rows: Rows, scores: Scores, now_us: int) -> list[str]:
        kinds = {f.name: f.kind for f in rows.features}
        return self._recorder.predictions(
            release=loaded.digest,
            arm=arm,
            received_us=now_us,
            times_us=rows.time_us.tolist(),
            numbers={n: c for n, c in rows.columns.items() if kinds[n] == "number"},
            texts={**rows.recorded, **{n: c for n, c in rows.columns.items() if kinds[n] == "category"}},
            prediction=scores.prediction,
            labels=scores.labels,
            probabilities=None if scores.probabilities is None else scores.probabilities.tolist(),
        )

    def labels(self, body: bytes) -> LabelCounts:
        """Record the labels of ``POST /labels``. Raises TooLarge, BadInput, Unwritable; then none was recorded."""
        content = _parsed(body)
        rows = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(rows, list) or not rows:
            raise BadInput('must be {"labels": [{"id": …, "label": …}, …]}')
        if len(rows) > self._max_rows:
            raise TooLarge(f"{len(rows)} labels; at most {self._max_rows} in one request (TRIMTAB_MAX_ROWS)")
        times = [_checked_label(i, row) for i, row in enumerate(rows)]
        counts = self._recorder.labels(
            [row["id"] for row in rows],
            [row["label"] for row in rows],
            received_us=time.time_ns() // 1000,
            times_us=times,
        )
        for outcome in ("accepted", "duplicates", "conflicts"):
            self._metrics.labels.labels(outcome).inc(getattr(counts, outcome))
        return counts


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = " (NaN is no JSON: send null)" if b"NaN" in body else ""
        raise BadInput(f"the body is not JSON: {error}{hint}") from error


def _checked_label(index: int, row: Any) -> int | None:
    """Refuse what is no label; returns its time."""
    from datetime import datetime

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
        return micros(datetime.fromisoformat(at))
    except (TypeError, ValueError) as error:
        raise BadInput("must be a time like 2013-03-01T05:00:00Z", row=index, field="time", got=at) from error


__all__ = ["Answers", "BadInput", "NoChampion", "TooLarge", "Unwritable"]
