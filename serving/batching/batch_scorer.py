"""Scores a microbatch: parses its requests, calls the models, assigns an arm to each row, records the predictions and
encodes the answers. `serving.batching.batcher` decides when and on which thread."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from serving.batching.microbatch import MicroBatch, PredictRequest
from serving.batching.projection import as_text, assignment_keys, drop, select
from serving.metrics.server import ServerMetrics
from serving.models.crash_guard import CrashGuard
from serving.models.inference import ChallengerResult, ChampionFailed, score_challenger, score_champion, take
from serving.models.loaded import LoadedModel, ServingState
from stores.telemetry import Recorder
from trimtab.requests.rows import ParsedRows
from trimtab.requests.values import BadInput
from trimtab.rollout.assignment import bucket

_NO_ROWS = ParsedRows(0, {}, {}, np.empty(0, dtype=np.int64), ())


class BatchScorer:
    """Scores microbatches, records them and encodes the answers. Thread-safe, as long as each microbatch is used by one
    thread at a time."""

    def __init__(self, recorder: Recorder, metrics: ServerMetrics, guard: CrashGuard) -> None:
        self._recorder, self._metrics, self._guard = recorder, metrics, guard

    def score_champion(self, state: ServingState, requests: Sequence[PredictRequest]) -> list[MicroBatch]:
        """Parse *requests* together and score them by the champion of *state*.

        Requests that cannot be answered get their error and are left out. The result is usually one microbatch: when
        the champion fails, the requests are split in halves until only those that make it fail are left. These are
        scored by the state's fallback if it has one.
        """
        champion = state.champion
        if champion is None:
            raise ValueError("no release is live")
        now_us = time.time_ns() // 1000
        try:
            requests, raw, rows = _parsed(state, champion, requests, now_us)
            if not requests:
                return []
            scores, seconds = score_champion(champion, rows)
        except Exception as error:  # noqa: BLE001 - becomes the error of the request that caused it
            if (half := len(requests) // 2) > 0:
                return self.score_champion(state, requests[:half]) + self.score_champion(state, requests[half:])
            if isinstance(error, ChampionFailed) and state.fallback is not None:
                return self.score_champion(state.fallback, requests)
            requests[0].error = error
            return []
        ids = self._recorder.new_ids(rows.time_us)
        first = 0
        for request in requests:
            request.first = first
            first += request.size
        batch = MicroBatch(state, champion, list(requests), raw, rows, now_us, ids, scores, seconds)
        if state.share > 0 and state.challenger is not None and state.rollout is not None:
            rollout, share = state.rollout, state.share
            chosen = np.array([bucket(rollout, key) < share for key in assignment_keys(champion, rows, ids)])
            batch.by_challenger = chosen if chosen.any() else None
        return [batch]

    def score_challenger(self, batch: MicroBatch, *, bisect_s: float) -> ChallengerResult:
        """The challenger's output for all rows of *batch*; never raises. When it fails for all rows together, up to
        *bisect_s* seconds are spent on finding the rows that make it fail."""
        challenger, rows = batch.state.challenger, batch.rows
        if challenger is None:
            return ChallengerResult.missing(rows.size, batch.state.unavailable_reason or "not loaded")
        if not batch.state.same_input:
            try:
                rows = challenger.read(select(batch.raw, challenger.known), now_us=batch.received_us)
            except BadInput as error:
                return ChallengerResult.missing(rows.size, str(error))
        with self._guard.scoring():
            return score_challenger(challenger, rows, bisect_s=bisect_s)

    def finish(self, batch: MicroBatch, requests: Sequence[PredictRequest]) -> None:
        """Record and encode the answers to *requests* of *batch*; each gets its answer or the error. A row that is
        assigned to the challenger gets the champion's answer if the challenger has no usable one by now."""
        if not requests:
            return
        whole = len(requests) == len(batch.requests)
        at = None if whole else _indices(requests)
        try:
            for arm, rows, propensity in _arms(batch, at):
                self._record(batch, arm, rows, propensity)
            batch.recorded = True
            for request in requests:
                request.answer = request.encode(batch, request)
        except Exception as error:  # noqa: BLE001 - becomes the error of all these requests
            for request in requests:
                request.error = error

    def _record(self, batch: MicroBatch, arm: str, at: Any, propensity: float) -> None:
        rows, state, loaded, scores = batch.rows, batch.state, batch.champion, batch.scores
        prediction, labels, shares = scores.prediction, scores.labels, scores.probabilities
        ids = batch.ids
        if arm == "challenger":
            result = batch.result
            if state.challenger is None or result is None:
                raise ValueError("the challenger has not scored this microbatch")
            loaded, prediction, shares = state.challenger, result.prediction, result.probabilities
            labels = None if result.labels is None else tuple(result.labels)
        if at is not None:
            rows, prediction = take(rows, at), prediction[at]
            listed = at.tolist()
            ids = [ids[i] for i in listed]
            labels = None if labels is None else tuple(labels[i] for i in listed)
            shares = None if shares is None else shares[at]
        known = batch.champion  # the champion's columns are recorded for both arms
        self._recorder.predictions(
            release=loaded.digest,
            arm=arm,
            received_us=batch.received_us,
            times_us=rows.time_us,
            numbers={name: rows.columns[name] for name in known.numbers},
            texts={**rows.recorded, **{name: rows.columns[name] for name in known.categories}},
            prediction=prediction,
            labels=labels,
            probabilities=None if shares is None else shares.tolist(),
            rollout=state.rollout,
            propensity=propensity,
            ids=ids,
        )
        self._metrics.observe_answers(loaded.digest, arm, len(ids))

    def record_pair(self, batch: MicroBatch) -> None:
        """Record both models' predictions for all rows of *batch*; never raises. A microbatch whose answers were not
        recorded gets no pair."""
        result, state = batch.result, batch.state
        if result is None or state.challenger_digest is None or state.rollout is None or not batch.recorded:
            return
        shares, others = batch.scores.probabilities, result.probabilities
        self._recorder.pairs(
            rollout=state.rollout,
            champion=batch.champion.digest,
            challenger=state.challenger_digest,
            received_us=batch.received_us,
            ids=batch.ids,
            times_us=batch.rows.time_us,
            by_challenger=None if batch.answered is None else batch.answered.tolist(),
            champion_prediction=batch.scores.prediction,
            challenger_prediction=result.prediction,
            champion_probabilities=None if shares is None else shares.tolist(),
            challenger_probabilities=None if others is None else others.tolist(),
            slices={name: as_text(batch.rows, name) for name in state.slices},
            errors=result.errors,
            champion_us=batch.champion_s * 1e6,
            challenger_us=result.seconds * 1e6,
        )
        errors = 0 if result.errors is None else sum(error is not None for error in result.errors)
        missing = batch.rows.size - int(np.isfinite(result.prediction).sum()) - errors
        self._metrics.observe_challenger(
            state.challenger_digest, result.seconds, rows=batch.rows.size, errors=errors, missing=missing
        )


