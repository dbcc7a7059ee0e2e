"""One round: requests that are answered together. What the models are asked, which arm answers which row, what is
recorded, and each request's answer. Who calls this when, and on which thread, is `serving.batching.batcher`'s
business."""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.batching.projection import keys, only, spelled, without
from serving.metrics.server import ServerMetrics
from serving.models.crash_guard import CrashGuard
from serving.models.inference import (
    ChallengerResult,
    ChampionFailed,
    Mask,
    absent,
    score_challenger,
    score_champion,
    take,
)
from serving.models.loaded import LoadedModel, ServingState
from stores.telemetry import Recorder
from trimtab.model.scoring import Scores
from trimtab.requests.parser import BadInput
from trimtab.requests.rows import ParsedRows
from trimtab.rollout.assignment import bucket

_NO_ROWS = ParsedRows(0, {}, {}, np.empty(0, dtype=np.int64), ())
Encode = Callable[["MicroBatch", "PredictRequest"], bytes]


@dataclass(slots=True)
class PredictRequest:
    """One request's rows, and what became of them: `answer`, or `error`."""

    raw: Any
    size: int
    encode: Encode
    deadline: float = 0.0
    future: Future[bytes] | None = None
    first: int = 0
    answer: bytes | None = None
    error: Exception | None = None


@dataclass(slots=True)
class MicroBatch:
    """Questions under one state, scored by its champion. *by_challenger* marks the rows that are assigned to the
    challenger, *answered* those that it did answer; *outcome* is what it said, once it was asked."""

    state: ServingState
    champion: LoadedModel
    questions: list[PredictRequest]
    raw: Any
    rows: ParsedRows
    received_us: int
    ids: list[str]
    scores: Scores
    champion_s: float
    by_challenger: Mask | None = None
    answered: Mask | None = None
    outcome: ChallengerResult | None = None
    recorded: bool = False
    champion_answers: list[dict[str, Any]] | None = None

    def concerns_challenger(self, question: PredictRequest) -> bool:
        """Whether a row of *question* is to be answered by the challenger."""
        if self.by_challenger is None:
            return False
        return bool(self.by_challenger[question.first : question.first + question.size].any())

    def answers(self, first: int, last: int) -> list[dict[str, Any]]:
        """What the rows from *first* to *last* are answered, by whom it was."""
        if self.champion_answers is None:
            self.champion_answers = self.scores.answers()
        given = self.champion_answers[first:last]
        if self.answered is not None and self.outcome is not None:
            for i in np.flatnonzero(self.answered[first:last]).tolist():
                given[i] = self._challengers(first + i, self.outcome)
        return given

    def _challengers(self, place: int, outcome: ChallengerResult) -> dict[str, Any]:
        one = Scores(
            self.scores.task,
            outcome.prediction[place : place + 1],
            () if self.state.challenger is None else self.state.challenger.scorer.classes,
            None if outcome.labels is None else (outcome.labels[place],),
            None if outcome.probabilities is None else outcome.probabilities[place : place + 1],
        )
        return one.answers()[0]


