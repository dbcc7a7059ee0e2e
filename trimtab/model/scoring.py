"""Score rows with a model, in the same way for every task. `trimtab.evaluation.metrics` measures the predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.data.features import Feature, frame
from trimtab.predictors.compile import SCIKIT_LEARN

if TYPE_CHECKING:
    import pandas as pd

    from trimtab.data.types import Label, Task
    from trimtab.predictors.compile import Predictor
    from trimtab.requests.rows import ParsedRows


@dataclass(frozen=True)
class Scores:
    """Predictions of n rows.

    *prediction*, shape (n,), is the probability of the positive class (binary), the value (regression), or the
    probability of the predicted label (multiclass). Only multiclass has *labels*, the n predicted labels, and
    *probabilities*, shape (n, classes) in the order of *classes*.
    """

    task: Task
    prediction: Floats
    classes: tuple[Label, ...] = ()
    labels: tuple[Label, ...] | None = None
    probabilities: Floats | None = None

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.prediction)

    def take(self, rows: np.ndarray[Any, Any]) -> Scores:
        """The scores of the rows *rows*: a mask of shape (n,), or indices."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        labels = None if self.labels is None else tuple([self.labels[i] for i in index.tolist()])
        shares = None if self.probabilities is None else self.probabilities[index]
        return Scores(self.task, self.prediction[index], self.classes, labels, shares)

    def answers(self) -> list[dict[str, Any]]:
        """One JSON object for each row, as clients receive them and as samples.json stores them.

        >>> Scores("binary", np.array([0.25])).answers()
        [{'probability': 0.25}]
        """
        if self.labels is None or self.probabilities is None:
            name = "value" if self.task == "regression" else "probability"
            return [{name: p} for p in self.prediction.tolist()]
        names = [str(c) for c in self.classes]
        return [
            {"label": label, "probabilities": dict(zip(names, row, strict=True))}
            for label, row in zip(self.labels, self.probabilities.tolist(), strict=True)
        ]


class Scorer:
    """A fitted pipeline with its task, features and classes. Safe to call from many threads.

    *fast* is the compiled predictor, or None; *reason* says why it is used or not. Raises ValueError when *classes*
    are not the classes of *model*; their order decides the order of the predictions.
    """

    def __init__(
        self,
        model: Any,
        *,
        task: Task,
        features: Sequence[Feature],
        classes: Sequence[Label] = (),
        fast: Predictor | None = None,
        reason: str = "",
    ) -> None:
        self.task, self.features, self.classes = task, tuple(features), tuple(classes)
        self.model, self.reason = model, reason
        self._fast = fast
        self._order: list[int] = []
        if task != "regression":
            known = [c.item() if hasattr(c, "item") else c for c in model.classes_]
            if set(known) != set(self.classes):
                raise ValueError(f"the model knows the classes {known}, its manifest says {list(self.classes)}")
            self._order = [known.index(c) for c in self.classes]
        self._in_order = self._order == list(range(len(self._order)))

    @property
    def backend(self) -> str:
        """The backend that `score_rows` uses."""
        return self._fast.backend if self._fast else SCIKIT_LEARN

    def score(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Scores:
        """Score *rows* with scikit-learn. They may have more columns than the model's features."""
        return self.score_frame(frame(rows, self.features))

    def score_rows(self, rows: ParsedRows) -> Scores:
        """Score rows that a `RowParser` of this model parsed, with the compiled predictor when there is one."""
        if self._fast is None:
            return self.score_frame(rows.frame())
        return self._scores(self.predict_fast(self._fast, rows.columns, rows.size))

    def score_frame(self, table: pd.DataFrame) -> Scores:
        """Score a frame made by `features.frame` or `features.assemble` with scikit-learn."""
        return self._scores(self.predict_sklearn(table))

    def predict_sklearn(self, table: pd.DataFrame) -> Floats:
        """scikit-learn's predictions: shape (n,) for regression (the value) and binary (the probability of the positive
        class), else shape (n, classes) in the order of *classes*."""
        if self.task == "regression":
            return np.asarray(self.model.predict(table), dtype=np.float64)
        shares = np.asarray(self.model.predict_proba(table), dtype=np.float64)
        return np.ascontiguousarray(shares[:, self._order[-1]]) if self.task == "binary" else shares[:, self._order]

    def predict_fast(self, fast: Predictor, columns: Mapping[str, Any], size: int) -> Floats:
        """What `predict_sklearn` returns, computed by *fast* from *size* rows in clean columns."""
        found = fast.predict(columns, size)
        if self._in_order:
            return found
        return 1 - found if self.task == "binary" else found[:, self._order]

    def _scores(self, found: Floats) -> Scores:
        if self.task != "multiclass":
            return Scores(self.task, found, self.classes)
        best = found.argmax(axis=1)
        labels = tuple(self.classes[i] for i in best.tolist())
        return Scores("multiclass", found[np.arange(len(found)), best], self.classes, labels, found)


def worst_difference(answers: Sequence[Mapping[str, Any]], recorded: Sequence[Mapping[str, Any]]) -> float:
    """The largest difference of two lists of `Scores.answers`, relative where a number exceeds 1.

    Infinite when they differ in length, in shape, or in a label.
    """
    if len(answers) != len(recorded):
        return math.inf
    return max((_difference(a, b) for a, b in zip(answers, recorded, strict=True)), default=0.0)


def _difference(answer: Any, recorded: Any) -> float:
    if isinstance(answer, Mapping) and isinstance(recorded, Mapping):
        if answer.keys() != recorded.keys():
            return math.inf
        return max((_difference(answer[k], recorded[k]) for k in answer), default=0.0)
    if isinstance(answer, float) and isinstance(recorded, int | float):
        gap = abs(answer - recorded) / max(1.0, abs(recorded))
        return gap if math.isfinite(gap) else math.inf
    return 0.0 if answer == recorded else math.inf
