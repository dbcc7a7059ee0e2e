"""How good predictions are, with bootstrap intervals. Scores in, numbers out; what is good enough is the gate's
to say.

Every metric takes row weights, many at once: weights of one give the metric itself, Poisson(1) weights give its
bootstrap replicates (Efron and Tibshirani 1993, ch. 13; the Poisson form is Hanley and MacGibbon 2006). Two models
scored with the same weights are compared row by row, which is what makes small differences visible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.model.scoring import Scores

Floats = np.ndarray[Any, np.dtype[np.float64]]
Labels = np.ndarray[Any, Any]

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae"})
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("roc_auc", "log_loss", "accuracy"),
    "multiclass": ("log_loss", "accuracy", "f1_macro"),
    "regression": ("rmse", "mae", "r2"),
}
_CLIP = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Interval:
    """A number with the interval that holds it at the stated level; nan where it cannot be computed."""

    value: float
    low: float
    high: float


def measure(metric: str, truth: Labels, scores: Scores, *, weights: Floats | None = None) -> Floats:
    """*metric* for each row of *weights*, shape (B, n); without weights one value, shape (1,).

    *truth* has shape (n,): 0 and 1 for binary, labels for multiclass, numbers for regression. The result is nan
    where a metric is not defined: roc_auc with one class only, no rows, a label or prediction that is missing.
    """
    if weights is None:
        weights = np.ones((1, len(truth)))
    if not len(truth) or not np.isfinite(scores.prediction).all() or any(v is None or v != v for v in truth.tolist()):
        return np.full(len(weights), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _METRICS[metric](truth, scores, weights)


def interval(replicates: Floats, value: float, *, level: float = 0.95) -> Interval:
    """The percentile interval of bootstrap *replicates*; those that were not defined are left out."""
    known = replicates[np.isfinite(replicates)]
    if not len(known) or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def resampling(rows: int, *, resamples: int, seed: int) -> Floats:
    """Poisson bootstrap weights, shape (resamples, rows); the same for the same arguments."""
    return np.random.default_rng(seed).poisson(1.0, size=(resamples, rows)).astype(np.float64)


def gain(metric: str, new: Floats, old: Floats) -> Floats:
    """How much better *new* is than *old*: positive is better, whichever way *metric* points."""
    return old - new if metric in LOWER_IS_BETTER else new - old


def _roc_auc(truth: Labels, scores: Scores, weights: Floats) -> Floats:
    """Mann-Whitney: the chance that a positive outranks a negative, ties counting half."""
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
