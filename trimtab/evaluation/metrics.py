"""Metrics of predictions with bootstrap intervals. `trimtab.evaluation.gate` decides what is good enough.

Every metric takes row weights, many sets at once: weights of one give the metric itself, Poisson(1) weights give its
bootstrap replicates (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13; Poisson weights: Hanley
and MacGibbon 2006, "Creating non-parametric bootstrap samples using Poisson frequencies"). Two models that are scored
with the same weights are compared row by row, which makes small differences visible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_CLIP = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Interval:
    """A value and its interval; nan where it cannot be computed."""

    value: float
    low: float
    high: float


def measure(metric: str, truth: Labels, scores: Scores, *, weights: Floats | None = None) -> Floats:
    """Return *metric* for each row of *weights*, shape (B, n), as shape (B,); without weights one value, shape (1,).

    *truth* has shape (n,): 0 and 1 for binary, labels for multiclass, numbers for regression. The result is nan where
    the metric is undefined: roc_auc with one class, no rows, a missing label or prediction. Raises KeyError for an
    unknown metric.

    >>> truth, scores = np.array([0, 1, 1]), Scores("binary", np.array([0.2, 0.9, 0.4]))
    >>> measure("accuracy", truth, scores).round(3).tolist()
    [0.667]
    """
    if weights is None:
        weights = np.ones((1, len(truth)))
    if not len(truth) or not np.isfinite(scores.prediction).all() or any(v is None or v != v for v in truth.tolist()):
        return np.full(len(weights), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _METRICS[metric](truth, scores, weights)


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


def resampling(rows: int, *, resamples: int, seed: int) -> Floats:
    """Return Poisson bootstrap weights, shape (resamples, rows). Equal arguments give equal weights.

    >>> resampling(3, resamples=2, seed=0).shape
    (2, 3)
    """
    return np.random.default_rng(seed).poisson(1.0, size=(resamples, rows)).astype(np.float64)


def gain(metric: str, new: Floats, old: Floats) -> Floats:
    """Return how much better *new* is than *old*: positive is better, for every metric.

    >>> gain("rmse", np.array([2.0]), np.array([3.0])).tolist()
    [1.0]
    """
    return old - new if metric in LOWER_IS_BETTER else new - old


def _roc_auc(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    """The probability that a positive ranks above a negative, ties counting half (Mann-Whitney U)."""
    order = np.argsort(scores.prediction, kind="stable")
    ranked = scores.prediction[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    is_positive = (np.asarray(truth)[order] == 1).astype(np.float64)
    positive = np.add.reduceat(weights[:, order] * is_positive, starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (1 - is_positive), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    return np.asarray(wins / (positive.sum(axis=1) * negative.sum(axis=1)))


def _mean(losses: Floats, weights: Floats) -> Floats:
    return np.asarray(weights @ losses / weights.sum(axis=1))


def _log_loss(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    if scores.task == "binary":
        given = np.where(np.asarray(truth) == 1, scores.prediction, 1 - scores.prediction)
    else:
        assert scores.probabilities is not None
        place = {label: i for i, label in enumerate(scores.classes)}
        columns = np.array([place.get(label, -1) for label in truth])
        given = np.where(columns < 0, 0.0, scores.probabilities[np.arange(len(columns)), columns])
    return _mean(-np.log(np.clip(given, _CLIP, 1)), weights)


def _chosen(scores: Scores) -> Labels:
    if scores.labels is not None:
        return np.array(scores.labels, dtype=object)
    return (scores.prediction >= 0.5).astype(int)


def _accuracy(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    return _mean((np.asarray(truth) == _chosen(scores)).astype(np.float64), weights)


def _f1_macro(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    truth, chosen = np.asarray(truth, dtype=object), _chosen(scores)
    found = []
    for label in sorted(set(truth.tolist()) | set(chosen.tolist()), key=str):
        hit = weights @ ((truth == label) & (chosen == label)).astype(np.float64)
        said, was = weights @ (chosen == label).astype(np.float64), weights @ (truth == label).astype(np.float64)
        found.append(np.where(said + was > 0, 2 * hit / (said + was), 0.0))
    return np.asarray(np.mean(found, axis=0))


def _rmse(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    return np.sqrt(_mean((np.asarray(truth, float) - scores.prediction) ** 2, weights))


def _mae(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    return _mean(np.abs(np.asarray(truth, float) - scores.prediction), weights)


def _r2(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    value = np.asarray(truth, float)
    centre = weights @ value / weights.sum(axis=1)
    total = (weights * (value[None, :] - centre[:, None]) ** 2).sum(axis=1)
    return np.where(total > 0, 1 - weights @ (value - scores.prediction) ** 2 / total, np.nan)


_METRICS: dict[str, Callable[[Labels, Scores, Floats], Floats]] = {
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
    "accuracy": _accuracy,
    "f1_macro": _f1_macro,
    "rmse": _rmse,
    "mae": _mae,
    "r2": _r2,
}
