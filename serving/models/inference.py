"""Asking the models: the champion, who has to answer, and the challenger, who may fail in any way without costing a
user anything. Rows in, checked numbers out; who answers which row is decided in `serving.batching.microbatch`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.models.loaded import LoadedModel
from trimtab.data.arrays import Floats
from trimtab.model.scoring import Scores
from trimtab.requests.rows import ParsedRows

_CALLS = 64
_TEXT = 200
_ROUNDING = 1e-9
Indices = np.ndarray[Any, np.dtype[np.intp]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class ChampionFailed(Exception):
    """The champion gave no answer, and nobody else may."""


@dataclass(slots=True)
class ChallengerResult:
    """What a challenger said. *prediction* is nan where it said nothing usable, and *errors* says why where it was more
    than a missing number; *usable* marks the rows that may be answered with it. *seconds* is the first call's time."""

    prediction: Floats
    usable: Mask
    seconds: float
    scores: Scores | None = None
    probabilities: Floats | None = None
    labels: list[Any] | None = None
    errors: list[str | None] | None = None


def score_champion(loaded: LoadedModel, rows: ParsedRows) -> tuple[Scores, float]:
    """The champion's scores and how long they took. Raises ChampionFailed when it raises or a row has no number."""
    started = time.perf_counter()
    try:
        scores = loaded.scorer.score_rows(rows)
        problem = shape_problem(scores, loaded, rows.size)
    except (Exception, SystemExit) as error:
        raise ChampionFailed(f"the model failed: {_text(error)}") from error
    seconds = time.perf_counter() - started
    loaded.latency.observe(rows.size, seconds)
    if problem is not None:
        raise ChampionFailed(f"the model failed: {problem}")
    if not (fine := in_range(scores)).all():
        row = int(np.flatnonzero(~fine)[0])
        raise ChampionFailed(f"the model's answer is {scores.prediction[row]}, which is no answer")
    return scores, seconds


def score_challenger(loaded: LoadedModel, rows: ParsedRows, *, patience_s: float) -> ChallengerResult:
    """What the challenger says to each row; never raises. When it raises for all of them together it is asked for
    halves, quarters and so on, so that only the rows that make it raise are charged with the error; that stops after
    some calls or *patience_s*, and what is left then is charged with the last error."""
    outcome = ChallengerResult(np.full(rows.size, np.nan), np.zeros(rows.size, dtype=np.bool_), 0.0)
    asking = _Bisection(loaded, outcome, rows.size)
    started = time.perf_counter()
    everything = np.arange(rows.size)
    error = asking.once(rows, everything)
    outcome.seconds = time.perf_counter() - started
    loaded.latency.observe(rows.size, outcome.seconds)
    if error is not None:
        asking.deadline = time.perf_counter() + patience_s
        asking.split(rows, everything, error)
    return outcome


@dataclass(slots=True)
class _Bisection:
    """One attempt at getting as much as possible out of a challenger."""

    loaded: LoadedModel
    outcome: ChallengerResult
    size: int
    calls: int = 0
    deadline: float = 0.0

    def once(self, rows: ParsedRows, at: Indices) -> str | None:
        """Ask for *rows*, which stand at the places *at*; returns the error's text when there is no answer."""
        self.calls += 1
        try:
            scores = self.loaded.scorer.score_rows(rows)
            if (problem := shape_problem(scores, self.loaded, rows.size)) is not None:
                return problem
            self._keep(scores, at)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code: whatever it raises is its own error
            return _text(error)
        return None

    def split(self, rows: ParsedRows, at: Indices, error: str) -> None:
        """Find the rows that *error* is about."""
        if len(at) == 1 or self.calls + 2 > _CALLS or time.perf_counter() > self.deadline:
            self._charge(at, error)
            return
        middle = len(at) // 2
        for part in (np.arange(middle), np.arange(middle, len(at))):
            some = take(rows, part)
            if (problem := self.once(some, at[part])) is not None:
                self.split(some, at[part], problem)

    def _keep(self, scores: Scores, at: Indices) -> None:
        outcome, fine = self.outcome, in_range(scores)
        if len(at) == self.size:
            outcome.scores = scores
        numbers = np.isfinite(scores.prediction)
        outcome.prediction[at[numbers]] = scores.prediction[numbers]
        outcome.usable[at] = fine
        if scores.probabilities is not None and scores.labels is not None:
            if outcome.probabilities is None or outcome.labels is None:
                outcome.probabilities = np.full((self.size, scores.probabilities.shape[1]), np.nan)
                outcome.labels = [None] * self.size
            outcome.probabilities[at] = scores.probabilities
            for place, label in zip(at.tolist(), scores.labels, strict=True):
                outcome.labels[place] = label
        if not fine.all():
            for place in at[numbers & ~fine].tolist():
                self._error(place, f"out of range: {outcome.prediction[place]}")
                outcome.prediction[place] = np.nan

    def _charge(self, at: Indices, error: str) -> None:
        for place in at.tolist():
            self._error(place, error)

    def _error(self, place: int, text: str) -> None:
        if self.outcome.errors is None:
            self.outcome.errors = [None] * self.size
        self.outcome.errors[place] = text


def take(rows: ParsedRows, at: Indices) -> ParsedRows:
    """The rows at the places *at*."""
    places = at.tolist()

    def some(column: Any) -> Any:
        return column[at] if isinstance(column, np.ndarray) else [column[i] for i in places]

    return replace(
        rows,
        size=len(places),
        columns={name: some(column) for name, column in rows.columns.items()},
        recorded={name: some(column) for name, column in rows.recorded.items()},
        time_us=rows.time_us[at],
    )


def absent(size: int, reason: str) -> ChallengerResult:
    """What a challenger that could not be asked at all said."""
    errors: list[str | None] = [reason[:_TEXT]] * size
    return ChallengerResult(np.full(size, np.nan), np.zeros(size, dtype=np.bool_), 0.0, errors=errors)


def shape_problem(scores: Scores, loaded: LoadedModel, size: int) -> str | None:
    """What is wrong with the shape of an answer to *size* rows, or None."""
    if scores.prediction.shape != (size,):
        return f"{size} rows were answered with a prediction of shape {scores.prediction.shape}"
    if loaded.scorer.task == "multiclass":
        expected = (size, len(loaded.scorer.classes))
        if scores.probabilities is None or scores.probabilities.shape != expected:
            got = None if scores.probabilities is None else scores.probabilities.shape
            return f"{size} rows were answered with probabilities of shape {got}, expected {expected}"
    return None


def in_range(scores: Scores) -> Mask:
    """Which rows have an answer that means something: finite, and a probability between 0 and 1."""
    prediction = scores.prediction
    if scores.task == "regression":
        return np.isfinite(prediction)
    fine = (prediction >= -_ROUNDING) & (prediction <= 1 + _ROUNDING)  # false for nan
    if scores.probabilities is not None:
        shares = scores.probabilities
        fine &= ((shares >= -_ROUNDING) & (shares <= 1 + _ROUNDING)).all(axis=1)
    return np.asarray(fine)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_TEXT]
