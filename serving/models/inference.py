"""Runs the models and checks their output. A failing champion makes the request fail; a challenger may fail in any way
without an effect on users. `serving.batching.microbatch` decides which of them answers a row."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.models.loaded import LoadedModel
from trimtab.data.arrays import Floats, Mask
from trimtab.model.scoring import Scores
from trimtab.requests.rows import ParsedRows

_MAX_CALLS = 64
_MAX_ERROR_CHARS = 200
_ROUNDING = 1e-9
Indices = np.ndarray[Any, np.dtype[np.intp]]


class ChampionFailed(Exception):
    """The champion raised or returned invalid output."""


@dataclass(slots=True)
class ChallengerResult:
    """A challenger's output for *n* rows.

    *prediction* (n floats) is NaN and *usable* (n booleans) false where the output is invalid or missing. *errors* has
    a text for every row that failed by more than a missing number; None when there is none. *probabilities* (n by
    classes) and *labels* are there for multiclass. *scores* is the first call's output, if that call succeeded, and
    *seconds* its time.
    """

    prediction: Floats
    usable: Mask
    seconds: float
    scores: Scores | None = None
    probabilities: Floats | None = None
    labels: list[Any] | None = None
    errors: list[str | None] | None = None

    @classmethod
    def missing(cls, size: int, reason: str) -> ChallengerResult:
        """The result for *size* rows of a challenger that could not be called: *reason* is every row's error."""
        errors: list[str | None] = [reason[:_MAX_ERROR_CHARS]] * size
        return cls(np.full(size, np.nan), np.zeros(size, dtype=np.bool_), 0.0, errors=errors)


def score_champion(loaded: LoadedModel, rows: ParsedRows) -> tuple[Scores, float]:
    """The champion's scores, and the seconds that they took. Raises ChampionFailed when the model raises, or any row's
    output is invalid."""
    started = time.perf_counter()
    try:
        scores = loaded.scorer.score_rows(rows)
        problem = shape_problem(scores, loaded, rows.size)
    except (Exception, SystemExit) as error:
        raise ChampionFailed(f"the model failed: {_error_text(error)}") from error
    seconds = time.perf_counter() - started
    loaded.latency.observe(rows.size, seconds)
    if problem is not None:
        raise ChampionFailed(f"the model failed: {problem}")
    if not (valid := in_range(scores)).all():
        row = int(np.flatnonzero(~valid)[0])
        raise ChampionFailed(f"the model's output is {scores.prediction[row]}, which is not valid")
    return scores, seconds


def score_challenger(loaded: LoadedModel, rows: ParsedRows, *, bisect_s: float) -> ChallengerResult:
    """The challenger's output for every row; never raises.

    When the challenger raises for all rows together, halves are scored, then quarters and so on, so that only the rows
    that make it raise get the error. This stops after 64 calls or *bisect_s* seconds; the rows that are left then get
    the last error.
    """
    result = ChallengerResult(np.full(rows.size, np.nan), np.zeros(rows.size, dtype=np.bool_), 0.0)
    bisection = _Bisection(loaded, result, rows.size)
    started = time.perf_counter()
    everything = np.arange(rows.size)
    error = bisection.score(rows, everything)
    result.seconds = time.perf_counter() - started
    loaded.latency.observe(rows.size, result.seconds)
    if error is not None:
        bisection.deadline = time.perf_counter() + bisect_s
        bisection.split(rows, everything, error)
    return result


@dataclass(slots=True)
class _Bisection:
    """Scores rows by a challenger and splits them where it raises."""

    loaded: LoadedModel
    result: ChallengerResult
    size: int
    calls: int = 0
    deadline: float = 0.0

    def score(self, rows: ParsedRows, at: Indices) -> str | None:
        """Score *rows*, whose indices in the microbatch are *at*; the error's text when it fails."""
        self.calls += 1
        try:
            scores = self.loaded.scorer.score_rows(rows)
            if (problem := shape_problem(scores, self.loaded, rows.size)) is not None:
                return problem
            self._keep(scores, at)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a model is foreign code and may raise anything
            return _error_text(error)
        return None

    def split(self, rows: ParsedRows, at: Indices, error: str) -> None:
        """Score both halves of *rows*, which failed together with *error*."""
        if len(at) == 1 or self.calls + 2 > _MAX_CALLS or time.perf_counter() > self.deadline:
            for index in at.tolist():
                self._set_error(index, error)
            return
        middle = len(at) // 2
        for part in (np.arange(middle), np.arange(middle, len(at))):
            half = take(rows, part)
            if (problem := self.score(half, at[part])) is not None:
                self.split(half, at[part], problem)

    def _keep(self, scores: Scores, at: Indices) -> None:
        result, valid = self.result, in_range(scores)
        if len(at) == self.size:
            result.scores = scores
        numbers = np.isfinite(scores.prediction)
        result.prediction[at[numbers]] = scores.prediction[numbers]
        result.usable[at] = valid
        if scores.probabilities is not None and scores.labels is not None:
            if result.probabilities is None or result.labels is None:
                result.probabilities = np.full((self.size, scores.probabilities.shape[1]), np.nan)
                result.labels = [None] * self.size
            result.probabilities[at] = scores.probabilities
            for index, label in zip(at.tolist(), scores.labels, strict=True):
                result.labels[index] = label
        if not valid.all():
            for index in at[numbers & ~valid].tolist():
                self._set_error(index, f"out of range: {result.prediction[index]}")
                result.prediction[index] = np.nan

    def _set_error(self, index: int, text: str) -> None:
        if self.result.errors is None:
            self.result.errors = [None] * self.size
        self.result.errors[index] = text


def take(rows: ParsedRows, at: Indices) -> ParsedRows:
    """The rows at the indices *at*."""
    indices = at.tolist()

    def selected(column: Any) -> Any:
        return column[at] if isinstance(column, np.ndarray) else [column[i] for i in indices]

    return replace(
        rows,
        size=len(indices),
        columns={name: selected(column) for name, column in rows.columns.items()},
        recorded={name: selected(column) for name, column in rows.recorded.items()},
        time_us=rows.time_us[at],
    )


def shape_problem(scores: Scores, loaded: LoadedModel, size: int) -> str | None:
    """What is wrong with the shape of the scores of *size* rows, or None."""
    if scores.prediction.shape != (size,):
        return f"{size} rows gave a prediction of shape {scores.prediction.shape}"
    if loaded.scorer.task == "multiclass":
        expected = (size, len(loaded.scorer.classes))
        if scores.probabilities is None or scores.probabilities.shape != expected:
            got = None if scores.probabilities is None else scores.probabilities.shape
            return f"{size} rows gave probabilities of shape {got}, expected {expected}"
    return None


def in_range(scores: Scores) -> Mask:
    """Which rows have valid output: a finite number and, except for regression, probabilities between 0 and 1."""
    prediction = scores.prediction
    if scores.task == "regression":
        return np.isfinite(prediction)
    valid = (prediction >= -_ROUNDING) & (prediction <= 1 + _ROUNDING)  # false for NaN
    if scores.probabilities is not None:
        shares = scores.probabilities
        valid &= ((shares >= -_ROUNDING) & (shares <= 1 + _ROUNDING)).all(axis=1)
    return np.asarray(valid)


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]
