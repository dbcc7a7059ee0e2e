"""Per-row losses between 0 and 1, and the difference between challenger and champion on the same row.

`trimtab.rollout.sequential_test` tests the differences. The metrics of the gate, which need not be sums over rows, are
in `trimtab.evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trimtab.data.arrays import Floats, Labels, Mask
from trimtab.rollout.config import Loss

# A lower probability of the true class counts as this, so that one row cannot outweigh all others.
LEAST_PROBABILITY = 0.001
# The share of the champion's own errors below the cap.
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
    """Return the challenger's loss minus the champion's per row: shape (n,), in [-1, 1], positive where it is worse.

    *truth* has shape (n,): 0 and 1, labels of *classes*, or numbers. Predictions have shape (n,): probabilities of
    the positive class, or values; or shape (n, k) for the k *classes*. A regression loss needs *cap*.
    The result is nan where the truth is unknown. Raises ValueError as `losses` does.

    >>> differences("brier", [1, 0, None], np.array([0.8, 0.4, 0.5]), np.array([0.9, 0.5, 0.5])).round(2).tolist()
    [-0.03, 0.09, nan]
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
    """Return the loss of each row: shape (n,), in [0, 1]; 1 where the prediction is not a finite number.

    - brier: (p - y)² (Brier 1950, "Verification of forecasts expressed in terms of probability"). For k classes half
      the squared distance to the true class's unit vector, so that two classes give the same value as the binary form.
      A label that is not in *classes* has probability 0.
    - log: -ln(p of the true class), clipped at p = 0.001 and divided by its largest value, ln 1000 = 6.9.
    - absolute: |error| clipped at *cap* and divided by it.
    - squared: the square of the absolute loss.

    Raises ValueError when the lengths or the number of classes disagree, or when a regression loss has no positive
    *cap*.

    >>> losses("absolute", [10.0, 10.0], np.array([12.0, 30.0]), cap=8.0).tolist()
    [0.25, 1.0]
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
    """Return the absolute error that counts as loss 1, in target units: the 0.99 quantile of the champion's errors.

    A quantile is robust against a few extreme rows; a standard deviation is not. Both arrays have shape (n,); values
    that are not finite are ignored. If that quantile is 0 it falls back to the largest error, then to the 0.99
    quantile of the target's distance from its median, then to 1.

    >>> regression_cap(np.zeros(101), np.arange(101.0))
    99.0
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
    """True where there is a label; nan, None and infinity are not labels."""
    return np.array(
        [not (v is None or v != v or (isinstance(v, float) and np.isinf(v))) for v in _plain(truth)], dtype=np.bool_
    )