def _parsed(
    state: ServingState, champion: LoadedModel, requests: Sequence[PredictRequest], now_us: int
) -> tuple[Sequence[PredictRequest], Any, ParsedRows]:
    """The valid requests, their raw rows and their parsed rows. Each invalid request gets its error; if it is the only
    request, BadInput is raised instead."""
    extra = state.challenger_only_columns
    if len(requests) == 1:
        only = requests[0].raw
        return requests, only, champion.read(drop(only, extra), now_us=now_us)
    valid: list[PredictRequest] = []
    sent: list[Any] = []
    raw: list[Any] = []
    for request in requests:
        rows = drop(request.raw, extra)
        try:
            for row in rows:
                champion.parser.check_fast(row)
        except BadInput as error:
            request.error = error if request.size == 1 else _error_of(champion, rows) or error
        else:
            valid.append(request)
            sent += request.raw
            raw += rows
    if not valid:
        return valid, sent, _NO_ROWS
    return valid, sent, champion.parser.read_checked(raw, now_us=now_us)


def _error_of(champion: LoadedModel, rows: Any) -> BadInput | None:
    """The error of rows that were sent together; it names the row."""
    try:
        champion.read(rows, now_us=0)
    except BadInput as error:
        return error
    return None


def _arms(batch: MicroBatch, at: Any) -> Iterable[tuple[str, Any, float]]:
    """Arm, row indices (None: all) and propensity of what has to be recorded for the rows *at* (None: all). A row that
    is assigned to the challenger but answered by the champion, as the challenger's output is missing, has propensity
    1."""
    share = batch.state.share if batch.state.challenger is not None else 0.0
    if batch.by_challenger is None:
        yield "champion", at, 1 - share
        return
    usable = np.zeros(batch.rows.size, dtype=np.bool_) if batch.result is None else batch.result.usable
    if batch.answered is None:
        batch.answered = np.zeros(batch.rows.size, dtype=np.bool_)
    rows = np.arange(batch.rows.size) if at is None else at
    chosen = batch.by_challenger[rows]
    given = chosen & usable[rows]
    batch.answered[rows] = given
    for arm, mask, propensity in (
        ("champion", ~chosen, 1 - share),
        ("challenger", given, share),
        ("champion", chosen & ~given, 1.0),
    ):
        if mask.any():
            yield arm, rows[mask], propensity


def _indices(requests: Sequence[PredictRequest]) -> Any:
    return np.concatenate([np.arange(r.first, r.first + r.size) for r in requests])
