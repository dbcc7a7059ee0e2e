"""Metrics of predictions with bootstrap intervals. `trimtab.evaluation.gate` decides what is good enough.

Every metric takes row weights, many sets at once: weights of one give the metric itself, Poisson(1) weights give its
bootstrap replicates (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13; Poisson weights: Hanley
and MacGibbon 2006, "Creating non-parametric bootstrap samples using Poisson frequencies"). Two models that are scored
with the same weights are compared row by row, which makes small differences visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trimtab.data.arrays import Floats, Labels
from trimtab.data.types import Label, Task
from trimtab.model.scoring import Scores

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("roc_auc", "log_loss", "accuracy"),
    "multiclass": ("log_loss", "accuracy", "f1_macro"),
    "regression": ("rmse", "mae", "r2"),
}
BATCH_CELLS = 250_000
"""How many bootstrap weights are in memory at once (2 MB); a metric makes a few arrays of this size of them."""
WeightedMetric = Callable[[Floats], Floats]
_CLIP = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Interval:
    """A value and its interval; nan where it cannot be computed."""

    value: float
    low: float
    high: float


def weighted(metric: str, truth: Labels, scores: Scores) -> WeightedMetric:
    """Return *metric* as a function of row weights, shape (B, n), that returns shape (B,). What does not depend on the
    weights, such as the order of the predictions, is computed once.

    *truth* has shape (n,): 0 and 1 for binary, labels for multiclass, numbers for regression. The result is nan where
    the metric is undefined: roc_auc with one class, no rows, a missing label or prediction. Raises KeyError for an
    unknown metric.

    >>> accuracy = weighted("accuracy", np.array([0, 1]), Scores("binary", np.array([0.2, 0.4])))
    >>> accuracy(np.array([[1.0, 1.0], [3.0, 1.0]])).tolist()
    [0.5, 0.75]
    """
    prepare = _METRICS[metric]
    if not len(truth) or not np.isfinite(scores.prediction).all() or any(v is None or v != v for v in truth.tolist()):
        return lambda weights: np.full(len(weights), np.nan)
    of_weights = prepare(truth, scores)

    def measured(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return of_weights(weights)

    return measured


def measure(metric: str, truth: Labels, scores: Scores, *, weights: Floats | None = None) -> Floats:
    """Return *metric* for each row of *weights*, shape (B, n), as shape (B,); without weights one value, shape (1,).
    `weighted` describes the arguments.

    >>> truth, scores = np.array([0, 1, 1]), Scores("binary", np.array([0.2, 0.9, 0.4]))
    >>> measure("accuracy", truth, scores).round(3).tolist()
    [0.667]
    """
    return weighted(metric, truth, scores)(np.ones((1, len(truth))) if weights is None else weights)


def measure_recorded(metric: str, answers: pd.DataFrame, *, task: Task, classes: Sequence[Label]) -> float:
    """*metric* of recorded predictions, nan where it is not defined.

    *answers* are rows of telemetry with a `label`: `prediction`, and for multiclass `predicted_label` and
    `probabilities`, in the order of *classes*.
    """
    is_multi = task == "multiclass"
    truth = answers["label"].to_numpy(dtype=object if is_multi else float)
    scores = Scores(
        task,
        answers["prediction"].to_numpy(dtype=float),
        tuple(classes),
        tuple(answers["predicted_label"]) if is_multi else None,
        np.array(answers["probabilities"].tolist(), dtype=float) if is_multi else None,
    )
    return float(measure(metric, truth, scores)[0])


def interval(replicates: Floats, value: float, *, level: float = 0.95) -> Interval:
    """Return *value* with the percentile interval of its bootstrap *replicates*, shape (B,). Nan replicates are
    ignored.

    >>> interval(np.arange(101.0), 50.0, level=0.5)
    Interval(value=50.0, low=25.0, high=75.0)
    """
    known = replicates[np.isfinite(replicates)]
    if not len(known) or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def resampling(units: int, *, resamples: int, seed: int, rows: int | None = None) -> Iterator[Floats]:
    """Yield Poisson bootstrap weights, shape (*resamples*, *units*), in batches of about BATCH_CELLS weights. Equal
    arguments give equal weights.

    *rows* is how many rows the weights of a resample will be spread over, when there are more than *units*.

    >>> [batch.shape for batch in resampling(100_000, resamples=3, seed=0)]
    [(2, 100000), (1, 100000)]
    """
    random = np.random.default_rng(seed)
    at_once = max(1, BATCH_CELLS // max(units, rows or 0, 1))
    for first in range(0, resamples, at_once):
        yield random.poisson(1.0, size=(min(at_once, resamples - first), units)).astype(np.float64)


def gain(metric: str, new: Floats, old: Floats) -> Floats:
    """Return how much better *new* is than *old*: positive is better, for every metric.

    >>> gain("rmse", np.array([2.0]), np.array([3.0])).tolist()
    [1.0]
    """
    return old - new if metric in LOWER_IS_BETTER else new - old


def _roc_auc(truth: Labels, scores: Scores) -> WeightedMetric:
    """The probability that a positive ranks above a negative, ties counting half (Mann-Whitney U)."""
    order = np.argsort(scores.prediction, kind="stable")
    ranked = scores.prediction[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    is_positive = (np.asarray(truth)[order] == 1).astype(np.float64)

    def measured(weights: Floats) -> Floats:
        in_order = weights[:, order]
        positive = np.add.reduceat(in_order * is_positive, starts, axis=1)
        negative = np.add.reduceat(in_order * (1 - is_positive), starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        wins = (positive * (below + negative / 2)).sum(axis=1)
        return np.asarray(wins / (positive.sum(axis=1) * negative.sum(axis=1)))

    return measured


def _mean(losses: Floats) -> WeightedMetric:
    return lambda weights: np.asarray(weights @ losses / weights.sum(axis=1))


def _log_loss(truth: Labels, scores: Scores) -> WeightedMetric:
    if scores.task == "binary":
        given = np.where(np.asarray(truth) == 1, scores.prediction, 1 - scores.prediction)
    else:
        assert scores.probabilities is not None
        place = {label: i for i, label in enumerate(scores.classes)}
        columns = np.array([place.get(label, -1) for label in truth])
        given = np.where(columns < 0, 0.0, scores.probabilities[np.arange(len(columns)), columns])
    return _mean(-np.log(np.clip(given, _CLIP, 1)))


def _chosen(scores: Scores) -> Labels:
    if scores.labels is not None:
        return np.array(scores.labels, dtype=object)
    return (scores.prediction >= 0.5).astype(int)


def _accuracy(truth: Labels, scores: Scores) -> WeightedMetric:
    return _mean((np.asarray(truth) == _chosen(scores)).astype(np.float64))


def _f1_macro(truth: Labels, scores: Scores) -> WeightedMetric:
    from scipy.sparse import csr_array

    was, said = np.asarray(truth, dtype=object).tolist(), _chosen(scores).tolist()
    codes = {label: i for i, label in enumerate({*was, *said})}
    real, chosen = (np.array([codes[label] for label in labels]) for labels in (was, said))
    by_label = [  # for each label, which rows count
        csr_array((counted.astype(np.float64), (label, np.arange(len(was)))), shape=(len(codes), len(was)))
        for label, counted in ((real, real == chosen), (real, np.ones(len(was))), (chosen, np.ones(len(was))))
    ]

    def measured(weights: Floats) -> Floats:
        hit, was, said = (rows @ weights.T for rows in by_label)
        return np.asarray(np.where(said + was > 0, 2 * hit / (said + was), 0.0).mean(axis=0))

    return measured


def _rmse(truth: Labels, scores: Scores) -> WeightedMetric:
    mean_square = _mean((np.asarray(truth, float) - scores.prediction) ** 2)
    return lambda weights: np.sqrt(mean_square(weights))


def _mae(truth: Labels, scores: Scores) -> WeightedMetric:
    return _mean(np.abs(np.asarray(truth, float) - scores.prediction))


def _r2(truth: Labels, scores: Scores) -> WeightedMetric:
    value = np.asarray(truth, float)
    residual = (value - scores.prediction) ** 2

    def measured(weights: Floats) -> Floats:
        centre = weights @ value / weights.sum(axis=1)
        total = (weights * (value[None, :] - centre[:, None]) ** 2).sum(axis=1)
        return np.where(total > 0, 1 - weights @ residual / total, np.nan)

    return measured


_METRICS: dict[str, Callable[[Labels, Scores], WeightedMetric]] = {
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
    "accuracy": _accuracy,
    "f1_macro": _f1_macro,
    "rmse": _rmse,
    "mae": _mae,
    "r2": _r2,
}
