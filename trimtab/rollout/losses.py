"""How wrong a prediction is, as a number between 0 and 1, and how much more wrong the challenger is than the champion
on the same row. What follows from many such differences is `trimtab.rollout.sequential_test`'s business; the metrics of
a gate, which need not be sums over rows, are `trimtab.evaluation.metrics`'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trimtab.model.scoring import Floats
from trimtab.rollout.config import Loss

Labels = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

# A probability below this for what came true counts as this, so that a single row cannot outweigh all others.
LEAST_PROBABILITY = 0.001
# How many of the champion's own errors count in full; the largest ones count as the cap.
_UNCLIPPED = 0.99


def differences(
    loss: Loss,
    truth: Labels | Sequence[Any],
    champion: Floats,
    challenger: Floats,
    *,
    classes: Sequence[Any] = (),
    cap: float | None = None,
) -> Floats:
    """The challenger's loss less the champion's, row by row: shape (n,), in -1 to 1, positive where it is worse.

    *truth* has shape (n,): 0 and 1, labels of *classes*, or numbers. Predictions have shape (n,): probabilities of
    the positive class, or values; or (n, k) for the k *classes*. A loss of a regression needs *cap*.
    A row without a known truth gives nan: it is evidence for neither.
    """
    known = _known(truth)
    of_champion = losses(loss, truth, champion, classes=classes, cap=cap)
    of_challenger = losses(loss, truth, challenger, classes=classes, cap=cap)
    return np.where(known, of_challenger - of_champion, np.nan)


def losses(
    loss: Loss,
    truth: Labels | Sequence[Any],
    prediction: Floats,
    *,
    classes: Sequence[Any] = (),
    cap: float | None = None,
) -> Floats:
    """The loss of each row, shape (n,), in 0 to 1; 1 where the prediction is not a finite number.

    - brier: (p - y)² (Brier 1950); for k classes half the squared distance to the one that came true, so that two
      classes give the same. A label that is in none of *classes* had no probability from either model.
    - log: -ln(p of what came true), clipped at p = 0.001 and divided by its largest value, ln 1000 = 6.9.
    - absolute: |error|, clipped at *cap* and divided by it. squared: the square of that.
    """
    prediction = np.asarray(prediction, dtype=np.float64)
    if len(prediction) != len(truth):
        raise ValueError(f"{len(truth)} labels and {len(prediction)} predictions")
    with np.errstate(invalid="ignore", over="ignore"):
        if loss in ("squared", "absolute"):
            if cap is None or not cap > 0:
                raise ValueError(f"the {loss} loss needs the error that counts as 1: a cap above 0, not {cap}")
            error: Floats = np.minimum(np.abs(prediction - _numbers(truth)) / cap, 1.0)
            found = error**2 if loss == "squared" else error
        elif prediction.ndim == 2:
            found = _multiclass(loss, truth, prediction, classes)
        else:
            found = _binary(loss, truth, prediction)
    sound = np.isfinite(prediction if prediction.ndim == 1 else prediction.sum(axis=1))
    return np.where(sound, found, 1.0)


def regression_cap(reference_truth: Floats, reference_prediction: Floats) -> float:
    """The error, in the target's units, that counts as 1: what 99 of 100 of the champion's reference errors stay below.

    A quantile, because a few wild rows must not set the scale, which a standard deviation would let them do; so far
    out, because errors beyond it all look the same. A champion without errors gives the target's spread, then 1.
    """
    truth = np.asarray(reference_truth, dtype=np.float64)
    error = np.abs(np.asarray(reference_prediction, dtype=np.float64) - truth)
    for sizes, share in ((error, _UNCLIPPED), (error, 1.0), (np.abs(truth - _middle(truth)), _UNCLIPPED)):
        finite = sizes[np.isfinite(sizes)]
        if len(finite) and (found := float(np.quantile(finite, share))) > 0:
            return found
    return 1.0


def _middle(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 0.0


def _binary(loss: Loss, truth: Labels | Sequence[Any], prediction: Floats) -> Floats:
    of_truth = np.clip(np.where(_numbers(truth) == 1, prediction, 1 - prediction), 0.0, 1.0)
    found: Floats = (1 - of_truth) ** 2 if loss == "brier" else _surprise(of_truth)
    return found


def _multiclass(loss: Loss, truth: Labels | Sequence[Any], prediction: Floats, classes: Sequence[Any]) -> Floats:
    if prediction.shape[1] != len(classes):
        raise ValueError(f"{prediction.shape[1]} probabilities for {len(classes)} classes")
    place = {label: i for i, label in enumerate(classes)}
    at = np.array([place.get(label, -1) for label in _plain(truth)], dtype=np.intp)
    shares = np.clip(prediction, 0.0, 1.0)
    of_truth = np.where(at >= 0, shares[np.arange(len(at)), at], 0.0)
    if loss == "log":
        return _surprise(of_truth)
    found: Floats = np.minimum(((shares**2).sum(axis=1) - of_truth**2 + (1 - of_truth) ** 2) / 2, 1.0)
    return found


def _surprise(probability: Floats) -> Floats:
    found: Floats = np.log(np.maximum(probability, LEAST_PROBABILITY)) / np.log(LEAST_PROBABILITY)
    return found


def _plain(values: Labels | Sequence[Any]) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _numbers(truth: Labels | Sequence[Any]) -> Floats:
    return np.array([np.nan if value is None else value for value in _plain(truth)], dtype=np.float64)


def _known(truth: Labels | Sequence[Any]) -> Mask:
    """True where there is a label; an infinite number is none."""
    return np.array(
        [not (v is None or v != v or (isinstance(v, float) and np.isinf(v))) for v in _plain(truth)], dtype=np.bool_
    )