class BatchScorer:
    """Opens, scores and closes rounds. Safe to use from several threads, each with a round of its own."""

    def __init__(self, recorder: Recorder, metrics: ServerMetrics, guard: CrashGuard) -> None:
        self._recorder, self._metrics, self._guard = recorder, metrics, guard

    def open(self, state: ServingState, questions: Sequence[PredictRequest]) -> list[MicroBatch]:
        """Understand *questions* together and let the champion score them; those that cannot be answered get their
        error, and the others go on without them. Usually one round; more when only some rows make the champion fail."""
        champion = state.champion
        if champion is None:
            raise ValueError("nobody can answer")
        now_us = time.time_ns() // 1000
        try:
            questions, raw, rows = _understood(state, champion, questions, now_us)
            if not questions:
                return []
            scores, seconds = score_champion(champion, rows)
        except Exception as error:  # noqa: BLE001 - told to the one whose rows they are
            if (half := len(questions) // 2) > 0:
                return self.open(state, questions[:half]) + self.open(state, questions[half:])
            if isinstance(error, ChampionFailed) and state.fallback is not None:
                return self.open(state.fallback, questions)
            questions[0].error = error
            return []
        ids = self._recorder.new_ids(rows.time_us)
        first = 0
        for question in questions:
            question.first = first
            first += question.size
        opened = MicroBatch(state, champion, list(questions), raw, rows, now_us, ids, scores, seconds)
        if state.share > 0 and state.challenger is not None and state.rollout is not None:
            rollout, share = state.rollout, state.share
            chosen = np.array([bucket(rollout, key) < share for key in keys(champion, rows, ids)])
            opened.by_challenger = chosen if chosen.any() else None
        return [opened]

    def challenge(self, round: MicroBatch, *, patience_s: float) -> ChallengerResult:
        """What the challenger makes of the round's rows. Whatever it does, this does not raise. When it does not want
        all rows together, *patience_s* is spent on finding out which of them are to blame."""
        challenger, rows = round.state.challenger, round.rows
        if challenger is None:
            return absent(rows.size, round.state.unavailable_reason or "not there")
        if not round.state.same_input:
            try:
                rows = challenger.read(only(round.raw, challenger.known), now_us=round.received_us)
            except BadInput as error:
                return absent(rows.size, str(error))
        with self._guard.scoring():
            return score_challenger(challenger, rows, patience_s=patience_s)

    def close(self, round: MicroBatch, questions: Sequence[PredictRequest]) -> None:
        """Record and encode the answers to *questions*, by the arm that each row is assigned to as far as the
        challenger has an answer by now, and by the champion otherwise. Each gets its answer, or the error."""
        if not questions:
            return
        whole = len(questions) == len(round.questions)
        at = None if whole else _places(questions)
        try:
            for arm, places, propensity in _parts(round, at):
                self._record(round, arm, places, propensity)
            round.recorded = True
            for question in questions:
                question.answer = question.encode(round, question)
        except Exception as error:  # noqa: BLE001 - told to everybody who asked
            for question in questions:
                question.error = error

    def _record(self, round: MicroBatch, arm: str, places: Any, propensity: float) -> None:
        rows, state, loaded, scores = round.rows, round.state, round.champion, round.scores
        prediction, labels, shares = scores.prediction, scores.labels, scores.probabilities
        ids = round.ids
        if arm == "challenger":
            outcome = round.outcome
            if state.challenger is None or outcome is None:
                raise ValueError("no challenger has answered")
            loaded, prediction, shares = state.challenger, outcome.prediction, outcome.probabilities
            labels = None if outcome.labels is None else tuple(outcome.labels)
        if places is not None:
            rows, prediction = take(rows, places), prediction[places]
            listed = places.tolist()
            ids = [ids[i] for i in listed]
            labels = None if labels is None else tuple(labels[i] for i in listed)
            shares = None if shares is None else shares[places]
        known = round.champion  # whose view of the row is recorded: that of the request
        self._recorder.predictions(
            release=loaded.digest,
            arm=arm,
            received_us=round.received_us,
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

    def pair(self, round: MicroBatch) -> None:
        """Record both models' predictions side by side; never raises. Only what was answered is worth a pair."""
        outcome, state = round.outcome, round.state
        if outcome is None or state.challenger_digest is None or state.rollout is None or not round.recorded:
            return
        shares, others = round.scores.probabilities, outcome.probabilities
        self._recorder.pairs(
            rollout=state.rollout,
            champion=round.champion.digest,
            challenger=state.challenger_digest,
            received_us=round.received_us,
            ids=round.ids,
            times_us=round.rows.time_us,
            by_challenger=None if round.answered is None else round.answered.tolist(),
            champion_prediction=round.scores.prediction,
            challenger_prediction=outcome.prediction,
            champion_probabilities=None if shares is None else shares.tolist(),
            challenger_probabilities=None if others is None else others.tolist(),
            slices={name: spelled(round.rows, name) for name in state.slices},
            errors=outcome.errors,
            champion_us=round.champion_s * 1e6,
            challenger_us=outcome.seconds * 1e6,
        )
        errors = 0 if outcome.errors is None else sum(error is not None for error in outcome.errors)
        missing = round.rows.size - int(np.isfinite(outcome.prediction).sum()) - errors
        self._metrics.observe_challenger(state.challenger_digest, outcome, errors=errors, missing=missing)


def _understood(
    state: ServingState, champion: LoadedModel, questions: Sequence[PredictRequest], now_us: int
) -> tuple[Sequence[PredictRequest], Any, ParsedRows]:
    """The questions that can be understood, what they say, and the rows that they mean. Raises BadInput when there is
    only one and it cannot be; of several, each that cannot gets its error."""
    beside = state.challenger_only_columns
    if len(questions) == 1:
        only = questions[0].raw
        return questions, only, champion.read(without(only, beside), now_us=now_us)
    good: list[PredictRequest] = []
    said: list[Any] = []
    raw: list[Any] = []
    for question in questions:
        rows = without(question.raw, beside)
        try:
            for row in rows:
                champion.intake.admit(row)
        except BadInput as error:
            question.error = error if question.size == 1 else _error_of(champion, rows) or error
        else:
            good.append(question)
            said += question.raw
            raw += rows
    if not good:
        return good, said, _NO_ROWS
    return good, said, champion.intake.read_admitted(raw, now_us=now_us)


def _error_of(champion: LoadedModel, rows: Any) -> BadInput | None:
    """The error of rows that were sent together, which says in which of them it is."""
    try:
        champion.read(rows, now_us=0)
    except BadInput as error:
        return error
    return None


def _parts(round: MicroBatch, at: Any) -> Iterable[tuple[str, Any, float]]:
    """Arm, places (None: all) and propensity of what has to be recorded for the rows *at* (None: all). A row that is
    assigned to a challenger which had no answer is the champion's for certain."""
    share = round.state.share if round.state.challenger is not None else 0.0
    if round.by_challenger is None:
        yield "champion", at, 1 - share
        return
    usable = np.zeros(round.rows.size, dtype=np.bool_) if round.outcome is None else round.outcome.usable
    if round.answered is None:
        round.answered = np.zeros(round.rows.size, dtype=np.bool_)
    asked = np.arange(round.rows.size) if at is None else at
    chosen = round.by_challenger[asked]
    given = chosen & usable[asked]
    round.answered[asked] = given
    for arm, mask, propensity in (
        ("champion", ~chosen, 1 - share),
        ("challenger", given, share),
        ("champion", chosen & ~given, 1.0),
    ):
        if mask.any():
            yield arm, asked[mask], propensity


def _places(questions: Sequence[PredictRequest]) -> Any:
    return np.concatenate([np.arange(q.first, q.first + q.size) for q in questions])
