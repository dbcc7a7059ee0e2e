"""Pending requests, and the microbatch in which several of them are scored together. `batch_scorer` makes and fills a
microbatch; `serving.codecs` reads the answers from it."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.models.inference import ChallengerResult
from serving.models.loaded import LoadedModel, ServingState
from trimtab.data.arrays import Mask
from trimtab.model.scoring import Scores
from trimtab.requests.rows import ParsedRows

Encode = Callable[["MicroBatch", "PredictRequest"], bytes]


@dataclass(slots=True)
class PredictRequest:
    """A pending request: *size* rows in *raw*, which start at index *first* of the microbatch. In the end it has an
    `answer` or an `error`. *deadline* is in seconds of the monotonic clock."""

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
    """Requests that were scored together by the champion of one *state*; *raw* and *rows* are all their rows.

    *by_challenger* marks the rows that are assigned to the challenger (None: no row), *answered* those that it did
    answer. *result* is the challenger's output, once it has scored the rows.
    """

    state: ServingState
    champion: LoadedModel
    requests: list[PredictRequest]
    raw: Any
    rows: ParsedRows
    received_us: int
    ids: list[str]
    scores: Scores
    champion_s: float
    by_challenger: Mask | None = None
    answered: Mask | None = None
    result: ChallengerResult | None = None
    recorded: bool = False
    champion_answers: list[dict[str, Any]] | None = None

    def needs_challenger(self, request: PredictRequest) -> bool:
        """Whether any row of *request* is assigned to the challenger."""
        if self.by_challenger is None:
            return False
        return bool(self.by_challenger[request.first : request.first + request.size].any())

    def answers(self, first: int, last: int) -> list[dict[str, Any]]:
        """The answers to the rows from *first* up to *last*, each by the arm that answered it."""
        if self.champion_answers is None:
            self.champion_answers = self.scores.answers()
        given = self.champion_answers[first:last]
        if self.answered is not None and self.result is not None:
            for i in np.flatnonzero(self.answered[first:last]).tolist():
                given[i] = self._challenger_answer(first + i, self.result)
        return given

    def _challenger_answer(self, index: int, result: ChallengerResult) -> dict[str, Any]:
        one = Scores(
            self.scores.task,
            result.prediction[index : index + 1],
            () if self.state.challenger is None else self.state.challenger.scorer.classes,
            None if result.labels is None else (result.labels[index],),
            None if result.probabilities is None else result.probabilities[index : index + 1],
        )
        return one.answers()[0]
